"""Several starts in one training: their steps, their judge, and what they say of the panel."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kernomics._optional import require_extra
from kernomics.data import CellCollection, Split
from kernomics.data.gene_columns import counts_of_genes
from kernomics.errors import ConfigError
from kernomics.metrics import macro_f1, r2
from kernomics.metrics.panel_judge import predictions
from kernomics.metrics.uncertainty import N_DRAWS, bootstrap_scores
from kernomics.models.tasks import Task, read_outputs
from kernomics.models.yoto.config import YOTOConfig
from kernomics.models.yoto.module import YOTOModule
from kernomics.models.yoto.schedule import Schedule
from kernomics.models.yoto.start_records import Judge, StartRecords, Verdict
from kernomics.nn import drawing_from
from kernomics.nn.philox import STREAM_STARTS, seed_of
from kernomics.train import TrainConfig, override
from kernomics.train.distributed import ranks
from kernomics.train.schedules import first_steps

MOST_CELLS = 50_000
"""Training cells that the regression of a judge learns from, at most."""


# ---- the plan ------------------------------------------------------------------------------------


def require_judged(config: YOTOConfig, tasks: Sequence[Task], cells: Any, split: Split) -> None:
    """Refuse several starts where nothing could tell which is best."""
    if config.n_starts == 1:
        return
    rows = split.validation
    if any(task.weight > 0 and _labelled(cells, task, rows).any() for task in tasks):
        return
    raise ConfigError(
        f"n_starts is {config.n_starts}, but the split has "
        + (
            f"{len(rows):,} validation cells, all unlabelled"
            if len(rows)
            else "no validation cells"
        )
        + ", which tell the best start: give fractions a second share above 0, or n_starts=1"
    )


def planned(config: YOTOConfig, training: TrainConfig, n_batches: int) -> TrainConfig:
    """Return how to train with several starts, given how one training would be.

    The first start takes the very steps that select in one training, each other one as many, and
    the second part at least those that are left; epochs are whole.
    """
    n = config.n_starts
    if n == 1:
        return training
    if training.patience is not None:
        raise ConfigError(
            f"n_starts is {n} and patience is {training.patience}: early stopping would end the "
            "training among the starts; leave patience out, or give n_starts=1"
        )
    if training.restart_at != config.fix_panel_at:
        raise ConfigError(
            f"n_starts is {n} and restart_at is {training.restart_at}: with several starts the "
            "learning rate has a cycle for each and one for the predictor; leave restart_at out"
        )
    in_epoch = math.ceil(n_batches / training.accumulate)
    each = first_steps(training.max_epochs * in_epoch, config.fix_panel_at)
    if not each:
        raise ConfigError(
            f"n_starts is {n}, but of the {training.max_epochs * in_epoch:,} steps of this "
            f"training fix_panel_at={config.fix_panel_at} leaves none to one of its parts; give "
            "more max_epochs"
        )
    epochs = training.max_epochs + math.ceil((n - 1) * each / in_epoch)
    restarts = tuple(i * each / (epochs * in_epoch) for i in range(1, n + 1))
    return override(training, max_epochs=epochs, restart_at=restarts)


def with_starts(schedule: Schedule, plan: TrainConfig) -> Schedule:
    """Return the schedules of a training with so many starts."""
    if not isinstance(plan.restart_at, tuple):
        return schedule
    restarts = plan.restart_at
    return dataclasses.replace(schedule, fix_at=restarts[-1], n_starts=len(restarts))


def built(start: int, seed: int, build: Callable[[], YOTOModule]) -> YOTOModule:
    """Build a module with a start's weights, drawn by Philox words of the seed and the start."""
    with drawing_from(seed_of(seed, start, STREAM_STARTS)):
        return build()


