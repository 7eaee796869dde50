"""linear_poisson_nll equals a linear layer followed by poisson_nll, whatever the chunk of genes.

Tolerance in float32, u = 2⁻²⁴. A logit is a sum of H + 1 rounded terms, off by
Δz ≤ (H + 2)u·(Σ|h||W| + |bias|). The loss follows by |ℓ'|·Δz and δ by |ℓ''|·Δz, where
ℓ'' = φ''(λ − y) + φ'²λ; poisson_nll's own errors, 328u of the loss's terms and 320u of the
derivative's, are derived in test_poisson_nll.py. Gradients then sum B or G rounded terms:
(B + 2)u·Σ|δ||h| and (G + 2)u·Σ|δ||W|. The logits drawn here lie within ±3 and y is 1 or 4, so with
"rectified_tanh" and "exp" λ and |ℓ'| are at most 24, |ℓ''| and the derivative's terms twice and the
loss's terms four times that.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems.common import U_RESULT, peak_resident_bytes
from problems.linear_poisson_nll import (
    REDUCTIONS,
    Problem,
    assert_gradients_pass_gradcheck,
    assert_op_passes_opcheck,
    bounds,
    draw,
    run,
)
from torch import Tensor

from kernomics.ops import linear_poisson_nll, poisson_nll, reference

ACTIVATIONS = ["rectified_tanh", "relu", "clamped_relu", "exp", "softplus"]


def two_steps(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Any, **options: Any
) -> Tensor:
    logits = hidden @ weight.T
    return poisson_nll(logits if bias is None else logits + bias, target, **options)


@settings(max_examples=100, deadline=None)
@given(
    cells=st.sampled_from([0, 1, 2, 7, 20]),
    genes=st.sampled_from([0, 1, 33, 200]),
    width=st.sampled_from([1, 5, 32]),
    activation=st.sampled_from(ACTIVATIONS),
    kind=st.sampled_from(["log1p", "counts", "rate"]),
    reduction=st.sampled_from(REDUCTIONS),
    sparse=st.booleans(),
    bias=st.booleans(),
    panels=st.booleans(),
    full=st.booleans(),
    chunk_genes=st.sampled_from([1, 7, 64, 10_000]),
    seed=st.integers(0, 2**20),
)
def test_in_float64_it_is_the_layer_and_the_loss_one_after_the_other(
    cells: int,
    genes: int,
    width: int,
    activation: str,
    kind: str,
    reduction: str,
    sparse: bool,
    bias: bool,
    panels: bool,
    full: bool,
    chunk_genes: int,
    seed: int,
) -> None:
    p = draw(cells, genes, width, bias=bias, seed=seed)
    options: dict[str, Any] = {
        "activation": activation, "target_kind": kind, "reduction": reduction, "full": full,
        "observed": p.observed if panels else None,
    }  # fmt: skip
    target = p.target.to_sparse_csr() if sparse else p.target
    chunk_mb = chunk_genes * max(1, cells) * 8e-6
    found = run(linear_poisson_nll, p, target, chunk_mb=chunk_mb, **options)
    for other in (two_steps, reference.linear_poisson_nll):
        expected = run(other, p, p.target, **options)
        for name, value in expected.items():
            size = float(value.abs().max()) if value.numel() else 0.0
            torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12 * size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activation", ["rectified_tanh", "exp"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("sparse", [True, False])
def test_lower_precision_stays_within_its_bounds(
    dtype: torch.dtype, activation: str, reduction: str, sparse: bool
) -> None:
    p = draw(40, 700, 48).to(dtype)
    exact = p.to(torch.float64)
    options = {"activation": activation, "target_kind": "counts", "reduction": reduction}
    options |= {"library": torch.full((40,), 1e5)}  # y = 1 + count
    target = p.target.to_sparse_csr() if sparse else p.target
    found = run(linear_poisson_nll, p, target, chunk_mb=0.03, **options)
    expected = run(reference.linear_poisson_nll, exact, exact.target, **options)
    rounding = U_RESULT.get(dtype, 0.0)
    assert found["loss"].dtype == torch.float32
    for name, bound in bounds(exact, reduction, sweep=320).items():
        if name != "loss":
            assert found[name].dtype == dtype
            # Once when the gradient is stored, once when it is multiplied by 0.5.
            bound = bound + 2 * rounding * (expected[name].abs() + bound) + 2.0**-24
        error = (found[name].double() - expected[name]).abs()
        assert bool((error <= bound).all()), f"{name}: error {error.max()}"


def test_a_float64_weight_is_computed_in_float64() -> None:
    p = draw(6, 30, 8)
    mixed = Problem(p.hidden.float(), p.weight, p.bias, p.target, p.observed)
    found = run(linear_poisson_nll, mixed, p.target)
    assert found["loss"].dtype == found["weight"].dtype == torch.float64
    assert found["hidden"].dtype == torch.float32
    wide = Problem(mixed.hidden.double(), p.weight, p.bias, p.target, p.observed)
    torch.testing.assert_close(found["weight"], run(two_steps, wide, p.target)["weight"])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("sparse", [True, False])
def test_gradients_pass_gradcheck(reduction: str, sparse: bool) -> None:
    assert_gradients_pass_gradcheck(draw(3, 8, 4), reduction, sparse)


@pytest.mark.parametrize("reduction", ["mean", "cell"])
@pytest.mark.parametrize("wanted", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)])
def test_gradients_not_asked_for_are_not_made(reduction: str, wanted: tuple[int, ...]) -> None:
    p = draw(5, 40, 6)
    expected = run(two_steps, p, p.target, reduction=reduction)
    layer = (p.hidden, p.weight, p.bias)
    leaves = [
        t.detach().requires_grad_(bool(want))
        for t, want in zip(layer, wanted, strict=True)
        if t is not None
    ]
    loss = linear_poisson_nll(*leaves, p.target, reduction=reduction)
    torch.testing.assert_close(loss.detach(), expected["loss"])
    assert loss.requires_grad == any(wanted)
    if any(wanted):
        above = torch.arange(1.0, 6.0).double() if reduction == "cell" else torch.tensor(0.5)
        loss.backward(above.to(loss.dtype))
    for leaf, want, name in zip(leaves, wanted, ("hidden", "weight", "bias"), strict=True):
        assert (leaf.grad is not None) == bool(want)
        if leaf.grad is not None:
            torch.testing.assert_close(leaf.grad, expected[name])


def test_autocast_and_strides_change_nothing() -> None:
    p = draw(9, 50, 8).to(torch.float32)
    expected = run(linear_poisson_nll, p, p.target)
    turned = Problem(
        p.hidden.t().contiguous().t(), p.weight.t().contiguous().t(), p.bias,
        p.target.t().contiguous().t(), p.observed,
    )  # fmt: skip
    torch.testing.assert_close(run(linear_poisson_nll, turned, turned.target), expected)
    for weight in (p.weight, p.weight.bfloat16()):
        q = replace(p, weight=weight)
        expected = run(linear_poisson_nll, q, q.target)
        with torch.autocast("cpu", torch.bfloat16):
            found = run(linear_poisson_nll, q, q.target)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_memory_is_one_chunk_and_the_gradients() -> None:
    cells, genes, width = 2048, 50_000, 4  # the logits: 410 MB
    hidden = torch.ones((cells, width), requires_grad=True)
    weight = torch.zeros((genes, width), requires_grad=True)
    nothing = torch.sparse_csr_tensor(
        torch.zeros(cells + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64),
        torch.zeros(0), (cells, genes),
    )  # fmt: skip
    linear_poisson_nll(hidden[:2], weight, None, torch.zeros(2, genes))  # starts torch's products
    Path("/proc/self/clear_refs").write_text("5")  # starts the peak anew
    before = peak_resident_bytes()
    loss = linear_poisson_nll(hidden, weight, None, nothing, activation="exp")
    loss.backward()
    assert peak_resident_bytes() - before < 64e6
    assert loss == 1.0


@pytest.mark.parametrize("sparse", [True, False])
def test_the_registered_op_passes_opcheck(sparse: bool) -> None:
    p = draw(4, 20, 6)
    assert_op_passes_opcheck(p, p.target, sparse)


@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("reduction", ["mean", "cell"])
def test_it_compiles_into_one_graph(reduction: str) -> None:
    p = draw(5, 30, 6)
    compiled = torch.compile(linear_poisson_nll, fullgraph=True, backend="aot_eager")
    found = run(compiled, p, p.target, reduction=reduction)
    expected = run(linear_poisson_nll, p, p.target, reduction=reduction)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


SMALL = draw(2, 10, 3).to(torch.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": SMALL.hidden[0]}, "hidden has shape (3,); [cells, H] is needed"),
        ({"hidden": SMALL.hidden.int()}, "hidden has dtype torch.int32; a floating-point dtype"),
        ({"weight": SMALL.weight[:, :2]}, "weight has shape (10, 2) and hidden (2, 3); a weight"),
        ({"weight": SMALL.weight.int()}, "weight has dtype torch.int32"),
        ({"bias": torch.ones(9)}, "bias has shape (9,); [10] is needed"),
        ({"bias": torch.ones(10).int()}, "bias has dtype torch.int32"),
        ({"hidden": SMALL.hidden.to("meta")}, "hidden is on meta and weight on cpu; move one"),
        ({"target": SMALL.target[:, :9]}, "target has shape (2, 9); [2, 10], a target for each"),
        ({"reduction": "none"}, "reduction is 'none'; it is one of 'mean', 'genes', 'sum', 'cell'"),
        ({"chunk_mb": 0}, "chunk_mb is 0; a positive number is needed"),
    ],
)
def test_an_error_says_what_is_needed(change: dict[str, Any], message: str) -> None:
    arguments = {name: getattr(SMALL, name) for name in ("hidden", "weight", "bias", "target")}
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        linear_poisson_nll(**(arguments | change))
