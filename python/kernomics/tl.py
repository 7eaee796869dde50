"""One-liners on AnnData, in the manner of scanpy: results land in `.var` and `.uns`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kernomics import __version__
from kernomics.models import YOTO

if TYPE_CHECKING:
    from anndata import AnnData


def select_genes(
    adata: AnnData,
    labels_key: str | Sequence[str],
    n_genes: int = 64,
    *,
    layer: str | None = None,
    max_epochs: int | None = None,
    seed: int = 0,
    key_added: str = "yoto",
    device: str = "cpu",
    progress: bool = True,
    **options: Any,
) -> YOTO:
    """Select a gene panel that predicts one or several labels (YOTO).

    Parameters
    ----------
    adata
        Cells with raw counts.
    labels_key
        obs column or columns to predict.
    n_genes
        Size of the panel.
    layer
        Where the counts are; X by default.
    max_epochs, seed, device, progress
        As in :class:`kernomics.models.YOTO`.
    key_added
        Prefix of the results.
    **options
        Further parameters of :class:`kernomics.models.YOTO`, such as ``forced_genes``.

    Returns
    -------
    YOTO
        The trained model. Added to `adata`: ``var["yoto_selected"]`` (bool), ``var["yoto_score"]``
        (float; +inf forced, −inf never usable), ``var["yoto_rank"]`` (int, from 1) and
        ``uns["yoto"]`` with the panel, the scores on held-out cells, parameters, seed and version.

    Raises
    ------
    DataError, ConfigError
        As in :class:`kernomics.models.YOTO`; `adata` is then as it was.
    """
    model = YOTO(adata, labels_key, n_genes, layer=layer, seed=seed, **options)
    model.train(max_epochs, device=device, progress=progress)
    test_metrics = model.test_metrics() if len(model.split.test) else {}
    ranking = model.ranking.loc[adata.var_names.astype(str)]
    adata.var[f"{key_added}_selected"] = ranking["selected"].to_numpy()
    adata.var[f"{key_added}_score"] = ranking["score"].to_numpy()
    adata.var[f"{key_added}_rank"] = ranking["rank"].to_numpy()
    params = {
        **dataclasses.asdict(model.config),
        "labels_key": labels_key,
        "layer": layer,
        "forced_genes": model.cells.genes[model.bounds.forced].tolist(),
        "forbidden_genes": model.bounds.forbidden_names,
        "split": model.split.how,
        "split_key": model.split.by,
    }
    adata.uns[key_added] = {
        "genes": np.array(model.genes, dtype=object),
        "test_metrics": test_metrics,
        # h5ad holds neither None nor tuples: a setting left open is left out.
        "params": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in params.items()
            if value is not None
        },
        "seed": seed,
        "version": __version__,
    }
    return model
