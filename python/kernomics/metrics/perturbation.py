"""Perturbation consistency: whether the cells of one perturbation move in one direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from kernomics._arguments import checked
from kernomics._warnings import warn
from kernomics.data.rng import Stream, permutation
from kernomics.errors import ConfigError, DataError, closest
from kernomics.metrics.alignment import (
    ControlPCA,
    align,
    as_matrix,
    as_numbers,
    groups,
    require_controls,
    row_blocks,
)

NULL_BINS = 200
"""Bins of the null's histogram over −1 … 1."""

Null = Literal["cells", "groups"]

N_NULL: dict[str, int] = {"cells": 10_000, "groups": 1_000}
"""The paper's number of cells; groups enough for p-values down to 0.001."""


@dataclass(frozen=True, eq=False)
class PerturbationConsistency:
    """Which perturbations have a consistent effect.

    Attributes
    ----------
    table : pandas.DataFrame
        One row per perturbation, sorted by name: ``n_cells``; ``statistic``, the mean leave-one-out
        cosine; ``p``; ``consistent``, whether p lies below the threshold. A perturbation with one
        cell has NaN, NaN and False.
    score : float
        Share of the perturbations with two cells or more that are consistent.
    threshold : float
        Of p.
    n_null : int
        Values of the null that each statistic was compared with.
    null : str
        What they are of: ``"cells"`` or ``"groups"``.
    null_histogram : numpy.ndarray
        int64 [200], all values of the null in bins of equal width over −1 … 1.
    n_components : int
        Dimensions the cosines were taken in.
    """

    table: pd.DataFrame
    score: float
    threshold: float
    n_null: int
    null: Null
    null_histogram: NDArray[np.int64]
    n_components: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON-able values."""
        return {
            "score": self.score,
            "threshold": self.threshold,
            "n_null": self.n_null,
            "null": self.null,
            "n_components": self.n_components,
            "null_histogram": self.null_histogram.tolist(),
            "perturbations": self.table.reset_index().to_dict("records"),
        }


@checked
def perturbation_consistency(
    representation: ArrayLike,
    perturbations: ArrayLike,
    *,
    control: str | Sequence[str],
    batches: ArrayLike | None = None,
    n_null: int | None = None,
    seed: int = 0,
    threshold: float = 0.01,
    n_components: int | None = None,
    null: Null = "cells",
) -> PerturbationConsistency:
    """Test for each perturbation whether its cells point the same way.

    The cells are projected on the principal components of the controls and standardised by the
    controls of their batch (`align`). With S_q the sum of the n_q cells of perturbation q, its
    statistic is the mean leave-one-out cosine

        s_q = (1/n_q) Σ_{i∈q} cos(x_i, S_q − x_i),

    since the direction of a mean is that of its sum. The null are the cosines of random cells to
    the means of all perturbations but the cell's own, and

        p_q = (1 + #{null ≥ s_q}) / (1 + #null),

    which is never 0 (arXiv 2605.31562, the evaluation on perturbations). This null is of single
    cells and the statistic a mean over cells: what passes is an effect that most cells show one by
    one. With ``null="groups"`` the statistic of q is compared with that of as many cells drawn at
    random, whatever their perturbation, again and again: a permutation test, which also finds
    effects that show in the mean of many cells alone.

    Parameters
    ----------
    representation
        Float [n, d], of any model; aligned beforehand or not.
    perturbations
        [n], each cell's perturbation, by name; cells without one (NaN or None) count nowhere.
    control
        The name of the control cells, or several, whose cells are then one control; none of them
        is a perturbation.
    batches
        [n], the batch of each cell; one batch by default.
    n_null
        Random cells of the null, drawn without replacement, 10,000 by default and all cells where
        there are fewer; or random groups for each size, 1,000 by default.
    seed
        Of the draw.
    threshold
        A perturbation is consistent when p lies below it.
    n_components
        How many principal components to keep; by default all along which the controls vary.
    null
        ``"cells"`` as in the paper, or ``"groups"``.

    Returns
    -------
    PerturbationConsistency
        The table and the share of consistent perturbations.

    Raises
    ------
    DataError
        If shapes disagree, there are no controls or fewer than two in a batch, or no perturbation
        has two cells.
    ConfigError
        If a number makes no sense.

    Warns
    -----
    UserWarning
        Naming perturbations with one cell, which have no leave-one-out mean: they are in the
        table, but not in the score, and their means not in the null.

    Notes
    -----
    The paper says nothing of these: random cells are drawn from all cells, controls included; means
    are of the cells as they are, not scaled to length 1; one null serves all perturbations; a
    cosine with a vector of length 0 is 0; the control is no perturbation. Memory is O(n·d) beside
    blocks of 32 MB; time O(n·d) and, with groups, O(n_null·n_q·d) for each size n_q.
    """
    for name, value in (("n_null", n_null), ("n_components", n_components)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}: at least 1 is needed")
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold is {threshold}: p-values lie between 0 and 1")
    n_drawn = N_NULL[null] if n_null is None else n_null
    whole = as_numbers(representation)
    labels = perturbation_labels(perturbations, len(whole), control)
    named = labels.values >= 0
    if batches is not None and np.shape(batches) != (len(whole),):
        raise DataError(
            f"batches must have one entry for each of {len(whole):,} cells, found "
            f"{np.shape(batches)}"
        )
    x = as_matrix(whole[named])
    codes, names = labels.values[named], labels.names
    own_batches = None if batches is None else np.asarray(batches)[named]
    x = typical_components(x, codes == labels.control, own_batches, n_components)

    n_cells = np.bincount(codes, minlength=len(names))
    perturbed = np.arange(len(names)) != labels.control
    tested = np.flatnonzero(perturbed & (n_cells >= 2))
    single = np.flatnonzero(perturbed & (n_cells == 1))
    if not tested.size:
        raise DataError(
            f"none of the {int(perturbed.sum()):,} perturbations beside the control {control!r} "
            "has two cells, so none can be consistent"
        )
    if single.size:
        warn(
            f"{single.size:,} of {int(perturbed.sum()):,} perturbations have one cell and no "
            f"leave-one-out mean, first {names[single[0]]!r}; they are not in the score"
        )
    members = sparse.csr_matrix(
        (np.ones(len(x)), (codes, np.arange(len(x)))), shape=(len(names), len(x))
    )
    sums = np.asarray(members @ x)
    statistic = _leave_one_out(x, codes, sums)[tested]
    if null == "groups":
        sizes = n_cells[tested]
        above, histogram = _compare_groups(x, sizes, statistic, n_drawn, seed)
        n_compared = n_drawn
    else:
        drawn = permutation(len(x), seed, Stream.NULL_CELLS)[:n_drawn]
        above, histogram = _compare_cells(x[drawn], codes[drawn], sums[tested], tested, statistic)
        n_compared = int(histogram.sum())
    if n_compared == 0:
        raise DataError(
            f"all {len(drawn):,} cells drawn for the null are of one perturbation, "
            f"{names[tested[0]]!r}; raise n_null, or add cells of other perturbations"
        )
    p = (1 + above) / (1 + n_compared)
    table = pd.DataFrame(
        {"n_cells": n_cells, "statistic": np.nan, "p": np.nan, "consistent": False},
        index=pd.Index(names, name="perturbation"),
    )
    table.iloc[tested, 1], table.iloc[tested, 2] = statistic, p
    table["consistent"] = table["p"] < threshold
    return PerturbationConsistency(
        table[perturbed],
        float(np.mean(p < threshold)),
        threshold,
        n_compared,
        null,
        histogram,
        x.shape[1],
    )


@dataclass(frozen=True, eq=False)
class PerturbationLabels:
    """Perturbations by number."""

    values: NDArray[np.int64]  # int64 [n], each cell's; −1 for none
    names: list[str]  # sorted
    control: int  # of several, the first named


def perturbation_labels(
    perturbations: ArrayLike, n: int, control: str | Sequence[str]
) -> PerturbationLabels:
    """Read the perturbation of each cell, among which every control must be; these become one."""
    controls = [control] if isinstance(control, str) else [str(name) for name in control]
    if not controls:
        raise ConfigError("control is an empty list: name at least one")
    given = np.asarray(perturbations, dtype=object)
    if given.shape != (n,):
        raise DataError(
            f"perturbations must name one for each of {n:,} cells, found shape {given.shape}"
        )
    column = pd.Series(given)
    codes, found = pd.factorize(column.where(column.isna(), column.astype(str)), sort=True)
    names = [str(name) for name in found]
    if absent := [name for name in controls if name not in names]:
        # With the commonest first, the controls are likely to be among those shown.
        commonest = [names[i] for i in pd.Series(codes[codes >= 0]).value_counts().index]
        raise DataError(
            f"no cell is a control: none of {n:,} cells has the perturbation {absent[0]!r}; "
            f"{closest(absent[0], commonest)}"
        )
    first, *others = dict.fromkeys(controls)
    if others:
        return perturbation_labels(column.where(~column.astype(str).isin(others), first), n, first)
    return PerturbationLabels(codes.astype(np.int64), names, names.index(first))


def typical_components(
    x: NDArray[np.float64],
    controls: NDArray[np.bool_],
    batches: ArrayLike | None,
    n_components: int | None = None,
) -> NDArray[np.float64]:
    """Project cells [n, d] on the controls' components; standardise by each batch's controls."""
    is_control, codes, names = groups(len(x), controls, batches)
    require_controls(is_control, codes, names, least=2, to="standardise")
    scores = ControlPCA.fit(x[is_control], n_components).transform(x)
    return align(scores, is_control, batches, "standardise")


def _leave_one_out(
    x: NDArray[np.float64], codes: NDArray[np.int64], sums: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean over each group's cells of cos(x_i, S − x_i), float64 [groups]."""
    # S − x is formed, not its norm from ‖S‖² − 2x·S + ‖x‖²: that cancels in a group of two.
    total = np.zeros(len(sums))
    for rows in row_blocks(len(x), x.shape[1]):
        cosines = _cosines(x[rows], sums[codes[rows]] - x[rows])
        total += np.bincount(codes[rows], weights=cosines, minlength=len(sums))
    return np.asarray(total / np.maximum(np.bincount(codes, minlength=len(sums)), 1))


def _compare_cells(
    cells: NDArray[np.float64],
    codes: NDArray[np.int64],
    sums: NDArray[np.float64],
    tested: NDArray[np.int64],
    statistic: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the cosines of cells with others' means: at or above each statistic, in each bin."""
    means = _directions(sums)
    order = np.argsort(statistic, kind="stable")
    passed = np.zeros(len(statistic) + 1, np.int64)
    histogram = np.zeros(NULL_BINS, np.int64)
    for rows in row_blocks(len(cells), len(means)):
        cosines = _directions(cells[rows]) @ means.T
        taken = cosines[codes[rows][:, None] != tested[None, :]]
        histogram += _histogram(taken)
        reached = np.searchsorted(statistic[order], taken, side="right")
        passed += np.bincount(reached, minlength=len(passed))
    above = np.empty(len(statistic), np.int64)
    above[order] = passed[::-1].cumsum()[::-1][1:]  # what reaches statistic j or a higher one
    return above, histogram


def _compare_groups(
    x: NDArray[np.float64],
    sizes: NDArray[np.int64],
    statistic: NDArray[np.float64],
    n_null: int,
    seed: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the statistics of random groups of each size: at or above each statistic, in bins."""
    above = np.zeros(len(sizes), np.int64)
    histogram = np.zeros(NULL_BINS, np.int64)
    for size in np.unique(sizes):
        found: list[NDArray[np.float64]] = []
        # One order of all cells, cut up, is several groups; a step of the stream is used once.
        per_order = len(x) // int(size)
        for steps in row_blocks(-(-n_null // per_order), x.size):
            orders = [
                permutation(len(x), seed, Stream.NULL_CELLS, (int(size) << 32) + i)
                for i in range(steps.start, steps.stop)
            ]
            drawn = np.stack(orders)[:, : per_order * size].reshape(-1, size)
            for rows in row_blocks(len(drawn), int(size) * x.shape[1]):
                group = x[drawn[rows]]
                others = group.sum(axis=1, keepdims=True) - group
                found.append(_cosines(group, others).mean(axis=1))
        null = np.concatenate(found)[:n_null]
        histogram += _histogram(null)
        mine = sizes == size
        above[mine] = (null[:, None] >= statistic[mine]).sum(axis=0)
    return above, histogram


def _cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    products = np.einsum("...d,...d->...", a, b)
    return np.asarray(np.divide(products, norms, out=np.zeros_like(norms), where=norms > 0))


def _directions(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rows of [n, d] at length 1; a row of zeros stays."""
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(np.divide(x, norms, out=np.zeros_like(x), where=norms > 0))


def _histogram(values: NDArray[np.float64]) -> NDArray[np.int64]:
    # The product of two rounded directions may pass 1 by an ulp.
    return np.histogram(values.clip(-1, 1), NULL_BINS, (-1.0, 1.0))[0].astype(np.int64)
