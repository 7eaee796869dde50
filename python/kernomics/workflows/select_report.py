"""What the report of a panel selection shows, gathered from the trained model."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernomics import metrics, pl
from kernomics._version import __version__
from kernomics._warnings import quietly
from kernomics.data.gene_columns import counts_of, counts_of_genes
from kernomics.data.genes import places_of
from kernomics.errors import DataError
from kernomics.evaluation.panels import (
    Contributions,
    PanelCurve,
    PanelEmbedding,
    Redundancy,
    Stability,
    contributions,
    panel_embedding,
    redundancy,
)
from kernomics.evaluation.panels.comparison import SplitComparison, certainty
from kernomics.evaluation.panels.donors import OverGroups
from kernomics.metrics.expression import detected_everywhere
from kernomics.models import YOTO
from kernomics.report import MethodScore, ReportData, SplitReport, TaskReport
from kernomics.report.data import LEAST_CELLS, MAIN_METRIC, METRICS
from kernomics.report.provenance import package_versions, this_command


def report_data(
    model: YOTO,
    scores: Mapping[str, Sequence[MethodScore]],
    dataset: str,
    seconds: float,
    notes: Sequence[str],
    config: Mapping[str, Any],
    *,
    everywhere: NDArray[np.bool_] | None = None,
    comparison: SplitComparison | None = None,
    stability: Stability | None = None,
    curve: PanelCurve | None = None,
    over_groups: Mapping[str, OverGroups] | None = None,
) -> ReportData:
    """Gather what the report shows.

    `scores`, `seconds` and `notes` are those of the run, `everywhere` is what
    `in_nearly_every_cell` found, `over_groups` what a split by groups tells; `comparison`,
    `stability` and `curve` are what was asked for. The map, the contributions and the redundancy
    are worked out here.
    """
    cells, split = model.cells, model.split
    panel_counts = counts_of(cells.with_genes(model.genes, 1.0), np.arange(cells.n_cells))
    outputs = model.trained.outputs(cells, split.test)
    tasks, expression = [], []
    for task in model.tasks:
        labels = cells.labels[task.name]
        parts = [
            int(labels.labelled[rows].sum()) for rows in (split.train, split.validation, split.test)
        ]
        confusion = None
        if task.classes:
            expression.append(
                metrics.class_expression(
                    panel_counts[split.train],
                    labels.values[split.train],
                    task.classes,
                    task=task.name,
                )
            )
            if len(split.test):
                confusion = metrics.confusion_matrix(
                    labels.values[split.test], outputs[task.name].argmax(1), len(task.classes)
                )
        tasks.append(
            TaskReport(
                name=task.name,
                kind=task.kind,
                scores=scores.get(task.name, ()) or [MethodScore(method="YOTO", metrics={})],
                n_train=parts[0],
                n_validation=parts[1],
                n_test=parts[2],
                classes=task.classes,
                class_cells=np.array(list(labels.counts().values())) if task.classes else None,
                confusion=confusion,
                **_over_splits(
                    comparison,
                    task.name,
                    scores.get(task.name, ()),
                    parts[2],
                    (over_groups or {}).get(task.name),
                ),
            )
        )
    ranking = model.ranking.loc[model.genes]
    chosen = places_of(model.genes, cells.genes)
    embedding, effects, alike, omitted = _findings(model)
    return ReportData(
        title=f"{len(model.genes)}-gene panel for {', '.join(task.name for task in model.tasks)}",
        dataset=dataset,
        n_cells=cells.n_cells,
        n_genes=cells.n_genes,
        genes=model.genes,
        scores=ranking["score"].to_numpy(),
        detection_rate=model.summary.n_expressing[chosen] / model.summary.n_cells,
        mean_count=model.summary.mean[chosen],
        tasks=tasks,
        split=SplitReport(
            how=split.how,
            by=split.by,
            seed=split.seed,
            n_train=len(split.train),
            n_validation=len(split.validation),
            n_test=len(split.test),
        ),
        expression=expression,
        everywhere=everywhere,
        marker_for=model.constraints.marker_for(model.genes) if model.constraints.markers else (),
        curve=curve,
        starts=model.starts,
        stability=stability,
        embedding=embedding,
        contributions=effects,
        redundancy=alike,
        omitted=omitted,
        history=model.history,
        warnings=[*notes, *_class_notes(model)],
        command=this_command(),
        config=config,
        versions=package_versions(),
        seed=model.seed,
        version=__version__,
        created=time.strftime("%Y-%m-%d %H:%M"),
        duration_seconds=seconds,
    )


def in_nearly_every_cell(model: YOTO) -> NDArray[np.bool_]:
    """Tell which genes of the panel nearly every training cell of every class has, bool [k].

    Without a categorical label all training cells are one class.
    """
    cells, train = model.cells, model.split.train
    counts = counts_of_genes(cells, model.genes, train)
    codes = {
        task.name: (cells.labels[task.name].values[train], task.classes)
        for task in model.tasks
        if task.classes
    } or {"": (np.zeros(len(train), dtype=np.int64), ("all cells",))}
    return detected_everywhere(
        [metrics.class_expression(counts, *found, task=name) for name, found in codes.items()]
    )


def _over_splits(
    comparison: SplitComparison | None,
    task: str,
    scores: Sequence[MethodScore],
    n_test: int,
    groups: OverGroups | None,
) -> dict[str, Any]:
    """Return what several splits say of a task, or what one cannot."""
    if comparison is None:
        said = certainty(scores, n_test)
        return {"verdict": said if groups is None else f"{said} {groups.sentence()}"}
    return {
        "over_splits": comparison.scores(task),
        "n_splits": comparison.n_splits,
        "verdict": comparison.verdict(task),
    }


def _findings(
    model: YOTO,
) -> tuple[PanelEmbedding | None, Contributions | None, Redundancy | None, list[str]]:
    """Work out what the report says of the panel itself, and why a part of it is missing."""
    cells, split = model.cells, model.split
    embedding = effects = None
    omitted = []
    try:
        embedding = panel_embedding(cells, model.genes, split, seed=model.seed)
    except (ImportError, DataError) as error:
        omitted.append(f"The cells were not mapped: {error}.")
    try:
        effects = contributions(model.trained, cells, split.test, background_rows=split.train)
    except DataError as error:
        omitted.append(f"What each gene contributes could not be measured: {error}.")
    alike = redundancy(cells, model.genes, split.train) if len(split.train) > 1 else None
    return embedding, effects, alike, omitted


def _class_notes(model: YOTO) -> list[str]:
    """Warn of classes so small that their score says little."""
    notes = []
    for task in model.tasks:
        inferred = model.cells.labels[task.name].inferred
        if inferred:
            notes.append(f"{task.name}: {model.cells.labels[task.name].description}.")
        if not task.classes:
            continue
        held_out = model.cells.labels[task.name].subset(model.split.test).counts()
        few = {name: n for name, n in held_out.items() if n < LEAST_CELLS}
        if few:
            listed = ", ".join(f"{name} ({n})" for name, n in list(few.items())[:6])
            notes.append(
                f"{len(few)} of {len(held_out)} classes of {task.name} have fewer than "
                f"{LEAST_CELLS} held-out cells, so their scores are uncertain: {listed}."
            )
    rule = model.cells.library_rule
    if rule.partial:
        notes.append(
            f"The genes are a subset of those measured ({rule.partial}), so a cell's total over "
            "them is not its library size."
        )
    return notes


def write_plots(folder: Path, data: ReportData) -> None:
    """Draw the panel, the training and each task as SVG files of their own."""
    assert data.scores is not None
    assert data.detection_rate is not None
    drawings: dict[str, Callable[[], Any]] = {
        "panel": partial(pl.panel_scores, data.genes, data.scores, data.detection_rate),
        "training": partial(pl.training_curves, data.history),
    }
    for part in data.expression:
        drawings[f"expression-{part.task}"] = partial(pl.dot_plot, part, data.genes)
    for task in data.tasks:
        if task.confusion is not None:
            name = f"confusion-{task.name}"
            drawings[name] = partial(pl.confusion, task.confusion, task.classes)
    drawings |= _further_drawings(data)
    folder.mkdir(exist_ok=True)
    for name, draw in drawings.items():
        # Whoever shows the file has its own fonts: a glyph that matplotlib's lacks is no loss.
        with quietly(UserWarning, r"Glyph \d+"):
            drawn = draw()
            figure = getattr(drawn, "figure", drawn)
            plain = re.sub(r"[^\w.-]+", "-", name)
            figure.savefig(folder / f"{plain}.svg", bbox_inches="tight")


def _further_drawings(data: ReportData) -> dict[str, Callable[[], Any]]:
    drawings: dict[str, Callable[[], Any]] = {}
    if data.embedding is not None:
        drawings["embedding"] = partial(pl.embedding, data.embedding)
    if data.redundancy is not None:
        drawings["correlation"] = partial(pl.panel_correlation, data.redundancy)
    if data.contributions is not None:
        for name in map(str, data.contributions.loss_without):
            drawings[f"contributions-{name}"] = partial(pl.contributions, data.contributions, name)
    if data.stability is not None:
        drawings["stability"] = partial(pl.gene_frequency, data.stability)
        drawings["overlap"] = partial(pl.panel_overlap, data.stability)
    if data.curve is not None:
        for task in data.tasks:
            metric = MAIN_METRIC[task.kind]
            for part in pl.curve_parts(data.curve, task.name, metric):
                drawings[f"curve-{task.name}-{part}"] = partial(
                    pl.panel_curve,
                    data.curve,
                    task=task.name,
                    metric=metric,
                    part=part,
                    name=METRICS[task.kind][metric],
                )
    return drawings
