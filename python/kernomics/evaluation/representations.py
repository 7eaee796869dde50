"""How a TxFM's representation compares with others of the same cells, on held-out cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kernomics._arguments import checked, shown
from kernomics._warnings import quietly, warn
from kernomics.baselines.representations import (
    Representations,
    baseline_representations,
    scvi_representation,
)
from kernomics.data import CellCollection, Labels, Split, make_split
from kernomics.data.checks import named_cells
from kernomics.data.collection import EmptyCells
from kernomics.data.rng import Stream, permutation
from kernomics.data.trained_classes import trained_classes
from kernomics.errors import ConfigError, DataError
from kernomics.evaluation.representation_errors import Probes, score_errors
from kernomics.metrics import (
    clustering_scores,
    ilisi,
    linear_top_accuracy,
    mlp_probe,
    probe_predictions,
)
from kernomics.metrics.probes import probe_scores
from kernomics.models import CellEncoder
from kernomics.progress import stage

__all__ = [
    "RepresentationScores",
    "batch_split",
    "compare_representations",
    "score_representations",
]

Metric = Literal["probes", "top", "mlp", "clusters", "ilisi"]
TOP = 5
MOST_CELLS = 100_000
"""Cells of a part of a split whose expression is held in memory for a comparison."""


@dataclass(frozen=True, eq=False)
class RepresentationScores:
    """Scores of several representations.

    Attributes
    ----------
    table : pandas.DataFrame
        One row per label and representation, with the columns of the metrics asked for, as in
        `score_representations`.
    n_dimensions : int
        Of the widest representation.
    n_train, n_test : int
        Cells the classifiers were fitted and scored on.
    errors : pandas.DataFrame
        Standard errors of `table`, of the same shape, over held-out cells: from a bootstrap for the
        probes, √(p(1 − p)/n) for other shares of cells, NaN for scores that are not a mean over
        cells. They say nothing about other training runs or donors.
    differences : pandas.DataFrame
        One row per ``label``, other ``representation`` and ``metric`` of the probes: the first
        representation's score minus the other's, as ``difference``, and its ``error``, both from
        the same bootstrap samples. Empty without ``"probes"``.
    """

    table: pd.DataFrame
    n_dimensions: int
    n_train: int
    n_test: int
    errors: pd.DataFrame
    differences: pd.DataFrame

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON-able values."""
        return {
            "n_dimensions": self.n_dimensions,
            "n_train": self.n_train,
            "n_test": self.n_test,
            "scores": self.table.reset_index().to_dict("records"),
            "errors": self.errors.reset_index().to_dict("records"),
            "differences": self.differences.to_dict("records"),
        }


@checked
def batch_split(cells: CellCollection, *, train: float = 0.75, seed: int = 0) -> Split:
    """Split cells by batch, three quarters to fit on and a quarter to score on.

    The paper's split for probes (TxFM, arXiv 2605.31562): no batch is on both sides.

    Parameters
    ----------
    cells
        Cells read with ``batch_key``.
    train
        Fraction of the cells to fit on, as closely as whole batches allow.
    seed
        Seed of the split.

    Raises
    ------
    DataError
        If the cells have no batches, or only one.
    """
    return make_split(
        cells.n_cells,
        how="group",
        fractions=(train, 0.0, 1 - train),
        groups=_batches(cells),
        seed=seed,
    )


def _batches(cells: CellCollection) -> Labels:
    if cells.batch_labels is None:
        raise DataError("the cells were read without batches: give batch_key")
    return cells.batch_labels


# -- representations -------------------------------------------------------------------------------


