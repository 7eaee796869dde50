"""A layer and targets of linear_poisson_nll, and how far from its meaning a result may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernomics.ops import ObservedGenes, linear_poisson_nll
from problems.common import Movable, Results, draw_panels

OP = torch.ops.kernomics.linear_poisson_nll.default
REDUCTIONS = ["mean", "genes", "sum", "cell"]


@dataclass(frozen=True)
class Problem(Movable):
    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    target: Tensor
    observed: ObservedGenes


def draw(
    cells: int,
    genes: int,
    width: int,
    *,
    bias: bool = True,
    panels_in_turn: bool = False,
    seed: int = 0,
) -> Problem:
    """Draw a layer whose logits lie within ±3, and counts of 3 among zeros."""
    g = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return 2 * torch.rand(shape, generator=g, dtype=torch.float64) - 1

    counts = 3 * (torch.rand((cells, genes), generator=g, dtype=torch.float64) < 0.2).double()
    panels = draw_panels(cells, genes, None if panels_in_turn else g)
    return Problem(
        uniform(cells, width),
        uniform(genes, width) * 2 / max(1, width),
        uniform(genes) if bias else None,
        counts,
        panels,
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


def bounds(p: Problem, reduction: str, *, sweep: int, half: float = 0.0) -> Results:
    """Bound the errors in float32, from the text at the head of the test that asks.

    `sweep` is the roundoff of the derivative's terms; `half` that of the logits and of δ where they
    are stored in bfloat16.
    """
    u, top = 2.0**-24, 24.0
    cells, genes = p.target.shape
    h, w = p.hidden.abs(), p.weight.abs()
    logit = h @ w.T + (0 if p.bias is None else p.bias.abs())
    dz = ((p.hidden.shape[1] + 2) * u + 2 * half) * logit
    loss = top * dz + 328 * u * 4 * top
    delta = 2 * top * dz + (sweep * u + half) * 2 * top
    size = torch.full_like(delta, top)
    scale = 0.5 / {"sum": 1, "mean": cells * genes}[reduction]
    return {
        "loss": 2 * scale * loss.sum(),
        "hidden": scale * (delta @ w + (genes + 4) * u * size @ w),
        "weight": scale * (delta.T @ h + (cells + 4) * u * size.T @ h),
        "bias": scale * (delta.sum(0) + (cells + 4) * u * size.sum(0)),
    }


def assert_gradients_pass_gradcheck(p: Problem, reduction: str, sparse: bool) -> None:
    target = p.target.to_sparse_csr() if sparse else p.target
    assert p.bias is not None

    def f(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        options = {"observed": p.observed, "reduction": reduction, "chunk_mb": 1e-4}
        return linear_poisson_nll(hidden, weight, bias, target, **options)

    leaves = [t.detach().requires_grad_() for t in (p.hidden, p.weight, p.bias)]
    assert torch.autograd.gradcheck(f, leaves)


def assert_op_passes_opcheck(p: Problem, counts: Tensor, sparse: bool) -> None:
    """Check the op on p, with the counts in place of its target where they are sparse."""
    csr = counts.to_sparse_csr()
    stored = tuple(t.clone() for t in (csr.values(), csr.crow_indices(), csr.col_indices()))
    parts = stored if sparse else (p.target, None, None)
    panels = p.observed.panel_id, p.observed.mask, p.observed.counts
    problem = (*parts, None, *panels, "rectified_tanh", "counts", 1e5, 1e-8, False)
    layer = p.hidden, p.weight, p.bias
    torch.library.opcheck(OP, (*layer, *problem, "mean", None, 1e-4, True, True, True))
    torch.library.opcheck(OP, (*layer, *problem, "mean", None, 1e-4, False, True, False))
    above = torch.ones(len(p.hidden), device=counts.device, dtype=counts.dtype)
    torch.library.opcheck(OP, (*layer, *problem, "cell", above, 1e-4, True, True, True))
