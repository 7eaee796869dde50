"""masked_linear: the product of x ∘ mask and a weight, from the chosen genes' non-zeros alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _masked_linear_kernels  # noqa: F401
from ._common import SparseRows, as_dtype, csr_parts, require_float, require_same_device
from ._derivatives import apply, call, differentiates, once
from ._kinds import require_given, require_rows, require_tensors, require_truths


class _MaskedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        indptr: Tensor | None,
        columns: Tensor | None,
        mask: Tensor,
        chosen: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        reached: Tensor | None,
        compact: bool,
    ) -> Tensor:
        ctx.compact = compact
        ctx.save_for_backward(values, indptr, columns, mask, chosen, weight, reached)
        y: Tensor = call(
            torch.ops.kernomics.masked_linear,
            values,
            indptr,
            columns,
            mask,
            chosen,
            weight,
            bias,
            reached,
        )
        return y

    @staticmethod
    @once("masked_linear")
    def backward(ctx: Any, delta: Tensor) -> Any:
        wanted = [ctx.needs_input_grad[i] for i in (3, 5, 6)]
        saved = ctx.saved_tensors
        grads = call(
            torch.ops.kernomics.masked_linear_backward, delta, *saved, *wanted, ctx.compact
        )
        mask, weight, bias = (g if want else None for g, want in zip(grads, wanted, strict=True))
        if ctx.compact and weight is not None:
            chosen, whole = saved[4], saved[5]
            weight = torch.sparse_coo_tensor(
                chosen[None], weight, whole.shape, check_invariants=False, is_coalesced=True
            )
        return None, None, None, mask, None, weight, bias, None, None


def _check_shapes(
    shape: tuple[int, ...],
    mask: Tensor,
    indices: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    grad_indices: Tensor | None,
) -> None:
    if len(shape) != 2:
        raise ValueError(f"x has shape {tuple(shape)}; [cells, genes] is needed")
    genes = shape[1]
    if weight.dim() != 2 or weight.shape[0] != genes:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)} and x {genes:,} genes; a weight "
            f"[{genes}, outputs], stored by gene, is needed"
        )
    if genes >= 2**31:
        raise ValueError(f"x has {genes:,} genes; fewer than 2³¹ are possible")
    expected = {"mask": (mask, (genes,)), "bias": (bias, (weight.shape[1],))}
    for name, (tensor, size) in expected.items():
        if tensor is not None and tensor.shape != size:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; {list(size)} is needed")
        if tensor is not None:
            require_float(tensor, name)
    require_float(weight, "weight")
    for name, tensor in (("indices", indices), ("grad_indices", grad_indices)):
        if tensor is not None and (tensor.dtype != torch.int64 or tensor.dim() != 1):
            raise ValueError(
                f"{name} are {tensor.dtype} of shape {tuple(tensor.shape)}; int64 [k] is needed"
            )


def masked_linear(
    x: Tensor | SparseRows,
    mask: Tensor,
    indices: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    grad_indices: Tensor | None = None,
    sparse_grad: bool = False,
) -> Tensor:
    r"""Multiply the chosen genes of each cell by a weight: (x ∘ mask)·W without the zeros.

    .. math:: y_b = Σ_{j∈S} m_j x_{bj} W_j + \mathrm{bias}

    S are the chosen genes, from :func:`~kernomics.ops.gumbel_topk` with the mask m. With δ the
    gradient of y, backward gives

    .. math:: ∂m_j = Σ_b x_{bj} ⟨δ_b, W_j⟩ \text{ for every } j, \quad
              ∂W_j = m_j Σ_b x_{bj} δ_b \text{ for } j∈S, \quad ∂\mathrm{bias} = Σ_b δ_b;

    the other rows of ∂W are zero. ∂m reaches genes that are not chosen: through it their scores
    learn whether they should be. Everything comes from the non-zeros of x, in time nnz·H, and
    nothing of size B·G is made. Zeros of x are skipped, so an infinite weight in their place does
    not make a NaN. The same input gives the same bits on every run, on the CPU for any number of
    threads.

    Parameters
    ----------
    x
        [B, G] cells by genes: dense with any strides, ``torch.sparse_csr``, or `Cells`. CSR rows
        ascend without duplicates. Receives no gradient.
    mask
        [G]; only its values on S enter y.
    indices
        int64 [k], S, ascending.
    weight
        [G, H], stored by gene.
    bias
        [H].
    grad_indices
        int64, ascending and padded with −1: the only genes whose mask gets a gradient, as returned
        by ``gumbel_topk(…, reach=cap)``. Every gene when not given.
    sparse_grad
        Whether the weight's gradient is a sparse tensor of the k chosen rows, without the zeros of
        the others, for an optimiser that takes one (:class:`kernomics.train.RowAdamW`). Not for a
        half-precision weight, nor under ``torch.compile``: these get a dense one.

    Returns
    -------
    Tensor
        [B, H], in the weight's dtype. Sums are in float64 for a float64 weight and otherwise in
        float32, also for bfloat16 and float16; x is converted if it has yet another dtype. (On the
        CPU a half-precision weight is widened at every call.) Autocast changes nothing: counts
        above 256 would not be exact in bfloat16, and the next layer rounds y anyway.

    Raises
    ------
    ValueError
        Shapes, devices or index dtypes that do not fit; an x that requires a gradient; columns of x
        or indices outside the genes or out of order. On CUDA the last is checked when the
        environment variable ``KERNOMICS_CHECK`` is 1. Otherwise genes that do not exist give NaN
        (all of y for `indices`, a cell of y for its columns or row pointers, a number of ∂m for
        `grad_indices`) and a wrong order gives wrong sums.
        A sum of finite numbers that is not finite, on the CPU; NaN and infinite ones are passed on.
    MemoryError
        No memory for the kernel's scratch.
    TypeError
        x, mask, weight or bias that are not floating-point numbers.
    """
    require_rows("x", x)
    require_given(mask=mask, indices=indices, weight=weight)
    require_tensors(bias=bias, grad_indices=grad_indices)
    require_truths(sparse_grad=sparse_grad)
    _check_shapes(tuple(x.shape), mask, indices, weight, bias, grad_indices)
    indptr: Tensor | None
    columns: Tensor | None
    if isinstance(x, Tensor) and x.layout == torch.strided:
        require_float(x, "x")
        indptr, columns, values = None, None, x
    elif isinstance(x, Tensor) and x.layout != torch.sparse_csr:
        raise TypeError(f"x has layout {x.layout}; pass it dense or as x.to_sparse_csr()")
    else:
        indptr, columns, values = csr_parts(x, "x")
    if torch.is_grad_enabled() and values.requires_grad:
        raise ValueError("x requires a gradient, and masked_linear gives it none; pass x.detach()")
    require_same_device(
        weight, "weight", x=values, mask=mask, indices=indices, bias=bias,
        grad_indices=grad_indices, **{"x's row pointers": indptr, "x's columns": columns},
    )  # fmt: skip
    if grad_indices is not None and grad_indices.shape[0] == 0:
        grad_indices = grad_indices.new_full((1,), -1)  # an address, so that it is not "every gene"
    exact = torch.float64 if weight.dtype == torch.float64 else torch.float32
    compute = exact if weight.device.type == "cpu" else weight.dtype
    if values.dtype not in (exact, compute):
        values = values.to(exact)
    arguments = (
        values,
        indptr,
        columns,
        as_dtype(mask, exact),
        indices.contiguous(),
        as_dtype(weight, compute),
        None if bias is None else as_dtype(bias, exact).contiguous(),
        None if grad_indices is None else grad_indices.contiguous(),
    )
    y: Tensor
    if differentiates(mask, weight, bias):
        as_it_is = weight.dtype == compute and not torch.compiler.is_compiling()
        compact = bool(sparse_grad) and as_it_is
        y = apply("masked_linear", _MaskedLinear, *arguments, compact)
    else:
        y = call(torch.ops.kernomics.masked_linear, *arguments)
    return as_dtype(y, weight.dtype)
