"""One panel selection from data to report, in a run directory: what `kernomics select` does."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernomics._optional import require_extra
from kernomics._warnings import quietly
from kernomics.data.genes import places_of
from kernomics.evaluation.panels import PanelCurve, Stability
from kernomics.evaluation.panels.comparison import (
    NEED_SCANPY,
    SplitComparison,
    check_methods,
    check_splits,
    compare_over_splits,
    score_panels,
)
from kernomics.evaluation.panels.donors import OverGroups, over_groups
from kernomics.metrics.panel_score import MethodScore, shared_ranks
from kernomics.models import YOTO
from kernomics.models.base import draw_weights
from kernomics.models.yoto.diagnostics import TrainingWarning
from kernomics.progress import stage
from kernomics.report import write_report
from kernomics.train import (
    History,
    RunDirectory,
    config_hash,
    override,
    replace_file,
    write_json,
)
from kernomics.train.device import usable_device
from kernomics.train.distributed import first_alone
from kernomics.train.skipping import Steps
from kernomics.workflows.select_again import check_again, select_again
from kernomics.workflows.select_report import in_nearly_every_cell, report_data, write_plots


@dataclass(frozen=True)
class SelectionResult:
    """What a selection found."""

    model: YOTO
    scores: dict[str, list[MethodScore]]  # by label; the first is the panel's own
    warnings: list[str]
    seconds: float  # to the trained panel; earlier sessions of a resumed run count
    report: Path
    everywhere: list[str]  # genes of the panel in nearly every training cell of every class
    stability: Stability | None = None
    curve: PanelCurve | None = None
    comparison: SplitComparison | None = None
    over_groups: Mapping[str, OverGroups] = field(default_factory=dict)  # by label


def run_selection(
    model: YOTO,
    out: str | Path,
    *,
    dataset: str,
    resume: bool = False,
    overwrite: bool = False,
    compare: Sequence[str] = ("de", "random"),
    notes: Sequence[str] = (),
    splits: int = 1,
    stability: int = 0,
    curve: Sequence[int] = (),
    device: str = "cpu",
    log_dir: str | Path | None = None,
    skip_steps: Steps = (),
    **training: Any,
) -> SelectionResult:
    """Train a model in a run directory, score it beside other panels and write the report."""
    # All that can be known to fail fails now, and not after the training.
    check_methods(compare)
    check_splits(model, splits)
    scanpy = ["scanpy"] if set(compare) & set(NEED_SCANPY) else []
    for package in ("sklearn", "matplotlib", *scanpy):
        require_extra(package, purpose="a selection with its report")
    usable_device(device)
    check_again(model, stability, curve)
    training.setdefault("seed", model.seed)
    training.setdefault("restart_at", model.config.fix_panel_at)
    model.training = override(model.training, **training)
    draw_weights(model.cells, model.split.train, model.training.balance)  # or refuses
    config = run_config(model, dataset, compare)
    with RunDirectory.create(out, config, resume=resume, overwrite=overwrite) as run:
        if run.writes:
            write_json(run.split, model.split.to_dict())
        earlier = _seconds_before(run) if resume else 0.0
        begun = time.monotonic()
        with quietly(TrainingWarning):  # the report lists them
            model.train(
                run_dir=run.path, resume=resume, device=device, log_dir=log_dir,
                skip_steps=skip_steps,
            )  # fmt: skip
        seconds = earlier + time.monotonic() - begun
        first_alone()
        model.save(run.model)
        everywhere = in_nearly_every_cell(model)
        replace_file(run.panel, _panel_table(model, everywhere).encode())
        own = model.test_metrics() if len(model.split.test) else {}
        progress = model.training.progress
        scores, unscored = score_panels(model, model.genes, own, compare, progress=progress)
        comparison = None
        if splits > 1:
            comparison = compare_over_splits(
                model, scores, splits, compare,
                folder=run.path, device=device, progress=progress,
            )  # fmt: skip
        further = select_again(model, run.path, stability=stability, curve=curve, device=device)
        found = [*unscored, *model.warnings, *further.warnings]
        if comparison is not None:
            found += comparison.warnings
        groups = over_groups(model)
        results = _results(model, scores, seconds, found)
        results["over_groups"] = {task: of.to_dict() for task, of in groups.items()}
        if comparison is not None:
            results["splits"] = comparison.to_dict()
        write_json(run.results, {**results, **further.to_dict()})
        run.record(config)
        with stage("the report: map of the cells, contributions of the genes", progress):
            shown = report_data(
                model, scores, dataset, seconds, [*notes, *found], run.config,
                everywhere=everywhere, comparison=comparison, stability=further.stability,
                curve=further.curve, over_groups=groups,
            )  # fmt: skip
        with stage("the report: figures", progress):
            write_plots(run.plots, shown)
            write_report(run.report, shown)
        return SelectionResult(
            model, scores, found, seconds, run.report,
            [gene for gene, is_so in zip(model.genes, everywhere, strict=True) if is_so],
            further.stability, further.curve, comparison, groups,
        )  # fmt: skip


def run_config(model: YOTO, dataset: str, compare: Sequence[str]) -> dict[str, Any]:
    """Everything that decides the result of a selection, the data included."""
    return {
        "system": "yoto",
        "dataset": dataset,
        "data_sha256": model.cells.fingerprint,
        "labels": list(model.cells.labels),
        "label_kinds": {name: one.description for name, one in model.cells.labels.items()},
        "library": model.cells.library_source,
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


# -- what is written -------------------------------------------------------------------------------


def _panel_table(model: YOTO, everywhere: NDArray[np.bool_]) -> str:
    """Return the panel as CSV; detection and mean count are over the training cells."""
    chosen = places_of(model.genes, model.cells.genes)
    table = model.ranking.iloc[: len(model.genes)][["rank", "score"]].copy()
    table["rank"] = shared_ranks(table["score"])
    table["detection_rate"] = model.summary.n_expressing[chosen] / model.summary.n_cells
    table["mean_count"] = model.summary.mean[chosen]
    table["detected_everywhere"] = everywhere
    if model.starts is not None:
        table["inclusion"] = [model.starts.inclusion[gene] for gene in model.genes]
    if model.constraints.markers:
        table["marker_for"] = model.constraints.marker_for(model.genes)
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
        **({} if model.starts is None else {"starts": model.starts.to_dict()}),
        "scores": {task: [dataclasses.asdict(s) for s in found] for task, found in scores.items()},
        "test_cells": len(model.split.test),
        "warnings": list(notes),
        "seconds": round(seconds, 2),
    }
