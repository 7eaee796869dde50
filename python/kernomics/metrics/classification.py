"""Classification metrics on numpy arrays of class codes.

A code of −1 in the truth means that the cell has no label: such cells count nowhere. Everything
here needs numpy alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kernomics._arguments import checked, codes_of, numbers_of
from kernomics.errors import ConfigError, DataError

MOST_CLASSES = 10_000
"""A table of class by class then takes 800 MB."""


def _out_of_range(name: str, codes: NDArray[np.int64], lowest: int, n_classes: int | None) -> None:
    wrong = codes < lowest
    if n_classes is not None:
        wrong |= codes >= n_classes
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        upper = "" if n_classes is None else f" to {n_classes - 1}"
        raise DataError(
            f"{name} holds {int(wrong.sum()):,} codes outside {lowest}{upper} among "
            f"{codes.size:,}, first {int(codes[first])} at position {first}"
        )


def _labelled(
    truth: ArrayLike, predicted: ArrayLike, n_classes: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if n_classes is not None and n_classes < 1:
        raise ConfigError(f"n_classes is {n_classes}: at least 1 is needed")
    true_codes, predicted_codes = codes_of("truth", truth), codes_of("predicted", predicted)
    if true_codes.shape != predicted_codes.shape:
        raise DataError(
            f"truth holds {true_codes.size:,} cells and predicted {predicted_codes.size:,}; "
            "both must list the same cells in the same order"
        )
    _out_of_range("truth", true_codes, -1, n_classes)
    labelled = true_codes >= 0
    predicted_codes = predicted_codes[labelled]
    _out_of_range("predicted (labelled cells)", predicted_codes, 0, n_classes)
    return true_codes[labelled], predicted_codes


def class_count(*codes: NDArray[np.int64]) -> int:
    """Return one more than the largest of some codes, 0 for none; refuse more than would fit."""
    largest = max((int(part.max()) for part in codes if part.size), default=-1)
    if largest >= MOST_CLASSES:
        raise DataError(
            f"the codes go up to {largest:,}: number the classes from 0, without gaps, below "
            f"{MOST_CLASSES:,}"
        )
    return largest + 1


@checked
def confusion_matrix(
    truth: ArrayLike, predicted: ArrayLike, n_classes: int | None = None
) -> NDArray[np.int64]:
    """Count labelled cells by true and predicted class.

    Parameters
    ----------
    truth
        True class codes, integer [cells]; −1 marks an unlabelled cell, which is skipped.
    predicted
        Predicted class codes, integer [cells]; those of unlabelled cells are ignored.
    n_classes
        Number of classes C; by default one more than the largest code met.

    Returns
    -------
    ndarray
        int64 [C, C]; row = true class, column = predicted class.

    Raises
    ------
    DataError
        If the lengths differ, codes are not integers or lie outside the classes.
    """
    t, p = _labelled(truth, predicted, n_classes)
    if n_classes is None:
        n_classes = class_count(t, p)
    counts = np.bincount(t * n_classes + p, minlength=n_classes * n_classes)
    return counts.reshape(n_classes, n_classes).astype(np.int64, copy=False)


@checked
def accuracy(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Return the share of labelled cells whose class is predicted rightly.

    Parameters
    ----------
    truth, predicted
        Class codes, integer [cells]; cells with truth −1 are skipped.

    Returns
    -------
    float
        Between 0 and 1; NaN if no cell is labelled.
    """
    t, p = _labelled(truth, predicted, None)
    return float(np.mean(t == p)) if t.size else float("nan")


@checked
def f1_per_class(
    truth: ArrayLike, predicted: ArrayLike, n_classes: int | None = None
) -> NDArray[np.float64]:
    """Return the F1 score of each class: 2·TP / (2·TP + FP + FN).

    Parameters
    ----------
    truth, predicted
        Class codes, integer [cells]; cells with truth −1 are skipped.
    n_classes
        Number of classes C; by default one more than the largest code met.

    Returns
    -------
    ndarray
        float64 [C]; NaN for a class that has no cell in the truth.
    """
    counts = confusion_matrix(truth, predicted, n_classes)
    right = np.diagonal(counts).astype(np.float64)
    in_truth, in_prediction = counts.sum(axis=1), counts.sum(axis=0)
    f1 = np.full(right.shape, np.nan)
    present = in_truth > 0
    f1[present] = 2 * right[present] / (in_truth + in_prediction)[present]
    return f1


