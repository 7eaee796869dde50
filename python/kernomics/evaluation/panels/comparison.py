"""A panel beside those of other methods, on one split of the cells or on several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats

from kernomics import baselines
from kernomics._arguments import checked, shown
from kernomics.data.expression import measured_everywhere
from kernomics.data.gene_columns import counts_of
from kernomics.data.genes import places_of
from kernomics.errors import ConfigError, KernomicsError, closest
from kernomics.evaluation.panels.retraining import (
    FOLDER,
    OWN_NETWORK,
    Scores,
    Trainings,
    identity,
    on_split,
    predictor_name,
    progress_bar,
    read_kept,
)
from kernomics.metrics import score_panel
from kernomics.metrics.panel_score import MethodScore
from kernomics.models import YOTO
from kernomics.models.base import split_cells
from kernomics.progress import stage
from kernomics.train import write_json
from kernomics.train.atomic import jsonable

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
OWN = "YOTO"
CONFIDENCE = 0.95
MAIN = {True: "macro_f1", False: "r2"}
"""Whether a task has classes → the metric that methods are told apart by."""


@dataclass(frozen=True, eq=False)
class SplitComparison:
    """Scores of several methods over several splits of the same cells.

    Attributes
    ----------
    table
        One row per score: ``seed`` (of the split and of what was trained on it), ``task``,
        ``method``, ``predictor``, ``metric``, ``value``.
    test_share
        Held-out cells per training cell, for the standard error of a difference.
    warnings
        What went wrong in an additional training run, or could not be scored.
    """

    table: pd.DataFrame
    test_share: float
    warnings: list[str] = field(default_factory=list)

    @property
    def n_splits(self) -> int:
        """How many splits there are."""
        return int(self.table["seed"].nunique())

    def _of(self, task: str) -> pd.DataFrame:
        if not isinstance(task, str):
            raise ConfigError(f"task is {shown(task)}: the name of a task is needed")
        known = self.table["task"].unique().tolist()
        if task not in known:
            raise ConfigError(f"there is no task {task!r}; {closest(task, known)}")
        return self.table[self.table["task"] == task]

    def scores(self, task: str) -> list[MethodScore]:
        """Return each method's mean over the splits, ± the standard error of that mean."""
        found = []
        own = self._of(task)
        for (method, predictor), rows in own.groupby(["method", "predictor"], sort=False):
            values = rows.pivot(index="seed", columns="metric", values="value")
            error = values.std(ddof=1) / values.count() ** 0.5
            found.append(
                MethodScore(
                    method=str(method),
                    predictor=str(predictor),
                    metrics={str(k): float(v) for k, v in values.mean().items()},
                    spread={str(k): float(v) for k, v in error.items() if not math.isnan(v)},
                )
            )
        return found

    def differences(self, task: str) -> pd.DataFrame:
        """Compare this panel with those of the other methods, by the same regression.

        Returns
        -------
        pandas.DataFrame
            Index method: ``difference`` (ours − theirs in macro-F1, or R² for continuous labels;
            mean over the splits), its ``standard_error``, and ``told_apart``, whether 0 lies
            outside the 95% confidence interval.

        Notes
        -----
        Splits share cells, so their differences are not independent. With J splits, the variance s²
        of the differences and ρ held-out cells per training cell, the standard error is
        √(s²·(1/J + ρ)), and the interval that of Student's t with J − 1 degrees of freedom (Nadeau
        and Bengio, Machine Learning 52, 2003, section 3).
        """
        own = self._of(task)
        own = own[own["predictor"] != OWN_NETWORK]
        main = MAIN["macro_f1" in set(own["metric"])]
        wide = own[own["metric"] == main].pivot(index="seed", columns="method", values="value")
        rows = {}
        for method in dict.fromkeys(own["method"]):
            if method == OWN or OWN not in wide:
                continue
            gaps = (wide[OWN] - wide[method]).dropna()
            n = len(gaps)
            error = math.nan
            if n > 1:
                error = math.sqrt(float(gaps.var(ddof=1)) * (1 / n + self.test_share))
            reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, max(n - 1, 1))) * error
            rows[method] = {
                "difference": float(gaps.mean()) if n else math.nan,
                "standard_error": error,
                "told_apart": bool(n > 1 and abs(float(gaps.mean())) > reach),
            }
        columns = ["difference", "standard_error", "told_apart"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("method")

    def verdict(self, task: str) -> str:
        """Say in words which methods these splits can tell from the panel."""
        found = self.differences(task)
        if found.empty:
            return ""

        def listed(rows: pd.DataFrame) -> str:
            return ", ".join(
                f"{name} ({_signed(row['difference'])} ± {row['standard_error']:.3f})"
                for name, row in rows.iterrows()
            )

        apart = found["told_apart"].astype(bool)
        groups = (
            ("ahead of ", found[apart & (found["difference"] > 0)]),
            ("behind ", found[apart & (found["difference"] < 0)]),
            ("not distinguishable from ", found[~apart]),
        )
        said = "; ".join(word + listed(rows) for word, rows in groups if len(rows))
        main = "macro-F1" if "macro_f1" in set(self._of(task)["metric"]) else "R²"
        return (
            f"Over {self.n_splits} splits of these cells the panel is {said}: difference in "
            f"{main} by the same regression ± its standard error; methods differ where 0 is "
            "outside the 95% confidence interval."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        tasks = list(dict.fromkeys(self.table["task"]))
        return {
            "n_splits": self.n_splits,
            "table": self.table.to_dict("records"),
            "mean": {task: [asdict(score) for score in self.scores(task)] for task in tasks},
            "differences": {
                task: self.differences(task).reset_index().to_dict("records") for task in tasks
            },
        }


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def check_methods(compare: Sequence[str]) -> None:
    """Refuse methods that do not exist."""
    if isinstance(compare, str):
        raise ConfigError(f"compare is {compare!r}: give a list of methods, such as ['de', 'l1']")
    for name in compare:
        if name not in COMPARISONS:
            raise ConfigError(f"cannot compare with {name!r}; {closest(name, COMPARISONS)}")
    twice = [name for i, name in enumerate(compare) if name in compare[:i]]
    if twice:
        raise ConfigError(f"compare names {twice[0]!r} twice; name each method once")


def check_splits(model: YOTO, n_splits: int) -> None:
    """Refuse a number of splits that cannot be made."""
    if isinstance(n_splits, bool) or not isinstance(n_splits, int | np.integer) or n_splits < 1:
        raise ConfigError(f"splits is {n_splits!r}: give a whole number, 1 or more")
    if n_splits > 1 and model.division is None:
        raise ConfigError(
            "splits is above 1, but the model was given a fixed Split, so no other can be "
            "drawn; pass how to split the cells (split='stratified') instead"
        )
    if n_splits > 1 and not len(model.split.test):
        raise ConfigError(
            "splits is above 1, but the split has no test cells; give fractions a third share "
            "above 0"
        )


@checked
def compare_over_splits(
    model: YOTO,
    scores: Mapping[str, Sequence[MethodScore]],
    n_splits: int,
    compare: Sequence[str] = tuple(COMPARISONS),
    *,
    folder: str | Path | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> SplitComparison:
    """Repeat the selection and comparison on further splits of the same cells.

    Parameters
    ----------
    model
        Trained; its split is the first.
    scores
        For each task, the scores from `score_panels` on that split.
    n_splits
        Total number of splits. Split i is drawn, and trained on, with the model's seed + i.
    compare
        Methods, as for `score_panels`.
    folder
        A run directory that keeps each training run, so that a resumed comparison repeats none.
    device, progress
        Where to train, and whether to show a bar.

    Raises
    ------
    ConfigError
        As `check_splits` and `check_methods`.
    """
    check_methods(compare)
    check_splits(model, n_splits)
    rows = _rows(model.seed, scores)
    noticed: list[str] = []
    with progress_bar("further splits", n_splits - 1, progress and n_splits > 1) as bar:
        for seed in range(model.seed + 1, model.seed + n_splits):
            assert model.division is not None
            split = split_cells(model.cells, *model.division, seed)
            other = on_split(model, split, seed)
            found, said = _scores_on(other, compare, folder, device)
            rows += _rows(seed, found)
            noticed += [f"Split {seed}: {text}" for text in said]
            bar.update()
    share = len(model.split.test) / max(1, len(model.split.train))
    return SplitComparison(pd.DataFrame(rows), share, noticed)


def _scores_on(
    model: YOTO, compare: Sequence[str], folder: str | Path | None, device: str | torch.device
) -> tuple[dict[str, list[MethodScore]], list[str]]:
    """Train on another split, or read what was kept, and score the methods on it."""
    kept = Trainings(model, folder, device).record(model, ("test",))
    path = None
    if folder is not None:
        path = Path(folder) / FOLDER / f"methods-{'-'.join(compare)}-{identity(model)[:12]}.json"
    saved = None if path is None else read_kept(path)
    if saved is None:
        scores, unscored = score_panels(model, kept["genes"], kept["network"]["test"], compare)
        saved = jsonable(
            {"scores": {k: [asdict(s) for s in v] for k, v in scores.items()}, "notes": unscored}
        )
        if path is not None:
            write_json(path, saved)
    found = {task: [MethodScore(**score) for score in v] for task, v in saved["scores"].items()}
    return found, [*model.weak, *kept["warnings"], *saved["notes"]]


def _rows(seed: int, scores: Mapping[str, Sequence[MethodScore]]) -> list[dict[str, Any]]:
    return [
        {
            "seed": seed,
            "task": task,
            "method": score.method,
            "predictor": score.predictor,
            "metric": metric,
            "value": math.nan if value is None else value,
        }
        for task, found in scores.items()
        for score in found
        for metric, value in score.metrics.items()
        if metric != "n_cells"
    ]


# -- one split -------------------------------------------------------------------------------------


def score_panels(
    model: YOTO,
    genes: Sequence[str],
    own_scores: Scores,
    compare: Sequence[str],
    *,
    progress: bool = False,
) -> tuple[dict[str, list[MethodScore]], list[str]]:
    """Score a panel and those of other methods on the test cells, per label.

    The panel is scored twice: with its own network, and with the logistic (or ridge) regression
    that also scores the other panels, on the same cells with the same input.

    Parameters
    ----------
    model
        Its cells, split and tasks are used; it need not be trained.
    genes
        The panel that was selected on the training cells.
    own_scores
        For each task, the scores of the panel's own network on the test cells.
    compare
        ``"de"``, ``"l1"``, ``"hvg"``, ``"random"``: selected on the same training cells.
    progress
        Whether to report progress on stderr.

    Returns
    -------
    scores : dict
        For each label, one entry per panel and predictor; empty without test cells.
    unscored : list of str
        A sentence about each comparison that these cells do not allow, such as one without labelled
        test cells.
    """
    scores: dict[str, list[MethodScore]] = {}
    unscored: list[str] = []
    if not len(model.split.test):
        return scores, unscored
    train, test = model.split.train, model.split.test
    counts = counts_of(model.cells, np.concatenate([train, test]))
    x_train, x_test = counts[: len(train)], counts[len(train) :]
    own_panel = places_of(genes, model.cells.genes)
    detected = model.summary.n_expressing >= model.config.min_cells
    usable = np.flatnonzero(detected & measured_everywhere(model.cells))
    for task in model.tasks:
        values = model.cells.labels[task.name].values
        y_train, y_test = values[train], values[test]
        predictor = predictor_name(task)
        found = [MethodScore(method=OWN, predictor=OWN_NETWORK, metrics=own_scores[task.name])]
        for name in (OWN, *compare):
            if name in NEED_CLASSES and not task.classes:
                continue
            method = OWN if name == OWN else COMPARISONS[name].name
            try:
                with stage(f"{method} for {task.name}, scored by {predictor}", progress):
                    panels = [own_panel]
                    if name != OWN:
                        chosen = _choose(name, x_train[:, usable], y_train, len(own_panel))
                        panels = [usable[panel] for panel in chosen]
                    judged = [
                        score_panel(
                            task.kind, x_train[:, of], y_train, x_test[:, of], y_test
                        ).metrics
                        for of in panels
                    ]
            except KernomicsError as error:
                unscored.append(f"{method} was not scored by {predictor} on {task.name}: {error}.")
                continue
            mean = {key: float(np.mean([one[key] for one in judged])) for key in judged[0]}
            spread = {}
            if len(judged) > 1:
                spread = {key: float(np.std([one[key] for one in judged], ddof=1)) for key in mean}
            found.append(
                MethodScore(
                    method=method,
                    predictor=predictor,
                    metrics=mean,
                    spread=spread,
                    n_panels=len(judged),
                )
            )
        scores[task.name] = found
    return scores, unscored


def _choose(name: str, x_train: Any, y_train: NDArray[Any], k: int) -> list[NDArray[np.int64]]:
    """Let another method choose k columns of the training cells, a random one several times."""
    seeds = range(RANDOM_PANELS if name == "random" else 1)
    return [COMPARISONS[name].select(x_train, y_train, k, seed=seed) for seed in seeds]


def certainty(scores: Sequence[MethodScore], n_test: int) -> str:
    """Say what one split's number of held-out cells can tell, from the panel's accuracy."""
    accuracy = scores[0].metrics.get("accuracy", math.nan) if scores else math.nan
    if not n_test or math.isnan(accuracy):
        return ""
    # Two cells more of either outcome (Agresti and Coull): an accuracy of 1 is not certain either.
    shrunk = (accuracy * n_test + 2) / (n_test + 4)
    error = math.sqrt(shrunk * (1 - shrunk) / (n_test + 4))
    return (
        f"One split with {n_test:,} held-out cells: with this number alone accuracy has a "
        f"standard error of {error:.3f}, so smaller differences between methods mean nothing. "
        "Several splits tell more: --splits 5 on the command line, the argument splits in "
        "Python."
    )
