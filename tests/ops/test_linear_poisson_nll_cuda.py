"""linear_poisson_nll on CUDA: the layer and the loss, in float64 exactly, in bfloat16 to rounding.

Tolerance. Float64 must agree to 1e-12 of the largest entry. In float32 (u = 2⁻²⁴) a logit is off by
Δz ≤ (H + 2)u·(Σ|h||W| + |bias|); in bfloat16 the factors are exact in float32 and the logit is
rounded once, 2⁻⁸ of it, as is the bias. The loss follows by |ℓ'|·Δz and δ by |ℓ''|·Δz, with the
sweep's own 328u and 322u of the terms (test_poisson_nll_cuda.py) and δ's rounding, 2⁻⁸ again. The
logits drawn lie within ±3 and y is 1 or 4: λ and |ℓ'| are at most 24, |ℓ''| and the derivative's
terms twice and the loss's terms four times that. Products add (n + 2)u of the sums of sizes, and
gradients stored in bfloat16 are rounded twice more.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from problems import linear_poisson_nll as problem
from problems.common import U_RESULT
from problems.linear_poisson_nll import (
    REDUCTIONS,
    Problem,
    assert_gradients_pass_gradcheck,
    assert_op_passes_opcheck,
    bounds,
    run,
)

from kernomics.ops import linear_poisson_nll, reference

pytestmark = pytest.mark.gpu

draw = partial(problem.draw, panels_in_turn=True)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("chunk_genes", [7, 130, 10_000])
@pytest.mark.parametrize("genes", [1, 33, 1500])
def test_in_float64_it_is_the_reference(
    genes: int, chunk_genes: int, sparse: bool, reduction: str
) -> None:
    for i, (activation, kind) in enumerate((("rectified_tanh", "counts"), ("softplus", "log1p"))):
        p = draw(20, genes, 32, bias=i == 0, seed=genes)
        options: dict[str, Any] = {"activation": activation, "target_kind": kind}
        options |= {"reduction": reduction, "full": i == 1}
        expected = run(reference.linear_poisson_nll, p, p.target, **options,
                       observed=p.observed)  # fmt: skip
        q = p.to("cuda")
        target = q.target.to_sparse_csr() if sparse else q.target
        found = run(linear_poisson_nll, q, target, chunk_mb=chunk_genes * 20 * 8e-6, **options,
                    observed=q.observed)  # fmt: skip
        for name, value in expected.items():
            size = float(value.abs().max())
            torch.testing.assert_close(found[name].cpu(), value, rtol=1e-12, atol=1e-12 * size)


@pytest.mark.parametrize("weight", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("hidden", [torch.float32, torch.bfloat16, "autocast"])
@pytest.mark.parametrize("activation", ["rectified_tanh", "exp"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("sparse", [True, False])
def test_lower_precision_stays_within_its_bounds(
    sparse: bool, reduction: str, activation: str, hidden: Any, weight: torch.dtype
) -> None:
    exact = draw(40, 1700, 48).to(torch.bfloat16).to(torch.float64)  # exact in every dtype
    single = torch.float32 if hidden == "autocast" else hidden
    p = Problem(exact.hidden.to(single), exact.weight.to(weight), exact.bias.to(weight),
                exact.target.float(), exact.observed).to("cuda")  # fmt: skip
    options: dict[str, Any] = {
        "activation": activation, "target_kind": "counts", "reduction": reduction,
    }  # fmt: skip
    library = torch.full((40,), 1e5)  # y = 1 + count
    target = p.target.to_sparse_csr() if sparse else p.target
    with torch.autocast("cuda", torch.bfloat16, enabled=hidden == "autocast"):
        found = run(linear_poisson_nll, p, target, chunk_mb=0.03, library=library.cuda(), **options)
    expected = run(reference.linear_poisson_nll, exact, exact.target, library=library, **options)
    assert found["loss"].dtype == torch.float32
    narrow = torch.float32 if hidden == torch.float32 else torch.bfloat16
    half = U_RESULT.get(narrow, 0.0)
    for name, bound in bounds(exact, reduction, sweep=322, half=half).items():
        value = found[name]
        if name != "loss":
            assert value.dtype == (single if name == "hidden" else weight)
        # Rounded when it is stored, before or in its dtype, and when it is multiplied by 0.5.
        if torch.bfloat16 in (value.dtype, narrow) and name != "loss":
            bound = bound + 3 * 2.0**-8 * (expected[name].abs() + bound)
        error = (value.cpu().double() - expected[name]).abs()
        assert bool((error <= bound + 2.0**-24).all()), f"{name}: error {error.max()}"


def test_every_run_gives_the_same_bits() -> None:
    p = draw(512, 3000, 64).to(torch.bfloat16).to("cuda")
    target = p.target.float().to_sparse_csr()
    first = run(linear_poisson_nll, p, target, chunk_mb=1)
    for _ in range(5):
        found = run(linear_poisson_nll, p, target, chunk_mb=1)
        torch.testing.assert_close(found, first, rtol=0, atol=0)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("sparse", [True, False])
def test_gradients_pass_gradcheck(sparse: bool, reduction: str) -> None:
    assert_gradients_pass_gradcheck(draw(3, 8, 4).to("cuda"), reduction, sparse)


def test_memory_is_one_chunk_and_the_gradients() -> None:
    cells, genes, width = 2048, 100_000, 8  # the logits: 820 MB
    hidden = torch.ones((cells, width), device="cuda", requires_grad=True)
    weight = torch.zeros((genes, width), device="cuda", requires_grad=True)
    nothing = torch.sparse_csr_tensor(
        torch.zeros(cells + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64),
        torch.zeros(0), (cells, genes), device="cuda",
    )  # fmt: skip
    linear_poisson_nll(hidden, weight, None, nothing).backward()  # torch's workspaces
    hidden.grad = weight.grad = None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss = linear_poisson_nll(hidden, weight, None, nothing, activation="exp")
    loss.backward()
    assert torch.cuda.max_memory_allocated() - before < 64e6
    assert loss == 1.0


def test_a_cuda_graph_replays_forward_and_backward() -> None:
    p = draw(64, 700, 32).to(torch.bfloat16).to("cuda")
    target = p.target.float().to_sparse_csr()
    options: dict[str, Any] = {"chunk_mb": 0.03, "reduction": "mean"}
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):
        run(linear_poisson_nll, p, target, **options)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(linear_poisson_nll, p, target, **options)
    p.hidden.neg_()
    graph.replay()
    expected = run(linear_poisson_nll, p, target, **options)
    torch.testing.assert_close(captured, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("sparse", [True, False])
def test_the_registered_op_passes_opcheck(sparse: bool, dtype: torch.dtype) -> None:
    p = draw(4, 20, 6).to(dtype).to("cuda")
    counts = p.target.to(torch.float32 if dtype == torch.bfloat16 else dtype)
    assert_op_passes_opcheck(p, counts, sparse)