# ---- the judge -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Jury:
    """Judges panels on the validation cells.

    Attributes
    ----------
    cells, split, tasks
        Of the selection.
    judge
        Who is asked.
    outputs
        Returns the network's outputs for the validation cells, one tensor for each task.
    """

    cells: CellCollection
    split: Split
    tasks: Sequence[Task]
    judge: Judge
    outputs: Callable[[YOTOModule], list[Tensor]]

    def __post_init__(self) -> None:
        if self.judge != "own":
            require_extra("sklearn.linear_model", purpose=f"judge={self.judge!r}")

    def __call__(self, module: YOTOModule, panel: Tensor) -> Verdict:
        """Judge the panel that a module has now, the same on every rank."""
        weights, figures, resampled = [], [], []
        own = self.outputs(module) if self.judge != "linear" else [None] * len(self.tasks)
        linear = self._linear(panel.cpu().numpy()) if self.judge != "own" else {}
        for task, output in zip(self.tasks, own, strict=True):
            rows = self.split.validation
            rows_known = _labelled(self.cells, task, rows)
            if not task.weight or not rows_known.any():
                continue
            truth = self.cells.labels[task.name].values[rows][rows_known]
            said = {}
            if output is not None:
                found = read_outputs(task, output)
                said["own"] = (found.argmax(1) if task.classes else found)[rows_known]
            if linear:
                said["linear"] = linear[task.name][rows_known]
            score = macro_f1 if task.classes else r2
            weights.append(task.weight)
            figures.append([score(truth, said[by]) if by in said else math.nan for by in BOTH])
            resampled.append(_resampled(task, truth, said))
        mean = np.average(figures, axis=0, weights=weights)
        draws = np.average(resampled, axis=0, weights=weights)
        told = ranks().told([*mean.tolist(), *draws.tolist()])
        return Verdict(told[0], told[1], told[2:])

    def _linear(self, panel: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return what a regression on the panel's counts predicts for the validation cells."""
        train, genes = self.split.train, self.cells.genes[panel].tolist()
        if len(train) > MOST_CELLS:
            train = np.sort(np.random.default_rng(0).choice(train, MOST_CELLS, replace=False))
        x_train, x_test = (
            counts_of_genes(self.cells, genes, rows) for rows in (train, self.split.validation)
        )
        return {
            task.name: predictions(
                task.kind, x_train, self.cells.labels[task.name].values[train], x_test
            )
            for task in self.tasks
            if task.weight
        }


BOTH = ("own", "linear")


def _labelled(cells: CellCollection, task: Task, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    values = cells.labels[task.name].values[rows]
    known: NDArray[np.bool_] = values >= 0 if task.classes else ~np.isnan(values)
    return known


def _resampled(
    task: Task, truth: NDArray[Any], said: Mapping[str, NDArray[Any]]
) -> NDArray[np.float64]:
    """Return the mean score of those asked on resamples of the cells, float64 [N_DRAWS]."""
    if task.classes:
        found = bootstrap_scores(truth, said)
        return np.asarray(np.mean([of["macro_f1"] for of in found.values()], axis=0))
    generator, scores = np.random.default_rng(0), np.empty(N_DRAWS)
    for i in range(N_DRAWS):
        rows = generator.integers(0, len(truth), len(truth))
        scores[i] = np.mean([r2(truth[rows], guess[rows]) for guess in said.values()])
    return scores


# ---- what they say -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Starts:
    """What the starts of a training say of its panel.

    Attributes
    ----------
    judge
        Who chose among them.
    panels
        Each start's genes, in the order of the data.
    own, linear
        Each one's macro-F1 or R² on the validation cells, mean over tasks, by the selection's
        network and by a regression; NaN where that was not asked.
    scores
        What decided: the mean of those asked.
    chosen
        The start whose panel was taken, from 0.
    certainty
        Share of resamples of the validation cells in which it is the best, ties counted half.
    """

    judge: Judge
    panels: list[list[str]]
    own: list[float]
    linear: list[float]
    scores: list[float]
    chosen: int
    certainty: float

    @classmethod
    def of(cls, records: StartRecords, judge: Judge, genes: NDArray[Any]) -> Starts:
        """Read what a training kept."""
        resampled = records.resampled.cpu().numpy()
        others = np.delete(resampled, records.best, axis=0).max(axis=0)
        best = resampled[records.best]
        own, linear = records.judged.T.tolist()
        return cls(
            judge,
            [genes[panel].tolist() for panel in records.panels.cpu().numpy()],
            own,
            linear,
            records.scores.tolist(),
            records.best,
            float(np.mean((best > others) + 0.5 * (best == others))),
        )

    def __str__(self) -> str:
        scores = ", ".join(f"{score:.3f}" for score in self.scores)
        return (
            f"{len(self.panels)} starts, {scores}; start {self.chosen + 1} chosen (best in "
            f"{self.certainty:.0%} of resamples), mean Jaccard index {self.mean_overlap:.2f}"
        )

    def overlap(self, a: int, b: int) -> float:
        """Return the Jaccard index of two starts' panels."""
        one, other = set(self.panels[a]), set(self.panels[b])
        return len(one & other) / len(one | other)

    @property
    def mean_overlap(self) -> float:
        """Mean Jaccard index over pairs of starts."""
        pairs = combinations(range(len(self.panels)), 2)
        return float(np.mean([self.overlap(a, b) for a, b in pairs]))

    @property
    def inclusion(self) -> dict[str, float]:
        """For each gene that any start selected, the share of starts that did; highest first."""
        found = Counter(gene for panel in self.panels for gene in panel)
        return {gene: n / len(self.panels) for gene, n in found.most_common()}

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return {
            "selections": len(self.panels),
            "trainings": 1,
            **dataclasses.asdict(self),
            "mean_overlap": self.mean_overlap,
            "inclusion": self.inclusion,
        }
