"""Several starts in one training: their steps, their judge, and what they say of the panel."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
from kernomics.models.yoto.schedule import Leg, Schedule, legs_of
from kernomics.models.yoto.start_records import Judge, StartRecords, Verdict
from kernomics.nn import drawing_from
from kernomics.nn.philox import STREAM_STARTS, seed_of
from kernomics.train import TrainConfig, override
from kernomics.train.distributed import ranks
from kernomics.train.schedules import first_steps

MOST_CELLS = 50_000
"""Training cells that the regression of a judge learns from, at most."""
FEW = 1_000
"""With fewer validation cells the regression is judged by cross-validation."""
N_FOLDS = 5


# ---- the plan ------------------------------------------------------------------------------------


def require_judged(config: YOTOConfig, tasks: Sequence[Task], cells: Any, split: Split) -> None:
    """Refuse several starts where the judge could not tell which is best."""
    if config.n_starts == 1 or config.judge == "linear":
        return
    rows = split.validation
    if any(task.weight > 0 and judgeable(cells, task, rows) for task in tasks):
        return
    there = "no validation cells"
    if len(rows):
        some = any(labelled(cells, task, rows).any() for task in tasks)
        found = "labelled with one number alone, of which R² says nothing"
        found = found if some else "all unlabelled"
        there = f"{len(rows):,} validation cells, {found}"
    raise ConfigError(
        f"n_starts is {config.n_starts} and judge={config.judge!r}, but the split has "
        + there
        + ", on which the network is judged: give fractions a second share above 0, judge='linear' "
        "(which needs none) or n_starts=1"
    )


def planned(
    config: YOTOConfig, training: TrainConfig, n_batches: int
) -> tuple[TrainConfig, tuple[Leg, ...]]:
    """Return how to train with several starts and who selects when, given how one would train.

    A start that is not ended early has as many steps as the selection of one training, and the
    second part at least those that are left; epochs are whole.
    """
    n = config.n_starts
    if n == 1:
        return training, ()
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
    legs = tuple(legs_of(n, each, config.halving))
    if any(leg.first == leg.last for leg in legs):
        raise ConfigError(
            f"n_starts is {n}, but of the {training.max_epochs * in_epoch:,} steps of this "
            f"training fix_panel_at={config.fix_panel_at} leaves too few to one of its parts; give "
            "more max_epochs"
        )
    epochs = training.max_epochs + math.ceil((legs[-1].last - each) / in_epoch)
    restarts = tuple(leg.last / (epochs * in_epoch) for leg in legs)
    return override(training, max_epochs=epochs, restart_at=restarts), legs


def with_starts(schedule: Schedule, plan: TrainConfig, legs: tuple[Leg, ...]) -> Schedule:
    """Return the schedules of a training with several starts."""
    restarts = plan.restart_at
    assert isinstance(restarts, tuple)
    return dataclasses.replace(schedule, fix_at=restarts[-1], each=legs[-1].end, legs=legs)


def built(start: int, seed: int, build: Callable[[], YOTOModule]) -> YOTOModule:
    """Build a module with a start's weights, drawn by Philox words of the seed and the start."""
    with drawing_from(seed_of(seed, start, STREAM_STARTS)):
        return build()


