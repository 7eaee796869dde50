"""The same selection again, with another seed or size, and what is kept of each."""

from __future__ import annotations

import dataclasses
import operator
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from kernomics import metrics
from kernomics._files import bytes_of, json_of
from kernomics._warnings import quietly
from kernomics.data import Split, make_split
from kernomics.data.gene_columns import counts_of_genes
from kernomics.data.genes import places_of
from kernomics.errors import CheckpointError, ConfigError, DataError
from kernomics.models import YOTO, Panel
from kernomics.models.tasks import Task, score_task
from kernomics.models.yoto.config import YOTOConfig
from kernomics.models.yoto.diagnostics import TrainingWarning
from kernomics.train import config_hash, override, write_json
from kernomics.train.atomic import jsonable

RESAMPLED = 0.8
"""Share of the training cells that a resampled selection sees."""
N_BOOTSTRAP = 200
"""Resamples of the validation cells behind a standard error."""
OWN_NETWORK = "its own network"
FOLDER = "trainings"

Scores = dict[str, dict[str, float]]
"""Per task, its metrics."""


def again(
    model: YOTO,
    *,
    seed: int | None = None,
    n_genes: int | None = None,
    resample: bool = False,
) -> YOTO:
    """Return an untrained model that differs from another in seed, size or training cells alone."""
    seed = model.seed if seed is None else seed
    changes = {} if n_genes is None else {"n_genes": n_genes}
    split = _resampled(model, seed) if resample else model.split
    return _like(model, seed, split, override(model.config, **changes), model.options)


def on_split(model: YOTO, split: Split, seed: int) -> YOTO:
    """Return an untrained model that differs from another in split and seed alone."""
    return _like(model, seed, split, model.config, model.options)


def predictor_of(model: YOTO, genes: Sequence[str]) -> YOTO:
    """Return an untrained model whose panel is given, so that only its predictor is trained."""
    given = {"forced_genes": list(genes), "task_weights": model.options["task_weights"]}
    config = override(model.config, n_genes=len(genes), start_genes=len(genes))
    return _like(model, model.seed, model.split, config, given)


def trained(model: YOTO, device: str | torch.device = "cpu") -> Panel:
    """Train without a bar; what the monitors noticed stays in the model's warnings."""
    with quietly(TrainingWarning):
        return model.train(device=device, progress=False).trained


def panel_with_order(model: YOTO, genes: Sequence[str], scores: pd.Series[Any]) -> Panel:
    """Return a trained model's panel with its genes in another order."""
    assert model.module is not None
    ranked = torch.from_numpy(places_of(genes, model.cells.genes))
    return Panel(
        model.module.panel_network(ranked),
        genes,
        scores.index.tolist(),
        scores,
        model.trained.info,
        input_means=model.module.gene_means[ranked],
    )


def identity(model: YOTO) -> str:
    """Return a hash of everything that decides what a model will be."""
    bounds = model.bounds
    return config_hash(
        {
            "data": model.cells.fingerprint,
            "split": model.split.to_dict(),
            "tasks": {task.name: task.weight for task in model.tasks},
            "forced": model.cells.genes[bounds.forced].tolist(),
            "never": bounds.forbidden,
            "seed": model.seed,
            "model": model.config,
            "train": model.training,
            "constraints": model.constraints.description,
        }
    )


def check_seeds(model: YOTO | None, seeds: int | Sequence[int], least: int) -> list[int]:
    """Return the seeds meant by a number of them (the model's own first) or by a list."""
    if isinstance(seeds, bool | float | str):
        raise ConfigError(f"seeds is {seeds!r}: give their number, or a list of integers")
    if isinstance(seeds, int | np.integer):
        first = 0 if model is None else model.seed
        found = [first + i for i in range(int(seeds))]
    else:
        try:
            found = [operator.index(seed) for seed in seeds]
        except TypeError:
            raise ConfigError(f"seeds is {seeds!r}: a seed must be an integer") from None
    if len(found) < least:
        raise ConfigError(f"seeds is {seeds!r}: at least {least} are needed")
    twice = [seed for i, seed in enumerate(found) if seed in found[:i]]
    if twice:
        raise ConfigError(
            f"{len(twice)} of {len(found)} seeds are repeated, first {twice[0]}; a seed gives "
            "the same panel each time"
        )
    return found


def progress_bar(what: str, total: int, shown: bool) -> Any:
    """Return a bar over trainings."""
    # A log file wants few lines.
    often = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(total=total, desc=what, unit="training", disable=not shown, mininterval=often)


