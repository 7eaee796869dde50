"""Panels of an AnnData: chosen, judged and explained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from kernomics._arguments import checked
from kernomics._version import __version__
from kernomics.data import CellCollection, ReadOptions
from kernomics.data.readers.inputs import (
    divided_options,
    gene_names_in_var,
    given_options,
    require_anndata,
)
from kernomics.errors import ConfigError
from kernomics.evaluation.panels import (
    Contributions,
    PanelEvaluation,
    Redundancy,
    contributions,
    redundancy,
)
from kernomics.evaluation.panels import evaluate_panel as _evaluate_panel
from kernomics.models import YOTO, Panel
from kernomics.models.base import split_cells
from kernomics.models.reading import read_as_trained
from kernomics.models.yoto.options import SelectOptions
from kernomics.tl._uns import names, without_none

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import ArrayLike

    from kernomics.data import Split
    from kernomics.data.labels import Kind
    from kernomics.data.splits import How


@checked
def select_genes(
    adata: AnnData,
    labels_key: str | Sequence[str],
    n_genes: int = 64,
    *,
    max_epochs: int | None = None,
    seed: int = 0,
    key_added: str = "yoto",
    device: str = "cpu",
    progress: bool = True,
    **options: Unpack[SelectOptions],
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
    max_epochs, seed, device, progress
        As in :class:`kernomics.models.YOTO`.
    key_added
        Prefix of the results.
    **options
        Further parameters of :class:`kernomics.models.YOTO`, such as ``layer``, ``use_raw`` or
        ``forced_genes``.

    Returns
    -------
    YOTO
        The trained model. Added to `adata`: ``var["yoto_selected"]`` (bool), ``var["yoto_score"]``
        (float; +inf forced, −inf excluded), ``var["yoto_rank"]`` (int, from 1; 0 for features that
        are not genes) and ``uns["yoto"]`` with the panel, the scores on held-out cells, parameters,
        seed and version.

    Raises
    ------
    DataError, ConfigError
        As in :class:`kernomics.models.YOTO`; `adata` is then unchanged.
    """
    require_anndata(adata, "select_genes")
    reading, _ = divided_options(options)
    model = YOTO(adata, labels_key, n_genes, seed=seed, **options)
    model.train(max_epochs, device=device, progress=progress)
    test_metrics = model.test_metrics() if len(model.split.test) else {}
    ranking = model.ranking.reindex(gene_names_in_var(adata, reading))
    # What is no gene, and was left out, has neither.
    adata.var[f"{key_added}_selected"] = ranking["selected"].eq(True).to_numpy()
    adata.var[f"{key_added}_score"] = ranking["score"].fillna(-np.inf).to_numpy()
    adata.var[f"{key_added}_rank"] = ranking["rank"].fillna(0).astype(np.int64).to_numpy()
    params = {
        **dataclasses.asdict(model.config),
        "labels_key": labels_key,
        **reading,
        "forced_genes": model.cells.genes[model.bounds.forced].tolist(),
        "forbidden_genes": model.bounds.forbidden_names,
        **model.constraints.description,
        "label_kinds": {name: label.kind for name, label in model.cells.labels.items()},
        "library": model.cells.library_source,
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


@checked
def evaluate_panel(
    adata: AnnData,
    genes: str | Sequence[str],
    labels_key: str | Sequence[str],
    *,
    label_kinds: Mapping[str, Kind] | None = None,
    split: How | Split = "stratified",
    split_key: str | None = None,
    n_random: int = 0,
    allow_missing: bool = False,
    seed: int = 0,
    key_added: str = "panel_evaluation",
    **reading: Unpack[ReadOptions],
) -> PanelEvaluation:
    """Score a given gene list by how well it predicts the labels.

    Parameters
    ----------
    adata
        Cells with raw counts.
    genes
        The panel: names in ``var_names``.
    labels_key
        obs column or columns to predict.
    label_kinds
        As in :class:`kernomics.models.YOTO`.
    split, split_key, seed
        How cells are split to train and test the classifier, as in :class:`kernomics.models.YOTO`;
        the same arguments give the same split.
    n_random, allow_missing
        As in :func:`kernomics.evaluation.panels.evaluate_panel`.
    key_added
        Name of the result.
    **reading
        How to read the cells, as in :class:`kernomics.data.ReadOptions`, such as
        ``layer="counts"``.

    Returns
    -------
    PanelEvaluation
        The result. Added to `adata`: ``uns["panel_evaluation"]`` with ``genes``, ``missing``,
        ``scores``, ``per_class``, ``random``, ``n_train``, ``n_test`` and parameters.

    Raises
    ------
    DataError, ConfigError
        As in :func:`kernomics.evaluation.panels.evaluate_panel`; `adata` is then unchanged.
    """
    require_anndata(adata, "evaluate_panel")
    cells = CellCollection.from_anndata(
        adata, labels_key=labels_key, label_kinds=label_kinds, **reading
    )
    parts = split_cells(cells, split, split_key, (0.7, 0.1, 0.2), seed)
    found = _evaluate_panel(
        cells, genes, parts, n_random=n_random, seed=seed, allow_missing=allow_missing
    )
    kinds = {name: label.kind for name, label in cells.labels.items()}
    params: dict[str, Any] = {
        "labels_key": labels_key,
        "label_kinds": kinds,
        **reading,
        "split": parts.how,
        "split_key": parts.by,
    }
    adata.uns[key_added] = {
        "genes": names(found.genes),
        "missing": names(found.missing),
        "scores": found.scores,
        "per_class": found.per_class,
        "random": found.random,
        "n_train": found.n_train,
        "n_test": found.n_test,
        "params": without_none({**params, "n_random": n_random}),
        "seed": seed,
        "version": __version__,
    }
    return found


@checked
def panel_redundancy(
    adata: AnnData,
    genes: str | Sequence[str],
    *,
    rows: ArrayLike | None = None,
    threshold: float = 0.7,
    n_substitutes: int = 3,
    key_added: str = "panel_redundancy",
    **reading: Unpack[ReadOptions],
) -> Redundancy:
    """Find redundant genes in a panel, and substitutes for them.

    Parameters
    ----------
    adata
        Cells with raw counts.
    genes
        The panel: names in ``var_names``.
    rows
        Which cells, numbers or a mask (default: all). For a panel that will be scored, use the
        training cells only.
    threshold, n_substitutes
        As in :func:`kernomics.evaluation.panels.redundancy`.
    key_added
        Name of the result.
    **reading
        How to read the cells, as in :class:`kernomics.data.ReadOptions`, such as
        ``layer="counts"``.

    Returns
    -------
    Redundancy
        The result. Added to `adata`: ``uns["panel_redundancy"]`` with ``genes``, ``group`` (int64
        [k]: each gene's group of interchangeable genes, −1 for none), ``correlation`` (float64 [k,
        k]), ``substitutes`` and parameters.

    Raises
    ------
    DataError, ConfigError
        As in :func:`kernomics.evaluation.panels.redundancy`; `adata` is then unchanged.
    """
    require_anndata(adata, "panel_redundancy")
    how: ReadOptions = {"empty_cells": "keep", **reading}
    cells = CellCollection.from_anndata(adata, **how)
    wanted = np.arange(cells.n_cells) if rows is None else rows
    found = redundancy(cells, genes, wanted, threshold=threshold, n_substitutes=n_substitutes)
    group = {gene: i for i, members in enumerate(found.groups) for gene in members}
    params = {**reading, "threshold": threshold, "n_substitutes": n_substitutes}
    adata.uns[key_added] = {
        "genes": names(found.correlation.index),
        "group": np.array([group.get(gene, -1) for gene in found.correlation.index]),
        "correlation": found.correlation.to_numpy(),
        "substitutes": found.substitutes,
        "params": without_none(params),
        "version": __version__,
    }
    return found


@checked
def panel_contributions(
    adata: AnnData,
    panel_or_model: Panel | YOTO,
    *,
    rows: ArrayLike | None = None,
    background_rows: ArrayLike | None = None,
    key_added: str = "panel_contributions",
    **reading: Unpack[ReadOptions],
) -> Contributions:
    """Measure what each gene of a trained panel contributes to each label and class.

    Parameters
    ----------
    adata
        Cells with raw counts of the panel's genes, and its labels in obs.
    panel_or_model
        A panel, or a model trained on these same cells, whose split then says which cells are held
        out and which are the background.
    rows, background_rows
        Held-out cells to measure on, and training cells whose mean replaces a gene left out:
        numbers or masks. A `Panel` does not know them, so both must be given with it.
    key_added
        Name of the result.
    **reading
        How to read the cells, as in :meth:`kernomics.models.Panel.predict`, by default as those of
        the training; a model has already read its cells.

    Returns
    -------
    Contributions
        The result. Added to `adata`: ``uns["panel_contributions"]`` with ``loss_without`` (genes ×
        labels), ``by_class`` (per label a table with columns ``gene``, ``class``, ``rise``) and
        parameters.

    Raises
    ------
    ConfigError
        If `rows` or `background_rows` is missing with a `Panel`, a model was trained on other
        cells, or reading options are given with a model.
    DataError
        As in :func:`kernomics.evaluation.panels.contributions`; `adata` is then unchanged.
    """
    require_anndata(adata, "panel_contributions")
    if isinstance(panel_or_model, YOTO):
        panel, split = panel_or_model.trained, panel_or_model.split
        cells = panel_or_model.cells
        given = list(given_options(reading))
        if given:
            raise ConfigError(
                f"{given[0]} was given with a model, which has already read its cells; leave it "
                "out, or pass model.panel"
            )
        if adata.obs_names.tolist() != cells.cell_names.tolist():
            raise ConfigError(
                f"the model was trained on {cells.n_cells:,} cells, not on the {adata.n_obs:,} "
                "given, so its split does not apply; pass model.panel with rows and "
                "background_rows"
            )
        rows = split.test if rows is None else rows
        background_rows = split.train if background_rows is None else background_rows
    else:
        panel = panel_or_model
        if rows is None or background_rows is None:
            raise ConfigError(
                "a Panel does not know which cells it was trained on; pass rows (held-out cells) "
                "and background_rows (training cells)"
            )
        kinds = {task.name: task.kind for task in panel.tasks if task.name in adata.obs.columns}
        how: ReadOptions = {"empty_cells": "keep", **reading}
        cells = read_as_trained(
            adata,
            how,
            panel.info,
            panel.genes,
            library=panel.network.transform == "lognorm",
            labels_key=list(kinds),
            label_kinds=kinds,
        )
    found = contributions(panel, cells, rows, background_rows=background_rows)
    adata.uns[key_added] = {
        "loss_without": found.loss_without,
        # Class names may hold a slash, which no column of an h5ad file can.
        "by_class": {
            name: table.melt(var_name="class", value_name="rise", ignore_index=False)
            .reset_index()
            .astype({"class": object})
            for name, table in found.by_class.items()
        },
        "params": without_none({**reading, **cells.reading}),
        "version": __version__,
    }
    return found
