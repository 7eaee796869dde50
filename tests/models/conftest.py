"""Small simulated cells, and a model trained on them once."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from anndata import AnnData

from kernomics import datasets
from kernomics.models import YOTO
from kernomics.models.yoto.diagnostics import TrainingWarning

N_MARKERS = 8


@pytest.fixture(scope="session")
def simulated() -> AnnData:
    """400 cells × 120 genes: 4 types of 8 markers, 5 donors, an age told by type 0's markers."""
    adata = datasets.simulate(400, 120, 4, N_MARKERS, n_batches=5, batch_spread=0.1, seed=3)
    markers = (adata.var["marker_of"] == "type_0").to_numpy()
    noise = np.random.default_rng(0).normal(size=adata.n_obs)
    total = np.asarray(adata.X[:, markers].sum(axis=1)).ravel()
    adata.obs["age"] = 30 + 10 * np.log1p(total) + noise
    adata.obs["donor"] = adata.obs["batch"].astype(str)
    return adata


@pytest.fixture
def adata(simulated: AnnData) -> AnnData:
    """A copy to do anything with."""
    return simulated.copy()


def quick(adata: Any, labels_key: Any = "cell_type", n_genes: int = 8, **options: Any) -> YOTO:
    """Train for a few epochs: enough to have a panel, not a good one."""
    training = {"max_epochs": options.pop("max_epochs", 2), "batch_size": 64, "progress": False}
    model = YOTO(adata, labels_key, n_genes, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        return model.train(**training)


@pytest.fixture(scope="session")
def train_quickly() -> Any:
    return quick


@pytest.fixture(scope="session")
def two_tasks(simulated: AnnData) -> YOTO:
    """Types and age from 12 genes; trained well, shared by many tests and changed by none."""
    return quick(simulated, ["cell_type", "age"], 12, seed=1, max_epochs=60)