class Trainings:
    """Trains models and keeps what is needed of each, in a folder if there is one.

    What is kept of a training is one JSON file, named after everything that decides its result, so
    that a training found there need not be repeated and no other can be mistaken for it. The
    panels, also those selected on fewer training cells, are judged by the cells and split of
    `model`.
    """

    def __init__(
        self, model: YOTO, folder: str | Path | None, device: str | torch.device = "cpu"
    ) -> None:
        self._model = model
        self._folder = None if folder is None else Path(folder) / FOLDER
        self._device = device
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)

    def record(self, model: YOTO, parts: Sequence[str]) -> dict[str, Any]:
        """Train a model, unless it is trained or its training was kept, and score its panel."""
        path = self._path(model)
        found = None if path is None else read_kept(path)
        if found is None:
            panel = model.panel or trained(model, self._device)
            found = {
                "genes": panel.genes,
                "warnings": list(model.warnings),
                "network": {
                    part: network_scores(model, panel, part) for part in ("validation", "test")
                },
                "regression": {},
                "resampled": resampled_figures(model, panel),
            }
            if path is not None:
                write_json(path, found)
        missing = [part for part in parts if part not in found["regression"]]
        for part in missing:
            found["regression"][part] = regression_scores(self._model, found["genes"], part)
        if missing and path is not None:
            write_json(path, found)
        # As if it had been read from the file, where there is one or not.
        kept: dict[str, Any] = jsonable(found)
        return kept

    def _path(self, model: YOTO) -> Path | None:
        if self._folder is None:
            return None
        name = f"{model.config.n_genes}-genes-seed-{model.seed}-{identity(model)[:12]}.json"
        return self._folder / name


# -- scores ----------------------------------------------------------------------------------------


def network_scores(model: YOTO, panel: Panel, part: str) -> Scores:
    """Score a panel's own network on a part of the split; empty where the part has no cells."""
    rows = getattr(model.split, part)
    if not len(rows):
        return {}
    outputs = panel.outputs(model.cells, rows)
    scores = {}
    for task in model.tasks:
        found = score_task(task, model.cells.labels[task.name].values[rows], outputs[task.name])
        scores[task.name] = {name: value for name, value in found.items() if name != "n_cells"}
    return scores


def regression_scores(model: YOTO, genes: Sequence[str], part: str) -> Scores:
    """Score a panel by the logistic or ridge regression that judges all panels.

    It is trained on the training cells of `model`. A task that it cannot judge, for want of
    labelled cells, is left out.
    """
    rows = getattr(model.split, part)
    if not len(rows):
        return {}
    train = model.split.train
    x_train, x_test = (counts_of_genes(model.cells, genes, some) for some in (train, rows))
    scores = {}
    for task in model.tasks:
        values = model.cells.labels[task.name].values
        try:
            score = metrics.score_panel(task.kind, x_train, values[train], x_test, values[rows])
            scores[task.name] = score.metrics
        except DataError:
            continue
    return scores


def predictor_name(task: Task) -> str:
    """Name the independent predictor of a task."""
    return "logistic regression" if task.classes else "ridge regression"


def resampled_figures(model: YOTO, panel: Panel) -> NDArray[np.float64]:
    """Return the mean of macro-F1 and R² over tasks, on resamples of the validation cells.

    The bootstrap: each resample draws as many cells with replacement. All panels of a split see
    the same resamples.
    """
    rows = model.split.validation
    if not len(rows):
        return np.empty(0)
    outputs = panel.outputs(model.cells, rows)
    truths = {task.name: model.cells.labels[task.name].values[rows] for task in model.tasks}
    predicted = {
        task.name: outputs[task.name].argmax(1) if task.classes else outputs[task.name]
        for task in model.tasks
    }
    random = np.random.default_rng(0)
    figures = np.empty(N_BOOTSTRAP)
    for i in range(N_BOOTSTRAP):
        drawn = random.integers(len(rows), size=len(rows))
        of_tasks = [
            (metrics.macro_f1 if task.classes else metrics.r2)(
                truths[task.name][drawn], predicted[task.name][drawn]
            )
            for task in model.tasks
        ]
        figures[i] = mean_known(of_tasks)
    return figures


def main_figure(tasks: Sequence[Task], scores: Mapping[str, Mapping[str, float | None]]) -> float:
    """Return the mean over tasks of macro-F1 or R², a task without a figure left out."""
    return mean_known([scores[task.name]["macro_f1" if task.classes else "r2"] for task in tasks])


def mean_known(values: Sequence[float | None]) -> float:
    """Return the mean of the numbers among some values; NaN if there are none."""
    known = [value for value in values if value is not None and not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


# -- pieces ----------------------------------------------------------------------------------------


def _like(
    model: YOTO, seed: int, split: Split, config: YOTOConfig, options: Mapping[str, Any]
) -> YOTO:
    with quietly(UserWarning):  # what there is to say about these data was said before
        other = YOTO(model.cells, split=split, seed=seed, config=config, **options)
    other.training = override(model.training, seed=seed)
    return other


def _resampled(model: YOTO, seed: int) -> Split:
    train = model.split.train
    label = next((v for v in model.cells.labels.values() if v.kind == "categorical"), None)
    part = make_split(
        len(train),
        how="random" if label is None else "stratified",
        fractions=(RESAMPLED, 0.0, 1 - RESAMPLED),
        labels=None if label is None else label.subset(train),
        seed=seed,
    )
    return dataclasses.replace(model.split, train=train[part.train])


def read_kept(path: Path) -> dict[str, Any] | None:
    """Return what was kept of a training; None where nothing was."""
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = json_of(bytes_of(path))
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({error}); remove it to repeat its training"
        ) from None
    return found
