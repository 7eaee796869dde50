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

from ._common import LIBRARY, SparseRows, as_dtype, as_float, require_float, require_same_device
from ._derivatives import apply, call, differentiates, once, register
from ._kinds import require_given, require_numbers, require_tensors
from ._poisson import (
    PROBLEM_SCHEMA,
    REDUCTIONS,
    ObservedGenes,
    Problem,
    checked_problem,
    compute_dtype,
)
from ._poisson_kernels import on_its_device, prepare, product, scaled

# Gradients are those of the reduced loss, or with `upstream` [B] those of Σ_b upstream_b·loss_b;
# empty if not wanted.
LIBRARY.define(
    f"linear_poisson_nll(Tensor hidden, Tensor weight, Tensor? bias, {PROBLEM_SCHEMA}, "
    "str reduction, Tensor? upstream, float chunk_mb, bool want_hidden, bool want_weight, "
    "bool want_bias) -> (Tensor loss, Tensor grad_hidden, Tensor grad_weight, Tensor grad_bias)"
)

ALIGNMENT = 16  # numbers; 64 bytes of float32
CUDA_TILE = 128  # genes that a product takes at a time
Results = tuple[Tensor, Tensor, Tensor, Tensor]


def _aligned(genes: int) -> int:
    return math.ceil(genes / ALIGNMENT) * ALIGNMENT


