"""What genes cost, and the price that keeps a panel within its budget."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernomics.data.readers.inputs import ReadOptions, door_options, open_input
from kernomics.errors import ConfigError, DataError, closest

if TYPE_CHECKING:
    from anndata import AnnData

EVERY = 10
"""Optimiser steps between two looks at the price."""
ROUNDING = 1e-6
"""How far a total may be above the budget, as a share of it: 0.1 + 0.2 fits in 0.3."""
SPAN = 1e12
"""The dearest gene costs at most so many times the cheapest that is not free."""
HALVINGS = 20
"""Steps of the bisection: λ is right to one part in a million."""


@dataclass(frozen=True, eq=False)
class Budget:
    r"""A limit on what the genes of a panel cost together.

    The panel is chosen by Lagrangian top-k (ours): the k genes with the largest

    .. math:: s_g - λ c_g

    where the price λ ≥ 0 is the smallest at which they cost no more than the budget.

    Such a λ exists and is found by bisection, because the total C(λ) of the best k never rises with
    λ. Proof: let A and B be the best k at λ < μ. Neither beats the other at its own price,
    s(A) − λC(A) ≥ s(B) − λC(B) and s(B) − μC(B) ≥ s(A) − μC(A); added up,
    (μ − λ)(C(A) − C(B)) ≥ 0. As λ grows the best k become the k cheapest.

    The scores are not compared one by one: of all panels that cost no more than C(λ), the best k
    have the largest sum of scores. At most the difference between two genes' costs stays unspent
    for every pair that changes place at λ, usually one.

    Attributes
    ----------
    limit
        The budget, in the unit of the costs.
    costs
        float64 [G]; that of a gene never usable may be NaN.
    forced, forbidden
        Indices of genes always, never in the panel; forced genes are paid from the budget too.
    n_genes
        k.
    """

    limit: float
    costs: NDArray[np.float64]
    forced: NDArray[np.int64]
    forbidden: NDArray[np.int64]
    n_genes: int

    def total(self, genes: NDArray[np.int64]) -> float:
        """Add up what some genes cost, given by their indices."""
        return float(self.costs[genes].sum())

    def price(self, scores: NDArray[np.float32]) -> float:
        """Find the smallest price λ at which the best k of some scores [G] fit in the budget."""
        if self._fits(scores, 0.0):
            return 0.0
        low, high = 0.0, 1.0
        while not self._fits(scores, high):  # ends: at a large λ float32 holds the costs alone
            low, high = high, 2 * high
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            if self._fits(scores, middle):
                high = middle
            else:
                low = middle
        return high

    def penalty(self, scores: Tensor) -> Tensor:
        """Return λc [G] for some scores [G], on their device; a constant to the gradient."""
        found = self._penalty(self.price(scores.detach().cpu().numpy()))
        return torch.from_numpy(found).to(scores.device)

    @property
    def sha256(self) -> str:
        """Digest of the costs."""
        return hashlib.sha256(self.costs.astype("<f8").tobytes()).hexdigest()

    def _penalty(self, price: float) -> NDArray[np.float32]:
        # As shares of the dearest, so that λ is of the size of the scores.
        costs = np.nan_to_num(self.costs)
        found: NDArray[np.float32] = np.float32(price) * (costs / max(costs.max(), 1e-300)).astype(
            np.float32
        )
        return found

    def best(self, scores: NDArray[np.float32], price: float) -> NDArray[np.int64]:
        """Return the k genes with the largest s − λc, ascending, exactly as the selector does."""
        bounded = scores - self._penalty(price)
        bounded[self.forced], bounded[self.forbidden] = np.inf, -np.inf
        least = np.partition(bounded, -self.n_genes)[-self.n_genes]
        above = np.flatnonzero(bounded > least)
        ties = np.flatnonzero(bounded == least)[: self.n_genes - len(above)]
        return np.sort(np.concatenate([above, ties]))

    def _fits(self, scores: NDArray[np.float32], price: float) -> bool:
        return self.total(self.best(scores, price)) <= self.limit * (1 + ROUNDING)


def make_budget(
    costs: Mapping[str, float],
    limit: float,
    genes: NDArray[Any],
    *,
    forced: NDArray[np.int64],
    forbidden: NDArray[np.int64],
    n_genes: int,
) -> Budget:
    """Check costs and budget against the genes there are."""
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 <= limit < np.inf:
        raise ConfigError(f"budget is {limit!r}: it must be a number of 0 or more")
    values = np.array([_number(costs.get(gene, np.nan), gene) for gene in genes])
    usable = np.setdiff1d(np.arange(len(genes)), forbidden)
    absent = usable[np.isnan(values[usable])]
    if len(absent):
        first = genes[absent[0]]
        raise DataError(
            f"{len(absent):,} of {len(usable):,} usable genes have no cost, first {first!r}; "
            f"{closest(first, costs)}; give each a cost, or forbid it"
        )
    wrong = usable[(values[usable] < 0) | np.isinf(values[usable])]
    if len(wrong):
        raise DataError(
            f"{len(wrong):,} of {len(usable):,} usable genes have a cost that is below 0 or not "
            f"finite, first {genes[wrong[0]]!r} with {values[wrong[0]]:g}"
        )
    values[forbidden] = np.nan
    paid = values[usable][values[usable] > 0]
    if len(paid) and paid.max() > SPAN * paid.min():
        raise DataError(
            f"costs go from {paid.min():g} to {paid.max():g}, a range too wide to weigh against "
            "each other; set the smallest to 0"
        )
    free = np.setdiff1d(usable, forced)
    rest = np.sort(values[free])[: n_genes - len(forced)]
    cheapest = float(values[forced].sum() + rest.sum())
    if cheapest > limit * (1 + ROUNDING / 2):  # what is left is for costs rounded to float32
        raise ConfigError(
            f"budget is {limit:,g}, but the cheapest {n_genes:,} usable genes cost {cheapest:,g}"
            + (f", including the {len(forced):,} forced ones" if len(forced) else "")
            + "; raise the budget or lower n_genes"
        )
    return Budget(float(limit), values, forced, forbidden, n_genes)


def costs_of_column(
    adata: AnnData | str | Path, column: str, reading: ReadOptions
) -> dict[str, float]:
    """Read the costs of genes from a column of var."""
    read = open_input(adata, **door_options(reading))
    var = read.var.set_axis(pd.Index(read.genes), axis=0)
    if column not in var:
        raise DataError(
            f"gene_costs is {column!r}, and var has no such column; {closest(column, var.columns)}"
        )
    return {str(gene): _number(value, gene) for gene, value in var[column].items()}


def read_costs(path: str | Path) -> dict[str, float]:
    """Read the costs of genes from a CSV file with the columns ``gene`` and ``cost``."""
    table = pd.read_csv(path, dtype={"gene": str}, keep_default_na=False, na_values={"cost": [""]})
    for name in ("gene", "cost"):
        if name not in table:
            raise DataError(
                f"{path} has no column {name!r}; it needs gene and cost, and has "
                f"{', '.join(map(repr, table.columns))}"
            )
    twice = table["gene"][table["gene"].duplicated()]
    if len(twice):
        raise DataError(
            f"{path} names {len(twice):,} genes more than once, first {twice.iloc[0]!r}"
        )
    pairs = zip(table["gene"], table["cost"], strict=True)
    return {gene: _number(cost, gene) for gene, cost in pairs}


def _number(value: Any, gene: object) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError(
            f"the cost of gene {str(gene)!r} is {value!r}, which is not a number"
        ) from None
