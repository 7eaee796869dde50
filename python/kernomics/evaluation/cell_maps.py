"""Maps of cells by UMAP, and shares of neighbours that do not depend on them.

A map can look convincing and be wrong; the shares count neighbours in the spaces that maps are made
of.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import orthogonal_procrustes

from kernomics._optional import keep_torch_threads, require_extra
from kernomics._warnings import quietly
from kernomics.data import Split
from kernomics.errors import DataError

N_NEIGHBORS = 15
LEAST_SCALE = 1e-3  # of a cell's mean distance, in UMAP's graph
MIN_CELLS = 50  # fewer show no structure
MIN_HELD_OUT = 300  # with fewer, all cells are shown


def shown_cells(
    n_cells: int, split: Split | None, max_cells: int, seed: int
) -> tuple[NDArray[np.int64], str, int]:
    """Choose the cells of a map: the held-out ones if they are enough, of many some at random."""
    held_out = split is not None and len(split.test) >= MIN_HELD_OUT
    rows = split.test if split is not None and held_out else np.arange(n_cells)
    n_from = len(rows)
    if n_from < MIN_CELLS:
        raise DataError(f"{n_from} cells are too few for a UMAP; it needs at least {MIN_CELLS}")
    if n_from > max_cells:
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:max_cells])
    return rows.astype(np.int64), "held-out" if held_out else "all", n_from


def umap(space: NDArray[Any], seed: int) -> NDArray[Any]:
    """Return the map float [n, 2] of a space [n, dimensions], started from its first components."""
    scanpy = require_extra("scanpy", purpose="a UMAP")
    from anndata import AnnData

    adata = AnnData(np.ascontiguousarray(space, dtype=np.float32))
    adata.obsp["connectivities"] = graph(adata.X)
    adata.uns["neighbors"] = {
        "connectivities_key": "connectivities",
        "params": {"method": "umap", "n_neighbors": N_NEIGHBORS + 1, "use_rep": "X"},
    }
    centred = space - space.mean(axis=0)
    start = np.zeros((len(space), 2), dtype=np.float32)
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    n = min(2, lengths.size)
    start[:, :n] = left[:, :n] * lengths[:n]
    # numba and umap tell of their own threads, caches and deprecations, none of the cells.
    with keep_torch_threads(), quietly():
        scanpy.tl.umap(adata, init_pos=start, random_state=seed % 2**32)
    return np.asarray(adata.obsm["X_umap"])


def graph(space: NDArray[Any]) -> sparse.csr_array:
    """Return UMAP's fuzzy graph of a space: how surely two cells are neighbours, float32 [n, n].

    With ρ the distance of the nearest cell that is not in the same place and σ such that
    Σ_j exp(−max(0, d_j − ρ)/σ) = log₂ k over the neighbours, a cell holds a neighbour for one with
    probability exp(−max(0, d − ρ)/σ), and an edge is there if either end holds it so. This is
    umap-learn's, whose own functions are compiled anew in every process, for 10 seconds and more.

    Source: L. McInnes, J. Healy, J. Melville, "UMAP", arXiv 1802.03426.
    """
    n, k = len(space), min(N_NEIGHBORS, len(space) - 1)
    neighbors = require_extra("sklearn.neighbors", purpose="a UMAP")
    found = neighbors.NearestNeighbors(n_neighbors=k).fit(space)
    distances, near = found.kneighbors()
    apart = distances > 0
    rho = np.where(apart.any(axis=1), np.where(apart, distances, np.inf).min(axis=1), 0.0)
    beyond = np.maximum(0.0, distances - rho[:, None])
    low, high, sigma = np.zeros(n), np.full(n, np.inf), np.ones(n)
    for _ in range(64):
        large = np.exp(-beyond / sigma[:, None]).sum(axis=1) > np.log2(N_NEIGHBORS + 1)
        low, high = np.where(large, low, sigma), np.where(large, sigma, high)
        sigma = np.where(np.isinf(high), 2 * sigma, (low + high) / 2)
    # The mean counts the cell itself; where it has the place to itself, else that of all cells.
    means = np.where(rho > 0, distances.sum(axis=1) / (k + 1), distances.sum() / (n * (k + 1)))
    sigma = np.maximum(sigma, LEAST_SCALE * means)
    held = np.exp(-beyond / np.where(sigma > 0, sigma, 1.0)[:, None]).astype(np.float32)
    ends = (np.repeat(np.arange(n), k), near.ravel())
    one_way = sparse.csr_array((held.ravel(), ends), shape=(n, n))
    return sparse.csr_array(one_way + one_way.T - one_way * one_way.T)


def turned(points: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
    """Turn and mirror a map so that its cells lie as near to another's as they can."""
    centred = points - points.mean(axis=0)
    turn, _ = orthogonal_procrustes(centred, like - like.mean(axis=0))
    return np.asarray(centred @ turn)


def neighbours(space: NDArray[Any]) -> NDArray[np.int64]:
    """Return each cell's nearest others, int64 [n, 15]."""
    neighbors = require_extra("sklearn.neighbors", purpose="counting neighbours")
    found = neighbors.NearestNeighbors(n_neighbors=N_NEIGHBORS).fit(space)
    return np.asarray(found.kneighbors(return_distance=False), dtype=np.int64)


def shared(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Return the mean share of a cell's neighbours that are in both lists."""
    both = (first[:, :, None] == second[:, None, :]).any(axis=2)
    return float(both.mean())


def same_class(near: NDArray[np.int64], codes: NDArray[np.int64]) -> float:
    """Return the mean share of a labelled cell's labelled neighbours of its own class, or NaN."""
    labelled = (codes >= 0)[near] & (codes >= 0)[:, None]
    n = labelled.sum(axis=1)
    same = (labelled & (codes[near] == codes[:, None])).sum(axis=1)
    return float((same[n > 0] / n[n > 0]).mean()) if n.any() else float("nan")
