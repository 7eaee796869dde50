"""Weights by which classes, or batches, are drawn equally often."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from kernomics._arguments import checked, shown
from kernomics.data.labels import Labels
from kernomics.errors import ConfigError, DataError, KernomicsError


@checked
def balanced_weights(labels: Labels | npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return weights of cells by which each class is drawn as often as the others.

    The labelled cells together are drawn as often as without weights, and so are the unlabelled
    ones, each alike. Within a class all cells are as likely. The mean weight is 1.

    Parameters
    ----------
    labels
        [n], categorical `Labels` of the cells to draw from, or one value per cell.

    Returns
    -------
    NDArray
        float64 [n], for `Sampler`'s `weights`.

    Raises
    ------
    ConfigError
        If the label is continuous, or there are fewer than two classes.
    DataError
        If no cell has a label.
    """
    labels = labels_given(labels)
    weights, n_classes = class_weights_of(labels)
    if n_classes < 2:
        only = next(name for name, n in labels.counts().items() if n)
        raise ConfigError(
            f"balance is by {labels.name or 'labels'!r}, and all {int(labels.labelled.sum()):,} "
            f"labelled cells to draw from are of the class {only!r}: there is nothing to balance"
        )
    return weights


def labels_given(labels: Labels | npt.ArrayLike) -> Labels:
    """Return labels as such, of whatever values the cells have."""
    if isinstance(labels, Labels):
        return labels
    try:
        # numpy would make a word of the NaN that stands for a missing one among words.
        values = labels if isinstance(labels, list | tuple) else np.asarray(labels)
        if np.ndim(values) != 1:
            raise ValueError
        return Labels.from_series(pd.Series(values), "", kind="categorical")
    except KernomicsError:
        raise
    except (TypeError, ValueError):
        raise DataError(
            f"labels is {shown(labels)}: one name or number for each cell is needed"
        ) from None


def class_weights_of(labels: Labels) -> tuple[npt.NDArray[np.float64], int]:
    """Return the cells' weights, and of how many classes they are; one class is drawn evenly."""
    name = labels.name or "labels"
    if labels.kind != "categorical":
        raise ConfigError(
            f"balance is by {name!r}, a continuous label: name a column of classes, such as cell "
            "types or batches; numbers that are classes are converted with .astype(str)"
        )
    if not labels.labelled.any():
        raise DataError(
            f"balance is by {name!r}, but none of the {len(labels):,} cells to draw from has such "
            "a label: name another column"
        )
    counts = np.bincount(labels.values[labels.labelled], minlength=labels.n_classes)
    share = counts.sum() / np.count_nonzero(counts)  # of each class that occurs
    of_class = np.append(share / np.maximum(counts, 1), 1.0)  # the last is of the unlabelled, −1
    return of_class[labels.values], int(np.count_nonzero(counts))
