"""masked_linear: the product of x ∘ mask and a weight, from the chosen genes' non-zeros alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _native
from ._common import (
    LIBRARY,
    SCALAR_KINDS,
    Report,
    SparseRows,
    address,
    as_dtype,
    csr_parts,
    raise_csr_fault,
    require_float,
    require_same_device,
)
from ._derivatives import apply, call, differentiates, once, register
from ._kinds import require_given, require_rows, require_tensors, require_truths

# x is `values` [B, G], or CSR: `values` [nnz] with row pointers and columns. `chosen` and `reached`
# are the public function's `indices` and `grad_indices`.
LIBRARY.define(
    "masked_linear(Tensor values, Tensor? indptr, Tensor? columns, Tensor mask, Tensor chosen, "
    "Tensor weight, Tensor? bias, Tensor? reached) -> Tensor"
)
LIBRARY.define(
    "masked_linear_backward(Tensor delta, Tensor values, Tensor? indptr, Tensor? columns, "
    "Tensor mask, Tensor chosen, Tensor weight, Tensor? reached, bool want_mask, bool want_weight, "
    "bool want_bias, bool compact=False) "
    "-> (Tensor grad_mask, Tensor grad_weight, Tensor grad_bias)"
)


def _rows(values: Tensor, indptr: Tensor | None) -> int:
    return values.shape[0] if indptr is None else indptr.shape[0] - 1


def _dense_columns(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(1) == 1 else tensor.contiguous()


def _layer(
    values: Tensor,
    indptr: Tensor | None,
    columns: Tensor | None,
    mask: Tensor,
    chosen: Tensor,
    weight: Tensor,
    reached: Tensor | None,
) -> _native.Parameters:
    """Return what forward and backward share: LinearLayer in csrc/common/masked_linear.h."""
    row_stride, column_stride = values.stride() if indptr is None else (0, 0)
    genes, outputs = weight.shape
    return {
        "values": values.data_ptr(),
        "values_kind": SCALAR_KINDS[values.dtype],
        "indptr": address(indptr),
        "columns": address(columns),
        "wide_columns": columns is not None and columns.dtype == torch.int64,
        "stored": values.shape[0],
        "row_stride": row_stride,
        "column_stride": column_stride,
        "rows": _rows(values, indptr),
        "genes": genes,
        "mask": mask.data_ptr(),
        "mask_stride": mask.stride(0),
        "chosen": chosen.data_ptr(),
        "k": chosen.shape[0],
        "reached": address(reached),
        "reach": 0 if reached is None else reached.shape[0],
        "weight": weight.data_ptr(),
        "weight_kind": SCALAR_KINDS[weight.dtype],
        "weight_stride": weight.stride(0),
        "outputs": outputs,
    }


def _raise_fault(report: Report, genes: int) -> None:
    raise_csr_fault(report, "x", genes, "x and weight must share one gene order")
    fault, row, position, value, _, count = report
    if fault == 8:
        raise ValueError(
            f"sums of finite numbers are beyond float32 (float64 for a float64 weight) in "
            f"{count:,} cells, first cell {row:,}; scale x, mask or weight down"
        )
    name = "indices" if fault in (4, 5) else "grad_indices"
    if fault in (4, 6):
        raise ValueError(
            f"{name}[{position:,}] = {value:,} is not one of {genes:,} genes; use indices from 0 "
            f"to {genes - 1:,}"
        )
    padding = ", −1 only at the end" if name == "grad_indices" else ""
    raise ValueError(
        f"{name} must ascend without repeats{padding}: {name}[{position:,}] = {value:,} does not; "
        "sort them"
    )


def _gradients(
    mask: Tensor,
    weight: Tensor,
    chosen: Tensor,
    want_mask: bool,
    want_weight: bool,
    want_bias: bool,
    compact: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return room for the gradients, empty for those that are not wanted.

    If `compact` the weight's has the rows of the chosen genes alone, [k, H].
    """
    rows = (chosen if compact else weight).shape[0]
    return (
        mask.new_empty(mask.shape if want_mask else (0,)),
        weight.new_empty((rows, weight.shape[1]) if want_weight else (0, 0)),
        mask.new_empty(weight.shape[1:] if want_bias else (0,)),
    )


def _forward_cpu(
    values: Tensor,
    indptr: Tensor | None,
    columns: Tensor | None,
    mask: Tensor,
    chosen: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    reached: Tensor | None,
) -> Tensor:
    weight = _dense_columns(weight)
    y = weight.new_empty((_rows(values, indptr), weight.shape[1]))
    parameters = _layer(values, indptr, columns, mask, chosen, weight, reached)
    parameters.update(bias=address(bias), y=y.data_ptr(), threads=torch.get_num_threads())
    report = _native.cpu().masked_linear_forward(parameters)
    if report[0]:
        _raise_fault(Report(*report), weight.shape[0])
    return y


