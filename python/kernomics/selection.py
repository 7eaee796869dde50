"""One panel selection from data to report, in a run directory: what `kernomics select` does."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernomics import baselines
from kernomics._warnings import quietly
from kernomics.errors import ConfigError, KernomicsError, closest
from kernomics.metrics._extras import require_extra
from kernomics.models import YOTO
from kernomics.models.device import usable_device
from kernomics.models.monitors import TrainingWarning
from kernomics.models.panel_network import Task
from kernomics.panels import PanelCurve, Stability
from kernomics.report import MethodScore, write_report
from kernomics.selection_again import check_again, select_again
from kernomics.selection_report import counts_of, report_data, write_plots
from kernomics.train import (
    History,
    RunDirectory,
    config_hash,
    override,
    replace_file,
    write_json,
)

COMPARISONS: dict[str, baselines.Baseline] = {
    "de": baselines.DEBaseline(),
    "l1": baselines.L1Baseline(),
    "hvg": baselines.HVGBaseline(),
    "random": baselines.RandomBaseline(),
}
NEED_CLASSES = ("de", "l1")
NEED_SCANPY = ("de", "hvg")
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
    warnings
        What may be wrong with the panel, and which comparisons could not be made.
    seconds
        From the start of training to the trained panel; earlier sessions of a resumed run count.
    report
        Path of the report.
    stability, curve
        The panels of other seeds and sizes, if asked for.
    """

    model: YOTO
    scores: dict[str, list[MethodScore]]
    warnings: list[str]
    seconds: float
    report: Path
    stability: Stability | None = None
    curve: PanelCurve | None = None


