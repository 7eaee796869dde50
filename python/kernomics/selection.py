"""One panel selection from data to report, in a run directory: what `kernomics select` does."""

from __future__ import annotations

import dataclasses
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from kernomics import __version__, baselines, metrics
from kernomics.data import CellCollection
from kernomics.errors import ConfigError, closest
from kernomics.models import YOTO
from kernomics.models.panel_network import Task
from kernomics.report import MethodScore, ReportData, SplitReport, TaskReport, write_report
from kernomics.train import RunDirectory, override, replace_file, write_json

COMPARISONS = {"de": baselines.DEBaseline, "random": baselines.RandomBaseline}
RANDOM_PANELS = 5
"""A random panel's score is the mean over so many."""


@dataclass(frozen=True)
class SelectionResult:
    """What a selection found.

    Attributes
    ----------
    model
        The trained model.
    scores
        Per label, one entry per method and predictor; the first is the panel's own predictor.
    seconds
        From the start of training to the trained panel.
    report
        Path of the report.
    """

    model: YOTO
    scores: dict[str, list[MethodScore]]
    seconds: float
    report: Path


def counts_of(cells: CellCollection, rows: NDArray[np.int64]) -> sparse.csr_matrix:
    """Read cells as a scipy CSR matrix [len(rows), genes]."""
    batch = cells.batch(rows)
    return sparse.csr_matrix(
        (batch.values.numpy(), batch.indices.numpy(), batch.indptr.numpy()),
        shape=(len(batch), cells.n_genes),
    )


def run_selection(
    model: YOTO,
    out: str | Path,
    *,
    dataset: str,
    resume: bool = False,
    overwrite: bool = False,
    compare: Sequence[str] = ("de", "random"),
    max_epochs: int | None = None,
    notes: Sequence[str] = (),
    device: str = "cpu",
    **training: Any,
) -> SelectionResult:
    """Train a model in a run directory, score it beside other panels and write the report.

    Parameters
    ----------
    model
        An untrained YOTO.
    out
        The run directory.
    dataset
        What to call the data in the report.
    resume, overwrite
        Continue, or delete, the run that `out` holds.
    compare
        Which of ``"de"`` and ``"random"`` to put beside the panel, chosen on the same training
        cells and judged by the same logistic regression.
    max_epochs, device, **training
        As in `YOTO.train`.
    notes
        Sentences about the data for the report's warnings.

    Returns
    -------
    SelectionResult
        With everything that was written to `out`.
    """
    for name in compare:
        if name not in COMPARISONS:
            raise ConfigError(f"cannot compare with {name!r}; {closest(name, COMPARISONS)}")
    if max_epochs is not None:
        training["max_epochs"] = max_epochs
    training.setdefault("seed", model.seed)
    model.training = override(model.training, **training)
    with RunDirectory.create(
        out, run_config(model, dataset, compare), resume=resume, overwrite=overwrite
    ) as run:
        write_json(run.split, model.split.to_dict())
        begun = time.monotonic()
        with warnings.catch_warnings():  # the report lists them
            warnings.simplefilter("ignore", UserWarning)
            model.train(run_dir=run.path, resume=resume, device=device)
        seconds = time.monotonic() - begun
        model.save(run.model)
        replace_file(run.panel, _panel_table(model).encode())
        scores = score_panels(model, compare)
        write_json(run.results, _results(model, scores, seconds))
        write_report(run.report, report_data(model, scores, dataset, seconds, notes))
        return SelectionResult(model, scores, seconds, run.report)


def run_config(model: YOTO, dataset: str, compare: Sequence[str]) -> dict[str, Any]:
    """Everything that decides the result of a selection, the data included."""
    return {
        "system": "yoto",
        "dataset": dataset,
        "data_sha256": model.cells.fingerprint,
        "labels": list(model.cells.labels),
        "seed": model.seed,
        "split": {"how": model.split.how, "by": model.split.by, "seed": model.split.seed},
        "forced_genes": model.cells.genes[model.forced].tolist(),
        "never_chosen": len(model.forbidden),
        "task_weights": {task.name: task.weight for task in model.tasks},
        "model": dataclasses.asdict(model.config),
        "train": dataclasses.asdict(model.training),
        "compare": list(compare),
    }


# -- scores ----------------------------------------------------------------------------------------