def _backward_cpu(
    delta: Tensor,
    values: Tensor,
    indptr: Tensor | None,
    columns: Tensor | None,
    mask: Tensor,
    chosen: Tensor,
    weight: Tensor,
    reached: Tensor | None,
    want_mask: bool,
    want_weight: bool,
    want_bias: bool,
    compact: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    delta, weight = _dense_columns(delta), _dense_columns(weight)
    grads = _gradients(mask, weight, chosen, want_mask, want_weight, want_bias, compact)
    grad_mask, grad_weight, grad_bias = (address(g) if g.numel() else 0 for g in grads)
    parameters = _layer(values, indptr, columns, mask, chosen, weight, reached)
    parameters.update(
        delta=delta.data_ptr(),
        delta_stride=delta.stride(0),
        grad_mask=grad_mask,
        grad_weight=grad_weight,
        compact=compact,
        grad_bias=grad_bias,
        threads=torch.get_num_threads(),
    )
    _native.cpu().masked_linear_backward(parameters)
    return grads


def _raise_faults_of_cuda(
    values: Tensor,
    indptr: Tensor | None,
    columns: Tensor | None,
    mask: Tensor,
    chosen: Tensor,
    weight: Tensor,
    reached: Tensor | None,
) -> None:
    """Let the CPU kernel check copies of the index tensors; it reads no other without a result."""
    indptr, columns, host_chosen, reached = (
        None if tensor is None else tensor.cpu() for tensor in (indptr, columns, chosen, reached)
    )
    assert host_chosen is not None
    parameters = _layer(values, indptr, columns, mask, host_chosen, weight, reached)
    parameters["weight_kind"] = SCALAR_KINDS[torch.float32]  # any: no weight is read
    parameters.update(bias=0, y=0, threads=torch.get_num_threads())
    report = _native.cpu().masked_linear_forward(parameters)
    if report[0]:
        _raise_fault(Report(*report), weight.shape[0])


def _forward_cuda(
    values: Tensor,
    indptr: Tensor | None,
    columns: Tensor | None,
    mask: Tensor,
    chosen: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    reached: Tensor | None,
) -> Tensor:
    if _native.checks_enabled():
        _raise_faults_of_cuda(values, indptr, columns, mask, chosen, weight, reached)
    with torch.cuda.device(weight.device):
        weight = _dense_columns(weight)
        y = weight.new_empty((_rows(values, indptr), weight.shape[1]))
        parameters = _layer(values, indptr, columns, mask, chosen, weight, reached)
        parameters.update(bias=address(bias), y=y.data_ptr())
        _native.launch("masked_linear_forward", parameters)
    return y


def _backward_cuda(
    delta: Tensor,
    values: Tensor,
    indptr: Tensor | None,
    columns: Tensor | None,
    mask: Tensor,
    chosen: Tensor,
    weight: Tensor,
    reached: Tensor | None,
    want_mask: bool,
    want_weight: bool,
    want_bias: bool,
    compact: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.cuda.device(weight.device):
        delta, weight = _dense_columns(delta), _dense_columns(weight)
        grad_mask, grad_weight, grad_bias = _gradients(
            mask, weight, chosen, want_mask, want_weight, want_bias, False
        )
        grad_mask.zero_()
        grad_weight.zero_()
        if want_bias:
            grad_bias = delta.sum(0, dtype=mask.dtype)
        parameters = _layer(values, indptr, columns, mask, chosen, weight, reached)
        parameters.update(
            delta=delta.data_ptr(),
            delta_stride=delta.stride(0),
            grad_mask=address(grad_mask) if want_mask else 0,
            grad_weight=address(grad_weight) if want_weight else 0,
            compact=False,
            grad_bias=0,  # summed above
        )
        _native.launch("masked_linear_backward", parameters)
        if compact and want_weight:
            grad_weight = grad_weight.index_select(0, chosen)
    return grad_mask, grad_weight, grad_bias


def _forward_fake(
    values: Tensor, indptr: Tensor | None, columns: Any, mask: Any, chosen: Any, weight: Tensor,
    *_rest: Any,
) -> Tensor:  # fmt: skip
    return weight.new_empty((_rows(values, indptr), weight.shape[1]))


def _backward_fake(
    delta: Any, values: Any, indptr: Any, columns: Any, mask: Tensor, chosen: Tensor,
    weight: Tensor, reached: Any, want_mask: bool, want_weight: bool, want_bias: bool,
    compact: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return _gradients(mask, weight, chosen, want_mask, want_weight, want_bias, compact)


register("masked_linear", "masked_linear", _forward_cpu, _forward_cuda, _forward_fake)
register("masked_linear_backward", "masked_linear", _backward_cpu, _backward_cuda, _backward_fake)


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
