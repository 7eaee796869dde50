"""The relaxed masks and their gradients equal the dense formulas, with ties and forced genes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from problems.gumbel_topk import RELAXATIONS
from torch import Tensor

from kernomics.ops import gumbel_topk, reference, relaxed_mask

EPS = 2.0**-52
INF = float("inf")
Scores = Callable[..., Tensor]


def value_and_gradient(
    function: Callable[..., Tensor], scores: Tensor, u: Tensor, k: int, **options: Any
) -> tuple[Tensor, Tensor]:
    leaf = scores.clone().requires_grad_()
    gamma = function(leaf, k, **options)
    (gradient,) = torch.autograd.grad(gamma, leaf, u)
    return gamma.detach().double().cpu(), gradient.double().cpu()


def dense(scores: Tensor, u: Tensor, k: int, **options: Any) -> tuple[Tensor, Tensor]:
    """Evaluate the dense formula and its autograd in float64 at the same scores."""
    return value_and_gradient(
        reference.relaxed_mask, scores.double().cpu(), u.double().cpu(), k, **options
    )


def largest(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0


def assert_float64_close(
    found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], u: Tensor, k: int, tau: float
) -> None:
    """Γ to 4e-15 and the rounding of a sum of k terms; the gradient to 1e-12 of max|u|/τ."""
    gamma = 4e-15 + 2 * k**0.5 * EPS * largest(expected[0])
    assert largest(found[0] - expected[0]) <= gamma
    assert largest(found[1] - expected[1]) <= 1e-12 * largest(u) / tau


def assert_float32_close(
    found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], u: Tensor, tau: float
) -> None:
    """Γ to 1e-5 of its largest value; the gradient to 1e-5 of max|u|·max Γ/τ."""
    assert largest(found[0] - expected[0]) <= 1e-5 * largest(expected[0])
    assert largest(found[1] - expected[1]) <= 1e-5 * largest(u) * largest(expected[0]) / tau


def exact_neuralsort(
    y: NDArray[np.float64], u: NDArray[np.float64], k: int, tau: float
) -> tuple[Tensor, Tensor]:
    """NeuralSort's mask and gradient by its dense formula in 80-bit numbers.

    For scores that are multiples of 2⁻²⁰ the numerator of a logit, (n+1−2i)·y_j − Σ_l|y_j − y_l|,
    and its difference to the row's largest are exact, so only τ, exp and the sums round: to 1e-18.
    """
    y, u = y.astype(np.longdouble), u.astype(np.longdouble)
    n = len(y)
    spread = np.abs(y[:, None] - y[None]).sum(1)
    gamma, gradient, column = (np.zeros(n, np.longdouble) for _ in range(3))
    for i in range(1, k + 1):
        numerator = (n + 1 - 2 * i) * y - spread
        p = np.exp((numerator - numerator.max()) / np.longdouble(tau))
        p /= p.sum()
        gamma += p
        slope = p * (u - (p * u).sum())
        column += slope
        gradient += (n + 1 - 2 * i) * slope
    for q in range(n):
        sign = np.sign(y[q] - y)
        gradient[q] -= column[q] * sign.sum() + (sign * column).sum()
    gradient /= np.longdouble(tau)
    return torch.from_numpy(gamma.astype(float)), torch.from_numpy(gradient.astype(float))


# ---- against the dense forms --------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("step", [None, 2.0**-4], ids=["distinct", "ties"])
@pytest.mark.parametrize(("forced", "forbidden"), [(0, 0), (3, 40)])
@pytest.mark.parametrize(("genes", "k"), [(60, 7), (1000, 64), (5000, 256)])
@pytest.mark.parametrize("relaxation", ["softsort", "softmax"])
def test_mask_and_gradient_equal_the_dense_form(
    device: torch.device,
    draw_scores: Scores,
    relaxation: Any,
    genes: int,
    k: int,
    forced: int,
    forbidden: int,
    step: float | None,
    tau: float,
) -> None:
    scores = draw_scores(1, genes, step=step, forced=forced, forbidden=forbidden)
    u = draw_scores(1, genes, seed=1)
    options = {"tau": tau, "relaxation": relaxation}
    found = value_and_gradient(relaxed_mask, scores.to(device), u.to(device), k, **options)
    assert_float64_close(found, dense(scores, u, k, **options), u, k, tau)
    narrow, u = scores.float(), u.float()
    found = value_and_gradient(relaxed_mask, narrow.to(device), u.to(device), k, **options)
    assert_float32_close(found, dense(narrow, u, k, **options), u, tau)


@pytest.mark.parametrize("tau", [0.01, 0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("step", [2.0**-20, 2.0**-4], ids=["distinct", "ties"])
@pytest.mark.parametrize(("genes", "k"), [(60, 7), (1200, 64), (2000, 300)])
def test_neuralsort_equals_the_dense_form_in_80_bits(
    device: torch.device, draw_scores: Scores, genes: int, k: int, step: float, tau: float
) -> None:
    assert np.finfo(np.longdouble).eps < 2e-19
    scores = draw_scores(1, genes, step=step)
    u = draw_scores(1, genes, seed=1).float().double()  # the same in both dtypes
    expected = exact_neuralsort(scores[0].numpy(), u[0].numpy(), k, tau)
    expected = expected[0][None], expected[1][None]
    options = {"tau": tau, "relaxation": "neuralsort"}
    found = value_and_gradient(relaxed_mask, scores.to(device), u.to(device), k, **options)
    assert_float64_close(found, expected, u, k, tau)
    narrow = scores.float()
    assert torch.equal(narrow.double(), scores)
    found = value_and_gradient(relaxed_mask, narrow.to(device), u.float().to(device), k, **options)
    assert_float32_close(found, expected, u, tau)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("step", [2.0**-20, 0.25])  # NeuralSort's logits are exact on a grid
def test_choosing_every_gene_equals_the_dense_form(
    device: torch.device, draw_scores: Scores, relaxation: Any, step: float
) -> None:
    for genes, forced, forbidden in ((1, 0, 0), (2, 0, 0), (300, 0, 0), (300, 4, 9)):
        scores = draw_scores(1, genes, step=step, forced=forced, forbidden=forbidden)
        u = draw_scores(1, genes, seed=1)
        k = genes - forbidden  # k' = n
        options = {"tau": 1.0, "relaxation": relaxation}
        found = value_and_gradient(relaxed_mask, scores.to(device), u.to(device), k, **options)
        assert_float64_close(found, dense(scores, u, k, **options), u, k, 1.0)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_small_problems_equal_the_dense_form(data: st.DataObject) -> None:
    genes = data.draw(st.integers(1, 40))
    forced = data.draw(st.integers(0, genes))
    forbidden = data.draw(st.integers(0, genes - forced))
    k = data.draw(st.integers(max(1, forced), max(1, genes - forbidden)))
    if not forced <= k <= genes - forbidden:
        return
    tau = 10.0 ** data.draw(st.floats(-2, 2))
    relaxation = data.draw(st.sampled_from(RELAXATIONS))
    step = 2.0 ** -data.draw(st.sampled_from([0, 2, 20]))
    random = np.random.default_rng(data.draw(st.integers(0, 2**20)))
    y = np.round(random.normal(0, 1, genes) / step) * step
    special = random.permutation(genes)[: forced + forbidden]
    y[special[:forced]], y[special[forced:]] = INF, -INF
    scores, u = torch.from_numpy(y), torch.from_numpy(random.normal(0, 1, genes))
    options = {"tau": tau, "relaxation": relaxation}
    gamma, gradient = value_and_gradient(relaxed_mask, scores, u, k, **options)
    expected = dense(scores, u, k, **options)
    # NeuralSort's dense logits round at their own size, n·max|y|/τ.
    size = genes * largest(scores[scores.isfinite()]) / tau if relaxation == "neuralsort" else 0.0
    tolerance = 1e-14 + 4 * EPS * size
    assert largest(gamma - expected[0]) <= tolerance * max(1.0, largest(expected[0]))
    assert largest(gradient - expected[1]) <= 100 * genes * tolerance * largest(u) / tau


# ---- what holds by itself -----------------------------------------------------------------------


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("tau", [0.05, 1.0, 30.0])
def test_gradient_is_the_slope_of_the_mask(relaxation: Any, tau: float) -> None:
    spaced = torch.randperm(14, generator=torch.Generator().manual_seed(0)).double() * 0.11
    spaced.requires_grad_()
    positions = torch.tensor([0, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15])

    def finite_only(y: Tensor) -> Tensor:
        return relaxed_mask(y, 5, tau=tau, relaxation=relaxation)

    def with_forced_and_forbidden(y: Tensor) -> Tensor:
        scores = torch.zeros(16, dtype=torch.float64).index_put((positions,), y)
        fixed = torch.zeros(16, dtype=torch.float64)
        fixed[1], fixed[4] = INF, -INF
        return relaxed_mask(scores + fixed, 5, tau=tau, relaxation=relaxation)

    for function in (finite_only, with_forced_and_forbidden):
        assert torch.autograd.gradcheck(function, (spaced,), eps=1e-7, atol=1e-6 / tau, rtol=1e-4)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_sum_to_k_and_gradients_to_zero(
    device: torch.device, draw_scores: Scores, relaxation: Any, dtype: torch.dtype
) -> None:
    scores = draw_scores(3, 4000, forced=2, forbidden=5, dtype=dtype).to(device)
    u = draw_scores(3, 4000, seed=1, dtype=dtype).to(device)
    gamma, gradient = value_and_gradient(
        relaxed_mask, scores, u, 50, tau=0.5, relaxation=relaxation
    )
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert largest(gamma.sum(1) - 50) <= 50 * tolerance
    # Adding one number to all scores changes nothing.
    assert bool((gradient.sum(1).abs() <= tolerance * gradient.abs().sum(1)).all())
    assert bool((gamma >= 0).all())


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_forced_genes_weigh_one_and_forbidden_ones_nothing(
    device: torch.device, draw_scores: Scores, relaxation: Any
) -> None:
    scores = draw_scores(3, 90, forced=4, forbidden=30).to(device)
    for k in (4, 5, 60):  # k' = 0, 1 and n
        u = draw_scores(3, 90, seed=1).to(device)
        gamma, gradient = value_and_gradient(
            relaxed_mask, scores, u, k, tau=0.5, relaxation=relaxation
        )
        special = scores.cpu()
        assert bool((gamma[special == INF] == 1).all())
        assert bool((gamma[special == -INF] == 0).all())
        assert bool((gradient[special.isinf()] == 0).all())
        torch.testing.assert_close(gamma.sum(1), torch.full((3,), float(k), dtype=torch.float64))
        if k == 4:
            assert bool((gamma[special.isfinite()] == 0).all())
            assert bool((gradient == 0).all())


@pytest.mark.parametrize("relaxation", ["softsort", "neuralsort"])
def test_the_relaxed_mask_hardens_as_tau_falls(device: torch.device, relaxation: Any) -> None:
    scores = torch.randperm(200, generator=torch.Generator().manual_seed(2)).double() / 20
    mask = gumbel_topk(scores, 20, tau=1.0, noise=False)[1]
    distances = [
        largest(relaxed_mask(scores.to(device), 20, tau=tau, relaxation=relaxation).cpu() - mask)
        for tau in (1.0, 0.1, 0.01, 0.001)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-12


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_equal_scores_share_the_weight_equally(device: torch.device, relaxation: Any) -> None:
    scores = torch.tensor([2.0, 1.0, 1.0, 1.0, 0.0, -1.0], dtype=torch.float64, device=device)
    u = torch.tensor([0.3, 1.0, 1.0, 1.0, -2.0, 0.7], dtype=torch.float64, device=device)
    gamma, gradient = value_and_gradient(relaxed_mask, scores, u, 2, tau=0.6, relaxation=relaxation)
    torch.testing.assert_close(gamma[1:4], gamma[1].expand(3), rtol=1e-14, atol=1e-15)
    if relaxation == "softsort":  # a row of SoftSort belongs to one winner, and so does its slope
        torch.testing.assert_close(gradient[2], gradient[3], rtol=1e-14, atol=1e-15)
    else:
        torch.testing.assert_close(gradient[1:4], gradient[1].expand(3), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_the_order_of_the_genes_does_not_matter(
    device: torch.device, draw_scores: Scores, relaxation: Any
) -> None:
    scores, u = draw_scores(1, 500), draw_scores(1, 500, seed=1)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(3))
    options = {"tau": 0.4, "relaxation": relaxation}
    one = value_and_gradient(relaxed_mask, scores.to(device), u.to(device), 30, **options)
    other = value_and_gradient(
        relaxed_mask, scores[:, order].to(device), u[:, order].to(device), 30, **options
    )
    torch.testing.assert_close(other[0], one[0][:, order], rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(other[1], one[1][:, order], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_scores_neither_overflow_nor_vanish(
    device: torch.device, relaxation: Any, dtype: torch.dtype
) -> None:
    scores = torch.tensor(
        [[1e30, -1e30, 0.0, 1.0, 1.5, -2.0], [700.0, -700.0, 0.0, 0.0, 90.0, 1e-30]],
        dtype=dtype,
        device=device,
    )
    u = torch.randn(2, 6, dtype=dtype, generator=torch.Generator().manual_seed(0)).to(device)
    for tau in (1e-3, 1.0, 1e6):
        for k in range(1, 7):
            gamma, gradient = value_and_gradient(
                relaxed_mask, scores, u, k, tau=tau, relaxation=relaxation
            )
            assert bool(gamma.isfinite().all())
            assert bool(gradient.isfinite().all())
            torch.testing.assert_close(
                gamma.sum(1), torch.full((2,), float(k), dtype=torch.float64), rtol=1e-5, atol=0
            )


def test_float32_weights_are_relatively_accurate_down_to_the_smallest(
    device: torch.device,
) -> None:
    # Γ_j / Γ_0 = exp(score) at τ = 1; below −80 Γ leaves the normal float32 numbers.
    scores = -torch.linspace(0, 80, 50_001, device=device)
    gamma = relaxed_mask(scores, 1, tau=1.0, relaxation="softmax").double().cpu()
    ratio = gamma / gamma[0] / scores.double().cpu().exp()
    # 2e-7 of the exponential, and half an ulp (6e-8) each for Γ_j and Γ_0.
    assert largest(ratio - 1) < 3.5e-7


# ---- memory -------------------------------------------------------------------------------------

PEAK = """
import re, sys, torch
from pathlib import Path
from kernomics.ops import gumbel_topk

def status(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

torch.set_num_threads(2)
genes, k, tau, relaxation = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
gumbel_topk(torch.randn(100, requires_grad=True), 3, tau=1.0)[1].sum().backward()
scores, u = torch.randn(genes, requires_grad=True), torch.randn(genes)
before = status("VmRSS")
gumbel_topk(scores, k, tau=tau, relaxation=relaxation)[1].backward(u)
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("relaxation", "tau"), [("softsort", 0.1), ("neuralsort", 1.0)])
def test_memory_grows_with_the_genes_not_with_k_times_genes(relaxation: str, tau: float) -> None:
    genes, k = 2_000_000, 1_000
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(genes), str(k), str(tau), relaxation],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    # y, mask, gradient and the kernel's own rows: at most 20 float32 numbers a gene. The dense
    # form would need 1,000.
    assert int(done.stdout) < 20 * 4 * genes