def score_panels(model: YOTO, compare: Sequence[str]) -> dict[str, list[MethodScore]]:
    """Score the panel and others on the test cells, per label.

    The panel is judged twice: by its own network, and by the logistic (or ridge) regression that
    also judges the other panels, on the same cells with the same input.
    """
    if not len(model.split.test):
        return {}
    train, test = model.split.train, model.split.test
    counts = counts_of(model.cells, np.concatenate([train, test]))
    x_train, x_test = counts[: len(train)], counts[len(train) :]
    place = {gene: i for i, gene in enumerate(model.cells.genes)}
    own_panel = np.array([place[gene] for gene in model.genes])
    scores: dict[str, list[MethodScore]] = {}
    for task in model.tasks:
        values = model.cells.labels[task.name].values
        y_train, y_test = values[train], values[test]

        def judge(
            genes: NDArray[np.int64],
            task: Task = task,
            y_train: NDArray[Any] = y_train,
            y_test: NDArray[Any] = y_test,
        ) -> dict[str, float]:
            return _judge(task, x_train[:, genes], y_train, x_test[:, genes], y_test)

        predictor = "logistic regression" if task.classes else "ridge regression"
        own = model.test_metrics()[task.name]
        found = [
            MethodScore(method="YOTO", predictor="its own network", metrics=own),
            MethodScore(method="YOTO", predictor=predictor, metrics=judge(own_panel)),
        ]
        usable = np.flatnonzero(model.summary.n_expressing >= model.config.min_cells)
        for name in compare:
            if name == "de" and not task.classes:
                continue  # differential expression needs classes
            baseline = COMPARISONS[name]()
            seeds = range(RANDOM_PANELS) if name == "random" else range(1)
            judged = [
                judge(usable[baseline.select(x_train[:, usable], y_train, len(own_panel), seed=s)])
                for s in seeds
            ]
            keys = judged[0]
            mean = {key: float(np.mean([one[key] for one in judged])) for key in keys}
            spread = {}
            if len(judged) > 1:
                spread = {k: float(np.std([one[k] for one in judged], ddof=1)) for k in keys}
            found.append(
                MethodScore(
                    method=baseline.name,
                    predictor=predictor,
                    metrics=mean,
                    spread=spread,
                )
            )
        scores[task.name] = found
    return scores


def _judge(task: Task, x_train: Any, y_train: Any, x_test: Any, y_test: Any) -> dict[str, float]:
    if task.classes:
        score = baselines.evaluate_genes(x_train, y_train, x_test, y_test)
        return {"accuracy": score.accuracy, "macro_f1": score.macro_f1}
    ridge = baselines.evaluate_genes_regression(x_train, y_train, x_test, y_test)
    return {"r2": ridge.r2, "mae": ridge.mae, "pearson": ridge.pearson}


# -- what is written -------------------------------------------------------------------------------


def _panel_table(model: YOTO) -> str:
    """The panel as CSV: gene, rank, score, share of training cells that express it, mean count."""
    place = {gene: i for i, gene in enumerate(model.cells.genes)}
    chosen = [place[gene] for gene in model.genes]
    table = model.ranking.iloc[: len(model.genes)][["rank", "score"]].copy()
    table["detection_rate"] = model.summary.n_expressing[chosen] / model.summary.n_cells
    table["mean_count"] = model.summary.mean[chosen]
    text: str = table.to_csv(float_format="%.6g")
    return text


def _results(
    model: YOTO, scores: Mapping[str, Sequence[MethodScore]], seconds: float
) -> dict[str, Any]:
    return {
        "genes": model.genes,
        "scores": {task: [dataclasses.asdict(s) for s in found] for task, found in scores.items()},
        "test_cells": len(model.split.test),
        "warnings": model.warnings,
        "seconds": round(seconds, 2),
    }


def report_data(
    model: YOTO,
    scores: Mapping[str, Sequence[MethodScore]],
    dataset: str,
    seconds: float,
    notes: Sequence[str],
) -> ReportData:
    """Gather what the report shows."""
    cells, split = model.cells, model.split
    place = {gene: i for i, gene in enumerate(cells.genes)}
    chosen = np.array([place[gene] for gene in model.genes])
    panel_counts = counts_of(cells.with_genes(model.genes, 1.0), np.arange(cells.n_cells))
    outputs = model.trained.outputs(cells, split.test)
    tasks, expression = [], []
    for task in model.tasks:
        labels = cells.labels[task.name]
        parts = [int(labels.labelled[rows].sum()) for rows in (split.train, split.validation, split.test)]
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
        warnings=[*notes, *_class_notes(model), *model.warnings],
        command=shlex.join(["kernomics", *sys.argv[1:]]),
        config=run_config(model, dataset, ()),
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