def run_selection(
    model: YOTO,
    out: str | Path,
    *,
    dataset: str,
    resume: bool = False,
    overwrite: bool = False,
    compare: Sequence[str] = ("de", "random"),
    notes: Sequence[str] = (),
    stability: int = 0,
    curve: Sequence[int] = (),
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
        Which of ``"de"``, ``"l1"``, ``"hvg"`` and ``"random"`` to put beside the panel, chosen on
        the same training cells and judged by the same logistic regression.
    notes
        Sentences about the data for the report's warnings.
    stability
        Over how many seeds to compare the panel, this run's own included, and to form a consensus;
        0 for none. See `kernomics.panels.panel_stability`.
    curve
        Sizes of panels to compare; see `kernomics.panels.panel_curve`. Neither changes the run's
        own panel, so both may also be asked of a run that is resumed, finished or not.
    device, **training
        As in `YOTO.train`.

    Returns
    -------
    SelectionResult
        With everything that was written to `out`.

    Raises
    ------
    ConfigError, CheckpointError
        Before anything is written: settings that make no sense, or an `out` that cannot be used.
    ImportError
        Likewise, without the packages of the extra ``report``.
    """
    # All that can be known to fail fails now, and not after the training.
    for name in compare:
        if name not in COMPARISONS:
            raise ConfigError(f"cannot compare with {name!r}; {closest(name, COMPARISONS)}")
    scanpy = ["scanpy"] if set(compare) & set(NEED_SCANPY) else []
    for package in ("sklearn", "matplotlib", *scanpy):
        require_extra(package, purpose="a selection with its report")
    usable_device(device)
    check_again(model, stability, curve)
    training.setdefault("seed", model.seed)
    model.training = override(model.training, **training)
    with RunDirectory.create(
        out, run_config(model, dataset, compare), resume=resume, overwrite=overwrite
    ) as run:
        write_json(run.split, model.split.to_dict())
        earlier = _seconds_before(run) if resume else 0.0
        begun = time.monotonic()
        with quietly(TrainingWarning):  # the report lists them
            model.train(run_dir=run.path, resume=resume, device=device)
        seconds = earlier + time.monotonic() - begun
        model.save(run.model)
        replace_file(run.panel, _panel_table(model).encode())
        scores, unscored = score_panels(model, compare)
        further = select_again(model, run.path, stability=stability, curve=curve, device=device)
        found = [*unscored, *model.warnings, *further.warnings]
        results = _results(model, scores, seconds, found)
        write_json(run.results, {**results, **further.to_dict()})
        shown = report_data(
            model, scores, dataset, seconds, [*notes, *found], run.config,
            stability=further.stability, curve=further.curve,
        )  # fmt: skip
        write_plots(run.plots, shown)
        write_report(run.report, shown)
        return SelectionResult(
            model, scores, found, seconds, run.report, further.stability, further.curve
        )


def run_config(model: YOTO, dataset: str, compare: Sequence[str]) -> dict[str, Any]:
    """Everything that decides the result of a selection, the data included."""
    return {
        "system": "yoto",
        "dataset": dataset,
        "data_sha256": model.cells.fingerprint,
        "labels": list(model.cells.labels),
        "seed": model.seed,
        "split": {
            "how": model.split.how,
            "by": model.split.by,
            "seed": model.split.seed,
            "sha256": config_hash(model.split.to_dict()),
        },
        "forced_genes": model.cells.genes[model.bounds.forced].tolist(),
        "forbidden_genes": list(model.bounds.forbidden_names),
        "constraints": model.constraints.description,
        "task_weights": {task.name: task.weight for task in model.tasks},
        "model": dataclasses.asdict(model.config),
        "train": dataclasses.asdict(model.training),
        "compare": list(compare),
    }


# -- scores ----------------------------------------------------------------------------------------


def score_panels(
    model: YOTO, compare: Sequence[str]
) -> tuple[dict[str, list[MethodScore]], list[str]]:
    """Score the panel and others on the test cells, per label.

    The panel is judged twice: by its own network, and by the logistic (or ridge) regression that
    also judges the other panels, on the same cells with the same input.

    Returns
    -------
    scores : dict
        Per label one entry per panel and predictor; empty without test cells.
    unscored : list of str
        A sentence on each comparison that these cells do not allow, such as one without a labelled
        test cell.
    """
    scores: dict[str, list[MethodScore]] = {}
    unscored: list[str] = []
    if not len(model.split.test):
        return scores, unscored
    train, test = model.split.train, model.split.test
    counts = counts_of(model.cells, np.concatenate([train, test]))
    x_train, x_test = counts[: len(train)], counts[len(train) :]
    place = {gene: i for i, gene in enumerate(model.cells.genes)}
    own_panel = np.array([place[gene] for gene in model.genes])
    usable = np.flatnonzero(model.summary.n_expressing >= model.config.min_cells)
    own_scores = model.test_metrics()
    for task in model.tasks:
        values = model.cells.labels[task.name].values
        y_train, y_test = values[train], values[test]
        predictor = "logistic regression" if task.classes else "ridge regression"
        found = [
            MethodScore(method="YOTO", predictor="its own network", metrics=own_scores[task.name])
        ]
        for name in ("YOTO", *compare):
            if name in NEED_CLASSES and not task.classes:
                continue
            method = "YOTO" if name == "YOTO" else COMPARISONS[name].name
            try:
                panels = [own_panel]
                if name != "YOTO":
                    chosen = _choose(name, x_train[:, usable], y_train, len(own_panel))
                    panels = [usable[panel] for panel in chosen]
                judged = [
                    _judge(task, x_train[:, genes], y_train, x_test[:, genes], y_test)
                    for genes in panels
                ]
            except KernomicsError as error:
                unscored.append(f"{method} was not scored by {predictor} on {task.name}: {error}.")
                continue
            mean = {key: float(np.mean([one[key] for one in judged])) for key in judged[0]}
            spread = {}
            if len(judged) > 1:
                spread = {key: float(np.std([one[key] for one in judged], ddof=1)) for key in mean}
            found.append(
                MethodScore(method=method, predictor=predictor, metrics=mean, spread=spread)
            )
        scores[task.name] = found
    return scores, unscored


def _choose(name: str, x_train: Any, y_train: NDArray[Any], k: int) -> list[NDArray[np.int64]]:
    """Let another method choose k columns of the training cells, a random one several times."""
    seeds = range(RANDOM_PANELS if name == "random" else 1)
    return [COMPARISONS[name].select(x_train, y_train, k, seed=seed) for seed in seeds]


def _judge(task: Task, x_train: Any, y_train: Any, x_test: Any, y_test: Any) -> dict[str, float]:
    if task.classes:
        return baselines.evaluate_genes(x_train, y_train, x_test, y_test).metrics
    return baselines.evaluate_genes_regression(x_train, y_train, x_test, y_test).metrics


# -- what is written -------------------------------------------------------------------------------


def _panel_table(model: YOTO) -> str:
    """Return the panel as CSV; detection rate and mean count are over the training cells."""
    place = {gene: i for i, gene in enumerate(model.cells.genes)}
    chosen = [place[gene] for gene in model.genes]
    table = model.ranking.iloc[: len(model.genes)][["rank", "score"]].copy()
    table["detection_rate"] = model.summary.n_expressing[chosen] / model.summary.n_cells
    table["mean_count"] = model.summary.mean[chosen]
    text: str = table.to_csv(float_format="%.6g")
    return text


def _seconds_before(run: RunDirectory) -> float:
    """Return how long earlier sessions of a run trained, by its history."""
    history = History.read(run.metrics) if run.metrics.exists() else History()
    return float(sum(record["seconds"] for record in history.select("train")))


def _results(
    model: YOTO,
    scores: Mapping[str, Sequence[MethodScore]],
    seconds: float,
    notes: Sequence[str],
) -> dict[str, Any]:
    return {
        "genes": model.genes,
        "scores": {task: [dataclasses.asdict(s) for s in found] for task, found in scores.items()},
        "test_cells": len(model.split.test),
        "warnings": list(notes),
        "seconds": round(seconds, 2),
    }
