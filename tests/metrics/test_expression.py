"""Expression by class equals a loop over dense arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse

from kernomics.errors import DataError
from kernomics.metrics import ClassExpression, class_expression
from kernomics.metrics.expression import detected_everywhere


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix, sparse.csc_array])
def test_equals_a_loop_over_classes(make: Any) -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.7, (50, 6))
    codes = rng.integers(-1, 3, 50)
    found = class_expression(make(counts), codes, ["a", "b", "c"], task="t")
    for c in range(3):
        cells = counts[codes == c]
        assert found.n_cells[c] == len(cells)
        np.testing.assert_allclose(found.detection[:, c], (cells > 0).mean(axis=0))
        np.testing.assert_allclose(found.mean_log1p[:, c], np.log1p(cells).mean(axis=0))


def test_stored_zeros_are_not_detected_and_the_input_is_not_changed() -> None:
    counts = sparse.csr_matrix((np.array([0.0, 2.0]), ([0, 1], [0, 0])), shape=(2, 1))
    found = class_expression(counts, [0, 0], ["a"], task="t")
    assert found.detection.tolist() == [[0.5]]
    assert counts.nnz == 2


def test_top_class_is_the_one_with_the_highest_mean() -> None:
    counts = np.array([[1, 0, 0], [0, 5, 0], [0, 4, 0]])
    found = class_expression(counts, [0, 1, 1], ["a", "b"], task="t")
    assert found.top_class == ("a", "b", "")


def test_class_without_cells_is_nan_and_never_on_top() -> None:
    found = class_expression(np.ones((2, 1)), [1, 1], ["empty", "b"], task="t")
    assert np.isnan(found.detection[0, 0])
    assert np.isnan(found.mean_log1p[0, 0])
    assert found.top_class == ("b",)


def test_labels_must_fit_cells_and_classes() -> None:
    with pytest.raises(DataError, match="3 labels were given for 2 cells"):
        class_expression(np.ones((2, 1)), [0, 0, 0], ["a"], task="t")
    with pytest.raises(DataError, match="1 of 2 codes lie outside the 1 classes, first 4"):
        class_expression(np.ones((2, 1)), [0, 4], ["a"], task="t")


def test_tables_must_fit_each_other() -> None:
    with pytest.raises(DataError, match="mean_log1p"):
        ClassExpression(
            task="t",
            classes=("a",),
            n_cells=np.ones(1, dtype=np.int64),
            detection=np.ones((2, 1)),
            mean_log1p=np.ones((3, 1)),
        )


def table(detection: list[list[float]], n_cells: list[int]) -> ClassExpression:
    rates = np.array(detection)
    classes = tuple(map(str, range(len(n_cells))))
    return ClassExpression(
        task="t", classes=classes, n_cells=np.array(n_cells), detection=rates, mean_log1p=rates
    )


def test_gene_is_everywhere_if_95_percent_of_every_class_of_ten_cells_have_it() -> None:
    # The third class has 9 cells and does not count; nor does one without cells.
    found = table(
        [[0.95, 1, 0, np.nan], [0.94, 1, 1, np.nan], [1, 0, 1, np.nan], [1, 1, 1, np.nan]],
        [20, 10, 9, 0],
    )
    assert detected_everywhere([found]).tolist() == [True, False, False, True]
    other = table([[1.0], [1.0], [1.0], [0.9]], [30])
    assert detected_everywhere([found, other]).tolist() == [True, False, False, False]


def test_nothing_is_everywhere_where_no_class_has_ten_cells() -> None:
    assert detected_everywhere([table([[1.0, 1.0]], [9, 0])]).tolist() == [False]
