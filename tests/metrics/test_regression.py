"""Regression metrics agree with hand-made values and with scikit-learn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from kernomics.errors import DataError
from kernomics.metrics import mae, pearson, r2, regression_metrics


def test_values_computed_by_hand() -> None:
    truth, predicted = [1.0, 2.0, 3.0, math.nan], [1.0, 2.0, 4.0, 100.0]
    assert r2(truth, predicted) == pytest.approx(1 - 1 / 2)
    assert mae(truth, predicted) == pytest.approx(1 / 3)
    assert pearson(truth, predicted) == pytest.approx(3 / math.sqrt(2 * 14 / 3))


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn_and_numpy(seed: int) -> None:
    sk: Any = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    truth = rng.normal(50, 10, 173)
    predicted = truth + rng.normal(0, 8, 173)
    truth[rng.random(173) < 0.3] = np.nan
    kept = ~np.isnan(truth)
    found = regression_metrics(truth.astype(np.float32), predicted)
    assert found["n_cells"] == kept.sum()
    assert found["r2"] == pytest.approx(sk.r2_score(truth[kept], predicted[kept]), rel=1e-5)
    assert found["mae"] == pytest.approx(
        sk.mean_absolute_error(truth[kept], predicted[kept]), rel=1e-5
    )
    assert found["pearson"] == pytest.approx(
        np.corrcoef(truth[kept], predicted[kept])[0, 1], rel=1e-5
    )


def test_what_has_no_meaning_is_nan() -> None:
    nothing: list[float] = [math.nan, math.nan]
    assert all(math.isnan(metric(nothing, [1.0, 2.0])) for metric in (r2, mae, pearson))
    assert math.isnan(r2([3.0, 3.0], [1.0, 2.0]))
    assert math.isnan(pearson([1.0, 2.0], [5.0, 5.0]))
    assert r2([1.0, 3.0], [2.0, 2.0]) == 0.0


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        ([1.0, 2.0], [1.0], r"found \(2,\) and \(1,\)"),
        ([[1.0]], [[1.0]], r"shape \[cells\]"),
        ([1.0, math.inf], [1.0, 2.0], "1 infinite values, first at position 1"),
        ([1.0, math.nan, 2.0], [1.0, 2.0, math.nan], "among 2 labelled cells, first nan at"),
    ],
)
def test_unusable_values_are_named(truth: Any, predicted: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        r2(truth, predicted)


def test_unlabelled_cells_may_have_any_prediction() -> None:
    assert mae([1.0, math.nan], [2.0, math.nan]) == 1.0
