"""How well clusters of a representation agree with classes, and how well batches mix in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from kernomics._arguments import checked
from kernomics._optional import keep_torch_threads, require_extra
from kernomics._warnings import quietly
from kernomics.errors import ConfigError, DataError
from kernomics.metrics.probes import labelled_cells

RESOLUTIONS = tuple(round(0.2 * step, 1) for step in range(1, 11))
"""Ten resolutions, 0.2 to 2 (ours: TxFM's paper says ten, not which)."""

N_NEIGHBOURS = 15
PERPLEXITY = 30.0
MOST_BISECTIONS = 60
PAIRS_AT_A_TIME = 2**22
"""Entries of a block of distances: 32 MB."""


@dataclass(frozen=True, eq=False)
class ClusteringScores:
    """Agreement of clusters with classes.

    Attributes
    ----------
    table : pandas.DataFrame
        One row per resolution: ``n_clusters``, ``nmi`` and ``ari``.
    asw : float
        Mean silhouette width s of the classes in the representation as (s + 1)/2, 0 to 1.
    """

    table: pd.DataFrame
    asw: float

    @property
    def _best(self) -> int:
        return int(self.table["nmi"].to_numpy().argmax())

    @property
    def resolution(self) -> float:
        """Where the normalised mutual information is largest; of several, the first given."""
        return float(self.table.index.to_numpy()[self._best])

    @property
    def nmi(self) -> float:
        """Normalised mutual information at `resolution`."""
        return float(self.table["nmi"].to_numpy()[self._best])

    @property
    def ari(self) -> float:
        """Adjusted Rand index at `resolution`: of the same clusters as `nmi`."""
        return float(self.table["ari"].to_numpy()[self._best])


@checked
def clustering_scores(
    representation: ArrayLike,
    codes: ArrayLike,
    *,
    resolutions: Sequence[float] = RESOLUTIONS,
    method: Literal["louvain", "leiden"] = "louvain",
    n_neighbours: int = N_NEIGHBOURS,
    seed: int = 0,
) -> ClusteringScores:
    """Cluster labelled cells by their representation and compare the clusters with the classes.

    Parameters
    ----------
    representation
        float [n, d].
    codes
        int [n], classes; −1 for unlabelled cells, which are left out before the graph is made.
    resolutions
        Of the modularity; larger ones give more clusters.
    method
        ``"louvain"`` (the paper's; Blondel et al. 2008) by networkx, or ``"leiden"`` (Traag et al.
        2019) by scanpy and igraph, which is faster beyond some 10,000 cells.
    n_neighbours
        Of the graph: scanpy's ``pp.neighbors`` with the weights of UMAP.
    seed
        Of the graph and the order in which nodes move.

    Raises
    ------
    DataError
        With fewer than two classes or too few labelled cells.
    ConfigError
        For an unknown method, or without a resolution above 0.
    ImportError
        Without scanpy and scikit-learn (extra ``report``); with ``"leiden"``, without igraph.
    """
    if n_neighbours < 2:
        raise ConfigError(f"n_neighbours is {n_neighbours}: at least 2 are needed")
    if not len(resolutions) or min(resolutions) <= 0:
        raise ConfigError(f"resolutions are {list(resolutions)}: numbers above 0 are needed")
    x, y = labelled_cells(representation, codes, "clustered")
    if np.unique(y).size < 2:
        raise DataError(f"all {len(y):,} labelled cells are of one class: two are needed")
    if len(y) <= n_neighbours:
        raise DataError(f"{len(y):,} labelled cells are too few for {n_neighbours} neighbours")
    require_extra("sklearn", purpose="scoring clusters")
    from sklearn.metrics import (
        adjusted_rand_score,
        normalized_mutual_info_score,
        silhouette_score,
    )

    neighbours = _neighbour_graph(x, n_neighbours, seed)
    cluster = _louvain if method == "louvain" else _leiden
    rows = []
    for resolution in resolutions:
        found = cluster(neighbours, float(resolution), seed)
        rows.append(
            {
                "resolution": float(resolution),
                "n_clusters": int(np.unique(found).size),
                "nmi": float(normalized_mutual_info_score(y, found)),
                "ari": float(adjusted_rand_score(y, found)),
            }
        )
    table = pd.DataFrame(rows).set_index("resolution")
    asw = (float(silhouette_score(x, y)) + 1) / 2
    return ClusteringScores(table, asw)


def _neighbour_graph(x: NDArray[np.float64], n_neighbours: int, seed: int) -> Any:
    """Return an AnnData with scanpy's neighbour graph of some cells."""
    scanpy = require_extra("scanpy", purpose="a graph of neighbours")
    from anndata import AnnData

    adata = AnnData(np.ascontiguousarray(x, dtype=np.float32))
    with keep_torch_threads(), quietly(UserWarning):  # of UMAP on a small graph's parts
        scanpy.pp.neighbors(adata, n_neighbors=n_neighbours, use_rep="X", random_state=seed % 2**32)
    return adata


def _louvain(adata: Any, resolution: float, seed: int) -> NDArray[np.int64]:
    networkx = require_extra("networkx", purpose="Louvain clustering")
    graph = networkx.from_scipy_sparse_array(adata.obsp["connectivities"])
    communities = networkx.community.louvain_communities(
        graph, resolution=resolution, seed=seed % 2**32
    )
    found = np.empty(adata.n_obs, dtype=np.int64)
    for number, members in enumerate(communities):
        found[list(members)] = number
    return found


def _leiden(adata: Any, resolution: float, seed: int) -> NDArray[np.int64]:
    scanpy = require_extra("scanpy", purpose="Leiden clustering")
    require_extra("igraph", purpose="Leiden clustering", extra="eval")
    scanpy.tl.leiden(
        adata,
        resolution=resolution,
        random_state=seed % 2**32,
        flavor="igraph",
        n_iterations=-1,
        directed=False,
    )
    return np.asarray(adata.obs["leiden"].cat.codes, dtype=np.int64)


# -- mixing of batches -----------------------------------------------------------------------------


@checked
def ilisi(
    representation: ArrayLike, batches: ArrayLike, *, perplexity: float = PERPLEXITY
) -> float:
    """Return how well batches mix: the median inverse Simpson's index, from 0 to 1.

    Around each cell its 3 × perplexity nearest others, itself not among them, get weights
    p_j ∝ exp(−β·‖x − x_j‖), with β such that their entropy is log(perplexity). The index is
    1/Σ_b (Σ_{j in b} p_j)², the number of batches that the neighbourhood is worth: 1 to B. The
    score is (median − 1)/(B − 1). (Korsunsky et al., Nature Methods 16, 2019; scaled as in Luecken
    et al., Nature Methods 19, 2022.) Neighbours are exact, found in blocks of cells.

    Parameters
    ----------
    representation
        float [n, d].
    batches
        int [n], each cell's batch; cells with −1 are left out.
    perplexity
        How many neighbours count, softly; lowered to a third of the other cells when these are few.

    Raises
    ------
    DataError
        With one batch alone, or fewer than seven cells.
    """
    x, b = labelled_cells(representation, batches, "mixed")
    index = lisi(x, b, perplexity=perplexity)
    return float((np.median(index) - 1) / (np.unique(b).size - 1))


def lisi(
    representation: NDArray[np.float64], codes: NDArray[Any], *, perplexity: float = PERPLEXITY
) -> NDArray[np.float64]:
    """Return each cell's inverse Simpson's index, float64 [n]; see `ilisi`."""
    groups, codes = np.unique(codes, return_inverse=True)
    n = len(codes)
    if groups.size < 2:
        raise DataError(f"all {n:,} cells are of one batch: there is nothing to mix")
    if n < 7:
        raise DataError(f"{n} cells are too few for the mixing of batches: at least 7 are needed")
    if not perplexity > 1:
        raise ConfigError(f"perplexity is {perplexity}: it must be above 1")
    perplexity = min(perplexity, (n - 1) / 3)
    k = min(n - 1, math.ceil(3 * perplexity))
    found = np.empty(n)
    for start in range(0, n, max(1, PAIRS_AT_A_TIME // n)):
        rows = np.arange(start, min(n, start + max(1, PAIRS_AT_A_TIME // n)))
        distance, neighbours = _nearest_others(representation, rows, k)
        weights = _perplexity_weights(distance, perplexity)
        share = np.zeros((len(rows), groups.size))
        np.add.at(share, (np.arange(len(rows))[:, None], codes[neighbours]), weights)
        found[rows] = 1 / np.square(share).sum(axis=1)
    return found


def _nearest_others(
    x: NDArray[np.float64], rows: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return distances and places [m, k] of the nearest cells to some, themselves left out."""
    # |a − b|² as |a|² − 2ab + |b|² loses digits far from the origin, so the nearest are chosen by
    # it from centred data and their distances computed again.
    centred = x - x.mean(axis=0)
    square = np.square(centred).sum(axis=1)
    near = square[None, :] - 2 * centred[rows] @ centred.T
    near[np.arange(len(rows)), rows] = np.inf
    nearest = np.argpartition(near, k - 1, axis=1)[:, :k]
    difference = x[nearest] - x[rows][:, None]
    return np.sqrt(np.square(difference).sum(axis=2)), nearest


def _perplexity_weights(distance: NDArray[np.float64], perplexity: float) -> NDArray[np.float64]:
    """Return p_j ∝ exp(−β d_j) per row, with entropy log(perplexity), by bisection of log β."""
    shifted = distance - distance.min(axis=1, keepdims=True)
    scale = shifted.mean(axis=1, keepdims=True)
    # Cells that are all equally near have uniform weights for any β.
    shifted = np.divide(shifted, scale, out=np.zeros_like(shifted), where=scale > 0)
    low, high = np.full(len(distance), -30.0), np.full(len(distance), 30.0)
    for _ in range(MOST_BISECTIONS):
        middle = (low + high) / 2
        weights = np.exp(-np.exp(middle)[:, None] * shifted)
        weights /= weights.sum(axis=1, keepdims=True)
        entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=1)
        wide = entropy > math.log(perplexity)
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    return np.asarray(weights)
