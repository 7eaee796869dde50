"""Classifiers on frozen features whose settings are chosen on cells that score nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from kernomics._arguments import checked, codes_of, numbers_of
from kernomics._optional import require_extra
from kernomics._warnings import quietly
from kernomics.data import Split, make_split
from kernomics.errors import DataError
from kernomics.metrics.classification import classification_metrics

FRACTIONS = (0.6, 0.1, 0.3)
"""To fit, to choose the settings, to score: 70/30 once the settings are chosen (GIL's)."""
STRENGTHS = (0.01, 0.1, 1.0, 10.0)
"""scikit-learn's C of the logistic regression, to choose from."""
NEIGHBOURS = (5, 10, 20)
LEAST_CELLS = 3
"""Of a class, fewer are left out: some part of the division would lack it."""


@checked
def tuned_probes(
    features: ArrayLike,
    codes: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Score features of cells by a logistic regression and by their nearest neighbours.

    Six tenths of the cells fit, one chooses the strength of the regression and the number of
    neighbours by macro-F1, and three score; for the score the first two fit together.

    Parameters
    ----------
    features
        [n, d]; standardised by the cells that fit.
    codes
        int [n], classes, −1 for unlabelled cells, which count nowhere, as do classes of fewer than
        three cells.
    groups
        [n], such as donors, which are kept whole; by default cells are divided within classes.
    seed
        Of the division.

    Returns
    -------
    dict
        ``linear_accuracy``, ``linear_macro_f1``, ``knn_accuracy``, ``knn_macro_f1``; and what was
        chosen, ``linear_strength`` and ``knn_neighbours``.

    Raises
    ------
    DataError
        If shapes differ, or fewer than two classes have cells enough.
    """
    require_extra("sklearn", purpose="scoring features")
    x, y = numbers_of("features", features), codes_of("codes", codes)
    if x.ndim != 2 or len(x) != len(y):
        raise DataError(
            f"features have shape {x.shape} and there are {len(y):,} codes: one row for each cell "
            "is needed"
        )
    kept, split = probe_split(y, groups, seed)
    x, y = x[kept], y[kept]
    wrong = np.flatnonzero(~np.isfinite(x).all(1))
    if wrong.size:
        raise DataError(
            f"features hold NaN or infinity in {wrong.size:,} of {len(x):,} labelled cells, first "
            f"in row {kept[wrong[0]]:,}: leave those cells out"
        )
    both = np.sort(np.concatenate([split.train, split.validation]))
    found: dict[str, float] = {}
    for name, settings in (("linear", STRENGTHS), ("knn", NEIGHBOURS)):
        best = max(
            settings,
            key=lambda setting, name=name: _score(
                _classifier(name, setting), x, y, split.train, split.validation
            )["macro_f1"],
        )
        scores = _score(_classifier(name, best), x, y, both, split.test)
        found |= {f"{name}_{metric}": scores[metric] for metric in ("accuracy", "macro_f1")}
        found["linear_strength" if name == "linear" else "knn_neighbours"] = float(best)
    return found


def probe_split(
    codes: NDArray[np.int64], groups: ArrayLike | None, seed: int
) -> tuple[NDArray[np.int64], Split]:
    """Return the cells that count, and how these are divided, or say why they cannot be."""
    shape = None if groups is None else np.shape(groups)
    if shape not in (None, codes.shape):
        raise DataError(
            f"groups have shape {shape} and there are {len(codes):,} codes: one for each is needed"
        )
    kept = np.flatnonzero(
        np.isin(codes, np.flatnonzero(np.bincount(codes[codes >= 0]) >= LEAST_CELLS))
    )
    y = codes[kept]
    if np.unique(y).size < 2:
        raise DataError(
            f"{np.unique(y).size} classes have {LEAST_CELLS} cells or more, of "
            f"{int((codes >= 0).sum()):,} labelled cells: two are needed"
        )
    own = None if groups is None else np.asarray(groups)[kept]
    if own is not None:
        missing = np.flatnonzero(pd.isna(own))
        if missing.size:
            raise DataError(
                f"{missing.size:,} of {len(own):,} labelled cells have no group, first in row "
                f"{kept[missing[0]]:,}: give them one, or leave them out"
            )
        n_groups = len(pd.unique(own))
        if n_groups < len(FRACTIONS):
            raise DataError(
                f"the labelled cells are of {n_groups} groups, and {len(FRACTIONS)} are needed, to "
                "fit, to choose the settings and to score: take a column with more groups, or none"
            )
    with quietly(UserWarning):  # of classes too small for every part
        split = make_split(
            len(y),
            how="stratified" if own is None else "group",
            fractions=FRACTIONS,
            labels=y if own is None else None,
            groups=own,
            seed=seed,
        )
    if np.unique(y[split.train]).size < 2:
        raise DataError(
            f"all {len(split.train):,} cells to fit on are of one class: two are needed; with "
            "groups, divide by another column"
        )
    return kept, split


def _classifier(name: str, setting: float) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if name == "linear":
        return make_pipeline(StandardScaler(), LogisticRegression(C=setting, max_iter=2000))
    return make_pipeline(StandardScaler(), KNeighborsClassifier(int(setting), algorithm="brute"))


def _score(
    classifier: Any,
    x: NDArray[np.float64],
    y: NDArray[np.int64],
    fitted: NDArray[np.int64],
    scored: NDArray[np.int64],
) -> dict[str, float]:
    last = classifier.steps[-1][1]
    if hasattr(last, "n_neighbors"):
        last.n_neighbors = min(last.n_neighbors, len(fitted))
    predicted = classifier.fit(x[fitted], y[fitted]).predict(x[scored])
    return classification_metrics(y[scored], predicted)
