"""Representations of cells and genes where scanpy users look for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kernomics import __version__
from kernomics._uns import without_none
from kernomics.data.match import match_genes
from kernomics.models import CellEncoder, TxFM

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray


def represent_cells(
    adata: AnnData,
    model: CellEncoder | TxFM | str | Path,
    *,
    layer: str | None = None,
    key_added: str = "txfm",
    progress: bool = True,
    **options: Any,
) -> None:
    """Represent cells by a trained TxFM.

    Parameters
    ----------
    adata
        Cells with raw counts.
    model
        A trained TxFM, or the path of a run or a saved model.
    layer
        Where the counts are; X by default.
    key_added
        First part of the names of what is added.
    progress
        Whether to show a progress bar.
    **options
        Of `CellEncoder.get_latent_representation`.

    Adds
    ----
    ``obsm["X_" + key_added]``
        float32 [n_obs, d].
    ``varm[key_added + "_encoder"]``, ``varm[key_added + "_decoder"]``
        float32 [n_vars, d − 1] and [n_vars, d]: what the model knows of each gene; NaN for genes
        outside its vocabulary.
    ``uns[key_added]["params"]``
        Version, seed and options.
    """
    if isinstance(model, (str, Path)):
        model = CellEncoder.load(model)
    encoder = model.trained if isinstance(model, TxFM) else model
    found = encoder.get_latent_representation(adata, layer=layer, progress=progress, **options)
    add_representation(adata, encoder, found, key_added=key_added, layer=layer, **options)


def add_representation(
    adata: AnnData,
    encoder: CellEncoder,
    representation: NDArray[np.float32],
    *,
    key_added: str = "txfm",
    **params: Any,
) -> None:
    """Put a representation, and the model's gene embeddings, where `represent_cells` says."""
    adata.obsm[f"X_{key_added}"] = representation
    names = adata.var_names.astype(str).to_numpy()
    columns = match_genes(encoder.genes, names, 0.0)
    known = columns >= 0
    for part in ("encoder", "decoder"):
        embeddings = encoder.get_gene_embeddings(part)
        table = np.full((adata.n_vars, embeddings.shape[1]), np.nan, np.float32)
        table[columns[known]] = embeddings[known]
        adata.varm[f"{key_added}_{part}"] = table
    adata.uns[key_added] = {
        "params": without_none(
            {"version": __version__, "seed": encoder.module.seed, "model": repr(encoder), **params}
        )
    }
