"""Alignment takes out what each batch does to its controls, and nothing of the perturbations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernomics.errors import ConfigError, DataError
from kernomics.metrics import align
from kernomics.metrics.alignment import ControlPCA

EPS = np.finfo(np.float64).eps


def cells(seed: int = 0, n: int = 120, d: int = 4, n_batches: int = 3) -> tuple[Any, Any, Any]:
    random = np.random.default_rng(seed)
    batches = np.arange(n) % n_batches
    x = (
        random.normal(size=(n, d)) * [1, 5, 0.1, 2][:d]
        + 10 * random.normal(size=(n_batches, d))[batches]
    )
    return x, np.arange(n) % 4 == 0, batches


def test_centring_and_standardising_as_computed_by_hand() -> None:
    x = [[1.0, 5.0], [3.0, 5.0], [4.0, 6.0], [10.0, 0.0], [20.0, 4.0], [35.0, 2.0]]
    controls, batches = [True, True, False, True, True, False], list("aaabbb")
    centred = align(x, controls, batches, "centre")
    np.testing.assert_array_equal(centred, [[-1, 0], [1, 0], [2, 1], [-5, -2], [5, 2], [20, 0]])
    # σ of {1, 3} is 1; that of {5, 5} is 0, so the second dimension of batch a is centred alone.
    np.testing.assert_array_equal(
        align(x, controls, batches, "standardise"),
        [[-1, 0], [1, 0], [2, 1], [-1, -1], [1, 1], [4, 0]],
    )
    np.testing.assert_array_equal(align(x, controls, batches, "none"), x)


def test_what_is_given_stays_as_it_is() -> None:
    x, controls, batches = cells()
    before = x.copy()
    for how in ("none", "centre", "standardise", "tvn"):
        align(x, controls, batches, how)[:] = 0
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("how", ["centre", "standardise", "tvn"])
def test_controls_of_every_batch_have_mean_zero(how: Any) -> None:
    x, controls, batches = cells()
    out = align(x, controls, batches, how)
    for b in range(3):
        # A mean of 10 values of size ≤ 100/σ, each rounded a few times.
        assert np.abs(out[controls & (batches == b)].mean(axis=0)).max() < 1e-12


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100), st.floats(-100, 100))
@settings(max_examples=30, deadline=None)
def test_scale_and_shift_of_a_batch_do_not_matter_to_standardise(
    seed: int, scale: float, shift: float
) -> None:
    x, controls, batches = cells(seed)
    moved = np.where((batches == 1)[:, None], x * scale + shift, x)
    # Relative rounding of the moved values, over their deviation: |x|/σ is below 10⁴ here.
    np.testing.assert_allclose(
        align(moved, controls, batches, "standardise"),
        align(x, controls, batches, "standardise"),
        rtol=1e-9,
        atol=1e5 * EPS * (1 + abs(shift) / (scale * 0.05)),
    )


def test_tvn_equals_its_definition_step_by_step() -> None:
    from scipy.linalg import fractional_matrix_power

    x, controls, batches = cells()
    z = (x - x[controls].mean(0)) / x[controls].std(0)
    values, vectors = np.linalg.eig(np.cov(z[controls], rowvar=False))
    z = (z - z[controls].mean(0)) @ vectors / np.sqrt(values)
    expected = np.empty_like(z)
    for b in range(3):
        rows = batches == b
        own = z[rows & controls]
        root = fractional_matrix_power(np.cov(own, rowvar=False) + 0.5 * np.eye(4), -0.5)
        expected[rows] = (z[rows] - own.mean(0)) @ root
    found = align(x, controls, batches, "tvn")
    # Components may come in another order and with another sign: inner products do not change.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, rtol=1e-9, atol=1e-9)


def test_tvn_of_one_batch_makes_controls_typical() -> None:
    x, controls, _ = cells(n_batches=1)
    out = align(x, controls, None, "tvn")
    # Σ = I after whitening, so that (Σ + I/2)^(−1/2) leaves a variance of 1/1.5.
    np.testing.assert_allclose(np.cov(out[controls], rowvar=False), np.eye(4) / 1.5, atol=1e-12)


def test_tvn_drops_directions_in_which_controls_do_not_vary() -> None:
    x, controls, batches = cells()
    x = np.column_stack([x, x[:, 0] + x[:, 1], np.full(len(x), 3.0)])
    assert align(x, controls, batches, "tvn").shape == (120, 4)
    few = np.flatnonzero(controls)[:3]
    only = np.isin(np.arange(120), few)
    assert align(x, only, None, "tvn").shape == (120, 2)  # three points span a plane


def test_components_are_orthonormal_with_fixed_signs() -> None:
    x, controls, _ = cells()
    pca = ControlPCA.fit(x[controls], 3)
    np.testing.assert_allclose(pca.components @ pca.components.T, np.eye(3), atol=1e-12)
    assert (np.diff(pca.variances) <= 0).all()
    largest = np.abs(pca.components).argmax(axis=1)
    assert (pca.components[np.arange(3), largest] > 0).all()
    np.testing.assert_allclose(
        pca.transform(x[controls]).var(axis=0, ddof=1), pca.variances, rtol=1e-12
    )


def test_batches_without_enough_controls_are_named_with_their_counts() -> None:
    x, _, _ = cells(n=6)
    controls, batches = [True, True, False, True, False, False], ["a", "a", "a", "b", "b", "c"]
    with pytest.raises(DataError, match=r"centring .* needs 1 .* 1 of 3 .* 'c' \(0 of 1 cells\)"):
        align(x, controls, batches, "centre")
    for how in ("standardise", "tvn"):
        with pytest.raises(
            DataError, match=r"2 of 3 .*'b' \(1 of 2 cells\), 'c' \(0 of 1 cells\); leave"
        ):
            align(x, controls, batches, how)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"how": "mean"}, "must be one of none, centre, standardise, tvn"),
        ({"controls": [1, 0, 1]}, "controls must be bool"),
        ({"controls": [True]}, "controls must be bool"),
        ({"batches": ["a", "b"]}, "one entry for each of 3 cells"),
        ({"batches": ["a", None, "a"]}, "1 of 3 cells have no batch, first in row 1"),
        ({"representation": [1.0, 2.0]}, r"shape \[cells, dimensions\]"),
        ({"representation": [[1.0], [np.nan], [2.0]]}, "1 of 3 cells, first in row 1"),
        ({"representation": [[1.0], [1.0], [1.0]], "how": "tvn"}, "identical in all"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {
        "representation": [[1.0], [2.0], [4.0]],
        "controls": [True, True, False],
        "batches": None,
        "how": "centre",
    }
    with pytest.raises((DataError, ConfigError), match=message):
        align(**(fields | change))