# ---- the judge -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Jury:
    """Judges panels: by the network on the validation cells, by a regression on these or others.

    Few validation cells do not tell panels apart, so the regression is then judged on the training
    cells, of which there are more, by cross-validation.

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

    @property
    def cross_validates(self) -> bool:
        """Whether the regression is judged on training cells."""
        held_out = self.split.validation
        known = [labelled(self.cells, t, held_out).sum() for t in self.tasks if t.weight]
        return bool(min(known, default=0) < FEW)

    def __call__(self, module: YOTOModule, panel: Tensor) -> Verdict:
        """Judge the panel that a module has now, the same on every rank."""
        figures, resampled = np.full(2, math.nan), []
        if self.judge != "linear":
            guesses = [
                read_outputs(task, output)
                for task, output in zip(self.tasks, self.outputs(module), strict=True)
            ]
            rows = self.split.validation
            asked = [labelled(self.cells, task, rows) for task in self.tasks]
            codes = [g.argmax(1) if g.ndim == 2 else g for g in guesses]
            figures[0], draws = self._scored(rows, codes, asked)
            resampled.append(draws)
        if self.judge != "own":
            figures[1], draws = self.regression(panel.cpu().numpy(), self.cross_validates)
            resampled.append(draws)
        told = ranks().told([*figures.tolist(), *_mean_of_defined(resampled).tolist()])
        return Verdict(told[0], told[1], told[2:])

    def _scored(
        self,
        rows: NDArray[np.int64],
        guesses: Sequence[NDArray[Any]],
        asked: Sequence[NDArray[np.bool_]],
    ) -> tuple[float, NDArray[np.float64]]:
        """Return the weighted mean over tasks of macro-F1 or R² on cells, and on resamples.

        `asked` tells which cells have a label and a guess. A task without a score, R² of a single
        number, is left out; NaN where none has one.
        """
        weights, figures, resampled = [], [], []
        for task, guess, known in zip(self.tasks, guesses, asked, strict=True):
            if task.weight and known.any():
                truth = self.cells.labels[task.name].values[rows][known]
                figure = (macro_f1 if task.classes else r2)(truth, guess[known])
                if not math.isnan(figure):
                    weights.append(task.weight)
                    figures.append(figure)
                    resampled.append(_resampled(task, truth, guess[known]))
        if not figures:
            return math.nan, np.full(N_DRAWS, math.nan)
        return (
            float(np.average(figures, weights=weights)),
            _mean_of_defined(resampled, weights),
        )

    def regression(
        self, panel: NDArray[np.int64], cross_validated: bool
    ) -> tuple[float, NDArray[np.float64]]:
        """Judge genes, by number, by a regression; see `_scored` for what is returned."""
        train, genes = self.split.train, self.cells.genes[panel].tolist()
        if len(train) > MOST_CELLS:
            train = np.sort(np.random.default_rng(0).choice(train, MOST_CELLS, replace=False))
        x = counts_of_genes(self.cells, genes, train)
        if cross_validated:
            rows, folds = train, self._folds(train)
            parts = [(folds != i, folds == i) for i in np.unique(folds)]
            others = x
        else:
            rows = self.split.validation
            parts = [(np.ones(len(train), bool), np.ones(len(rows), bool))]
            others = counts_of_genes(self.cells, genes, rows)
        guesses, known = [], []
        for task in self.tasks:
            y = self.cells.labels[task.name].values[train]
            guess = np.zeros(len(rows), np.int64 if task.classes else np.float64)
            guessed = np.zeros(len(rows), bool)  # not where all that is labelled is asked for
            for learnt, asked in parts:
                if labelled(self.cells, task, train[learnt]).any():
                    guess[asked] = predictions(task.kind, x[learnt], y[learnt], others[asked])
                    guessed[asked] = True
            guesses.append(guess)
            known.append(guessed & labelled(self.cells, task, rows))
        return self._scored(rows, guesses, known)

    def _folds(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which fold each cell is in, int64 [n].

        Groups that the split keeps stay whole, unless all cells of a label are then in one fold.
        """
        by = np.arange(len(rows))
        if self.split.how == "group" and self.split.by in self.cells.obs:
            names = self.cells.obs[self.split.by].astype(str).to_numpy()[rows]
            groups = np.unique(names, return_inverse=True)[1]
            by = groups if groups.max() > 0 else by
        found = _shuffled(by)
        for task in self.tasks:  # of what one group alone has, another can tell nothing
            if task.weight and len(np.unique(found[labelled(self.cells, task, rows)])) < 2:
                return _shuffled(np.arange(len(rows)))
        return found


