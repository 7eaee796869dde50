"""Representations of cells and genes where scanpy users look for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kernomics._arguments import checked
from kernomics._version import __version__
from kernomics.data.readers.inputs import (
    ReadOptions,
    divided_options,
    gene_names_in_var,
    require_anndata,
)
from kernomics.errors import ConfigError, DataError, closest
from kernomics.metrics import RelationshipRecall
from kernomics.metrics import relationship_recall as _relationship_recall
from kernomics.models import GIL, CellEncoder, ExpressionModel, PhenotypeModel, PolyGene, TxFM, load
from kernomics.tl._uns import without_none

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray


@checked
def represent_cells(
    adata: AnnData,
    model: CellEncoder | TxFM | PhenotypeModel | PolyGene | ExpressionModel | GIL | str | Path,
    *,
    key_added: str | None = None,
    progress: bool = True,
    **options: Any,
) -> None:
    """Compute the representations of cells with a trained TxFM, PolyGene or GIL.

    Parameters
    ----------
    adata
        Cells with raw counts.
    model
        A trained TxFM, PolyGene or GIL, or the path of a run or a saved model.
    key_added
        Prefix of the names of the results; by default ``"txfm"``, ``"polygene"`` or
        ``"gil"``.
    progress
        Whether to show a progress bar.
    **options
        Options of the model's `get_latent_representation`, except `rows`: all cells are
        represented. ``layer``, ``use_raw`` and similar are by default those of the training.

    Adds
    ----
    ``obsm["X_" + key_added]``
        float32 [n_obs, d].
    ``varm[key_added + "_encoder"]``, ``varm[key_added + "_decoder"]``
        Of a TxFM, float32 [n_vars, d − 1] and [n_vars, d]: its embeddings of each gene; NaN for
        genes outside its vocabulary.
    ``varm[key_added + "_genes"]``
        Of a PolyGene or a GIL, float32 [n_vars, d], likewise.
    ``uns[key_added]["params"]``
        Version, seed, options, and ``library``: where the library sizes come from.
    """
    require_anndata(adata, "represent_cells")
    if "rows" in options:
        raise ConfigError(
            "rows was given, but obsm has a row for every cell: pass a subset of the cells "
            "instead, such as adata[rows].copy()"
        )
    loaded = load(model) if isinstance(model, (str, Path)) else model
    encoder = loaded.trained if isinstance(loaded, TxFM | PolyGene | GIL) else loaded
    if not isinstance(encoder, CellEncoder | PhenotypeModel | ExpressionModel):
        raise ConfigError(f"model is {encoder!r}: a TxFM, a PolyGene or a GIL represents cells")
    reading, others = divided_options(options)
    cells = encoder.read(adata, **reading)
    found = encoder.get_latent_representation(cells, progress=progress, **others)
    others["library"] = cells.library_source
    reading = {**reading, **cells.reading}
    add_representation(adata, encoder, found, reading, key_added=key_added, **others)


def add_representation(
    adata: AnnData,
    encoder: CellEncoder | PhenotypeModel | ExpressionModel,
    representation: NDArray[np.float32],
    reading: ReadOptions,
    *,
    key_added: str | None = None,
    **params: Any,
) -> None:
    """Store a representation and the model's gene embeddings as `represent_cells` does."""
    key_added = key_of(encoder) if key_added is None else key_added
    adata.obsm[f"X_{key_added}"] = representation
    for part, table in gene_tables(encoder, gene_names_in_var(adata, reading)).items():
        adata.varm[f"{key_added}_{part}"] = table
    adata.uns[key_added] = {"params": params_of(encoder, reading, params)}


def gene_tables(
    encoder: CellEncoder | PhenotypeModel | ExpressionModel, names: pd.Index[Any]
) -> dict[str, NDArray[np.float32]]:
    """Return the model's embeddings of genes by these names, NaN for those that it lacks."""
    columns = names.get_indexer(pd.Index(encoder.genes))
    known, found = columns >= 0, {}
    tables = (
        {part: encoder.get_gene_embeddings(part) for part in ("encoder", "decoder")}
        if isinstance(encoder, CellEncoder)
        else {"genes": encoder.get_gene_embeddings()}
    )
    for part, embeddings in tables.items():
        found[part] = np.full((len(names), embeddings.shape[1]), np.nan, np.float32)
        found[part][columns[known]] = embeddings[known]
    return found


def params_of(
    encoder: CellEncoder | PhenotypeModel | ExpressionModel,
    reading: ReadOptions,
    params: Mapping[str, Any],
) -> dict[str, Any]:
    """Return how cells were represented, as `.uns` keeps it."""
    return without_none(
        {
            "version": __version__,
            "seed": encoder.module.seed,
            "model": repr(encoder),
            **reading,
            **params,
        }
    )


def key_of(encoder: CellEncoder | PhenotypeModel | ExpressionModel) -> str:
    """Return the prefix of a model's results."""
    if isinstance(encoder, CellEncoder):
        return "txfm"
    return "polygene" if isinstance(encoder, PhenotypeModel) else "gil"


@checked
def relationship_recall(
    adata: AnnData,
    relations: Mapping[str, Any],
    *,
    varm_key: str = "txfm_encoder",
    n_components: int | None = 32,
    key_added: str = "relationship_recall",
    seed: int = 0,
    **options: Any,
) -> RelationshipRecall:
    """Score gene vectors by the known relationships that they recall.

    Parameters
    ----------
    adata
        Data with gene vectors, such as those from `represent_cells` or scanpy's ``varm["PCs"]``.
    relations
        For each database, pairs of names [n, 2], as from `kernomics.metrics.read_relations`.
    varm_key
        Which vectors; genes with a NaN entry are left out.
    n_components
        As in `kernomics.metrics.relationship_recall`; the paper keeps 32 for encoder tokens and
        256 for decoder weights. None for all.
    key_added
        Where to put the result.
    seed, **options
        As in `kernomics.metrics.relationship_recall`.

    Returns
    -------
    RelationshipRecall
        Recall per database.

    Adds
    ----
    ``uns[key_added]``
        ``mean``, ``recall`` and ``n_pairs`` by database, and ``params``.

    Raises
    ------
    DataError
        If there are no such vectors, or a database has no pair with both genes present.
    """
    if varm_key not in adata.varm:
        raise DataError(f"varm has no {varm_key!r}; {closest(varm_key, adata.varm)}")
    vectors = np.asarray(adata.varm[varm_key], dtype=np.float64)
    known = ~np.isnan(vectors).any(axis=1)
    found = _relationship_recall(
        vectors[known],
        adata.var_names.astype(str).to_numpy()[known],
        relations,
        n_components=n_components,
        seed=seed,
        **options,
    )
    params = {"version": __version__, "seed": seed, "varm_key": varm_key, **options}
    adata.uns[key_added] = {
        "mean": found.mean,
        "recall": found.table["recall"].to_dict(),
        "n_pairs": found.table["n_pairs"].to_dict(),
        "params": without_none({**params, "n_components": found.n_components}),
    }
    return found
