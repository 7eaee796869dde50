"""poisson_nll equals its plain-torch meaning on every layout, dtype, activation and reduction.

Tolerance. With u = 2⁻²⁴ every operation adds a relative error u, an exponential or logarithm of
ours at most 2e-7 < 4u. The argument −2z/β carries 2u; e^x − 1 for x ≤ 0 multiplies that by at most
1 and adds 4u; −m/(2 + m) multiplies by at most 2 and adds 3u, α 2u: |Δη| ≤ 17u·η, less for the
other activations. So λ is off by (17η + 4)u·λ, y by (5 + |x|)u·y, φ' = 4(α/β)e^{−2z/β}/(2 + m)² by
22u and 2u·|2z/β|. In what is drawn |x|, η and |2z/β| stay below 14. With the last roundings the
loss lies within 260u·(λ + (1 + |η|)·y) and the derivative within 320u·|φ'|·(λ + y); log(λ + eps) in
place of η adds 4u and, through λ, an absolute 8u, which 1 + |η| covers. A row's sum is off by
68u·Σ|ℓ| more, 64 additions a lane and block. Numbers below 1e-37 are taken for 0. In float64
u = 2⁻⁵³; there the reference's φ' = (α/β)(1 − tanh²) is itself off by up to 4·2⁻⁵³.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import poisson_nll as problem
from problems.common import FLOATS
from problems.poisson_nll import ACTIVATIONS, KINDS, LAYOUTS, REDUCTIONS, draw, draw_panels, run

from kernomics.ops import poisson_nll

assert_as_reference = partial(problem.assert_as_reference, additions=68, products=0, roundings=1)


# ---- the meaning --------------------------------------------------------------------------------


def test_it_is_the_papers_formulas_in_float64() -> None:
    """TxFM, arXiv 2605.31562: the activation, Eq. 1 and 2, and the gradient of Eq. 12."""
    z, x = draw(5, 400, "rectified_tanh", "log1p")
    L, G = 1e5, 400
    alpha, beta = math.log(L + 1), 4 * math.e
    loss, gradient = 0.0, torch.zeros_like(z)
    for b in range(5):
        for i in range(G):
            z_bi, x_bi = float(z[b, i]), float(x[b, i])
            x_hat = alpha * max(math.tanh(z_bi / beta), 0.0)
            loss += (math.exp(x_hat) - x_hat * math.exp(x_bi)) / G / 5
            if z_bi > 0:
                sech = 1 / math.cosh(z_bi / beta)
                difference = math.exp(alpha * math.tanh(z_bi / beta)) - math.exp(x_bi)
                gradient[b, i] = alpha / beta * sech**2 * difference / G / 5
    for target in (x, x.to_sparse_csr()):
        found, grad = run(poisson_nll, z, target)
        assert abs(found.item() - loss) <= 1e-12 * abs(loss)
        torch.testing.assert_close(grad, gradient, rtol=1e-12, atol=1e-12 * gradient.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_at_or_below_zero_lose_one_and_get_no_gradient(dtype: torch.dtype) -> None:
    z = torch.tensor([[0.0, -0.0, -1e-30, -3.0, -1e30, -math.inf]], dtype=dtype)
    for target in (torch.zeros_like(z), torch.full_like(z, 2.5)):
        loss, grad = run(poisson_nll, z, target, reduction="none")
        assert loss.tolist() == [[1.0] * 6]
        assert grad.tolist() == [[0.0] * 6]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_logits_stay_finite_and_nan_stays_nan(dtype: torch.dtype) -> None:
    z = torch.tensor([[500.0, 1e30, math.inf, math.nan]], dtype=dtype)
    loss, grad = run(poisson_nll, z, torch.ones_like(z), reduction="none")
    top = 1e5 + 1 - math.log(1e5 + 1) * math.e
    torch.testing.assert_close(
        loss[0, :3].double(), torch.full((3,), top).double(), rtol=2e-5, atol=0
    )
    assert bool((grad[0, :3].abs() < 1e-30).all())
    for activation in ACTIVATIONS:
        options = {"activation": activation, "reduction": "none"}
        loss, grad = run(poisson_nll, z[:, 3:], torch.ones(1, 1, dtype=dtype), **options)
        assert bool(loss.isnan().all())
        assert bool(grad.isnan().all()) or activation in ("relu", "clamped_relu")


@pytest.mark.parametrize("log_input", [True, False])
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_torchs_poisson_loss_is_a_special_case(log_input: bool, full: bool, reduction: str) -> None:
    activation = "exp" if log_input else "identity"
    z, y = draw(6, 300, activation, "rate")
    options = {"activation": activation, "target_kind": "rate", "full": full}
    ours = {"mean": "genes"}.get(reduction, reduction)
    expected = run(
        lambda z, y: F.poisson_nll_loss(z, y, log_input, full, eps=1e-8, reduction=reduction), z, y
    )
    found = run(poisson_nll, z, y, reduction=ours, **options)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    single = run(poisson_nll, z.float(), y.float(), reduction=ours, **options)
    assert_as_reference(single, z.float(), y.float(), reduction=ours, **options)


def test_counts_and_their_log1p_are_the_same_target() -> None:
    z, counts = draw(8, 200, "rectified_tanh", "counts")
    library = torch.randint(50, 3000, (8,)).double()
    x = torch.log1p(counts * 1e4 / library[:, None])
    expected = run(poisson_nll, z, x, target_sum=1e4)
    options = {"target_kind": "counts", "library": library, "target_sum": 1e4}
    torch.testing.assert_close(run(poisson_nll, z, counts, **options), expected)
    assert poisson_nll(z, counts, target_kind="counts") == poisson_nll(
        z, counts, target_kind="counts", library=counts.sum(1)
    )


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("layout", ["dense", "csr"])
def test_a_cell_of_library_zero_has_rate_one_everywhere(given: bool, layout: str) -> None:
    z, counts = draw(3, 50, "rectified_tanh", "counts")
    counts[1] = 0
    library = torch.tensor([70.0, 0.0, 9.0]) if given else None
    found = run(poisson_nll, z, LAYOUTS[layout](counts), target_kind="counts", library=library)
    rates = torch.zeros_like(z)
    total = library.double() if library is not None else counts.sum(1)
    rates[::2] = torch.log1p(counts[::2] * 1e5 / total[::2, None])
    torch.testing.assert_close(found, run(poisson_nll, z, rates))


@settings(max_examples=200, deadline=None)
@given(
    cells=st.integers(0, 12),
    genes=st.sampled_from([0, 1, 5, 16, 17, 90, 1023, 1024, 1025, 2100]),
    activation=st.sampled_from(ACTIVATIONS),
    kind=st.sampled_from(KINDS),
    layout=st.sampled_from(sorted(LAYOUTS)),
    reduction=st.sampled_from([*REDUCTIONS, "none"]),
    dtype=st.sampled_from(FLOATS),
    density=st.sampled_from([0.0, 0.05, 1.0]),
    target_sum=st.sampled_from([1e4, 1e5]),
    full=st.booleans(),
    panels=st.booleans(),
    library=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_loss_and_gradient_equal_the_reference(
    cells: int,
    genes: int,
    activation: str,
    kind: str,
    layout: str,
    reduction: str,
    dtype: torch.dtype,
    density: float,
    target_sum: float,
    full: bool,
    panels: bool,
    library: bool,
    seed: int,
) -> None:
    z, target = (t.to(dtype) for t in draw(cells, genes, activation, kind, density, seed))
    options: dict[str, Any] = {
        "activation": activation, "target_kind": kind, "target_sum": target_sum, "full": full,
        "reduction": reduction, "observed": draw_panels(cells, genes, seed) if panels else None,
    }  # fmt: skip
    if library and kind == "counts":
        options["library"] = torch.randint(0, 5000, (cells,)).double()
    given_target = LAYOUTS[layout](target)
    if reduction == "none" and layout in ("csr", "rows32", "rows64"):
        given_target = target
    found = run(poisson_nll, LAYOUTS["every_other"](z), given_target, **options)
    assert found[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert found[1].dtype == dtype
    if kind == "counts" and "library" not in options:
        options["library"] = target.double().sum(1)
    assert_as_reference(found, z, target, **options)


@pytest.mark.parametrize("reduction", [*REDUCTIONS, "none"])
def test_what_stands_at_unobserved_genes_does_not_matter(reduction: str) -> None:
    z, target = draw(9, 100, "rectified_tanh", "log1p")
    observed = draw_panels(9, 100)
    hidden = observed.mask[observed.panel_id.long()] == 0
    options = {"observed": observed, "reduction": reduction}
    expected = run(poisson_nll, z, target, **options)
    z, target = z.masked_fill(hidden, math.nan), target.masked_fill(hidden, math.inf)
    found = run(poisson_nll, z, target, **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not found[1][hidden].any()


def test_a_mask_may_be_boolean() -> None:
    z, target = draw(9, 100, "exp", "log1p")
    observed = draw_panels(9, 100)
    as_bool = replace(observed, mask=observed.mask != 0)
    assert poisson_nll(z, target, observed=observed) == poisson_nll(z, target, observed=as_bool)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("reduction", [*REDUCTIONS, "none"])
def test_gradients_pass_gradcheck(activation: str, reduction: str) -> None:
    z, target = draw(4, 9, activation, "log1p")
    options = {"activation": activation, "reduction": reduction, "observed": draw_panels(4, 9)}
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: 3 * poisson_nll(z, target, **options), z)


# ---- bits, threads, passes ----------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["dense", "csr"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_threads_do_not_change_a_bit(
    threads: Callable[[int], None], layout: str, reduction: str
) -> None:
    z, target = (t.float() for t in draw(31, 3000, "rectified_tanh", "counts"))
    results = []
    for count in (1, 2, 3):
        threads(count)
        options = {"target_kind": "counts", "reduction": reduction}
        results.append(run(poisson_nll, z, LAYOUTS[layout](target), **options))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_gives_the_same_bits(kind: str) -> None:
    z, target = (t.float() for t in draw(7, 2500, "rectified_tanh", kind))
    expected = run(poisson_nll, z, target, target_kind=kind)
    for make in LAYOUTS.values():
        found = run(poisson_nll, z, make(target), target_kind=kind)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_loss_without_a_gradient_has_the_same_bits() -> None:
    z, target = (t.float() for t in draw(7, 2500, "rectified_tanh", "log1p"))
    loss, _ = run(poisson_nll, z, target)
    assert poisson_nll(z, target) == loss
    with torch.no_grad():
        assert not poisson_nll(z.requires_grad_(), target).requires_grad


def test_the_gradient_is_multiplied_by_what_comes_from_above() -> None:
    z, target = draw(7, 60, "rectified_tanh", "log1p")
    _, grad = run(poisson_nll, z, target)
    z.requires_grad_()
    (scaled,) = torch.autograd.grad(0.25 * poisson_nll(z, target), z)
    torch.testing.assert_close(scaled, 0.25 * grad, rtol=1e-15, atol=0)
    above = torch.arange(7.0).double()
    (by_cell,) = torch.autograd.grad(poisson_nll(z, target, reduction="cell"), z, above)
    torch.testing.assert_close(by_cell, 7 * grad * above[:, None])


def test_backward_may_run_twice_but_not_on_a_gradient_that_was_changed() -> None:
    z, target = draw(7, 60, "rectified_tanh", "log1p")
    z.requires_grad_()
    loss = poisson_nll(z, target)
    (first,) = torch.autograd.grad(loss, z, retain_graph=True)
    (second,) = torch.autograd.grad(loss, z, retain_graph=True)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    first.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, z)


# ---- torch's machinery --------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["dense", "rows32"])
def test_the_registered_ops_pass_opcheck(layout: str) -> None:
    z, target = draw(5, 20, "rectified_tanh", "counts")
    problem.assert_ops_pass_opcheck(z, target, draw_panels(5, 20), layout)


@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    ("layout", "reduction"), [("dense", "mean"), ("rows32", "cell"), ("dense", "none")]
)
def test_it_compiles_into_one_graph(layout: str, reduction: str) -> None:
    z, target = draw(5, 40, "rectified_tanh", "log1p")
    compiled = torch.compile(poisson_nll, fullgraph=True, backend="aot_eager")
    options = {"reduction": reduction, "observed": draw_panels(5, 40)}
    found = run(compiled, z, LAYOUTS[layout](target), **options)
    expected = run(poisson_nll, z, LAYOUTS[layout](target), **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