def _shuffled(by: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a fold for each number from 0, and so for what has it."""
    order: NDArray[np.int64] = np.random.default_rng(0).permutation(by.max() + 1)
    return order[by] % N_FOLDS


def labelled(cells: CellCollection, task: Task, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which of some cells have a task's label."""
    values = cells.labels[task.name].values[rows]
    known: NDArray[np.bool_] = values >= 0 if task.classes else ~np.isnan(values)
    return known


def judgeable(cells: CellCollection, task: Task, rows: NDArray[np.int64]) -> bool:
    """Tell whether some cells give a task a score: R² needs two different numbers."""
    known = cells.labels[task.name].values[rows][labelled(cells, task, rows)]
    return bool(known.size and (task.classes or np.ptp(known) > 0))


def _mean_of_defined(
    scores: Sequence[NDArray[np.float64]], weights: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """Return the mean over scores of each resample, those left out that a resample has not."""
    values = np.array(scores)
    each = np.ones(len(values)) if weights is None else np.array(weights)
    share = np.where(np.isnan(values), 0.0, each[:, None])
    total = share.sum(axis=0)
    sums = (share * np.nan_to_num(values)).sum(axis=0)
    mean: NDArray[np.float64] = np.full(len(total), math.nan)
    np.divide(sums, total, out=mean, where=total > 0)
    return mean


def _resampled(task: Task, truth: NDArray[Any], guess: NDArray[Any]) -> NDArray[np.float64]:
    """Return the score on resamples of the cells, the same for every panel, float64 [N_DRAWS]."""
    if task.classes:
        return bootstrap_scores(truth, {"": guess})[""]["macro_f1"]
    generator, scores = np.random.default_rng(0), np.empty(N_DRAWS)
    for i in range(N_DRAWS):
        rows = generator.integers(0, len(truth), len(truth))
        scores[i] = r2(truth[rows], guess[rows])
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
        Each start's genes, in the order of the data, where it was judged last.
    own, linear
        Each one's macro-F1 or R² there, mean over tasks, by the selection's network on the
        validation cells, and by a regression; NaN where that was not asked.
    scores
        What decided: the mean of those asked.
    chosen
        The start whose panel was taken, from 0.
    certainty
        Share of resamples of the cells judged on in which it is the best, ties counted half; with
        halving where it was last judged beside others.
    cross_validated
        Whether the regression was judged on the training cells, by cross-validation, and not on
        the validation cells.
    after
        After which share of its selection each was judged last: 1 for those that were not ended
        early.
    """

    judge: Judge
    panels: list[list[str]]
    own: list[float]
    linear: list[float]
    scores: list[float]
    chosen: int
    certainty: float
    cross_validated: bool = False
    after: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.after:
            object.__setattr__(self, "after", [1.0] * len(self.panels))

    @property
    def halved(self) -> bool:
        """Whether some were ended early."""
        return min(self.after) < 1

    @classmethod
    def of(cls, records: StartRecords, judge: Judge, genes: NDArray[Any]) -> Starts:
        """Read what a training kept."""
        levels = records.last_levels
        at = (levels, range(records.n))
        contested = max(level for level, count in enumerate(records.counts) if count > 1)
        resampled = records.resampled[contested].cpu().numpy()
        rivals = [i for i in records.entrants(contested) if i != records.best]
        best, others = resampled[records.best], resampled[rivals].max(axis=0)
        ahead = np.where(best > others, 1.0, np.where(best == others, 0.5, 0.0))
        ahead = ahead[~np.isnan(best - others)]  # a resample of one number tells nothing
        own, linear = records.judged[at].T.tolist()
        ends = {leg.level: leg.end / records.legs[-1].end for leg in records.legs}
        return cls(
            judge,
            [genes[panel].tolist() for panel in records.panels.cpu().numpy()],
            own,
            linear,
            records.scores[at].tolist(),
            records.best,
            float(ahead.mean()) if ahead.size else 0.5,
            judge != "own" and getattr(records.judge, "cross_validates", False),
            [ends[level] for level in levels],
        )

    def __str__(self) -> str:
        scores = ", ".join(
            f"{score:.3f}" + (f" (after {after:.0%})" if after < 1 else "")
            for score, after in zip(self.scores, self.after, strict=True)
        )
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
