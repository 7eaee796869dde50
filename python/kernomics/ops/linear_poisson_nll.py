"""linear_poisson_nll: a decoder's last layer and the Poisson loss without the logits of all genes.

Genes are taken in chunks: the product of the chunk's logits, one sweep that turns them into
gradients where they stand, and the two products of backward. Each row of the weight's gradient is
then written once. Chunks of cells would read and write it all for every chunk, and tiny chunks
would starve the products.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ._common import LIBRARY, SparseRows, require_float, require_same_device
from ._poisson import (
    PROBLEM_SCHEMA,
    REDUCTIONS,
    ObservedGenes,
    Prepared,
    Problem,
    checked_problem,
    compute_dtype,
    scaled,
)

# Gradients are those of the reduced loss, or with `upstream` [B] those of Σ_b upstream_b·loss_b;
# empty if not wanted.
LIBRARY.define(
    f"linear_poisson_nll(Tensor hidden, Tensor weight, Tensor? bias, {PROBLEM_SCHEMA}, "
    "str reduction, Tensor? upstream, int chunk_genes, bool want_hidden, bool want_weight, "
    "bool want_bias) -> (Tensor loss, Tensor grad_hidden, Tensor grad_weight, Tensor grad_bias)"
)

ALIGNMENT = 16  # numbers; 64 bytes of float32
Results = tuple[Tensor, Tensor, Tensor, Tensor]


@torch.no_grad()
def _cpu(hidden: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Results:
    *fields, reduction, upstream, chunk_genes, want_hidden, want_weight, want_bias = options
    problem = Problem(*fields)
    dtype = problem.target.dtype
    cells, genes = len(hidden), len(weight)
    prepared = Prepared(problem, (cells, genes), reduction)
    if upstream is not None:
        prepared.weights *= upstream
    h = hidden.to(dtype)
    grad_hidden = torch.zeros_like(h) if want_hidden else h.new_empty((0, 0))
    grad_weight = weight.new_empty(weight.shape if want_weight else (0, 0))
    grad_bias = weight.new_empty(genes if want_bias else 0, dtype=dtype)
    # Rows of a whole number of cache lines: others made the product of the logits 40 % slower.
    room = h.new_empty(cells, math.ceil(min(chunk_genes, genes) / ALIGNMENT) * ALIGNMENT)
    ones = h.new_ones(cells)
    for first in range(0, genes, chunk_genes):
        chunk = slice(first, min(first + chunk_genes, genes))
        w = weight[chunk].to(dtype)
        z = room[:, : len(w)]
        if bias is None:
            torch.mm(h, w.t(), out=z)
        else:
            torch.addmm(bias[chunk].to(dtype), h, w.t(), out=z)
        delta = z  # written over the logits
        prepared.sweep(
            z, first, gradient=delta if want_hidden or want_weight or want_bias else None
        )
        if want_weight and weight.dtype == dtype:
            torch.mm(delta.t(), h, out=grad_weight[chunk])
        elif want_weight:
            grad_weight[chunk] = delta.t() @ h
        if want_bias:
            torch.mv(delta.t(), ones, out=grad_bias[chunk])
        if want_hidden:
            grad_hidden.addmm_(delta, w)
    if bias is not None:
        grad_bias = grad_bias.to(bias.dtype)
    loss = prepared.result(reduction, dtype)
    return loss, grad_hidden.to(hidden.dtype), grad_weight, grad_bias


def _fake(hidden: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Results:
    *fields, reduction, _, _, want_hidden, want_weight, want_bias = options
    target = Problem(*fields).target
    return (
        target.new_empty((hidden.shape[0],) if reduction == "cell" else ()),
        hidden.new_empty(hidden.shape if want_hidden else (0, 0)),
        weight.new_empty(weight.shape if want_weight else (0, 0)),
        (target if bias is None else bias).new_empty(weight.shape[0] if want_bias else 0),
    )


LIBRARY.impl("linear_poisson_nll", _cpu, "CPU")
torch.library.register_fake("kernomics::linear_poisson_nll", _fake, lib=LIBRARY)


class _LinearPoissonNLL(torch.autograd.Function):
    """The loss as one number: forward makes the gradients too."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        reduction: str,
        chunk_genes: int,
        wanted: tuple[bool, bool, bool],
        *fields: Any,
    ) -> Tensor:
        loss: Tensor
        loss, *gradients = torch.ops.kernomics.linear_poisson_nll(
            hidden, weight, bias, *fields, reduction, None, chunk_genes, *wanted
        )
        ctx.save_for_backward(*gradients)
        ctx.wanted = wanted
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        gradients = [
            scaled(gradient, upstream.to(gradient.dtype)) if want else None
            for gradient, want in zip(ctx.saved_tensors, ctx.wanted, strict=True)
        ]
        return *gradients, None, None, None, *[None] * len(Problem._fields)


