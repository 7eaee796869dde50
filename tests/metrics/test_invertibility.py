"""Spearman's correlation and structural integrity of reconstructed expression."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from kernomics.errors import ConfigError, DataError
from kernomics.metrics import (
    alignment,
    rank_correlations,
    spearman_inversion,
    structural_integrity,
)


def expression(seed: int = 0, n: int = 60, genes: int = 9) -> tuple[Any, Any, Any]:
    random = np.random.default_rng(seed)
    y = np.log1p(random.poisson(1.5, size=(n, genes)).astype(float))
    batches = np.arange(n) % 3
    return y, batches, np.arange(n) // 3 % 4 == 0


def test_rank_correlation_as_computed_by_hand() -> None:
    observed = [[1.0, 0, 2], [2.0, 0, 2], [3.0, 5, 2], [4.0, 5, 2]]
    predicted = [[10.0, 1, 1], [20.0, 1, 2], [40.0, 1, 3], [30.0, 1, 4]]
    # Gene 0: ranks 1 2 3 4 and 1 2 4 3: ρ = 1 − 6·2/(4·15) = 0.8. Gene 1 is reconstructed as a
    # constant, gene 2 is one.
    np.testing.assert_allclose(rank_correlations(predicted, observed), [0.8, 0, np.nan])
    assert spearman_inversion(predicted, observed) == pytest.approx(0.4)


@pytest.mark.parametrize("of", ["genes", "cells"])
@pytest.mark.parametrize("block", [2**22, 130])
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_agrees_with_scipy(of: Any, block: int, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "NUMBERS_AT_A_TIME", block)
    y, _, _ = expression()
    p = (y + np.random.default_rng(1).normal(size=y.shape)).astype(np.float32)
    pairs = zip(p.T, y.T, strict=True) if of == "genes" else zip(p, y, strict=True)
    expected = [stats.spearmanr(a, b).statistic for a, b in pairs]
    np.testing.assert_allclose(rank_correlations(p, kind(y), of), expected, atol=1e-14)
    assert spearman_inversion(p, kind(y), of) == pytest.approx(np.mean(expected), abs=1e-14)


def test_nothing_that_varies_is_nan() -> None:
    assert np.isnan(spearman_inversion([[1.0], [2.0]], [[3.0], [3.0]]))


def literal(p: Any, y: Any, batches: Any, controls: Any, bound: str) -> float:
    distances, bounds = [], []
    for b in np.unique(batches):
        rows = batches == b
        y_b = y[rows] - y[rows & controls].mean(axis=0)
        p_b = p[rows] - p[rows & controls].mean(axis=0)
        n = rows.sum()
        distances.append(np.linalg.norm(p_b - y_b) / n)
        other = np.linalg.norm(y_b if bound == "observed" else p_b)
        bounds.append((np.linalg.norm(y_b) + other) / n)
    return 1 - np.mean(distances) / np.mean(bounds)


@pytest.mark.parametrize("bound", ["observed", "triangle"])
@pytest.mark.parametrize("block", [2**22, 40])
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_structural_integrity_equals_its_definition(
    bound: Any, block: int, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alignment, "NUMBERS_AT_A_TIME", block)
    y, batches, controls = expression()
    y, batches, controls = y[:-4], batches[:-4], controls[:-4]  # batches of unequal size
    p = 0.5 * y + np.random.default_rng(1).normal(size=y.shape)
    found = structural_integrity(p, kind(y), batches, controls, bound=bound)
    assert found == pytest.approx(literal(p, y, batches, controls, bound), abs=1e-13)


def test_zeros_score_a_half_and_exactly() -> None:
    y, batches, controls = expression()
    zeros = np.zeros_like(y)
    assert structural_integrity(zeros, y, batches, controls) == 0.5
    assert structural_integrity(zeros + 7, y, batches, controls) == 0.5
    assert structural_integrity(zeros, y, batches, controls, bound="triangle") == 0


def test_a_constant_for_each_gene_and_batch_is_forgiven() -> None:
    y, batches, controls = expression()
    assert structural_integrity(y, y, batches, controls) == 1
    shifted = y + np.random.default_rng(0).normal(size=(3, y.shape[1]))[batches]
    # ‖Ŷ − Y‖ is rounding alone.
    assert structural_integrity(shifted, y, batches, controls) == pytest.approx(1, abs=1e-14)


def test_what_overshoots_is_not_clipped() -> None:
    y, batches, controls = expression()
    # Ŷ = −3Y: ‖Ŷ − Y‖ = 4‖Y‖ against a D_max of 2‖Y‖, or of 4‖Y‖ by the triangle inequality.
    assert structural_integrity(-3 * y, y, batches, controls) == pytest.approx(-1, abs=1e-14)
    found = structural_integrity(-3 * y, y, batches, controls, bound="triangle")
    assert found == pytest.approx(0, abs=1e-14)


@given(st.integers(0, 2**32 - 1), st.floats(-5, 5), st.floats(0, 5))
@settings(max_examples=40, deadline=None)
def test_the_triangle_bound_keeps_the_score_between_0_and_1(
    seed: int, scale: float, noise: float
) -> None:
    y, batches, controls = expression(seed)
    p = scale * y + noise * np.random.default_rng(seed).normal(size=y.shape)
    score = structural_integrity(p, y, batches, controls, bound="triangle")
    assert -1e-12 <= score <= 1


def test_nothing_observed_is_nan() -> None:
    zeros = np.zeros((4, 2))
    assert np.isnan(structural_integrity(zeros, zeros, None, [True, True, False, False]))


def test_bad_input_is_named() -> None:
    y, batches, controls = expression()
    cases: list[tuple[Any, str]] = [
        (lambda: rank_correlations(y[:5], y), r"found \(5, 9\) and \(60, 9\)"),
        (lambda: rank_correlations(y, y, "rows"), "of is 'rows'; it must be one of genes, cells"),
        (
            lambda: structural_integrity(y, y, batches, controls, bound="max"),
            "it must be one of observed, triangle",
        ),
        (lambda: structural_integrity(y, y, batches, batches == 1), "'0' .0 of 20 cells"),
        (lambda: structural_integrity(y * np.nan, y, batches, controls), "60 of 60 cells"),
    ]
    for call, message in cases:
        with pytest.raises((DataError, ConfigError), match=message):
            call()
