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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from kernomics.ops import Panels, linear_poisson_nll, reference

pytestmark = pytest.mark.gpu

OP = torch.ops.kernomics.linear_poisson_nll.default
REDUCTIONS = ["mean", "genes", "sum", "cell"]
Results = dict[str, Tensor]


@dataclass(frozen=True)
class Problem:
    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    target: Tensor
    observed: Panels

    def to(self, where: torch.device | torch.dtype | str) -> Problem:
        layer = (t if t is None else t.to(where) for t in (self.hidden, self.weight, self.bias))
        hidden, weight, bias = layer
        observed = self.observed if isinstance(where, torch.dtype) else self.observed.to(where)
        assert hidden is not None
        assert weight is not None
        return Problem(hidden, weight, bias, self.target.to(where), observed)


def draw(cells: int, genes: int, width: int, *, bias: bool = True, seed: int = 0) -> Problem:
    """Draw a layer whose logits lie within ±3, and counts of 3 among zeros."""
    g = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return 2 * torch.rand(shape, generator=g, dtype=torch.float64) - 1

    counts = 3 * (torch.rand((cells, genes), generator=g, dtype=torch.float64) < 0.2).double()
    lists = [torch.arange(0, genes, 2), torch.arange(genes), torch.arange(0)]
    return Problem(
        uniform(cells, width),
        uniform(genes, width) * 2 / max(1, width),
        uniform(genes) if bias else None,
        counts,
        Panels.from_lists(lists, genes, torch.arange(cells) % 3),
    )


def run(function: Callable[..., Tensor], p: Problem, target: Any, **options: Any) -> Results:
    """Compute the loss and all gradients, cells weighing 1, 2, … where each has its loss."""
    leaves = {
        name: value.detach().requires_grad_()
        for name, value in (("hidden", p.hidden), ("weight", p.weight), ("bias", p.bias))
        if value is not None
    }
    layer = leaves["hidden"], leaves["weight"], leaves.get("bias")
    loss = function(*layer, target, **options)
    above = torch.arange(1, len(loss) + 1).to(loss) if loss.dim() else torch.full_like(loss, 0.5)
    grads = torch.autograd.grad(loss, list(leaves.values()), above)
    return {"loss": loss.detach(), **dict(zip(leaves, grads, strict=True))}


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


def bounds(p: Problem, dtype: torch.dtype, reduction: str) -> Results:
    """Bound the errors, from the module's text."""
    u, top = 2.0**-24, 24.0
    half = 2.0**-8 if dtype == torch.bfloat16 else 0.0
    cells, genes = p.target.shape
    h, w = p.hidden.abs(), p.weight.abs()
    logit = h @ w.T + (0 if p.bias is None else p.bias.abs())
    dz = ((p.hidden.shape[1] + 2) * u + 2 * half) * logit
    loss = top * dz + 328 * u * 4 * top
    delta = 2 * top * dz + (322 * u + half) * 2 * top
    size = torch.full_like(delta, top)
    scale = 0.5 / {"sum": 1, "mean": cells * genes}[reduction]
    return {
        "loss": 2 * scale * loss.sum(),
        "hidden": scale * (delta @ w + (genes + 4) * u * size @ w),
        "weight": scale * (delta.T @ h + (cells + 4) * u * size.T @ h),
        "bias": scale * (delta.sum(0) + (cells + 4) * u * size.sum(0)),
    }


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
    for name, bound in bounds(exact, narrow, reduction).items():
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
    p = draw(3, 8, 4).to("cuda")
    target = p.target.to_sparse_csr() if sparse else p.target
    assert p.bias is not None

    def f(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        options = {"observed": p.observed, "reduction": reduction, "chunk_mb": 1e-4}
        return linear_poisson_nll(hidden, weight, bias, target, **options)

    leaves = [t.detach().requires_grad_() for t in (p.hidden, p.weight, p.bias)]
    assert torch.autograd.gradcheck(f, leaves)


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
    csr = p.target.to(torch.float32 if dtype == torch.bfloat16 else dtype).to_sparse_csr()
    stored = tuple(t.clone() for t in (csr.values(), csr.crow_indices(), csr.col_indices()))
    parts = stored if sparse else (p.target, None, None)
    panels = p.observed.panel_id, p.observed.mask, p.observed.counts
    problem = (*parts, None, *panels, "rectified_tanh", "counts", 1e5, 1e-8, False)
    layer = p.hidden, p.weight, p.bias
    torch.library.opcheck(OP, (*layer, *problem, "mean", None, 7, True, True, True))
    torch.library.opcheck(OP, (*layer, *problem, "mean", None, 7, False, True, False))
    above = torch.ones(4, device="cuda", dtype=stored[0].dtype)
    torch.library.opcheck(OP, (*layer, *problem, "cell", above, 7, True, True, True))
