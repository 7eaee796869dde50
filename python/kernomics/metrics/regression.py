"""Regression metrics on numpy arrays.

NaN in the truth means that the cell has no value: such cells count nowhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kernomics._arguments import checked, numbers_of
from kernomics.errors import DataError


def _labelled(
    truth: ArrayLike, predicted: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    t, p = numbers_of("truth", truth), numbers_of("predicted", predicted)
    if t.ndim != 1 or t.shape != p.shape:
        raise DataError(
            f"truth and predicted must both have shape [cells], found {t.shape} and {p.shape}"
        )
    if np.isinf(t).any():
        raise DataError(
            f"truth holds {int(np.isinf(t).sum()):,} infinite values, first at position "
            f"{int(np.flatnonzero(np.isinf(t))[0])}; mark unlabelled cells with NaN"
        )
    labelled = ~np.isnan(t)
    wrong = labelled & ~np.isfinite(p)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"predicted holds {int(wrong.sum()):,} values that are not finite among "
            f"{int(labelled.sum()):,} labelled cells, first {p[first]} at position {first}"
        )
    return t[labelled], p[labelled]


@checked
def r2(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Return the coefficient of determination, 1 − Σ(t − p)² / Σ(t − mean t)².

    Parameters
    ----------
    truth, predicted
        Float [cells]; cells whose truth is NaN are skipped.

    Returns
    -------
    float
        At most 1, negative when worse than the mean. NaN if no cell is labelled or the truth is
        constant, where the ratio has no meaning.
    """
    t, p = _labelled(truth, predicted)
    if t.size == 0 or np.ptp(t) == 0:
        return float("nan")
    return float(1 - np.sum((t - p) ** 2) / np.sum((t - t.mean()) ** 2))


@checked
def mae(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Return the mean absolute error, in the unit of the labels.

    Parameters
    ----------
    truth, predicted
        Float [cells]; cells whose truth is NaN are skipped.

    Returns
    -------
    float
        NaN if no cell is labelled.
    """
    t, p = _labelled(truth, predicted)
    return float(np.mean(np.abs(t - p))) if t.size else float("nan")


@checked
def pearson(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Return Pearson's correlation coefficient.

    Parameters
    ----------
    truth, predicted
        Float [cells]; cells whose truth is NaN are skipped.

    Returns
    -------
    float
        Between −1 and 1; NaN if no cell is labelled or either side is constant.
    """
    t, p = _labelled(truth, predicted)
    if t.size == 0 or np.ptp(t) == 0 or np.ptp(p) == 0:
        return float("nan")
    t, p = t - t.mean(), p - p.mean()
    return float(np.clip(t @ p / (np.linalg.norm(t) * np.linalg.norm(p)), -1, 1))


@checked
def regression_metrics(truth: ArrayLike, predicted: ArrayLike) -> dict[str, Any]:
    """Return R², mean absolute error, Pearson's correlation and the number of cells.

    Parameters
    ----------
    truth, predicted
        Float [cells]; cells whose truth is NaN are skipped.

    Returns
    -------
    dict
        Keys ``r2``, ``mae``, ``pearson`` and ``n_cells`` (labelled ones).
    """
    return {
        "r2": r2(truth, predicted),
        "mae": mae(truth, predicted),
        "pearson": pearson(truth, predicted),
        "n_cells": int(np.count_nonzero(~np.isnan(np.asarray(truth, dtype=np.float64)))),
    }
