"""Which genes of a panel say the same, and which others could stand in for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.cluster import hierarchy

from kernomics._arguments import checked, rows_of
from kernomics.data import CellCollection
from kernomics.data.expression import measured_everywhere
from kernomics.data.gene_columns import count_blocks, find_genes
from kernomics.data.genes import places_of
from kernomics.errors import ConfigError, DataError


@dataclass(frozen=True, eq=False, kw_only=True)
class Redundancy:
    """Correlations within a panel, and between it and the genes left out.

    Attributes
    ----------
    groups
        Interchangeable genes of the panel: any two genes of a group have |r| ≥ the threshold. Each
        group has at least two genes; groups and their genes are in panel order.
    correlation
        float64 [k, k], Pearson's r of log(1 + count) between the genes of the panel.
    substitutes
        Columns ``gene``, ``substitute``, ``correlation``: for each gene of the panel, the genes
        outside it with the largest |r|, best first, with the sign of r.
    """

    groups: list[list[str]]
    correlation: pd.DataFrame
    substitutes: pd.DataFrame


@checked
def redundancy(
    cells: CellCollection,
    genes: str | Sequence[str],
    rows: ArrayLike,
    *,
    threshold: float = 0.7,
    n_substitutes: int = 3,
) -> Redundancy:
    """Find redundant genes in a panel, and genes outside it that could replace them.

    Pearson's r of log(1 + count) over the cells. Groups come from complete linkage on 1 − |r|, cut
    at 1 − `threshold`, so that every pair in a group passes, not only neighbours in a chain. A gene
    that is constant over these cells has r = 0 with every other gene, and 1 with itself; pairs with
    r = 0 are not substitutes.

    The sums are taken over blocks of cells, from the non-zeros: with k genes in the panel and G in
    all, memory holds 8·G·k bytes and a dense [4096, k] block, never the dense cells × genes.

    Parameters
    ----------
    cells
        In memory or on disk.
    genes
        The panel: names of genes in the data, without repeats.
    rows
        Which cells: int [n], at least two, or a mask over all. To design a panel, use its training
        cells.
    threshold
        |r| from which two genes count as interchangeable, above 0 and at most 1.
    n_substitutes
        Maximum number of substitutes to list for each gene.

    Returns
    -------
    Redundancy
        Groups, correlations and substitutes.

    Raises
    ------
    DataError
        If a gene is repeated or not in the data, or there are fewer than two cells.
    ConfigError
        If `threshold` or `n_substitutes` is out of range.
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold is {threshold}: |r| lies above 0 and up to 1")
    if n_substitutes < 0:
        raise ConfigError(f"n_substitutes is {n_substitutes}: 0 or more can be listed")
    panel, _ = find_genes(genes, cells)
    wanted = rows_of("rows", rows, cells.n_cells)
    if len(wanted) < 2:
        raise DataError("rows names one cell; a correlation needs at least two")
    columns = places_of(panel, cells.genes)
    r = _correlations(cells, columns, wanted)
    within = r[columns]
    np.fill_diagonal(within, 1.0)
    names = pd.Index(panel, name="gene")
    return Redundancy(
        groups=_groups(panel, within, threshold),
        correlation=pd.DataFrame(within, index=names, columns=names.rename(None)),
        substitutes=_substitutes(
            cells.genes.astype(str), columns, r, n_substitutes, measured_everywhere(cells)
        ),
    )


def _correlations(
    cells: CellCollection, columns: NDArray[np.int64], rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return r of every gene with those of the panel, float64 [G, k]."""
    n_genes, n = cells.n_genes, len(rows)
    total, squares = np.zeros(n_genes), np.zeros(n_genes)
    products = np.zeros((n_genes, len(columns)))
    lowest, highest = np.full(n_genes, np.inf), np.full(n_genes, -np.inf)
    for counts in count_blocks(cells, rows):
        x = counts.astype(np.float64).log1p().tocsc()
        total += np.asarray(x.sum(axis=0)).ravel()
        squares += np.asarray(x.power(2).sum(axis=0)).ravel()
        products += x.T @ x[:, columns].toarray()
        lowest = np.minimum(lowest, x.min(axis=0).toarray().ravel())
        highest = np.maximum(highest, x.max(axis=0).toarray().ravel())
    # A constant gene is told by its values: its variance need not come out as exactly 0.
    varies = highest > lowest
    sd = np.sqrt(np.maximum(squares - total**2 / n, 0.0))
    sd[~varies | (sd == 0)] = np.inf
    products -= np.outer(total, total[columns] / n)
    products /= sd[:, None]
    products /= sd[columns]
    return np.clip(products, -1.0, 1.0, out=products)


def _groups(panel: Sequence[str], r: NDArray[np.float64], threshold: float) -> list[list[str]]:
    if len(panel) < 2:
        return []
    strength = np.abs(r + r.T) / 2  # the two halves may differ in the last bit
    distance = 1.0 - strength[np.triu_indices(len(panel), 1)]
    tree = hierarchy.linkage(distance, method="complete")
    found: dict[int, list[str]] = {}
    for gene, group in zip(
        panel, hierarchy.fcluster(tree, 1.0 - threshold, criterion="distance"), strict=True
    ):
        found.setdefault(int(group), []).append(gene)
    return [group for group in found.values() if len(group) > 1]


def _substitutes(
    genes: NDArray[np.str_],
    columns: NDArray[np.int64],
    r: NDArray[np.float64],
    n: int,
    measured: NDArray[np.bool_],
) -> pd.DataFrame:
    left_out = np.setdiff1d(np.flatnonzero(measured), columns)
    best = []
    for place, gene in enumerate(columns):
        candidates = r[left_out, place]
        order = np.argsort(-np.abs(candidates), kind="stable")[:n]
        best += [
            (str(genes[gene]), str(genes[left_out[i]]), float(candidates[i]))
            for i in order
            if candidates[i] != 0
        ]
    return pd.DataFrame(best, columns=["gene", "substitute", "correlation"]).astype(
        {"gene": object, "substitute": object, "correlation": np.float64}
    )
