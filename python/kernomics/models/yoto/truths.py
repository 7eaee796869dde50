"""The true labels that a panel is scored on or taught by, over the classes that it knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kernomics._warnings import warn
from kernomics.data import Labels
from kernomics.errors import DataError
from kernomics.models.tasks import Task


def truth_of(task: Task, values: pd.Series[Any]) -> NDArray[Any]:
    """Read a column as a task's truth; classes that the panel does not know become unlabelled."""
    labels = Labels.from_series(values, task.name, kind=task.kind)
    if not labels.labelled.any():
        raise DataError(
            f"label {task.name!r}: none of the {len(labels.labelled):,} cells has a value in obs "
            f"column {str(values.name)!r}, so there is nothing to score; name another column "
            "with labels={label: column}"
        )
    if task.kind == "continuous":
        if np.unique(labels.values[labels.labelled]).size == 1:
            warn(
                f"label {task.name!r}: all cells to score have the value "
                f"{labels.values[labels.labelled][0]:g}, so R² and the correlation are undefined"
            )
        return labels.values
    counts = labels.counts()
    unknown = [name for name in counts if name not in task.classes]
    if counts and len(unknown) == len(counts):
        raise DataError(
            f"label {task.name!r}, read from obs column {str(values.name)!r}, shares no class with "
            f"the panel: it has {_some(unknown)}, the panel {_some(task.classes)}"
        )
    if unknown:
        cells = sum(counts[name] for name in unknown)
        warn(
            f"label {task.name!r}: {cells:,} of {int(labels.labelled.sum()):,} labelled cells "
            f"are of {len(unknown)} {'class' if len(unknown) == 1 else 'classes'} unknown to the "
            f"panel, first {unknown[0]!r}; they are left out of the scores"
        )
    known = [name for name in counts if name in task.classes]
    if len(known) == 1 < len(task.classes):
        warn(
            f"label {task.name!r}: all cells to score are of one class, {known[0]!r}; the scores "
            "say nothing about distinguishing classes"
        )
    return labels.aligned(task.classes).values


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
