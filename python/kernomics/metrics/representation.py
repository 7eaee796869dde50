"""How well classes can be read off a representation of cells: nearest neighbours, linear probe."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kernomics.errors import DataError
from kernomics.metrics._extras import require_extra
from kernomics.metrics.classification import classification_metrics

N_NEIGHBOURS = 15


def probe_metrics(
    train: ArrayLike,
    train_codes: ArrayLike,
    test: ArrayLike,
    test_codes: ArrayLike,
    *,
    n_neighbours: int = N_NEIGHBOURS,
) -> dict[str, float]:
    """Score a representation by two classifiers fitted on training cells.

    Parameters
    ----------
    train, test
        [n, d], the representation of training and held-out cells.
    train_codes, test_codes
        int [n], classes, −1 for unlabelled cells, which count nowhere.
    n_neighbours
        Of the nearest-neighbour vote, by Euclidean distance in the representation as it is.

    Returns
    -------
    dict
        ``knn_accuracy``, ``knn_macro_f1``; and ``linear_accuracy``, ``linear_macro_f1`` of a
        logistic regression (L2, C = 1) on the standardised representation.

    Raises
    ------
    DataError
        When no labelled cell is there to train or to score on.
    """
    require_extra("sklearn", purpose="scoring a representation")
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = _labelled(train, train_codes, "training")
    x_test, y_test = _labelled(test, test_codes, "held-out")
    found: dict[str, float] = {}
    knn = KNeighborsClassifier(min(n_neighbours, len(y)), algorithm="brute")
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    for name, classifier in (("knn", knn), ("linear", linear)):
        predicted = classifier.fit(x, y).predict(x_test)
        scores = classification_metrics(y_test, predicted)
        for metric in ("accuracy", "macro_f1"):
            found[f"{name}_{metric}"] = scores[metric]
    return found


def _labelled(
    values: ArrayLike, codes: ArrayLike, what: str
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    x, y = np.asarray(values, dtype=np.float64), np.asarray(codes)
    if x.ndim != 2 or len(x) != len(y):
        raise DataError(
            f"the {what} cells have a representation of shape {x.shape} and {len(y):,} labels"
        )
    if not (y >= 0).any():
        raise DataError(f"none of the {len(y):,} {what} cells has a label")
    return x[y >= 0], y[y >= 0]
