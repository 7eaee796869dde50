"""The negative binomials are those of scipy, add up to 1, and stay exact where scipy's does not.

Tolerance, u = 2⁻²⁴ or 2⁻⁵³. Where a logarithm of a ratio is taken from the excess e, |e| < ½, five
operations make e and log1p at most doubles their errors: 16u of the term. Elsewhere four logarithms
are added, 2u each of its size: 8u·Σ|log| times c or θ. Stirling errors below 10 come from terms of
at most 46 in all, each off by a few u: 3·46·4u < 600u. For scipy's, a sum of log Γ, 4u of each term
is added, and what the two roundings of p = θ/(θ + μ) do: 2u·θ, and 2u·c·p/(1 − p) = 2u·c·θ/μ.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln
from scipy.stats import nbinom, poisson

from kernomics.data import Cells
from kernomics.nn.count_losses import negative_binomial_nll, stirling_error, zinb_nll

U = {torch.float64: 2.0**-53, torch.float32: 2.0**-24}
MEANS = st.floats(1e-9, 1e5)
THETAS = st.floats(1e-4, 1e5)
COUNTS = st.one_of(st.integers(0, 12), st.integers(0, 10**6))


def numbers(*values, dtype=torch.float64):
    return [torch.tensor([[float(value)]], dtype=dtype) for value in values]


def nll(mean, count, theta, dtype=torch.float64):
    mean, count, theta = numbers(mean, count, theta, dtype=dtype)
    return float(negative_binomial_nll(mean, count, theta[0]))


def own_error(mean, c, theta, u):
    if c == 0:
        return 4 * u * theta * math.log1p(mean / theta)
    logs = sum(abs(math.log(x)) for x in (c, mean, mean + theta, c + theta))
    error = 600 * u
    for factor, excess, b in (
        (c, theta * (c - mean), mean * (c + theta)),
        (theta, c - mean, mean + theta),
    ):
        near = abs(excess) < 0.49 * b
        error += factor * (16 * u * abs(math.log1p(excess / b)) if near else 8 * u * logs)
    return error + 8 * u * math.log(2 * math.pi * c * (1 + c / theta))


def scipy_error(mean, c, theta):
    u = U[torch.float64]
    terms = [gammaln(c + theta), gammaln(theta), gammaln(c + 1), theta * math.log1p(mean / theta)]
    terms += [c * math.log1p(theta / mean)]
    return 4 * u * float(np.abs(terms).sum()) + 2 * u * (theta + c * theta / mean)


@settings(max_examples=300, deadline=None)
@given(mean=MEANS, count=COUNTS, theta=THETAS)
def test_it_is_the_negative_binomial_of_scipy(mean, count, theta):
    expected = -nbinom.logpmf(count, theta, theta / (theta + mean))
    bound = own_error(mean, count, theta, U[torch.float64]) + scipy_error(mean, count, theta)
    assert abs(nll(mean, count, theta) - expected) <= bound


@settings(max_examples=300, deadline=None)
@given(mean=MEANS, count=COUNTS, theta=THETAS, logit=st.floats(-15, 15))
def test_zero_inflation_is_a_mixture_with_certain_zeros(mean, count, theta, logit):
    m, c, t, d = numbers(mean, count, theta, logit)
    found = float(zinb_nll(m, c, t[0], d))
    log_p = nbinom.logpmf(count, theta, theta / (theta + mean))
    lost = 1 / (1 + math.exp(-logit))
    expected = -math.log(lost + (1 - lost) * math.exp(log_p)) if count == 0 else (
        math.log1p(math.exp(logit)) - log_p
    )  # fmt: skip
    bound = own_error(mean, count, theta, U[torch.float64]) + scipy_error(mean, count, theta)
    assert abs(found - expected) <= bound + 8 * U[torch.float64] * (1 + abs(logit))


@settings(max_examples=300, deadline=None)
@given(mean=MEANS, count=COUNTS, theta=st.floats(1e-4, 1e9))
def test_in_float32_counts_and_dispersions_of_any_size_keep_their_digits(mean, count, theta):
    mean, theta = float(np.float32(mean)), float(np.float32(theta))
    expected = nll(mean, count, theta)
    bound = own_error(mean, count, theta, U[torch.float32])
    assert abs(nll(mean, count, theta, torch.float32) - expected) <= bound


@pytest.mark.parametrize("count", [0, 1, 2, 30, 1000])
def test_of_mean_and_dispersion_one_it_is_geometric(count):
    assert nll(1, count, 1) == pytest.approx((count + 1) * math.log(2), rel=1e-13)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("mean", "count"), [(0.5, 0), (0.01, 1), (7.0, 7), (900.0, 1000)])
def test_without_dispersion_it_is_poisson(mean, count, dtype):
    # −log P differs from the Poisson's by about (c² + μ²)/θ.
    expected = -poisson.logpmf(count, mean)
    found = nll(mean, count, 1e12, dtype)
    assert found == pytest.approx(expected, abs=1e-5 + own_error(mean, count, 1e12, U[dtype]))


def test_with_all_dispersion_every_count_is_zero():
    # P(0) = (1 + μ/θ)^−θ → 1, and P(c) → θ/c.
    assert nll(5, 0, 1e-20) == pytest.approx(1e-20 * math.log(5e20), rel=1e-12)
    assert nll(5, 3, 1e-20) == pytest.approx(math.log(3) - math.log(1e-20), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_mean_near_zero_keeps_loss_and_gradient_finite(dtype):
    mean = torch.tensor([[1e-30, 1e-30, 0.0]], dtype=dtype, requires_grad=True)
    counts = torch.tensor([[0.0, 4.0, 0.0]], dtype=dtype)
    theta = torch.tensor([2.0, 2.0, 2.0], dtype=dtype, requires_grad=True)
    loss = negative_binomial_nll(mean, counts, theta)
    loss.sum().backward()
    # Γ(6)/(Γ(2)·4!) = 5, and (μ/θ)⁴.
    expected = [1e-30, -math.log(5) - 4 * math.log(1e-30 / 2), 0.0]
    torch.testing.assert_close(loss[0].double(), torch.tensor(expected).double(), rtol=1e-6, atol=0)
    assert mean.grad[0].tolist() == pytest.approx([1.0, -4e30, 1.0], rel=1e-6)
    assert bool(theta.grad.isfinite().all())


def test_a_mean_of_zero_makes_other_counts_impossible():
    assert nll(0, 1, 2) == math.inf


def drawn(cells=5, genes=7, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    mean, theta = 3 * uniform(cells, genes) + 0.05, 4 * uniform(genes) + 0.2
    counts = torch.poisson(mean * (uniform(cells, genes) < 0.6), generator=generator)
    counts[0, 0], counts[1, 1] = 40, 0
    return mean, counts, theta, 4 * uniform(cells, genes) - 2


def test_gradients_pass_gradcheck():
    mean, counts, theta, logits = (t.requires_grad_(i != 1) for i, t in enumerate(drawn()))
    assert torch.autograd.gradcheck(lambda m, t: negative_binomial_nll(m, counts, t), (mean, theta))
    assert torch.autograd.gradcheck(
        lambda m, t, d: zinb_nll(m, counts, t, d), (mean, theta, logits)
    )


@settings(max_examples=100, deadline=None)
@given(mean=st.floats(1e-6, 1e6), count=COUNTS, theta=st.floats(1e-3, 1e6))
def test_the_gradient_is_the_formula(mean, count, theta):
    m, c, t = numbers(mean, count, theta, dtype=torch.float32)
    negative_binomial_nll(m.requires_grad_(), c, t[0]).backward()
    found, m, t = float(m.grad), float(m.detach()), float(t)
    terms = count / m, (count + t) / (m + t)
    # The chain multiplies and divides each of them a dozen times or two.
    assert abs(found - (terms[1] - terms[0])) <= 24 * U[torch.float32] * sum(terms)


@pytest.mark.parametrize("layout", ["cells", "csr"])
@pytest.mark.parametrize("inflated", [False, True])
@pytest.mark.parametrize("per_cell", [False, True])
def test_sparse_counts_give_what_dense_ones_give(layout, inflated, per_cell):
    mean, counts, theta, logits = drawn(9, 40)
    if per_cell:
        theta = theta * torch.linspace(0.5, 2, 9, dtype=torch.float64)[:, None]
    sparse = Cells.from_scipy(counts.numpy()) if layout == "cells" else counts.to_sparse_csr()
    results = []
    for given_counts in (counts, sparse):
        leaves = [t.clone().requires_grad_() for t in (mean, theta, logits)]
        each = (
            zinb_nll(leaves[0], given_counts, leaves[1], leaves[2])
            if inflated
            else negative_binomial_nll(leaves[0], given_counts, leaves[1])
        )
        upstream = torch.linspace(-1, 1, each.numel(), dtype=torch.float64).reshape(each.shape)
        wanted = leaves if inflated else leaves[:2]
        results.append((each.detach(), *torch.autograd.grad(each, wanted, upstream)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("mean", "theta"), [(0.3, 0.2), (4.0, 1.0), (20.0, 30.0)])
@pytest.mark.parametrize("logit", [None, -1.0, 2.0])
def test_probabilities_add_up_to_one(mean, theta, logit):
    counts = torch.arange(3000, dtype=torch.float64)[None]
    means, thetas = torch.full_like(counts, mean), torch.full_like(counts[0], theta)
    if logit is None:
        each = negative_binomial_nll(means, counts, thetas)
    else:
        each = zinb_nll(means, counts, thetas, torch.full_like(counts, logit))
    # What lies beyond is below (μ/(μ + θ))^3000·3000 < 1e-200.
    assert float((-each).exp().sum()) == pytest.approx(1, abs=1e-12)


def test_without_inflation_it_is_the_negative_binomial_and_with_all_every_zero_is_certain():
    mean, counts, theta, logits = drawn()
    plain = negative_binomial_nll(mean, counts, theta)
    none = zinb_nll(mean, counts, theta, torch.full_like(logits, -60))
    torch.testing.assert_close(none, plain, rtol=1e-12, atol=1e-12)
    certain = zinb_nll(mean, counts, theta, torch.full_like(logits, 60))
    expected = torch.where(counts > 0, plain + 60, 0.0)
    torch.testing.assert_close(certain, expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-6, 1e9))
def test_stirlings_error_is_what_it_says(x):
    terms = gammaln(x), (x - 0.5) * math.log(x), x, 0.5 * math.log(2 * math.pi)
    expected = terms[0] - terms[1] + terms[2] - terms[3]
    bound = 8 * U[torch.float64] * float(np.abs(terms).sum()) + 2e-14
    assert abs(float(stirling_error(torch.tensor(x, dtype=torch.float64))) - expected) <= bound
