"""What the report of a panel selection shows, gathered from the trained model."""

from __future__ import annotations

import platform
import re
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from kernomics import __version__, metrics, pl
from kernomics.data import CellCollection
from kernomics.models import YOTO
from kernomics.report import MethodScore, ReportData, SplitReport, TaskReport


def counts_of(cells: CellCollection, rows: NDArray[np.int64]) -> sparse.csr_matrix:
    """Read cells as a scipy CSR matrix [len(rows), genes]."""
    batch = cells.batch(rows)
    return sparse.csr_matrix(
        (batch.values.numpy(), batch.indices.numpy(), batch.indptr.numpy()),
        shape=(len(batch), cells.n_genes),
    )


def report_data(
    model: YOTO,
    scores: Mapping[str, Sequence[MethodScore]],
    dataset: str,
    seconds: float,
    notes: Sequence[str],
    config: Mapping[str, Any],
) -> ReportData:
    """Gather what the report shows; `scores`, `seconds` and `notes` are those of the run."""
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
                metrics.class_expression(panel_counts, labels.values, task.classes, task=task.name)
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
            )
        )
    ranking = model.ranking.loc[model.genes]
    return ReportData(
        title=f"{len(model.genes)}-gene panel for {', '.join(task.name for task in model.tasks)}",
        dataset=dataset,
        n_cells=cells.n_cells,
        n_genes=cells.n_genes,
        genes=model.genes,
        scores=ranking["score"].to_numpy(),
        detection_rate=np.diff(panel_counts.tocsc().indptr) / cells.n_cells,
        mean_count=np.asarray(panel_counts.mean(axis=0)).ravel(),
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
        history=model.history,
        warnings=[*notes, *_class_notes(model)],
        command=shlex.join(["kernomics", *sys.argv[1:]]),
        config=config,
        versions={
            "kernomics": __version__,
            "python": platform.python_version(),
            **{name: package_version(name) for name in ("torch", "numpy", "scipy", "anndata")},
        },
        seed=model.seed,
        version=__version__,
        created=time.strftime("%Y-%m-%d %H:%M"),
        duration_seconds=seconds,
    )


def _class_notes(model: YOTO) -> list[str]:
    """Warn of classes so small that their score says little."""
    notes = []
    for task in model.tasks:
        if not task.classes:
            continue
        held_out = model.cells.labels[task.name].subset(model.split.test).counts()
        few = {name: n for name, n in held_out.items() if n < 10}
        if few:
            listed = ", ".join(f"{name} ({n})" for name, n in list(few.items())[:6])
            notes.append(
                f"{len(few)} of {len(held_out)} classes of {task.name} have fewer than 10 held-out "
                f"cells, so their scores are uncertain: {listed}."
            )
    if model.cells.library_is_subset:
        notes.append(
            "The genes are a subset of those measured, so a cell's total over them is not its "
            "library size."
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
    folder.mkdir(exist_ok=True)
    for name, draw in drawings.items():
        with warnings.catch_warnings():
            # Whoever shows the file has its own fonts: a glyph that matplotlib's lacks is no loss.
            warnings.filterwarnings("ignore", message=r"Glyph \d+", category=UserWarning)
            drawn = draw()
            figure = getattr(drawn, "figure", drawn)
            plain = re.sub(r"[^\w.-]+", "-", name)
            figure.savefig(folder / f"{plain}.svg", bbox_inches="tight")
