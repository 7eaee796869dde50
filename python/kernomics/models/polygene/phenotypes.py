"""Phenotypes of cells by a model's values: which are known, which are shown, what is predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kernomics._arguments import words_of
from kernomics._warnings import warn
from kernomics.data import CellCollection, Labels
from kernomics.data.labels import column
from kernomics.errors import ConfigError, DataError, closest
from kernomics.metrics import class_scores
from kernomics.models.tasks import Task, score_task

REST = "rest"
"""Shows all phenotypes but the one to predict."""


class Phenotypes:
    """The phenotypes of a model, and how to find them in the cells of a data set.

    Parameters
    ----------
    tasks
        The phenotypes, in the model's order.
    unlabelled_category
        The value that means "unknown", if any.
    """

    def __init__(self, tasks: Sequence[Task], unlabelled_category: str | None) -> None:
        self.tasks = {task.name: task for task in tasks}
        self.unlabelled_category = unlabelled_category

    def require(self, name: str) -> Task:
        """Return a phenotype by name, or say which there are."""
        if name not in self.tasks:
            raise ConfigError(f"the model has no phenotype {name!r}; {closest(name, self.tasks)}")
        return self.tasks[name]

    def columns(self, labels: Mapping[str, str] | None) -> dict[str, str]:
        """Return the obs column of each phenotype, most of them called as in training."""
        given = dict(labels or {})
        for name in given:
            self.require(name)
        return {name: str(given.get(name, name)) for name in self.tasks}

    def wanted(
        self,
        cells: CellCollection,
        target: str | Sequence[str] | None,
        given: str | Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Return the phenotypes asked for, or those that the cells have and that are not shown."""
        columns, there = self.columns(labels), cells.obs.columns
        if target is not None:
            return [self.require(name).name for name in words_of("target", target)]
        found = [
            name for name, key in columns.items() if key in there or name in dict(labels or {})
        ]
        if not found:
            raise DataError(
                f"obs has none of the model's phenotypes {list(self.tasks)}; its columns are "
                f"{list(there)}: name the column of a phenotype with labels={{phenotype: column}}"
            )
        hidden = [name for name in found if name not in words_of("given", given)]
        if not hidden:
            raise ConfigError(
                f"given names every phenotype that the data have ({', '.join(found)}): nothing is "
                "left to predict"
            )
        return hidden

    def codes(
        self, cells: CellCollection, name: str, labels: Mapping[str, str] | None = None
    ) -> NDArray[np.int64]:
        """Return the codes of a phenotype by the model's values, int64 [n_cells].

        −1 stands for a missing value and for one that the model does not know, with a warning.
        """
        task, key = self.require(name), self.columns(labels)[name]
        label = Labels.from_series(
            column(cells.obs, key), key, self.unlabelled_category, kind="categorical"
        )
        unknown = [value for value in label.categories if value not in task.classes]
        counts = label.counts()
        if unknown and len(unknown) == len(label.categories):
            raise DataError(
                f"none of the values of {key!r} is known to the model, first {unknown[0]!r}; "
                f"it was trained on {', '.join(task.classes)}"
            )
        if unknown:
            warn(
                f"{sum(counts[value] for value in unknown):,} of {len(label):,} cells have "
                f"values of {key!r} that the model was not trained on, first {unknown[0]!r}: "
                "they count as missing"
            )
        found: NDArray[np.int64] = label.aligned(task.classes).values
        return found

    def shown(
        self,
        cells: CellCollection,
        given: str | Sequence[str],
        hidden: Sequence[str],
        labels: Mapping[str, str] | None = None,
    ) -> NDArray[np.int64]:
        """Return the codes of all phenotypes as the model sees them, int64 [n_cells, P]."""
        columns = self.columns(labels)
        if isinstance(given, str) and given == REST and REST not in self.tasks:
            rest = [name for name in self.tasks if name not in hidden]
            names = [name for name in rest if columns[name] in cells.obs.columns]
        else:
            names = words_of("given", given)
        for name in names:
            self.require(name)
            if name in hidden:
                raise ConfigError(
                    f"given names {name!r}, which is to be predicted; name other phenotypes"
                )
        found = np.full((cells.n_cells, len(self.tasks)), -1, np.int64)
        for place, name in enumerate(self.tasks):
            if name in names:
                found[:, place] = self.codes(cells, name, labels)
        return found


def score_phenotype(task: Task, truth: NDArray[Any], found: NDArray[Any]) -> dict[str, float]:
    """Score the probabilities of a phenotype's values, float [n, classes]."""
    balanced = class_scores(truth, found.argmax(1))["balanced_accuracy"]
    return {**score_task(task, truth, found), "balanced_accuracy": balanced}


def prediction_table(
    tasks: Sequence[Task], probabilities: Mapping[str, NDArray[np.float32]], names: Sequence[str]
) -> pd.DataFrame:
    """Return the values predicted and their probabilities, one row per cell."""
    table: dict[str, Any] = {}
    for task in tasks:
        if task.name not in probabilities:
            continue
        found = probabilities[task.name]
        table[task.name] = pd.Categorical.from_codes(found.argmax(1), pd.Index(task.classes))
        table[f"{task.name}_probability"] = found.max(1)
        for code, value in enumerate(task.classes):
            table[f"{task.name}:{value}"] = found[:, code]
    return pd.DataFrame(table, index=pd.Index(names))
