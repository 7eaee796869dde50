"""poisson_nll: a decoder's activation, the Poisson loss and its gradient in one sweep."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._common import LIBRARY, SparseRows, as_dtype, require_float
from ._derivatives import apply, call, differentiates, register, wants_graph
from ._kinds import require_given
from ._poisson import (
    PROBLEM_SCHEMA,
    REDUCTIONS,
    ObservedGenes,
    Problem,
    checked_problem,
    compute_dtype,
)
from ._poisson_kernels import on_its_device, prepare, scaled
from ._poisson_slope import gradient_again

# The gradient is that of the reduced loss, or of each cell's own; empty if it is not wanted.
LIBRARY.define(
    f"poisson_nll(Tensor logits, {PROBLEM_SCHEMA}, str reduction, bool want_gradient)"
    " -> (Tensor loss, Tensor gradient)"
)
# The loss of each cell and gene.
LIBRARY.define(f"poisson_nll_each(Tensor logits, {PROBLEM_SCHEMA}) -> Tensor")
LIBRARY.define(
    f"poisson_nll_each_backward(Tensor upstream, Tensor logits, {PROBLEM_SCHEMA}) -> Tensor"
)


def _rows_in_place(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(1) == 1 else tensor.contiguous()


def _shape(logits: Tensor) -> tuple[int, int]:
    return logits.shape[0], logits.shape[1]


def _sums(logits: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    *fields, reduction, want_gradient = options
    logits = _rows_in_place(logits)
    prepared = prepare(Problem(*fields), _shape(logits), reduction)
    gradient = logits.new_empty(logits.shape if want_gradient else (0, 0))
    prepared.sweep(logits, gradient=gradient if want_gradient else None)
    return prepared.result(reduction, compute_dtype(logits)), gradient


def _each(logits: Tensor, *fields: Any) -> Tensor:
    logits = _rows_in_place(logits)
    loss = logits.new_empty(logits.shape, dtype=compute_dtype(logits))
    prepare(Problem(*fields), _shape(logits), "sum").sweep(logits, loss=loss)
    return loss


def _each_backward(upstream: Tensor, logits: Tensor, *fields: Any) -> Tensor:
    logits, upstream = _rows_in_place(logits), _rows_in_place(upstream)
    gradient = logits.new_empty(logits.shape)
    prepared = prepare(Problem(*fields), _shape(logits), "sum")
    prepared.sweep(logits, gradient=gradient, upstream=upstream)
    return gradient


def _sums_fake(logits: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    *_, reduction, want_gradient = options
    shape = logits.shape[:1] if reduction == "cell" else ()
    loss = logits.new_empty(shape, dtype=compute_dtype(logits))
    return loss, logits.new_empty(logits.shape if want_gradient else (0, 0))


def _each_fake(logits: Tensor, *_fields: Any) -> Tensor:
    return logits.new_empty(logits.shape, dtype=compute_dtype(logits))


def _each_backward_fake(_upstream: Tensor, logits: Tensor, *_fields: Any) -> Tensor:
    return logits.new_empty(logits.shape)


for _name, _function, _fake in (
    ("poisson_nll", _sums, _sums_fake),
    ("poisson_nll_each", _each, _each_fake),
    ("poisson_nll_each_backward", _each_backward, _each_backward_fake),
):
    register(_name, "poisson_nll", _function, on_its_device(_function), _fake)


class _PoissonNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, reduction: str, *fields: Any) -> Tensor:
        loss: Tensor
        loss, gradient = call(torch.ops.kernomics.poisson_nll, logits, *fields, reduction, True)
        problem = Problem(*fields)
        ctx.save_for_backward(gradient, logits, *problem[:7])
        ctx.reduction, ctx.options = reduction, problem[7:]
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        gradient, logits, *tensors = ctx.saved_tensors
        if wants_graph():
            problem = Problem(*tensors, *ctx.options)
            found = gradient_again(upstream, logits, problem, ctx.reduction)
        else:
            found = scaled(gradient, upstream)
        return found, None, *[None] * len(Problem._fields)


class _PoissonNLLEach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, *fields: Any) -> Tensor:
        problem = Problem(*fields)
        ctx.save_for_backward(logits, *problem[:7])
        ctx.options = problem[7:]
        loss: Tensor = call(torch.ops.kernomics.poisson_nll_each, logits, *problem)
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        logits, *tensors = ctx.saved_tensors
        if wants_graph():
            found = gradient_again(upstream, logits, Problem(*tensors, *ctx.options), "none")
        else:
            found = call(
                torch.ops.kernomics.poisson_nll_each_backward,
                upstream,
                logits,
                *tensors,
                *ctx.options,
            )
        return found, *[None] * len(Problem._fields)


def poisson_nll(
    logits: Tensor,
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
) -> Tensor:
    r"""Compute the Poisson loss of logits, their activation included, in one sweep.

    The logit z of a cell and gene gives the log-rate η = φ(z), or the rate λ(z) itself; the target
    gives the rate y. The loss and its gradient are

    .. math:: ℓ = e^{φ(z)} - y\,φ(z), \quad ∂ℓ/∂z = φ'(z)\,(e^{φ(z)} - y)

    or, where the activation gives the rate,

    .. math:: ℓ = λ - y \log(λ + ε), \quad ∂ℓ/∂z = λ'(z)\,(1 - y/(λ + ε)).

    ============================ ==================================================================
    `activation`
    ``"rectified_tanh"``         φ = log(L + 1)·relu(tanh(z/4e)), TxFM's (arXiv 2605.31562, Eq. 1):
                                 for z ≤ 0 the loss is 1 and the gradient exactly 0
    ``"relu"``                   φ = relu(z)
    ``"clamped_relu"``           φ = min(relu(z), log(L + 1))
    ``"exp"``                    φ = z, torch's ``log_input=True``
    ``"softplus"``               λ = log(1 + e^z)
    ``"identity"``               λ = z, torch's ``log_input=False``
    ---------------------------- ------------------------------------------------------------------
    `target_kind`
    ``"log1p"``                  the target holds x = log(1 + c·L/library), and y = e^x (Eq. 2)
    ``"counts"``                 the target holds counts c, and y = 1 + c·L/library: the same loss
                                 with neither log nor exp; y = 1 for a cell with library 0
    ``"rate"``                   the target holds y, as in torch
    ---------------------------- ------------------------------------------------------------------
    `reduction`
    ``"mean"``                   each cell's mean over its own observed genes, then over cells
    ``"genes"``                  Σ loss / Σ observed genes, torch's ``"mean"``
    ``"sum"``                    Σ loss
    ``"cell"``                   [B], each cell's mean over its own observed genes
    ``"none"``                   [B, G]; dense targets only
    ============================ ==================================================================

    So ``PoissonNLLLoss(log_input=True)`` is ``activation="exp", target_kind="rate",
    reduction="genes"``, and ``log_input=False`` the same with ``"identity"``. Unobserved genes have
    loss and gradient 0, whatever stands there; a loss over
    nothing is 0.

    When a gradient is needed and the reduction is not ``"none"`` the same sweep writes it, and
    backward only multiplies by the gradient of the loss; where that is 1, as for a loss that is
    differentiated itself, it does nothing. The same input gives the same bits on every run, for any
    number of threads, and for a CSR target as for the same one dense.

    Logits and target are kept until backward, for higher derivatives alone: with
    ``create_graph=True`` backward computes the gradient, to rounding the same, from them in plain
    torch. Forward mode and the transforms of ``torch.func`` raise ``NotImplementedError``.

    Parameters
    ----------
    logits
        [B, G], float64, float32, bfloat16 or float16, any strides.
    target
        [B, G], dense with any strides, ``torch.sparse_csr``, or `Cells`. CSR rows ascend without
        duplicates. Receives no gradient.
    activation, target_kind, reduction
        See the table.
    library
        [B], each cell's total count, for ``target_kind="counts"``; when not given, the sums of the
        target's rows.
    target_sum
        L.
    observed
        Which genes were measured in each cell: an object with ``panel_id`` int32 [B], ``mask``
        uint8 [P, G] and ``counts`` int64 [P], the number of genes in each panel. All when not
        given.
    full
        Add Stirling's term y log y − y + ½ log(2πy) for y > 1, as torch does.
    eps
        ε.

    Returns
    -------
    Tensor
        A number, [B] or [B, G]; float64 for float64 logits, else float32. Sums are in blocks of
        float32, or float64, added in float64.

    Notes
    -----
    CUDA reads bfloat16 logits and dense bfloat16 targets as they are and writes the gradient in
    their dtype. Float16 is widened to float32 first: the gradient of a mean, some 1e-8, would
    vanish in it. Nothing synchronises: with ``KERNOMICS_CHECK=1`` faults of the data are looked for
    at the price of a synchronisation, else a cell at fault makes the loss NaN. A CSR target and the
    same one dense agree to rounding there.

    Raises
    ------
    ValueError
        Shapes, devices or options that do not fit; a target that requires a gradient; a library
        size that is negative or not finite; a panel that does not exist; columns of the target
        outside the genes or out of order.
    TypeError
        Logits or target that are not floating-point numbers.
    RuntimeError
        Tensors on CUDA in a build without CUDA kernels.
    """
    require_given(logits=logits)
    require_float(logits, "logits")
    if logits.dim() != 2:
        raise ValueError(f"logits have shape {tuple(logits.shape)}; [cells, genes] is needed")
    dtype = compute_dtype(logits)
    narrow = torch.bfloat16 if logits.is_cuda and logits.dtype == torch.bfloat16 else None
    problem = checked_problem(
        (logits.shape[0], logits.shape[1]), logits, "logits", dtype, target,
        activation=activation, target_kind=target_kind, library=library, target_sum=target_sum,
        observed=observed, full=full, eps=eps, reduction=reduction,
        reductions=REDUCTIONS | {"none": 4}, narrow=narrow,
    )  # fmt: skip
    if reduction == "none" and problem.indptr is not None:
        raise ValueError(
            "reduction='none' gives a dense [B, G] loss and needs a dense target; pass "
            "target.to_dense(), or reduction='cell'"
        )
    z = logits if logits.dtype == narrow else as_dtype(logits, dtype)
    differentiate = differentiates(logits)
    loss: Tensor
    if reduction == "none" and differentiate:
        loss = apply("poisson_nll", _PoissonNLLEach, z, *problem)
    elif reduction == "none":
        loss = call(torch.ops.kernomics.poisson_nll_each, z, *problem)
    elif differentiate:
        loss = apply("poisson_nll", _PoissonNLL, z, reduction, *problem)
    else:
        loss, _ = call(torch.ops.kernomics.poisson_nll, z, *problem, reduction, False)
    return loss
