"""Log expression of cells, and which genes it varies most in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import sparse

from kernomics.data.cells import Cells
from kernomics.data.collection import CellCollection
from kernomics.data.row_numbers import parts
from kernomics.errors import DataError

TARGET_SUM = 1e4
"""Counts per cell before the logarithm: the usual choice for PCA and variable genes."""
CELLS_AT_A_TIME = 8192


def as_csr(batch: Cells, values: NDArray[np.floating[Any]] | None = None) -> sparse.csr_matrix:
    """Return the counts, or other values in their places, as CSR [B, G]."""
    held = batch.values.numpy() if values is None else values
    return sparse.csr_matrix((held, batch.indices.numpy(), batch.indptr.numpy()), batch.shape)


def log_expression(
    batch: Cells, target_sum: float = TARGET_SUM, dtype: DTypeLike = np.float32
) -> sparse.csr_matrix:
    """Return log(1 + target_sum·count/library), CSR [B, G]."""
    if batch.library is None:
        raise DataError("there are no library sizes to normalise by")
    scale = target_sum / batch.library.double().clamp_min(1.0).numpy()
    of_count = np.repeat(scale, batch.indptr.diff().numpy())
    values = np.log1p(batch.values.double().numpy() * of_count)
    return as_csr(batch, values.astype(dtype, copy=False))


def gene_panels(batch: Cells) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return the genes of each data set, bool [P, G], and which of them each cell is of, [B]."""
    if batch.observed is None:
        return np.ones((1, batch.n_genes), bool), np.zeros(len(batch), np.int64)
    mask, panel_id = batch.observed.mask.numpy(), batch.observed.panel_id.numpy()
    return mask.astype(bool), panel_id.astype(np.int64)


def measured_everywhere(
    cells: CellCollection, rows: NDArray[np.int64] | None = None
) -> NDArray[np.bool_]:
    """Return which genes were measured in every cell, or in every one of some, bool [G]."""
    if cells.observed is None or cells.panel_of_cell is None:
        return np.ones(cells.n_genes, bool)
    panels = cells.panel_of_cell if rows is None else cells.panel_of_cell[rows]
    mask = cells.observed.mask.numpy()[np.unique(panels)]
    return np.asarray(mask.all(axis=0), dtype=bool)


def gene_moments(
    batches: Iterable[tuple[Cells, sparse.csr_matrix]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean and variance of each gene's log expression, float64 [G].

    They are over the cells whose data set has the gene; 0 for a gene that none has.
    """
    total = squares = cells = np.zeros(1)
    for batch, x in batches:
        panels, panel_of_cell = gene_panels(batch)
        total = total + np.asarray(x.sum(axis=0)).ravel()
        squares = squares + np.asarray(x.multiply(x).sum(axis=0)).ravel()
        cells = cells + np.bincount(panel_of_cell, minlength=len(panels)) @ panels
    mean = total / np.maximum(cells, 1)
    return mean, np.maximum(squares / np.maximum(cells, 1) - mean**2, 0)


def genes_by_variance(
    cells: CellCollection, rows: NDArray[np.int64], target_sum: float = TARGET_SUM
) -> NDArray[np.int64]:
    """Return all genes, int64 [G], from that whose log expression varies most over some cells.

    Genes that vary alike stay in their order. The cells are read in parts.
    """
    return np.argsort(-expression_moments(cells, rows, target_sum)[1], kind="stable")


def expression_moments(
    cells: CellCollection, rows: NDArray[np.int64], target_sum: float = TARGET_SUM
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return `gene_moments` of some cells, which are read in parts."""
    batches = (cells.batch(rows[part]) for part in parts(len(rows), CELLS_AT_A_TIME))
    return gene_moments((b, log_expression(b, target_sum, np.float64)) for b in batches)


def most_variable_genes(
    cells: CellCollection,
    rows: NDArray[np.int64],
    n_genes: int,
    target_sum: float = TARGET_SUM,
) -> NDArray[np.int64]:
    """Return the first of `genes_by_variance`, ascending int64 [n_genes]."""
    return np.sort(genes_by_variance(cells, rows, target_sum)[:n_genes])
