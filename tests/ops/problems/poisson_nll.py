"""Logits and targets of poisson_nll, and how far from its meaning a result may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernomics.ops import ObservedGenes, reference
from problems import common
from problems.common import U_RESULT, unit_roundoff

LOG_RATES = ["rectified_tanh", "relu", "clamped_relu", "exp"]
ACTIVATIONS = [*LOG_RATES, "softplus", "identity"]
KINDS = ["log1p", "counts", "rate"]
REDUCTIONS = ["mean", "genes", "sum", "cell"]
LAYOUTS = {
    "dense": common.LAYOUTS["dense"],
    "genes_first": common.LAYOUTS["columns_first"],
    "every_other": common.LAYOUTS["every_other"],
    "csr": common.LAYOUTS["csr64"],
    "rows32": common.LAYOUTS["rows32"],
    "rows64": common.LAYOUTS["rows64"],
}
OPS = torch.ops.kernomics
TINY = {torch.float64: 1e-300}
REFERENCE_ERROR = 4 * 2.0**-53
Result = tuple[Tensor, Tensor]


def draw(
    cells: int,
    genes: int,
    activation: str,
    kind: str,
    density: float = 0.2,
    seed: int = 0,
    empty: int = 0,
) -> tuple[Tensor, Tensor]:
    """Draw logits, and counts up to 8 or log1p(10·count); the first cells may have none."""
    g = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 9, (cells, genes), generator=g).double()
    counts *= torch.rand((cells, genes), generator=g, dtype=torch.float64) < density
    counts[:empty] = 0
    z = torch.randn((cells, genes), generator=g, dtype=torch.float64).clamp(-4, 4)
    if activation == "identity":
        z = z.abs() + 0.05
    elif activation in ("rectified_tanh", "clamped_relu"):
        z = z * 12
    else:
        z = z * 3
    return z, torch.log1p(10 * counts) if kind == "log1p" else counts


def draw_panels(cells: int, genes: int, seed: int = 0) -> ObservedGenes:
    return common.draw_panels(cells, genes, torch.Generator().manual_seed(seed))


def run(
    function: Callable[..., Tensor],
    logits: Tensor,
    target: Any,
    above: Callable[[Tensor], Tensor] = torch.ones_like,
    **options: Any,
) -> Result:
    """Compute the loss and, with ones or something else above it, the gradient of the logits."""
    z = logits.detach().requires_grad_()
    loss = function(z, target, **options)
    (grad,) = torch.autograd.grad(loss, z, above(loss))
    return loss.detach(), grad


def sizes(z: Tensor, target: Tensor, unit: float, options: dict[str, Any]) -> Result:
    """Compute λ + (1 + |η|)·y and |φ'|·(λ + y), the sizes of the terms of loss and derivative."""
    activation, total = options["activation"], options.get("target_sum", 1e5)
    y = reference.target_rate(target, options["target_kind"], options.get("library"), total)
    z = z.clone().requires_grad_()
    if activation in LOG_RATES:
        eta = reference.log_rate(z, activation, total)
        (slope,) = torch.autograd.grad(eta.sum(), z, retain_graph=True)
        rate = eta.exp()
        terms = (slope.abs() + REFERENCE_ERROR / (320 * unit)) * (rate + y)
    else:
        rate = F.softplus(z) if activation == "softplus" else z + 0
        (slope,) = torch.autograd.grad(rate.sum(), z, retain_graph=True)
        guarded = rate + options.get("eps", 1e-8)
        eta, terms = guarded.log(), slope.abs() * (1 + y / guarded)
    size = rate + (1 + eta.abs()) * y
    if options.get("full"):
        size = size + (y + 1) * (y + 2).log()
    return size.detach(), terms.detach()


def assert_as_reference(
    found: Result,
    z: Tensor,
    target: Tensor,
    *,
    above: Callable[[Tensor], Tensor] = torch.ones_like,
    additions: int,
    products: int,
    roundings: int,
    **options: Any,
) -> None:
    """Compare with the reference on the same, already rounded, numbers in float64.

    The text at the head of the test that asks derives what comes to the terms' roundoff, in u: by a
    row's additions, by products after the slope, and by rounding a gradient to its dtype so often.
    """
    dtype = z.dtype
    u, tiny = unit_roundoff(dtype), TINY.get(dtype, 1e-37)
    z, target = z.double(), target.double()
    exact = run(reference.poisson_nll, z, target, above, **options)
    observed, reduction = options.get("observed"), options["reduction"]
    size, terms = sizes(z, target, u, options)
    bound = (260 + additions) * u * reference.reduce_loss(size, observed, reduction) + tiny
    error = (found[0].cpu().double() - exact[0]).abs()
    assert found[0].shape == exact[0].shape
    assert bool((error <= bound).all()), f"loss: error {error.max()}"
    _, weight = run(lambda x, _: reference.reduce_loss(x, observed, reduction), z, None, above)
    bound = (320 + products) * u * weight * terms + tiny
    bound += roundings * U_RESULT.get(dtype, 0.0) * (exact[1].abs() + bound)
    bound += 2.0**-24 if dtype == torch.float16 else 0
    largest = torch.finfo(dtype).max  # a gradient beyond it is infinite in its dtype
    expected = exact[1].clamp(-largest, largest)
    error = (found[1].cpu().double().clamp(-largest, largest) - expected).abs()
    assert bool((error <= bound).all()), f"gradient: error {error.max()}"


def assert_ops_pass_opcheck(z: Tensor, target: Tensor, p: ObservedGenes, layout: str) -> None:
    rows = common.as_rows(target)
    parts = (rows.values, rows.indptr, rows.indices) if layout == "rows32" else (target, None, None)
    library = torch.full((len(z),), 9.0, device=z.device).double()
    problem = (
        *parts, library, p.panel_id, p.mask, p.counts, "rectified_tanh", "counts", 1e5, 1e-8, False,
    )  # fmt: skip
    for reduction in REDUCTIONS:
        torch.library.opcheck(OPS.poisson_nll.default, (z, *problem, reduction, True))
    torch.library.opcheck(OPS.poisson_nll.default, (z, *problem, "mean", False))
    if layout == "dense":
        torch.library.opcheck(OPS.poisson_nll_each.default, (z, *problem))
        torch.library.opcheck(OPS.poisson_nll_each_backward.default, (z, z, *problem))
