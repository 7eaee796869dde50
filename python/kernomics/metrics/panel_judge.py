"""An independent judge of a panel: a linear model trained on its genes alone.

The same predictor for every panel, so that panels are compared and not the networks that chose
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from kernomics._arguments import checked, codes_of, numbers_of
from kernomics._optional import require_extra
from kernomics.errors import ConfigError, DataError
from kernomics.metrics.classification import (
    accuracy,
    auprc,
    class_count,
    confusion_matrix,
    f1_per_class,
    macro_f1,
)
from kernomics.metrics.regression import mae, pearson, r2


@dataclass(frozen=True, kw_only=True)
class PanelScore:
    """What a logistic regression on a panel's genes reaches on the test cells.

    Attributes
    ----------
    accuracy
        Share of the labelled test cells predicted rightly.
    macro_f1
        Mean F1 over the classes present in the test cells.
    auprc
        Mean average precision over these classes, one against the rest, of the probabilities; see
        `kernomics.metrics.auprc`. A class without training cells has probability 0 everywhere.
    f1
        float64 [classes], F1 per class; NaN for a class without a test cell.
    confusion
        int64 [classes, classes], row = truth, column = prediction.
    n_train, n_test
        Labelled cells used.
    """

    accuracy: float
    macro_f1: float
    auprc: float
    f1: NDArray[np.float64]
    confusion: NDArray[np.int64]
    n_train: int
    n_test: int

    @property
    def metrics(self) -> dict[str, float]:
        """The scores that panels are compared by; no AUPRC where none is defined."""
        found = {"accuracy": self.accuracy, "macro_f1": self.macro_f1, "auprc": self.auprc}
        return {name: value for name, value in found.items() if not np.isnan(value)}


@dataclass(frozen=True, kw_only=True)
class RegressionScore:
    """What a ridge regression on a panel's genes reaches on the test cells.

    Attributes
    ----------
    r2, mae, pearson
        As in `kernomics.metrics`.
    n_train, n_test
        Labelled cells used.
    """

    r2: float
    mae: float
    pearson: float
    n_train: int
    n_test: int

    @property
    def metrics(self) -> dict[str, float]:
        """The scores that panels are compared by."""
        return {"r2": self.r2, "mae": self.mae, "pearson": self.pearson}


def _dense_log1p(name: str, counts: Any, n_labels: int) -> NDArray[np.float64]:
    values = counts.toarray() if sparse.issparse(counts) else np.asarray(counts)
    if values.ndim != 2 or values.shape[0] != n_labels:
        raise DataError(
            f"{name} must have shape [cells, genes] with {n_labels:,} cells as its labels have, "
            f"found {values.shape}"
        )
    return np.log1p(values.astype(np.float64))


def _standardised(
    x_train: Any,
    x_test: Any,
    train: NDArray[np.bool_],
    test: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Take labelled cells, log1p, and centre and scale both parts by the training cells."""
    a = _dense_log1p("x_train", x_train, train.size)[train]
    b = _dense_log1p("x_test", x_test, test.size)[test]
    if a.shape[1] != b.shape[1]:
        raise DataError(f"x_train has {a.shape[1]} genes and x_test {b.shape[1]}")
    if not len(a) or not len(b):
        raise DataError(
            f"{len(a):,} of {train.size:,} training cells and {len(b):,} of {test.size:,} test "
            "cells are labelled; both must be more than 0"
        )
    mean, scale = a.mean(axis=0), a.std(axis=0)
    scale[scale == 0] = 1.0  # a gene that is constant in training carries nothing either way
    return (a - mean) / scale, (b - mean) / scale


