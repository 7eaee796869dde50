"""Classification metrics agree with hand-made values and with scikit-learn."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from kernomics.errors import DataError
from kernomics.metrics import (
    accuracy,
    auprc,
    classification_metrics,
    confusion_matrix,
    f1_per_class,
    macro_f1,
)

TRUTH = np.array([0, 0, 0, 1, 1, 2, -1, -1])
PREDICTED = np.array([0, 0, 1, 1, 0, 2, 2, 0])


def test_confusion_counts_labelled_cells_by_true_row_and_predicted_column() -> None:
    expected = [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    np.testing.assert_array_equal(confusion_matrix(TRUTH, PREDICTED), expected)


def test_values_computed_by_hand() -> None:
    assert accuracy(TRUTH, PREDICTED) == pytest.approx(4 / 6)
    np.testing.assert_allclose(f1_per_class(TRUTH, PREDICTED), [2 / 3, 1 / 2, 1])
    assert macro_f1(TRUTH, PREDICTED) == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)


def test_class_absent_from_the_truth_takes_no_part_in_the_macro_mean() -> None:
    truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 3, 1, 1])
    assert np.isnan(f1_per_class(truth, predicted)[[2, 3]]).all()
    assert macro_f1(truth, predicted) == pytest.approx((2 / 3 + 1) / 2)


def test_class_that_is_never_predicted_counts_as_zero() -> None:
    assert macro_f1([0, 0, 1], [0, 0, 0]) == pytest.approx((4 / 5 + 0) / 2)


def test_predictions_of_unlabelled_cells_may_be_anything() -> None:
    assert accuracy([0, -1], [0, -99]) == 1.0
    assert confusion_matrix([0, -1], [0, 77], n_classes=2).tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("truth", [[], [-1, -1]])
def test_no_labelled_cell_gives_nan(truth: list[int]) -> None:
    codes = np.array(truth, dtype=np.int64)
    assert math.isnan(accuracy(codes, codes))
    assert math.isnan(macro_f1(codes, codes))
    assert math.isnan(auprc(codes, np.zeros((codes.size, 3))))
    assert confusion_matrix(codes, codes, n_classes=2).tolist() == [[0, 0], [0, 0]]


@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_classes", [1, 2, 7, 30])
def test_agrees_with_scikit_learn(seed: int, n_classes: int) -> None:
    sk: Any = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    truth = rng.integers(-1, n_classes, 211)
    truth[0] = 0
    predicted = rng.integers(0, n_classes, 211)
    # Rounded, so that there are ties.
    scores = rng.random((211, n_classes)).round(1)
    kept = truth >= 0
    present = np.unique(truth[kept])
    assert accuracy(truth, predicted) == pytest.approx(
        sk.accuracy_score(truth[kept], predicted[kept])
    )
    assert macro_f1(truth, predicted) == pytest.approx(
        sk.f1_score(truth[kept], predicted[kept], labels=present, average="macro", zero_division=0)
    )
    np.testing.assert_array_equal(
        confusion_matrix(truth, predicted, n_classes),
        sk.confusion_matrix(truth[kept], predicted[kept], labels=range(n_classes)),
    )
    if n_classes == 1:  # scikit-learn gives 1 here, whatever the scores
        assert math.isnan(auprc(truth, scores))
        return
    expected = [sk.average_precision_score(truth[kept] == c, scores[kept, c]) for c in present]
    assert auprc(truth, scores) == pytest.approx(np.mean(expected), abs=1e-12)


def test_perfect_ranking_has_an_area_of_one() -> None:
    truth = np.array([0, 1, 2, 1, -1])
    assert auprc(truth, np.eye(3)[np.maximum(truth, 0)]) == 1.0


def test_summary_holds_every_metric_and_the_number_of_labelled_cells() -> None:
    found = classification_metrics(TRUTH, PREDICTED, np.eye(3)[PREDICTED])
    assert set(found) == {"accuracy", "macro_f1", "auprc", "n_cells"}
    assert found["n_cells"] == 6
    assert "auprc" not in classification_metrics(TRUTH, PREDICTED)
    one_class = classification_metrics([0, 0, -1], [0, 1, 1], np.eye(2)[[0, 1, 1]])
    assert one_class == {"accuracy": 0.5, "macro_f1": 2 / 3, "n_cells": 2}


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        ([0, 1], [0], "truth holds 2 cells and predicted 1"),
        ([[0, 1]], [0], r"truth must have one dimension \[cells\], found shape \(1, 2\)"),
        (["a"], ["a"], "integer class codes"),
        ([0.5], [0.5], "found dtype float64"),
        ([0, -2], [0, 0], "truth holds 1 codes outside -1 among 2, first -2 at position 1"),
        ([0, 1], [0, -1], "first -1 at position 1"),
    ],
)
def test_unusable_codes_are_named(truth: Any, predicted: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        accuracy(truth, predicted)


def test_code_beyond_the_classes_is_an_error() -> None:
    with pytest.raises(DataError, match="outside -1 to 1"):
        confusion_matrix([0, 2], [0, 1], n_classes=2)


@pytest.mark.parametrize("shape", [(3,), (2, 2)])
def test_scores_of_the_wrong_shape_are_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="scores must have shape"):
        auprc([0, 1, 1], np.zeros(shape))


def test_scores_that_are_not_finite_are_an_error_for_labelled_cells_only() -> None:
    scores = np.array([[1.0, 0.0], [0.0, 1.0], [np.nan, 0.0]])
    assert auprc([0, 1, -1], scores) == 1.0
    with pytest.raises(DataError, match="1 of 3 labelled cells are not finite"):
        auprc([0, 1, 1], scores)


def test_metrics_import_neither_scikit_learn_nor_matplotlib() -> None:
    code = (
        "import sys, kernomics.metrics, kernomics.pl, kernomics.baselines, kernomics.report\n"
        "sys.exit(sum(name in sys.modules for name in ('sklearn', 'matplotlib', 'scanpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
