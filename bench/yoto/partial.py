"""YOTO with few labels of one task: whether another task, fully labelled, helps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.sets import Problem
from bench.yoto.methods import Bench, Outcome, settings, train_yoto
from kernomics.data import Labels, Split

KEPT_SHARE = 0.1  # of the training labels of each class, one at least
SCENARIOS = (
    ("oligo_2", "cell_type"),
    ("oligo_2", "region"),
    ("kang_2", "cell_type"),
    ("kang_2", "donor"),
    ("zheng_2", "cell_type"),
    ("paul15_2", "cluster"),
    ("pancreas_2", "cell_type"),
)
AID = 0.3  # chosen on inner splits
METHODS = {
    "helped": "with the other task",
    "aided": f"with it at weight {AID:g}",
    "alone": "alone, labelled cells",
    "alone_all": "alone, all cells",
}


def few_labels(labels: Labels, train: NDArray[np.int64], seed: int) -> Labels:
    """Remove most training labels of a task, the same share of each class.

    Parameters
    ----------
    labels
        All labels of the task.
    train
        int64, rows of the training cells; other cells keep their labels.
    seed
        Decides which stay.
    """
    random = np.random.default_rng(seed)
    values = labels.values.copy()
    for code in range(labels.n_classes):
        rows = train[labels.values[train] == code]
        n_kept = max(1, round(KEPT_SHARE * rows.size)) if rows.size else 0
        values[random.permutation(rows)[n_kept:]] = -1
    return Labels(labels.name, labels.kind, values, labels.categories)


def with_few_labels(problem: Problem, poor: str) -> Problem:
    """Return the problem with few training labels of the task `poor`."""
    labels = dict(problem.cells.labels)
    labels[poor] = few_labels(labels[poor], problem.split.train, problem.seed)
    return problem.with_labels(labels)


def only_task(problem: Problem, task: str, *, labelled_cells: bool) -> Problem:
    """Return the problem of one task alone, trained on all its cells or on the labelled ones."""
    label, split = problem.cells.labels[task], problem.split
    if labelled_cells:
        train = split.train[label.values[split.train] >= 0]
        split = Split(train, split.validation, split.test, split.how, split.by, split.seed)
    return problem.with_labels({task: label}, split)


def run(method: str, problem: Problem, poor: str, k: int, smoke: bool) -> Outcome:
    """Choose genes when the task `poor` has few labels, with the other tasks or without."""
    overrides: dict[str, Any] = {}
    if method in ("alone", "alone_all"):
        problem = only_task(problem, poor, labelled_cells=method == "alone")
    elif method == "aided":
        overrides["task_weights"] = {task: AID for task in problem.tasks if task != poor}
    return train_yoto(Bench(problem, k, smoke), k, overrides, per_task=False)


def partial_settings(method: str, k: int) -> dict[str, Any]:
    """Return what decides the panels beside data and seed."""
    aid = {"aid": AID} if method == "aided" else {}
    return {**settings("yoto", k), "kept": KEPT_SHARE, **aid}