def _classified(
    a: NDArray[np.float64],
    codes: NDArray[np.int64],
    b: NDArray[np.float64],
    others: NDArray[np.int64],
    c: float = 1.0,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Train on cells and their classes; return others' classes and probabilities.

    The classes of `others` have a column too.
    """
    classes = np.unique(codes)
    probabilities = np.zeros((len(b), class_count(classes, others)))
    if classes.size == 1:
        probabilities[:, classes[0]] = 1.0
        return np.full(len(b), classes[0]), probabilities
    linear_model = require_extra("sklearn.linear_model", purpose="evaluate_genes")
    model = linear_model.LogisticRegression(C=c, max_iter=5000).fit(a, codes)
    probabilities[:, classes] = model.predict_proba(b)
    return model.predict(b), probabilities


def _regressed(
    a: NDArray[np.float64], y: NDArray[np.float64], b: NDArray[np.float64], alpha: float = 1.0
) -> NDArray[np.float64]:
    """Train on cells, centred, and their numbers; return others' numbers."""
    # The columns of `a` have mean 0, so the intercept is the mean of y.
    gram = a.T @ a + alpha * np.eye(a.shape[1])
    found: NDArray[np.float64] = b @ np.linalg.solve(gram, a.T @ (y - y.mean())) + y.mean()
    return found


def predictions(
    kind: Literal["categorical", "continuous"], x_train: Any, y_train: NDArray[Any], x_test: Any
) -> NDArray[Any]:
    """Return what `score_panel` scores: class codes, or numbers, for all other cells."""
    known = y_train >= 0 if kind == "categorical" else ~np.isnan(y_train)
    a, b = _standardised(x_train, x_test, known, np.ones(x_test.shape[0], bool))
    if kind == "categorical":
        codes = y_train[known].astype(np.int64)
        return _classified(a, codes, b, codes)[0]
    return _regressed(a, y_train[known].astype(np.float64), b)


@checked
def evaluate_genes(
    x_train: Any, y_train: ArrayLike, x_test: Any, y_test: ArrayLike, *, c: float = 1.0
) -> PanelScore:
    """Train a multinomial logistic regression on a panel's counts and score it on other cells.

    Features are log(1 + count), standardised with the training cells' mean and standard
    deviation. With a single class in training, that class is predicted for every cell.

    Parameters
    ----------
    x_train, x_test
        Counts of the panel's genes alone, [cells, genes], scipy sparse or arrays.
    y_train, y_test
        Class codes, integer [cells]; −1 marks an unlabelled cell, which is skipped.
    c
        Inverse strength of the L2 penalty, scikit-learn's ``C``.

    Returns
    -------
    PanelScore
        Accuracy, F1, AUPRC and the confusion matrix on the labelled test cells.

    Raises
    ------
    DataError
        If shapes disagree or a part has no labelled cell.
    ImportError
        Without scikit-learn (extra ``report``).
    """
    if c <= 0:
        raise ConfigError(f"c is {c}: it must be above 0")
    train_codes, test_codes = codes_of("y_train", y_train), codes_of("y_test", y_test)
    train, test = train_codes >= 0, test_codes >= 0
    a, b = _standardised(x_train, x_test, train, test)
    truth = test_codes[test]
    predicted, probabilities = _classified(a, train_codes[train], b, truth, c)
    n_classes = probabilities.shape[1]
    return PanelScore(
        accuracy=accuracy(truth, predicted),
        macro_f1=macro_f1(truth, predicted),
        auprc=auprc(truth, probabilities),
        f1=f1_per_class(truth, predicted, n_classes),
        confusion=confusion_matrix(truth, predicted, n_classes),
        n_train=len(a),
        n_test=len(b),
    )


@checked
def evaluate_genes_regression(
    x_train: Any, y_train: ArrayLike, x_test: Any, y_test: ArrayLike, *, alpha: float = 1.0
) -> RegressionScore:
    """Train a ridge regression on a panel's counts and score it on other cells.

    Features are those of `evaluate_genes`; the intercept is not penalised.

    Parameters
    ----------
    x_train, x_test
        Counts of the panel's genes alone, [cells, genes], scipy sparse or arrays.
    y_train, y_test
        Values, float [cells]; NaN marks an unlabelled cell, which is skipped.
    alpha
        Strength of the L2 penalty.

    Returns
    -------
    RegressionScore
        R², mean absolute error and correlation on the labelled test cells.

    Raises
    ------
    DataError
        If shapes disagree or a part has no labelled cell.
    """
    if alpha <= 0:
        raise ConfigError(f"alpha is {alpha}: it must be above 0")
    train_values, test_values = numbers_of("y_train", y_train), numbers_of("y_test", y_test)
    for name, found in (("y_train", train_values), ("y_test", test_values)):
        if found.ndim != 1 or np.isinf(found).any():
            raise DataError(
                f"{name} has shape {found.shape} and {int(np.isinf(found).sum()):,} infinite "
                "values: one finite number for each cell is needed, NaN for none"
            )
    train, test = ~np.isnan(train_values), ~np.isnan(test_values)
    a, b = _standardised(x_train, x_test, train, test)
    predicted = _regressed(a, train_values[train], b, alpha)
    truth = test_values[test]
    return RegressionScore(
        r2=r2(truth, predicted),
        mae=mae(truth, predicted),
        pearson=pearson(truth, predicted),
        n_train=len(a),
        n_test=len(b),
    )


@checked
def score_panel(
    kind: Literal["categorical", "continuous"],
    x_train: Any,
    y_train: ArrayLike,
    x_test: Any,
    y_test: ArrayLike,
) -> PanelScore | RegressionScore:
    """Score a panel by the regression that its label's kind asks for.

    Parameters
    ----------
    kind
        Of the label: classes, for `evaluate_genes`, or numbers, for `evaluate_genes_regression`.
    x_train, y_train, x_test, y_test
        As there.
    """
    if kind == "categorical":
        return evaluate_genes(x_train, y_train, x_test, y_test)
    return evaluate_genes_regression(x_train, y_train, x_test, y_test)
