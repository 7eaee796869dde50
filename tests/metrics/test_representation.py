"""Scoring a representation by nearest neighbours and a linear probe."""

import numpy as np
import pytest

from kernomics.errors import DataError
from kernomics.metrics import probe_metrics

pytest.importorskip("sklearn")


def test_separated_classes_are_told_apart_by_both():
    random = np.random.default_rng(0)
    codes = np.repeat([0, 1, 2], 30)
    x = random.normal(size=(90, 4)) + 10 * np.eye(4)[codes]
    found = probe_metrics(x[::2], codes[::2], x[1::2], codes[1::2])
    assert set(found) == {"knn_accuracy", "knn_macro_f1", "linear_accuracy", "linear_macro_f1"}
    assert all(value == 1.0 for value in found.values())


def test_neighbours_vote_as_counted_by_hand():
    train = [[0.0], [1.0], [2.0], [10.0], [11.0]]
    found = probe_metrics(train, [0, 0, 1, 1, 1], [[0.4], [9.0]], [0, 0], n_neighbours=3)
    # 0.4 has neighbours 0, 0, 1; 9.0 has 1, 1, 1: one of two is right.
    assert found["knn_accuracy"] == 0.5
    assert found["knn_macro_f1"] == pytest.approx(2 / 3)  # over the classes that there are


def test_a_feature_of_tiny_scale_counts_for_the_linear_probe():
    random = np.random.default_rng(1)
    codes = np.arange(200) % 2
    x = np.stack([random.normal(size=200), 1e-6 * codes], axis=1)
    found = probe_metrics(x[:100], codes[:100], x[100:], codes[100:])
    assert found["linear_accuracy"] == 1.0
    assert found["knn_accuracy"] < 0.7


def test_unlabelled_cells_count_nowhere():
    train, codes = [[0.0], [0.1], [1.0], [1.1], [0.5]], [0, 0, 1, 1, -1]
    found = probe_metrics(train, codes, [[0.0], [1.0], [9.0]], [0, 1, -1], n_neighbours=1)
    assert found["knn_accuracy"] == 1.0


@pytest.mark.parametrize(
    ("train", "codes", "test", "truth", "message"),
    [
        ([[0.0]], [-1], [[0.0]], [0], "none of the 1 training cells has a label"),
        ([[0.0], [1.0]], [0, 1], [[0.0]], [-1], "none of the 1 held-out cells has a label"),
        ([[0.0], [1.0]], [0], [[0.0]], [0], r"shape \(2, 1\) and 1 labels"),
    ],
)
def test_bad_input_is_named(train, codes, test, truth, message):
    with pytest.raises(DataError, match=message):
        probe_metrics(train, codes, test, truth)