def _genes_per_chunk(
    cells: int, genes: int, chunk_mb: float, dtype: torch.dtype, multiple: int = 1
) -> int:
    """Return how many genes' logits fit, so that all chunks are about equal.

    Where they are many, a multiple of a number.
    """
    at_most = max(1, int(chunk_mb * 1e6) // (max(1, cells) * dtype.itemsize))
    equal = max(1, math.ceil(genes / max(1, math.ceil(genes / at_most))))
    return min(at_most // multiple, math.ceil(equal / multiple)) * multiple or equal


@torch.no_grad()
def _cpu(hidden: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Results:
    *fields, reduction, upstream, chunk_mb, want_hidden, want_weight, want_bias = options
    problem = Problem(*fields)
    dtype = problem.target.dtype
    cells, genes = len(hidden), len(weight)
    chunk_genes = _genes_per_chunk(cells, genes, chunk_mb, dtype)
    prepared = prepare(problem, (cells, genes), reduction)
    if upstream is not None:
        prepared.weights.mul_(upstream)
    h = as_dtype(hidden, dtype)
    grad_hidden = torch.zeros_like(h) if want_hidden else h.new_empty((0, 0))
    grad_weight = weight.new_empty(weight.shape if want_weight else (0, 0))
    grad_bias = weight.new_empty(genes if want_bias else 0, dtype=dtype)
    # Rows of a whole number of cache lines: others made the product of the logits 40 % slower.
    room = h.new_empty(cells, _aligned(min(chunk_genes, genes)))
    ones = h.new_ones(cells) if want_bias else h
    for first in range(0, genes, chunk_genes):
        chunk = slice(first, min(first + chunk_genes, genes))
        w = as_dtype(weight if chunk_genes >= genes else weight[chunk], dtype)
        z = room[:, : len(w)]
        if bias is None:
            torch.mm(h, w.t(), out=z)
        else:
            torch.addmm(as_dtype(bias[chunk], dtype), h, w.t(), out=z)
        delta = z  # written over the logits
        prepared.sweep(
            z, first, gradient=delta if want_hidden or want_weight or want_bias else None
        )
        if want_weight:
            product(delta.t(), h, grad_weight[chunk])
        if want_bias:
            torch.mv(delta.t(), ones, out=grad_bias[chunk])
        if want_hidden:
            grad_hidden.addmm_(delta, w)
    if bias is not None:
        grad_bias = as_dtype(grad_bias, bias.dtype)
    loss = prepared.result(reduction, dtype)
    if not (bool(loss.isfinite().all()) if loss.dim() else math.isfinite(loss.item())):
        _raise_overflow(hidden, weight, bias)
    return loss, as_dtype(grad_hidden, hidden.dtype), grad_weight, grad_bias


def _raise_overflow(*layer: Tensor | None) -> None:
    """Raise if the layer that led to a loss beyond bounds is finite itself."""
    if all(t is None or bool(t.isfinite().all()) for t in layer):
        raise ValueError(
            "finite hidden, weight and bias have logits or a loss that are not finite; scale them "
            "down, or use an activation without overflow (rectified_tanh)"
        )


def _product_dtype(hidden: Tensor, problem: Problem) -> torch.dtype:
    """Return what dtype products on CUDA run in: that of hidden, but float32 for float16."""
    if problem.target.dtype == torch.float64 or hidden.dtype == torch.float16:
        return compute_dtype(problem.target)
    return hidden.dtype


@torch.no_grad()
def _cuda(hidden: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Results:
    *fields, reduction, upstream, chunk_mb, want_hidden, want_weight, want_bias = options
    problem = Problem(*fields)
    dtype, wide = _product_dtype(hidden, problem), compute_dtype(problem.target)
    cells, genes = len(hidden), len(weight)
    chunk_genes = _genes_per_chunk(cells, genes, chunk_mb, dtype, CUDA_TILE)
    prepared = prepare(problem, (cells, genes), reduction, chunk_genes)
    if upstream is not None:
        prepared.weights.mul_(upstream)
    h = hidden.to(dtype)
    grad_hidden = h.new_zeros(h.shape if want_hidden else (0, 0), dtype=wide)
    grad_weight = weight.new_empty(weight.shape if want_weight else (0, 0))
    grad_bias = h.new_empty(genes if want_bias else 0, dtype=wide)
    room = h.new_empty(cells * _aligned(min(chunk_genes, genes)))
    for first in range(0, genes, chunk_genes):
        chunk = slice(first, min(first + chunk_genes, genes))
        w = weight[chunk].to(dtype)
        # Without a gap between rows, of a whole number of words, the product adds the bias itself.
        z = room[: cells * _aligned(len(w))].view(cells, _aligned(len(w)))[:, : len(w)]
        if bias is None:
            torch.mm(h, w.t(), out=z)
        else:
            torch.addmm(bias[chunk].to(dtype), h, w.t(), out=z)
        delta = z  # written over the logits
        prepared.sweep(
            z, first, gradient=delta if want_hidden or want_weight or want_bias else None
        )
        if want_weight:
            product(delta.t(), h, grad_weight[chunk])
        if want_bias:
            torch.sum(delta, 0, dtype=wide, out=grad_bias[chunk])
        if want_hidden:
            product(delta, w, grad_hidden, add=True)
    if bias is not None:
        grad_bias = grad_bias.to(bias.dtype)
    loss = prepared.result(reduction, wide)
    return loss, grad_hidden.to(hidden.dtype), grad_weight, grad_bias


def _fake(hidden: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Results:
    *fields, reduction, _, _, want_hidden, want_weight, want_bias = options
    target = Problem(*fields).target
    wide = compute_dtype(target)
    return (
        target.new_empty((hidden.shape[0],) if reduction == "cell" else (), dtype=wide),
        hidden.new_empty(hidden.shape if want_hidden else (0, 0)),
        weight.new_empty(weight.shape if want_weight else (0, 0)),
        weight.new_empty(
            weight.shape[0] if want_bias else 0, dtype=wide if bias is None else bias.dtype
        ),
    )


register("linear_poisson_nll", "linear_poisson_nll", _cpu, on_its_device(_cuda), _fake)


class _LinearPoissonNLL(torch.autograd.Function):
    """The loss as one number: forward makes the gradients too."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        reduction: str,
        chunk_mb: float,
        wanted: tuple[bool, bool, bool],
        *fields: Any,
    ) -> Tensor:
        loss: Tensor
        loss, *gradients = call(
            torch.ops.kernomics.linear_poisson_nll,
            hidden,
            weight,
            bias,
            *fields,
            reduction,
            None,
            chunk_mb,
            *wanted,
        )
        ctx.save_for_backward(*gradients, hidden, weight, bias)  # the inputs for `once` alone
        ctx.wanted = wanted
        return loss

    @staticmethod
    @once("linear_poisson_nll")
    def backward(ctx: Any, upstream: Tensor) -> Any:
        gradients = [
            scaled(gradient, upstream) if want else None
            for gradient, want in zip(ctx.saved_tensors[:3], ctx.wanted, strict=True)
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
        chunk_mb: float,
        wanted: tuple[bool, bool, bool],
        *fields: Any,
    ) -> Tensor:
        problem = Problem(*fields)
        ctx.save_for_backward(hidden, weight, bias, *problem[:7])
        ctx.options, ctx.chunk_mb, ctx.wanted = problem[7:], chunk_mb, wanted
        loss: Tensor
        loss, *_ = call(
            torch.ops.kernomics.linear_poisson_nll,
            hidden,
            weight,
            bias,
            *problem,
            "cell",
            None,
            chunk_mb,
            False,
            False,
            False,
        )
        return loss

    @staticmethod
    @once("linear_poisson_nll")
    def backward(ctx: Any, upstream: Tensor) -> Any:
        _, *gradients = call(
            torch.ops.kernomics.linear_poisson_nll,
            *ctx.saved_tensors,
            *ctx.options,
            "cell",
            upstream,
            ctx.chunk_mb,
            *ctx.wanted,
        )
        gradients = [g if want else None for g, want in zip(gradients, ctx.wanted, strict=True)]
        return *gradients, None, None, *[None] * len(Problem._fields)


def _as_autocast(hidden: Tensor) -> Tensor:
    """Return hidden in bfloat16 where autocast on CUDA asks for it."""
    if not hidden.is_cuda or not torch.is_autocast_enabled("cuda"):
        return hidden
    wanted = torch.get_autocast_dtype("cuda")
    narrower = wanted == torch.bfloat16 and hidden.dtype == torch.float32
    return hidden.to(wanted) if narrower else hidden


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
    half-precision weight is widened chunk by chunk, and autocast changes nothing. On CUDA products
    run in bfloat16 where hidden is bfloat16, or float32 under a bfloat16 autocast: logits and δ are
    rounded to it, the weight is converted chunk by chunk, the gradient of hidden is added up in
    float32, and that of a float32 weight is not rounded. Float16 is computed in float32, as a
    mean's gradient would vanish in it. The sweep gives the same bits on every run, for any number
    of threads; torch's matrix products do not promise it.

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
        Megabytes for the logits of a chunk. A few large chunks are fastest; on CUDA they should fit
        the L2 cache.

    Returns
    -------
    Tensor
        A number or [B]; float64 if hidden or weight are, else float32.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As :func:`poisson_nll`; a weight or bias that does not fit.
    """
    require_given(hidden=hidden, weight=weight)
    require_tensors(bias=bias)
    require_numbers(chunk_mb=chunk_mb)
    _check_layer(hidden, weight, bias)
    if not 0 < chunk_mb < float("inf"):
        raise ValueError(f"chunk_mb is {chunk_mb}; a positive number is needed")
    hidden = _as_autocast(hidden)
    dtype = compute_dtype(hidden, weight)
    cells, genes = hidden.shape[0], weight.shape[0]
    narrow = None
    if hidden.is_cuda and hidden.dtype == torch.bfloat16 and dtype == torch.float32:
        narrow = hidden.dtype
    problem = checked_problem(
        (cells, genes), weight, "weight", dtype, target,
        activation=activation, target_kind=target_kind, library=library, target_sum=target_sum,
        observed=observed, full=full, eps=eps, reduction=reduction, reductions=REDUCTIONS,
        narrow=narrow,
    )  # fmt: skip
    chunk_mb = as_float(chunk_mb)
    layer = (hidden, weight, bias)
    wanted = tuple(differentiates(t) for t in layer)
    loss: Tensor
    if not any(wanted):
        loss, *_ = call(
            torch.ops.kernomics.linear_poisson_nll,
            *layer,
            *problem,
            reduction,
            None,
            chunk_mb,
            False,
            False,
            False,
        )
    elif reduction == "cell":
        loss = apply(
            "linear_poisson_nll", _LinearPoissonNLLByCell, *layer, chunk_mb, wanted, *problem
        )
    else:
        loss = apply(
            "linear_poisson_nll", _LinearPoissonNLL, *layer, reduction, chunk_mb, wanted, *problem
        )
    return loss
