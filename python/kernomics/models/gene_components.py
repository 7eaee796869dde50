"""Where genes may start: at their places in the principal components of the training cells."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor

from kernomics.data import CellCollection
from kernomics.data.expression import gene_moments, gene_panels, log_expression
from kernomics.data.rng import Stream, permutation, philox

MOST_CELLS = 20_000
"""Cells that the components are of; more would not move the leading ones."""
ROUNDING = 1e-12
"""Share of a mean's square below which a variance is rounding error."""
RIDGE = 1e-3
"""Of the map to what a model has learnt, as a share of the mean variance of what is mapped."""


def gene_components(
    cells: CellCollection, rows: NDArray[np.int64], n_components: int, seed: int
) -> Tensor:
    """Return each gene's place in the leading principal components of the cells.

    X = U·S·Vᵀ, of log expression centred by gene; a gene that a cell's data set lacks is at its
    mean. The result is V·√S, of mean square 1 over all its entries: with it two genes'
    inner product is about their covariance's square root, so that a gene's neighbours are those
    that vary with it, and a gene that does not vary is near 0. Beyond the components that there
    are, and where no gene varies, places are random.
    """
    if len(rows) > MOST_CELLS:
        chosen = permutation(len(rows), seed, Stream.COMPONENTS)[:MOST_CELLS]
        rows = np.sort(rows[chosen])
    batch = cells.batch(rows)
    x = log_expression(batch, dtype=np.float64)
    panels, panel_of_cell = gene_panels(batch)
    mean, variance = gene_moments([(batch, x)])
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
    varies = variance.sum() > ROUNDING * np.square(mean).sum()  # else there is no component
    if possible > 0 and varies:
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


def mapped(points: Tensor, given: Tensor, found: Tensor) -> Tensor:
    """Map points as `given` maps to `found` by a ridge regression, [n, d] each."""
    x, y = given.double(), found.double()
    centred = x - x.mean(0)
    squares = centred.T @ centred
    ridge = (RIDGE * squares.diagonal().mean()).clamp_min(1e-12) * torch.eye(len(squares))
    slopes = torch.linalg.solve(squares + ridge, centred.T @ (y - y.mean(0)))
    mapped: Tensor = (points.double() - x.mean(0)) @ slopes + y.mean(0)
    return mapped.to(points.dtype)
