"""Where TxFM's genes may start: at the principal components of the training cells."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor

from kernomics.data import CellCollection
from kernomics.data.random import Stream, permutation, philox

TARGET_SUM = 1e4
"""Counts per cell before the logarithm: the usual choice for PCA."""
CELLS_AT_A_TIME = 8192
MOST_CELLS = 20_000
"""Cells that the components are of; more would not move the leading ones."""


Expression = tuple[sparse.csr_matrix, NDArray[np.bool_], NDArray[np.int64]]


def log_expression(cells: CellCollection, rows: NDArray[np.int64]) -> Expression:
    """Return log(1 + 10⁴·count/library) of some cells.

    Returns
    -------
    x : scipy.sparse.csr_matrix
        float64 [n, G].
    panels : numpy.ndarray
        bool [P, G], the genes of each data set.
    panel_of_cell : numpy.ndarray
        int64 [n], which of them a cell is of.
    """
    batch = cells.batch(rows)
    assert batch.library is not None
    scale = TARGET_SUM / batch.library.double().clamp_min(1.0).numpy()
    values = np.log1p(batch.values.double().numpy() * np.repeat(scale, batch.indptr.diff().numpy()))
    x = sparse.csr_matrix(
        (values, batch.indices.numpy(), batch.indptr.numpy()), shape=(len(batch), cells.n_genes)
    )
    if batch.observed is None:
        return x, np.ones((1, cells.n_genes), bool), np.zeros(len(batch), np.int64)
    observed = batch.observed
    return x, observed.mask.numpy().astype(bool), observed.panel_id.numpy().astype(np.int64)


def gene_moments(parts: Iterable[Expression]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each gene's mean and variance over the cells whose data set has it, float64 [G].

    Parameters
    ----------
    parts
        Of the cells, as from `log_expression`.
    """
    sums: Any = 0.0
    squares: Any = 0.0
    cells: Any = 0.0
    for x, panels, panel_of_cell in parts:
        sums = sums + np.asarray(x.sum(axis=0)).ravel()
        squares = squares + np.asarray(x.multiply(x).sum(axis=0)).ravel()
        cells = cells + np.bincount(panel_of_cell, minlength=len(panels)) @ panels
    mean = sums / np.maximum(cells, 1)
    return mean, np.maximum(squares / np.maximum(cells, 1) - mean**2, 0)


def most_variable_genes(
    cells: CellCollection, rows: NDArray[np.int64], n_genes: int
) -> NDArray[np.int64]:
    """Return which genes vary most in log expression over some cells, ascending int64 [n_genes].

    Of genes that vary alike the first are taken.
    """
    starts = range(0, len(rows), CELLS_AT_A_TIME)
    _, variance = gene_moments(
        log_expression(cells, rows[start : start + CELLS_AT_A_TIME]) for start in starts
    )
    return np.sort(np.argsort(-variance, kind="stable")[:n_genes])


def gene_components(
    cells: CellCollection, rows: NDArray[np.int64], n_components: int, seed: int
) -> Tensor:
    """Return each gene's place in the leading principal components of the cells.

    X = U·S·Vᵀ, of log expression centred by gene; a gene that a cell's data set lacks is at its
    mean. The result is V·√S, of mean square 1 over all its entries: with it two genes'
    inner product is about their covariance's square root, so that a gene's neighbours are those
    that vary with it, and a gene that does not vary is near 0.

    Parameters
    ----------
    cells
        All cells.
    rows
        int64 [n], those to take; of more than 20,000 a random 20,000.
    n_components
        How many; what the cells or genes do not suffice for is drawn from N(0, 1).
    seed
        Of the choice of cells, the first vector, and what is drawn.

    Returns
    -------
    torch.Tensor
        float32 [G, n_components].
    """
    if len(rows) > MOST_CELLS:
        chosen = permutation(len(rows), seed, Stream.COMPONENTS)[:MOST_CELLS]
        rows = np.sort(rows[chosen])
    x, panels, panel_of_cell = log_expression(cells, rows)
    mean, _ = gene_moments([(x, panels, panel_of_cell)])
    centre = panels * mean  # [P, G]
    of_panel = sparse.csr_matrix(
        (np.ones(len(rows)), (panel_of_cell, np.arange(len(rows)))), shape=(len(panels), len(rows))
    )

    def forth(v: NDArray[np.float64]) -> NDArray[np.float64]:
        return x @ v - of_panel.T @ (centre @ v)  # type: ignore[no-any-return]

    def back(u: NDArray[np.float64]) -> NDArray[np.float64]:
        return x.T @ u - centre.T @ (of_panel @ u)  # type: ignore[no-any-return]

    random = np.random.Generator(philox(seed, Stream.COMPONENTS, 1))
    found = random.standard_normal((cells.n_genes, n_components))
    possible = min(n_components, min(x.shape) - 1)
    if possible > 0:
        operator = LinearOperator(x.shape, matvec=forth, rmatvec=back, dtype=np.float64)
        first = random.standard_normal(min(x.shape))
        _, s, vt = svds(operator, k=possible, v0=first)
        order = np.argsort(-s, kind="stable")
        loadings = vt[order].T * np.sqrt(s[order])
        largest = np.abs(loadings).argmax(axis=0)
        loadings *= np.where(loadings[largest, np.arange(possible)] < 0, -1.0, 1.0)
        if (spread := np.sqrt(np.mean(loadings**2))) > 0:
            found[:, :possible] = loadings / spread
    return torch.from_numpy(found).float()
