"""Representations to compare a TxFM's with: PCA, the most variable genes, scVI."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kernomics._optional import require_extra
from kernomics._warnings import quietly, warn
from kernomics.data import CellCollection, Split
from kernomics.data.expression import (
    as_csr,
    genes_by_variance,
    log_expression,
    measured_everywhere,
)
from kernomics.errors import ConfigError, DataError

Representations = dict[str, tuple[NDArray[Any], NDArray[Any]]]
"""By name, of training cells [n, d] and of test cells [m, d]."""


def baseline_representations(
    cells: CellCollection,
    split: Split,
    n_dimensions: int,
    seed: int = 0,
    *,
    n_components: Sequence[int] = (),
    n_variable: Sequence[int] = (),
) -> Representations:
    """Represent training and test cells by PCA and by their most variable genes.

    Where only some genes were measured in every cell, as in files with different genes, both are of
    these: where a gene was not measured is no count of 0, and would tell the files apart.
    """
    require_extra("sklearn", purpose="PCA")
    from sklearn.decomposition import PCA

    cells = measured_alike(cells)
    train, test = (log_expression(cells.batch(rows)) for rows in (split.train, split.test))
    for name, sizes, most in (
        ("n_components", n_components, min(train.shape) - 1),
        ("n_variable", n_variable, cells.n_genes),
    ):
        for size in sizes:
            if not 1 <= size <= most:
                raise ConfigError(f"{name} has {size:,}: 1 to {most:,} are possible")
    most = min(train.shape) - 1
    if most < 1:
        raise DataError(
            f"PCA needs two training cells and two genes, found {train.shape[0]:,} and "
            f"{train.shape[1]:,}"
        )
    if n_dimensions > most:
        warn(
            f"PCA of {train.shape[0]:,} training cells and {train.shape[1]:,} genes has {most:,} "
            f"components, fewer than the {n_dimensions:,} dimensions that it is compared with"
        )
    largest = max(min(n_dimensions, most), *n_components, 1)
    pca = PCA(largest, svd_solver="arpack", random_state=seed % 2**32).fit(train)
    scores = pca.transform(train), pca.transform(test)

    order = genes_by_variance(cells, split.train)

    def variable(size: int) -> tuple[NDArray[Any], NDArray[Any]]:
        top = np.sort(order[:size])
        return train[:, top].toarray(), test[:, top].toarray()

    found: Representations = {
        "PCA": (scores[0][:, :n_dimensions], scores[1][:, :n_dimensions]),
        "normalised counts": variable(n_dimensions),
    }
    for size in n_components:
        found[f"PCA, {size:,} components"] = scores[0][:, :size], scores[1][:, :size]
    for size in n_variable:
        found[f"{size:,} variable genes"] = variable(size)
    return found


def measured_alike(cells: CellCollection, rows: NDArray[np.int64] | None = None) -> CellCollection:
    """Return the cells over the genes that all, or all `rows`, have measured, or say of none."""
    everywhere = measured_everywhere(cells, rows)
    n = int(everywhere.sum())
    if n == cells.n_genes:
        return cells
    if n < 2:
        warn(
            "no two genes are measured in every cell: PCA and normalised counts take genes that "
            "were not measured as counts of 0, which tells the files apart"
        )
        return cells
    return cells.with_genes(cells.genes[everywhere], 1.0)


def scvi_representation(
    cells: CellCollection,
    split: Split,
    n_dimensions: int,
    seed: int = 0,
    *,
    max_epochs: int | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Represent cells by scVI (Lopez et al., Nature Methods 15, 2018), of scvi-tools.

    Trained on the training cells' counts of all genes that every cell has measured, with
    scvi-tools' own settings, and like the other representations without knowing the batches.
    scvi-tools seeds Python, numpy and torch for the whole process; their states are put back after.
    """
    scvi = require_extra("scvi", purpose="scVI", extra="eval")
    from anndata import AnnData

    cells = measured_alike(cells)

    def counts(rows: NDArray[np.int64]) -> AnnData:
        return AnnData(as_csr(cells.batch(rows)))

    train, test = counts(split.train), counts(split.test)
    before = scvi.settings.seed, np.random.get_state(), random.getstate()
    with torch.random.fork_rng(), quietly():  # of Lightning on loaders and loggers
        try:
            scvi.settings.seed = seed
            scvi.model.SCVI.setup_anndata(train)
            model = scvi.model.SCVI(train, n_latent=n_dimensions)
            model.train(
                max_epochs=max_epochs,
                accelerator="cpu",
                enable_progress_bar=False,
                logger=False,
                enable_checkpointing=False,
            )
            found = model.get_latent_representation(train), model.get_latent_representation(test)
        finally:
            scvi.settings.seed = before[0]
            np.random.set_state(before[1])
            random.setstate(before[2])
    return found
