"""The judge of panels scores what it should, and only on held-out cells."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from kernomics.errors import DataError
from kernomics.metrics import evaluate_genes, evaluate_genes_regression


def cells(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, n)
    return rng.poisson(0.3 + 5 * np.eye(3)[codes]), codes


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix])
def test_separable_classes_are_told_apart(make: Any) -> None:
    pytest.importorskip("sklearn")
    (a, y), (b, z) = cells(300, 0), cells(120, 1)
    score = evaluate_genes(make(a), y, make(b), z)
    assert score.accuracy > 0.95
    assert score.macro_f1 > 0.95
    assert score.confusion.sum() == score.n_test == 120
    assert score.n_train == 300


def test_labels_without_relation_to_the_genes_are_not_predicted() -> None:
    pytest.importorskip("sklearn")
    (a, y), (b, z) = cells(300, 0), cells(300, 1)
    rng = np.random.default_rng(2)
    score = evaluate_genes(a, rng.permutation(y), b, rng.permutation(z))
    assert 0.2 < score.accuracy < 0.47


def test_equals_scikit_learn_written_out() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    (a, y), (b, z) = cells(90, 3), cells(60, 4)
    scaler = preprocessing.StandardScaler().fit(np.log1p(a))
    model = linear.LogisticRegression(max_iter=5000).fit(scaler.transform(np.log1p(a)), y)
    predicted = model.predict(scaler.transform(np.log1p(b)))
    assert evaluate_genes(a, y, b, z).accuracy == pytest.approx(np.mean(predicted == z))


def test_unlabelled_cells_are_used_nowhere() -> None:
    pytest.importorskip("sklearn")
    (a, y), (b, z) = cells(200, 0), cells(80, 1)
    plain = evaluate_genes(a[:150], y[:150], b[:60], z[:60])
    hidden_y, hidden_z = y.copy(), z.copy()
    hidden_y[150:], hidden_z[60:] = -1, -1
    hidden = evaluate_genes(a, hidden_y, b, hidden_z)
    assert (hidden.accuracy, hidden.n_train, hidden.n_test) == (plain.accuracy, 150, 60)


def test_one_training_class_is_predicted_everywhere() -> None:
    score = evaluate_genes(np.ones((3, 2)), [1, 1, 1], np.ones((4, 2)), [1, 1, 0, 2])
    assert score.accuracy == 0.5
    assert score.confusion.shape == (3, 3)


def test_gene_that_is_constant_in_training_does_no_harm() -> None:
    pytest.importorskip("sklearn")
    (a, y), (b, z) = cells(200, 0), cells(80, 1)
    a[:, 0] = 0
    assert math.isfinite(evaluate_genes(a, y, b, z).accuracy)


def test_regression_equals_scikit_learn() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    rng = np.random.default_rng(0)
    a, b = rng.poisson(3, (200, 5)), rng.poisson(3, (80, 5))
    weights = rng.normal(size=5)
    y, z = np.log1p(a) @ weights + 40, np.log1p(b) @ weights + 40
    scaler = preprocessing.StandardScaler().fit(np.log1p(a))
    model = linear.Ridge(alpha=1.0).fit(scaler.transform(np.log1p(a)), y)
    expected = model.score(scaler.transform(np.log1p(b)), z)
    y_gaps = np.append(y, np.nan)
    found = evaluate_genes_regression(np.vstack([a, a[:1]]), y_gaps, b, z)
    assert found.r2 == pytest.approx(expected, abs=1e-10)
    assert found.n_train == 200
    assert found.pearson > 0.99


@pytest.mark.parametrize("judge", [evaluate_genes, evaluate_genes_regression])
def test_parts_that_do_not_fit_are_named(judge: Any) -> None:
    x = np.ones((4, 2))
    with pytest.raises(DataError, match=r"x_train must have shape \[cells, genes\] with 3 cells"):
        judge(x, [0, 1, 0], x, [0, 1, 0, 1])
    with pytest.raises(DataError, match="x_train has 2 genes and x_test 3"):
        judge(x, [0, 1, 0, 1], np.ones((4, 3)), [0, 1, 0, 1])


def test_part_without_labels_is_an_error() -> None:
    x = np.ones((2, 2))
    with pytest.raises(DataError, match="0 of 2 test cells are labelled"):
        evaluate_genes(x, [0, 1], x, [-1, -1])
    with pytest.raises(DataError, match="0 of 2 training cells"):
        evaluate_genes_regression(x, [math.nan] * 2, x, [1.0, 2.0])


def test_auprc_is_that_of_the_probabilities() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    metrics = pytest.importorskip("sklearn.metrics")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    (a, y), (b, z) = cells(60, 5), cells(60, 6)
    a, b = a // 3, b // 3  # harder to tell apart
    scaler = preprocessing.StandardScaler().fit(np.log1p(a))
    model = linear.LogisticRegression(max_iter=5000).fit(scaler.transform(np.log1p(a)), y)
    probabilities = model.predict_proba(scaler.transform(np.log1p(b)))
    expected = metrics.average_precision_score(np.eye(3)[z], probabilities, average="macro")
    found = evaluate_genes(a, y, b, z)
    assert found.auprc == pytest.approx(expected)
    assert found.auprc < 1
    assert found.f1.mean() == pytest.approx(found.macro_f1)
    assert found.metrics == {
        "accuracy": found.accuracy, "macro_f1": found.macro_f1, "auprc": found.auprc
    }  # fmt: skip


def test_class_that_training_lacks_is_ranked_at_random() -> None:
    # 1 of 4 cells: its constant probability of 0 has the average precision 1/4.
    pytest.importorskip("sklearn")
    one_class = evaluate_genes(np.ones((3, 2)), [0, 0, 0], np.ones((4, 2)), [0, 0, 0, 2])
    assert one_class.auprc == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert np.array_equal(one_class.f1, [6 / 7, np.nan, 0], equal_nan=True)
