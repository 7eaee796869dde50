"""The ops of masked_linear, and the calls of their kernels on the CPU and on CUDA."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _native
from ._common import LIBRARY, SCALAR_KINDS, Report, address, raise_csr_fault
from ._derivatives import register

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