class _LinearPoissonNLLByCell(torch.autograd.Function):
    """The loss of each cell: what comes from above weighs the cells, so backward computes again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        chunk_genes: int,
        wanted: tuple[bool, bool, bool],
        *fields: Any,
    ) -> Tensor:
        problem = Problem(*fields)
        ctx.save_for_backward(hidden, weight, bias, *problem[:7])
        ctx.options, ctx.chunk_genes, ctx.wanted = problem[7:], chunk_genes, wanted
        loss: Tensor
        loss, *_ = torch.ops.kernomics.linear_poisson_nll(
            hidden, weight, bias, *problem, "cell", None, chunk_genes, False, False, False
        )
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        _, *gradients = torch.ops.kernomics.linear_poisson_nll(
            *ctx.saved_tensors, *ctx.options, "cell", upstream, ctx.chunk_genes, *ctx.wanted
        )
        gradients = [g if want else None for g, want in zip(gradients, ctx.wanted, strict=True)]
        return *gradients, None, None, *[None] * len(Problem._fields)


def _genes_per_chunk(cells: int, genes: int, chunk_mb: float, dtype: torch.dtype) -> int:
    """Return how many genes' logits fit, so that all chunks are about equal."""
    at_most = max(1, int(chunk_mb * 1e6) // (max(1, cells) * dtype.itemsize))
    return max(1, math.ceil(genes / max(1, math.ceil(genes / at_most))))


def _check_layer(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if hidden.dim() != 2:
        raise ValueError(f"hidden has shape {tuple(hidden.shape)}; [cells, H] is needed")
    if weight.dim() != 2 or weight.shape[1] != hidden.shape[1]:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)} and hidden {tuple(hidden.shape)}; a weight "
            f"[genes, {hidden.shape[1]}] is needed"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias has shape {tuple(bias.shape)}; [{len(weight)}] is needed")
    for name, tensor in (("hidden", hidden), ("weight", weight), ("bias", bias)):
        if tensor is not None:
            require_float(tensor, name)
    require_same_device(weight, "weight", hidden=hidden, bias=bias)


def linear_poisson_nll(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor | SparseRows,
    *,
    activation: str = "rectified_tanh",
    target_kind: str = "log1p",
    library: Tensor | None = None,
    target_sum: float = 1e5,
    observed: ObservedGenes | None = None,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
    chunk_mb: float = 32,
) -> Tensor:
    r"""Compute a linear layer and the Poisson loss of its outputs without holding them.

    .. math:: z_b = W h_b + \mathrm{bias}, \quad ℓ_{bi} = e^{φ(z_{bi})} - y_{bi}\,φ(z_{bi})

    and with δ the gradient of z

    .. math:: ∂W = δ^\top h, \quad ∂\mathrm{bias} = Σ_b δ_b, \quad ∂h = δ W.

    The same as :func:`poisson_nll` of ``hidden @ weight.T + bias``, with memory for one chunk of
    genes in place of two matrices [B, G]. A gradient that is needed is made with the loss, while
    the chunk's logits are there, and backward only multiplies by the gradient of the loss. With
    ``reduction="cell"`` that gradient weighs the cells, so backward computes the logits again.

    Sums are in float32 (float64 for float64) whatever the inputs' dtype; on the CPU a
    half-precision weight is widened chunk by chunk. Autocast changes nothing. The sweep gives the
    same bits for any number of threads; torch's matrix products do not promise it.

    Parameters
    ----------
    hidden
        h, [B, H].
    weight
        W, [G, H], as `torch.nn.Linear` stores it.
    bias
        [G] or None.
    target, activation, target_kind, library, target_sum, observed, full, eps
        As in :func:`poisson_nll`.
    reduction
        ``"mean"``, ``"genes"``, ``"sum"`` or ``"cell"``.
    chunk_mb
        Megabytes for the logits of a chunk. A few large chunks are fastest.

    Returns
    -------
    Tensor
        A number or [B]; float64 if hidden or weight are, else float32.

    Raises
    ------
    ValueError, TypeError, NotImplementedError
        As :func:`poisson_nll`; a weight or bias that does not fit.
    """
    _check_layer(hidden, weight, bias)
    if not chunk_mb > 0:
        raise ValueError(f"chunk_mb is {chunk_mb}; a positive number is needed")
    dtype = compute_dtype(hidden, weight)
    cells, genes = len(hidden), len(weight)
    problem = checked_problem(
        (cells, genes), weight, "weight", dtype, target,
        activation=activation, target_kind=target_kind, library=library, target_sum=target_sum,
        observed=observed, full=full, eps=eps, reduction=reduction, reductions=REDUCTIONS,
    )  # fmt: skip
    chunk_genes = _genes_per_chunk(cells, genes, chunk_mb, dtype)
    layer = (hidden, weight, bias)
    wanted = tuple(torch.is_grad_enabled() and t is not None and t.requires_grad for t in layer)
    loss: Tensor
    if not any(wanted):
        loss, *_ = torch.ops.kernomics.linear_poisson_nll(
            *layer, *problem, reduction, None, chunk_genes, False, False, False
        )
    elif reduction == "cell":
        loss = _LinearPoissonNLLByCell.apply(*layer, chunk_genes, wanted, *problem)
    else:
        loss = _LinearPoissonNLL.apply(*layer, reduction, chunk_genes, wanted, *problem)
    return loss