@checked
def compare_representations(
    model: CellEncoder,
    cells: CellCollection,
    split: Split,
    *,
    n_tokens: int | None = None,
    n_draws: int = 1,
    min_gene_overlap: float = 0.8,
    empty_cells: EmptyCells = "error",
    seed: int = 0,
    others: Mapping[str, CellEncoder] = MappingProxyType({}),
    blocks: Sequence[int] = (),
    n_components: Sequence[int] = (),
    n_variable: Sequence[int] = (),
    scvi: bool = False,
    metrics: Sequence[Metric] = ("probes",),
    progress: bool = False,
) -> RepresentationScores:
    """Score a trained model's representation beside others of the same cells.

    Of more than 100,000 training or test cells a random 100,000 are taken, whose expression is held
    in memory, and a warning says so.

    Parameters
    ----------
    model
        A trained TxFM.
    cells
        Labelled cells.
    split
        Classifiers and baselines are fitted on its training cells and scored on its test cells.
    n_tokens, n_draws, min_gene_overlap, empty_cells
        As in `CellEncoder.get_latent_representation`.
    seed
        Seed of the PCA, scVI, probes and clusters.
    others
        Further models by name; the cells need not have all their genes, or counts in any of them.
    blocks
        Also score the representation after these blocks, counting from 1, as ``"TxFM, block 1"``.
    n_components, n_variable
        Additional numbers of principal components and of genes, as in `baseline_representations`.
    scvi
        Whether to train scVI on the same cells, with as many dimensions as the model's.
    metrics
        Which scores to compute, as in `score_representations`.
    progress
        Whether to report progress on stderr.
    """
    labels_to_score(metrics, cells, split)
    for block in blocks:
        model.checked_block(block)
    split = sampled(split, MOST_CELLS, seed)
    usual = {
        "n_tokens": n_tokens,
        "n_draws": n_draws,
        "min_gene_overlap": min_gene_overlap,
        "empty_cells": empty_cells,
    }
    unlike = {"min_gene_overlap": 0.0, "empty_cells": "keep"}

    def represent(encoder: CellEncoder, **options: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        train, test = (
            encoder.get_latent_representation(
                cells, rows=rows, progress=progress, **(usual | options)
            )
            for rows in (split.train, split.test)
        )
        return train, test

    width = model.config.d_model
    found: Representations = {"TxFM": represent(model)}
    for block in blocks:
        found[f"TxFM, block {block}"] = represent(model, block=block)
    # Whoever names other models knows whose genes these are.
    with quietly(UserWarning, "[0-9,]+ of the model's"):
        found |= {name: represent(other, **unlike) for name, other in others.items()}
    with stage("PCA and normalised counts of the same cells", progress):
        found |= baseline_representations(
            cells, split, width, seed, n_components=n_components, n_variable=n_variable
        )
    if scvi:
        with stage("training scVI", progress):
            found["scVI"] = scvi_representation(cells, split, width, seed)
    what = f"scoring {len(found)} representations by {', '.join(metrics)}"
    with stage(what, progress):
        return score_representations(found, cells, split, metrics=metrics, seed=seed)


def sampled(split: Split, most: int, seed: int) -> Split:
    """Return a split of at most so many random training and test cells each, and say so."""
    parts, said = {}, []
    for name, rows in (("train", split.train), ("test", split.test)):
        parts[name] = rows
        if len(rows) > most:
            parts[name] = rows[np.sort(permutation(len(rows), seed, Stream.SCORED_CELLS)[:most])]
            said.append(f"{most:,} random ones of the {len(rows):,} {name} cells")
    if said:
        warn(
            f"the scores are of {' and '.join(said)}: the expression of more is not held in memory"
        )
    return replace(split, train=parts["train"], test=parts["test"])


# -- scores ----------------------------------------------------------------------------------------


@checked
def score_representations(
    found: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
    cells: CellCollection,
    split: Split,
    *,
    metrics: Sequence[Metric] = ("probes",),
    seed: int = 0,
) -> RepresentationScores:
    """Score representations of the training and test cells by every categorical label.

    Parameters
    ----------
    found
        (training [n, d], test [m, d]) by name.
    cells
        The cells, with labels.
    split
        Which cells are which.
    metrics
        ``"probes"``: the columns of `probe_metrics`. ``"top"``: those of `linear_top_accuracy`; NaN
        for labels with five classes or fewer. ``"mlp"``: those of `mlp_probe`. ``"clusters"``:
        ``nmi``, ``ari`` and ``asw`` of the test cells (`clustering_scores`). ``"ilisi"``: how well
        batches mix in the test cells (`ilisi`), the same for every label.
    seed
        Seed of the network and the clusters.

    Raises
    ------
    DataError
        If the cells have no categorical label, or the split leaves nothing to learn for one; for
        ``"ilisi"``, without batches; for ``"top"``, without a label of more than five classes; if
        the split has no training or no test cells; if a representation has the wrong shape, or
        values that are not finite.
    ConfigError
        For an unknown metric.
    """
    labels, weak = labels_to_score(metrics, cells, split)
    for told in weak:
        warn(told)
    for name, parts in found.items():
        _check_representation(name, parts, cells, split)
    found = {name: (np.asarray(a), np.asarray(b)) for name, (a, b) in found.items()}
    mixing = {}
    if "ilisi" in metrics:
        batches = _batches(cells).values[split.test]
        mixing = {name: {"ilisi": ilisi(test, batches)} for name, (_, test) in found.items()}
    probes: Probes = {}
    if "probes" in metrics:
        probes = {
            (label.name, name): probe_predictions(
                train, label.values[split.train], test, label.values[split.test]
            )
            for label in labels
            for name, (train, test) in found.items()
        }
    rows = [
        {
            "label": label.name,
            "representation": name,
            **_scores(train, test, label, split, metrics, seed, probes.get((label.name, name))),
            **mixing.get(name, {}),
        }
        for label in labels
        for name, (train, test) in found.items()
    ]
    widths = {test.shape[1] for _, test in found.values()}
    table = pd.DataFrame(rows).set_index(["label", "representation"])
    labelled = {label.name: int(label.labelled[split.test].sum()) for label in labels}
    errors, differences = score_errors(table, probes, labelled, seed)
    return RepresentationScores(
        table, max(widths), len(split.train), len(split.test), errors, differences
    )


def labels_to_score(
    metrics: Sequence[Metric], cells: CellCollection, split: Split
) -> tuple[list[Labels], list[str]]:
    """Refuse what cannot be scored before anything takes time.

    Returns the labels to score by, and what is weak about them; see `trained_classes`.
    """
    if not len(metrics):
        raise ConfigError(f"metrics is empty; there are {', '.join(get_args(Metric))}")
    for part in ("train", "test"):
        if not len(getattr(split, part)):
            raise DataError(
                f"the split has no {part} cells: classifiers are fitted on the training cells "
                "and scored on the test cells"
            )
    labels = {name: one for name, one in cells.labels.items() if one.kind == "categorical"}
    if not labels:
        raise DataError(
            "a representation is scored by how well it separates classes, but "
            + (
                f"none of the labels is categorical ({list(cells.labels)} are numbers): name a "
                "column of classes with labels_key"
                if cells.labels
                else "the cells have no labels: name a column of classes with labels_key"
            )
        )
    if "ilisi" in metrics:
        batches = _batches(cells)
        if np.unique(batches.values[split.test]).size < 2:
            raise DataError(
                f"all {len(split.test):,} test cells are of one batch of {batches.name!r}: there "
                "is nothing to mix; leave out batches, or name another column with batch_key"
            )
    learnable, weak = trained_classes(labels, split)
    for name, label in learnable.items():
        if not label.labelled[split.test].any():
            raise DataError(
                f"label {name!r}: none of the {len(split.test):,} test cells has a value to "
                "score by; split differently, or leave out this label"
            )
    if "top" in metrics and not any(_many(label, split) for label in learnable.values()):
        raise DataError(
            f"none of the labels {list(labels)} has more than {TOP} classes "
            f"among the training cells, which metric 'top' needs"
        )
    return list(learnable.values()), weak


def _check_representation(
    name: str, parts: tuple[NDArray[Any], NDArray[Any]], cells: CellCollection, split: Split
) -> None:
    if not isinstance(parts, Sequence) or [np.ndim(values) for values in parts] != [2, 2]:
        raise DataError(
            f"the representation {name!r} is {shown(parts)}: a pair of arrays is needed, "
            "(training cells [n, d], test cells [m, d])"
        )
    for part, given, rows in zip(
        ("training", "test"), parts, (split.train, split.test), strict=True
    ):
        values = np.asarray(given)
        if values.dtype.kind not in "fiu":
            raise DataError(
                f"the representation {name!r} is of dtype {values.dtype}: numbers are needed"
            )
        if len(values) != len(rows):
            raise DataError(
                f"the representation {name!r} has shape {values.shape} for {len(rows):,} {part} "
                "cells: one row per cell is needed"
            )
        wrong = rows[~np.isfinite(values).all(axis=1)]
        if len(wrong):
            raise DataError(
                f"the representation {name!r} is NaN or infinite for {len(wrong):,} of the "
                f"{len(rows):,} {part} cells, first "
                f"{named_cells(wrong.tolist(), cells.cell_names, len(wrong))}; leave these cells "
                "out of the split, or recompute their representation"
            )


def _many(label: Labels, split: Split) -> bool:
    codes = label.values[split.train]
    return np.unique(codes[codes >= 0]).size > TOP


def _scores(
    train: NDArray[Any],
    test: NDArray[Any],
    label: Labels,
    split: Split,
    metrics: Sequence[Metric],
    seed: int,
    probes: tuple[NDArray[np.int64], dict[str, NDArray[np.int64]]] | None,
) -> dict[str, float]:
    parts = train, label.values[split.train], test, label.values[split.test]
    found: dict[str, float] = {}
    if probes is not None:
        found |= probe_scores(*probes)
    if "top" in metrics and _many(label, split):
        found |= linear_top_accuracy(*parts, top=TOP)
    if "mlp" in metrics:
        found |= mlp_probe(*parts, seed=seed)
    if "clusters" in metrics:
        clusters = clustering_scores(test, parts[3], seed=seed)
        found |= {"nmi": clusters.nmi, "ari": clusters.ari, "asw": clusters.asw}
    return found
