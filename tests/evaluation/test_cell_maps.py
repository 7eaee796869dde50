"""The graph that UMAP lays out is umap-learn's, without its compiled functions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from kernomics.evaluation.cell_maps import N_NEIGHBORS, graph, umap


def reference(space: np.ndarray) -> np.ndarray:
    """umap-learn's functions as they are written, not compiled."""
    found = pytest.importorskip("umap.umap_")
    k = N_NEIGHBORS + 1
    distances, near = NearestNeighbors(n_neighbors=k).fit(space).kneighbors(space)
    distances = distances.astype(np.float32)
    sigmas, rhos = found.smooth_knn_dist.py_func(distances, float(k))
    rows, columns, values, _ = found.compute_membership_strengths.py_func(
        near, distances, sigmas, rhos
    )
    one_way = sparse.coo_array((values, (rows, columns)), shape=(len(space),) * 2).toarray()
    return one_way + one_way.T - one_way * one_way.T


def test_graph_is_umaps() -> None:
    rng = np.random.default_rng(0)
    space = np.concatenate([rng.normal(size=(40, 6)), 0.1 * rng.normal(size=(30, 6)) + 5])
    found = graph(space.astype(np.float32)).toarray()
    assert np.array_equal(found, found.T)
    # Their bisection stops at 1e-5 of a sum, ours where the numbers end.
    np.testing.assert_allclose(found, reference(space.astype(np.float32)), atol=2e-4)


def test_cells_in_one_place_are_neighbours() -> None:
    space = np.concatenate([np.zeros((40, 3)), np.random.default_rng(1).normal(size=(20, 3)) + 4])
    found = graph(space.astype(np.float32))
    assert np.isfinite(found.data).all()
    assert found[:40, :40].sum() >= 40 * N_NEIGHBORS
    assert found.diagonal().max() == 0


def test_fewer_cells_than_neighbours_are_all_neighbours() -> None:
    found = graph(np.random.default_rng(2).normal(size=(6, 3)).astype(np.float32)).toarray()
    assert ((found > 0) == ~np.eye(6, dtype=bool)).all()


def test_map_keeps_groups_apart_and_repeats() -> None:
    rng = np.random.default_rng(3)
    space = np.concatenate([rng.normal(size=(40, 5)), rng.normal(size=(40, 5)) + 20])
    first, again = umap(space, 1), umap(space, 1)
    assert np.array_equal(first, again)
    centres = first[:40].mean(0), first[40:].mean(0)
    spread = max(np.linalg.norm(part.std(0)) for part in (first[:40], first[40:]))
    assert np.linalg.norm(centres[0] - centres[1]) > 3 * spread