@checked
def macro_f1(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Return the unweighted mean of the F1 scores of the classes present in the truth.

    A class that no labelled cell belongs to is left out, even where it is predicted: it lowers the
    score of the class it was taken from, and does not enter as a zero of its own. This is
    scikit-learn's ``f1_score(truth, predicted, labels=unique(truth), average="macro")``. A class
    that is present and never predicted counts as 0.

    Parameters
    ----------
    truth, predicted
        Class codes, integer [cells]; cells with truth −1 are skipped.

    Returns
    -------
    float
        Between 0 and 1; NaN if no cell is labelled.
    """
    f1 = f1_per_class(truth, predicted)
    f1 = f1[~np.isnan(f1)]
    return float(f1.mean()) if f1.size else float("nan")


@checked
def class_scores(truth: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """Score predictions so that rare classes count: what gene pruning is judged by.

    Parameters
    ----------
    truth, predicted
        Class codes, integer [cells]; cells with truth −1 are skipped.

    Returns
    -------
    dict
        ``balanced_accuracy``, the mean recall of the classes present; ``precision``, the mean
        precision of the same classes, 0 for one never predicted; ``macro_f1``, and
        ``weighted_f1``, each class's F1 by its share of the cells. NaN if no cell is labelled.
    """
    counts = confusion_matrix(truth, predicted)
    present = counts.sum(1) > 0
    if not present.any():
        return dict.fromkeys(("balanced_accuracy", "precision", "macro_f1", "weighted_f1"), np.nan)
    right, true, called = np.diag(counts), counts.sum(1), counts.sum(0)
    recall = right[present] / true[present]
    precision = right[present] / np.maximum(called[present], 1)
    f1 = 2 * right[present] / (true[present] + called[present])
    return {
        "balanced_accuracy": float(recall.mean()),
        "precision": float(precision.mean()),
        "macro_f1": float(f1.mean()),
        "weighted_f1": float(f1 @ true[present] / true.sum()),
    }


def _average_precision(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    # Σ (recall_n − recall_{n−1})·precision_n over distinct thresholds, so that ties count once.
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    last_of_tie = np.append(np.flatnonzero(np.diff(scores[order])), scores.size - 1)
    hits = hits[last_of_tie]
    gained = np.diff(hits, prepend=0)
    return float(np.sum(gained * hits / (last_of_tie + 1)) / hits[-1])


@checked
def auprc(truth: ArrayLike, scores: ArrayLike) -> float:
    """Return the macro-averaged area under the precision-recall curve, one class against the rest.

    The area is the average precision Σ_n (R_n − R_{n−1})·P_n over distinct thresholds, without
    interpolation, as scikit-learn's ``average_precision_score``. The mean is over the classes
    present in the truth. Where that is one class alone every order of the cells has the area 1,
    whatever the scores, so there is none.

    Parameters
    ----------
    truth
        Class codes, integer [cells]; −1 marks an unlabelled cell, which is skipped.
    scores
        Probabilities or logits, float [cells, classes]; larger means more likely. The order of the
        cells within a class's column matters, so logits should be normalised per cell first.

    Returns
    -------
    float
        Between 0 and 1; NaN if no cell is labelled, or all are of one class.

    Raises
    ------
    DataError
        If the shapes disagree or a labelled cell has a score that is not finite.
    """
    codes, values = codes_of("truth", truth), numbers_of("scores", scores)
    if values.ndim != 2 or values.shape[0] != codes.size:
        raise DataError(
            f"scores must have shape [cells, classes] with {codes.size:,} cells, "
            f"found {values.shape}"
        )
    _out_of_range("truth", codes, -1, values.shape[1])
    labelled = codes >= 0
    codes, values = codes[labelled], values[labelled]
    if not np.isfinite(values).all():
        rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
        raise DataError(
            f"scores of {rows.size:,} of {codes.size:,} labelled cells are not finite, first at "
            f"labelled cell {int(rows[0])}"
        )
    present = np.unique(codes)
    if present.size < 2:
        return float("nan")
    return float(np.mean([_average_precision(codes == c, values[:, c]) for c in present]))


@checked
def classification_metrics(
    truth: ArrayLike, predicted: ArrayLike, scores: ArrayLike | None = None
) -> dict[str, Any]:
    """Return accuracy, macro-F1 and, with scores, AUPRC, together with the number of cells.

    Parameters
    ----------
    truth, predicted
        Class codes, integer [cells]; cells with truth −1 are skipped.
    scores
        Probabilities, float [cells, classes], for the AUPRC.

    Returns
    -------
    dict
        Keys ``accuracy``, ``macro_f1``, ``n_cells`` (labelled ones) and, with scores, ``auprc``,
        which is left out where the labelled cells are of one class and none is defined.
    """
    found: dict[str, Any] = {
        "accuracy": accuracy(truth, predicted),
        "macro_f1": macro_f1(truth, predicted),
    }
    if scores is not None:
        area = auprc(truth, scores)
        if not np.isnan(area):
            found["auprc"] = area
    found["n_cells"] = int(np.count_nonzero(np.asarray(truth) >= 0))
    return found
