"""Genes added to a trained model: what their weights start from, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from kernomics._arguments import numbers_of, shown, words_of
from kernomics.data import CellCollection
from kernomics.data.expression import log_expression
from kernomics.data.genes import places_of
from kernomics.data.row_numbers import parts
from kernomics.errors import ConfigError, DataError, closest

WAYS = ("mean", "neighbours")
MOST_CELLS = 20_000
"""Cells at most that correlations are taken from, evenly spread over those given."""
CELLS_AT_A_TIME = 2_000


def check_new(genes: Sequence[str], known: Iterable[Any]) -> None:
    """Refuse genes to add that are known already or named twice."""
    if not genes:
        raise ConfigError("genes is empty: name those to add")
    there, seen = set(map(str, known)), set[str]()
    old = [gene for gene in genes if gene in there]
    if old:
        raise ConfigError(
            f"{len(old):,} of the {len(genes):,} genes to add are known already, first {old[0]!r}: "
            "name new ones alone"
        )
    for gene in genes:
        if gene in seen:
            raise ConfigError(f"{gene!r} is named twice: name each new gene once")
        seen.add(gene)


def combinations(
    known: NDArray[Any],
    genes: Sequence[str],
    init: str | Mapping[str, Any] | ArrayLike,
    cells: CellCollection | None = None,
    n_neighbours: int = 5,
) -> tuple[Tensor, Tensor | None]:
    """Return how much of each known gene a new one starts from, and embeddings that were given.

    Parameters
    ----------
    known
        [V], the genes of the model.
    genes
        The n new ones.
    init, n_neighbours
        As in `TrainedModel.extend`.
    cells
        What ``init="neighbours"`` finds the neighbours in.

    Returns
    -------
    shares
        float64 [n, V], the rows' sums are 1.
    given
        float64 [n, width], or None.
    """
    names = [str(gene) for gene in known]
    shares = np.zeros((len(genes), len(names)))
    if isinstance(init, str):
        if init not in WAYS:
            raise ConfigError(
                f"init is {init!r}: 'mean', 'neighbours', a donor per new gene, or embeddings are "
                "possible"
            )
        if (init == "neighbours") != (cells is not None):
            raise ConfigError(
                "init is 'neighbours', which are found in cells: give adata, in which the new "
                "genes were measured"
                if cells is None
                else f"adata is for init='neighbours', and init is {init!r}: leave out one of both"
            )
        if cells is None:
            return torch.full(shares.shape, 1 / len(names), dtype=torch.float64), None
        for row, near in zip(shares, neighbours(cells, genes, names, n_neighbours), strict=True):
            row[places_of(near, known)] = 1 / len(near)
        return torch.from_numpy(shares), None
    if cells is not None:
        raise ConfigError("adata is for init='neighbours': leave out one of both")
    if isinstance(init, Mapping):
        for row, gene in zip(shares, genes, strict=True):
            donors = _donors(gene, init, names)
            np.add.at(row, donors, 1 / len(donors))
        return torch.from_numpy(shares), None
    values = numbers_of("init", _in_order(init, genes))
    if values.ndim != 2 or len(values) != len(genes):
        raise ConfigError(
            f"init has shape {list(values.shape)}: embeddings of {len(genes):,} genes are "
            f"[{len(genes)}, width]"
        )
    if not np.isfinite(values).all():
        raise DataError(f"init holds {int((~np.isfinite(values)).sum()):,} values not finite")
    return torch.full(shares.shape, 1 / len(names), dtype=torch.float64), torch.from_numpy(
        values.astype(np.float64)
    )


def neighbours(
    cells: CellCollection, genes: Sequence[str], known: Sequence[str], n_neighbours: int
) -> list[list[str]]:
    """Return for each gene those of the known genes that its expression correlates most with.

    Pearson's correlation of log(1 + 10⁴·count/library), over at most 20,000 of the cells, evenly
    spread. Genes whose correlation is not above 0 are no neighbours.

    Parameters
    ----------
    cells
        Cells in which the genes and some known ones were measured.
    genes, known
        By name.
    n_neighbours
        How many at most, for each gene.
    """
    if isinstance(n_neighbours, bool) or int(n_neighbours) != n_neighbours or n_neighbours < 1:
        raise ConfigError(f"n_neighbours is {n_neighbours!r}: a number of genes, 1 or more")
    here = set(map(str, cells.genes))
    lacking = [gene for gene in genes if gene not in here]
    if lacking:
        raise DataError(
            f"{len(lacking):,} of the {len(genes):,} new genes are not in adata, first "
            f"{lacking[0]!r}; {closest(lacking[0], cells.genes)}: give cells that have them, or "
            "name donors"
        )
    others = [gene for gene in known if gene in here]
    rows, others = _measured(cells, genes, others)
    view = cells.with_genes([*genes, *others], 1.0)
    n_new, width = len(genes), view.n_genes
    products, sums, squares = np.zeros((n_new, width)), np.zeros(width), np.zeros(width)
    for some in parts(len(rows), CELLS_AT_A_TIME):
        values = log_expression(view.batch(rows[some]), dtype=np.float64)
        products += (values[:, :n_new].T @ values).toarray()
        sums += np.asarray(values.sum(0)).ravel()
        squares += np.asarray(values.multiply(values).sum(0)).ravel()
    mean = sums / len(rows)
    spread = np.sqrt(np.maximum(squares / len(rows) - mean**2, 0))
    constant = spread <= 1e-6 * np.maximum(mean, 1e-6)
    if constant[:n_new].any():
        first = genes[int(np.argmax(constant[:n_new]))]
        raise DataError(
            f"{int(constant[:n_new].sum()):,} of the {n_new:,} new genes have the same value in "
            f"all {len(rows):,} cells looked at, first {first!r}: nothing is near them; name a "
            "donor for each"
        )
    covariance = products / len(rows) - np.outer(mean[:n_new], mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = covariance / np.outer(spread[:n_new], spread)
    found = np.where(constant, -np.inf, found)[:, n_new:]
    near = []
    for gene, row in zip(genes, found, strict=True):
        best = [i for i in np.argsort(-row, kind="stable")[:n_neighbours] if row[i] > 0]
        if not best:
            raise DataError(f"no known gene of adata correlates with {gene!r}: name its donor")
        near.append([others[i] for i in best])
    return near


def _measured(
    cells: CellCollection, genes: Sequence[str], others: Sequence[str]
) -> tuple[NDArray[np.int64], list[str]]:
    """Return cells that have all new genes measured, and known genes measured in all of them."""
    kept, rows = list(others), np.arange(cells.n_cells)
    if cells.observed is not None and cells.panel_of_cell is not None:
        mask = cells.observed.mask.numpy().astype(bool)
        whole = np.logical_and.reduce(mask[:, places_of(genes, cells.genes)], axis=1)
        if not whole.any():
            raise DataError(
                f"none of the {len(mask)} data sets in adata has all {len(genes):,} new genes: add "
                "the genes of each data set in a call of its own"
            )
        rows = np.flatnonzero(whole[cells.panel_of_cell])
        there = np.logical_and.reduce(mask[whole][:, places_of(others, cells.genes)], axis=0)
        kept = [gene for gene, measured in zip(others, there, strict=True) if measured]
    if not kept:
        raise DataError("adata has none of the genes that the model knows beside the new ones")
    some = np.linspace(0, len(rows) - 1, min(MOST_CELLS, len(rows))).round().astype(np.int64)
    return rows[some], kept


def _in_order(init: Any, genes: Sequence[str]) -> Any:
    """Return embeddings in the order of the genes; a table whose rows have names goes by these."""
    if not isinstance(init, pd.DataFrame):
        return init
    names = init.index.tolist()
    if not any(isinstance(name, str) for name in names):
        return init
    lacking = [gene for gene in genes if names.count(gene) != 1]
    if lacking or len(names) != len(genes):
        found = names.count(lacking[0]) if lacking else 0
        said = f"{lacking[0]!r} in {found} of them" if lacking else "and they name other genes too"
        raise ConfigError(
            f"init has {len(names):,} named rows for {len(genes):,} genes, {said}: give one row "
            "for each new gene"
        )
    return init.loc[list(genes)]


def _donors(gene: str, init: Mapping[str, Any], known: Sequence[str]) -> NDArray[np.int64]:
    if gene not in init:
        raise ConfigError(
            f"init names no donor for {gene!r}; {closest(gene, init)}: give one for each new gene, "
            "or init='mean'"
        )
    donors = words_of(f"init[{gene!r}]", init[gene])
    there = set(known)
    unknown = [donor for donor in donors if donor not in there]
    if unknown or not donors:
        first = shown(unknown[0]) if unknown else "none"
        raise ConfigError(
            f"the donor of {gene!r} is not known to the model: {first}; "
            f"{closest(unknown[0] if unknown else gene, known)}"
        )
    return places_of(donors, np.array(known, dtype=object))
