"""Cells of a few types and conditions, and a small PolyGene for them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from kernomics import datasets
from kernomics.data import CellCollection
from kernomics.models.polygene.config import PolyGeneConfig
from kernomics.models.polygene.module import PolyGeneModule
from kernomics.models.tasks import Task
from kernomics.nn import drawing_from

EAGER = Path(__file__).resolve().parents[1] / "bench" / "polygene" / "eager.py"


def plain_network() -> ModuleType:
    """Return the network in plain padded torch."""
    spec = importlib.util.spec_from_file_location("polygene_eager", EAGER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def conditions(n_cells: int = 240, n_genes: int = 60, seed: int = 0):
    """Cells of three types, half of which are treated: five genes are then raised."""
    adata = datasets.simulate(n_cells, n_genes, 3, 5, seed=seed, mean_counts=200.0)
    random_state = np.random.default_rng(seed)
    treated = random_state.random(n_cells) < 0.5
    counts = np.asarray(adata.X.todense())
    counts[np.ix_(treated, range(5))] += random_state.poisson(6, (int(treated.sum()), 5))
    adata.X = counts.astype(np.float32)
    adata.obs["treatment"] = np.where(treated, "drug", "control")
    adata.obs["donor"] = [f"d{i % 4}" for i in range(n_cells)]
    return adata


def collection(**options) -> CellCollection:
    """Return the cells of `conditions` with two phenotypes."""
    return CellCollection.from_anndata(conditions(**options), labels_key=["treatment", "cell_type"])


def module_of(n_genes: int = 60, seed: int = 0, **settings) -> PolyGeneModule:
    """A module whose norms, biases and scales are not those of the start."""
    tasks = [
        Task("treatment", "categorical", ("control", "drug")),
        Task("cell_type", "categorical", ("type_0", "type_1", "type_2")),
    ]
    config = PolyGeneConfig(
        **{"d_model": 16, "n_layers": 2, "n_heads": 2, "layer_scale": 0.5, **settings}
    )
    with drawing_from(seed):
        module = PolyGeneModule(n_genes, tasks, config, [0.1, 2.0, 4.0, 6.0], seed)
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn(parameter.shape) * 0.1)
    return module
