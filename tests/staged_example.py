"""Small cells in three stages, and a small GIL for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData

from kernomics import datasets
from kernomics.data import CellCollection, Stages, gene_stages
from kernomics.data.staged import StagedCells, staged_cells
from kernomics.models import GIL

SMALL: dict[str, Any] = {"d_model": 16, "n_layers": 1, "n_heads": 2, "n_tokens": 20}
QUICK: dict[str, Any] = {"max_epochs": 2, "batch_size": 16, "progress": False, "validate_every": 1}
ONE = [f"gene_{i}" for i in range(0, 6)]
TWO = [f"gene_{i}" for i in range(6, 12)]


def cells(n_cells: int = 120, seed: int = 0) -> AnnData:
    """120 cells × 40 genes of three types; the first twelve genes are markers."""
    adata = datasets.simulate(n_cells, 40, 3, 4, seed=seed, mean_counts=200.0)
    adata.var_names = [f"gene_{i}" for i in range(40)]
    return adata


def collection(**more: Any) -> CellCollection:
    return CellCollection.from_anndata(cells(**more), labels_key="cell_type")


def stages(adata: Any = None, **more: Any) -> Stages:
    """A base stage of 28 genes, and two of six."""
    return gene_stages(cells() if adata is None else adata, {"one": ONE, "two": TWO}, **more)


def staged() -> StagedCells:
    return staged_cells(collection(), stages())


def model(method: Any = "naive", adata: Any = None, **more: Any) -> GIL:
    given = cells() if adata is None else adata
    return GIL(given, stages(given), method=method, **{**SMALL, **more})


def trained(method: Any = "naive", **more: Any) -> GIL:
    return model(method, **more).train(**QUICK)


def with_planted(adata: AnnData, found: Stages, value: float = 1_000_003.0) -> AnnData:
    """The same cells with a count that no gene could have wherever a stage lacks a gene."""
    dense = np.asarray(adata.X.todense())
    place = {gene: i for i, gene in enumerate(adata.var_names)}
    for stage in found.stages:
        rows = adata.obs_names.get_indexer(list(stage.cells))
        lost = [place[g] for other in found.stages if other is not stage for g in other.genes]
        dense[np.ix_(rows, lost)] = value
    planted = adata.copy()
    planted.X = dense.astype(np.float32)
    return planted
