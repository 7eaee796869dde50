"""The calls of the Poisson losses' kernels, on the CPU and on CUDA."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from . import _native
from ._common import Report, address, raise_csr_fault, suffix
from ._poisson import ACTIVATIONS, REDUCTIONS, TARGET_KINDS, Problem, compute_dtype

T = TypeVar("T")

# The constants of ScalarKind in csrc/cuda/kernels.h.
_KINDS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}

# On CUDA a row is cut where there are fewer rows than blocks that fill a GPU, in parts of at least
# four tiles. By the sizes alone, so that every GPU adds in the same order.
_BLOCKS, _PART = 2048, 4096

# From torch 2.8 on a product of bfloat16 can be kept as float32, before it is rounded.
_WIDE_PRODUCTS = "dtype_out" in torch.ops.aten.mm.overloads()


def _stream() -> int:
    return int(torch.cuda.current_stream().cuda_stream)


def _segments(cells: int, genes: int) -> int:
    return max(1, min(math.ceil(_BLOCKS / max(1, cells)), math.ceil(genes / _PART)))


def _arguments(problem: Problem, cells: int, genes: int) -> tuple[Any, ...]:
    """Return what both devices' kernels take first, in their order."""
    p = problem
    return (
        cells, genes, TARGET_KINDS[p.target_kind], p.target.data_ptr(), address(p.indptr),
        address(p.columns), p.columns is not None and p.columns.dtype == torch.int64,
        p.target.shape[0], p.target.stride(0) if p.indptr is None else 0, address(p.library),
        address(p.panel_id), address(p.panel_mask), address(p.panel_counts),
        0 if p.panel_counts is None else len(p.panel_counts), ACTIVATIONS[p.activation],
        p.target_sum, p.eps, p.full,
    )  # fmt: skip


class Prepared:
    """A checked problem with each cell's two numbers, ready for sweeps on the CPU."""

    def __init__(self, problem: Problem, shape: tuple[int, int], reduction: str) -> None:
        p = problem
        cells, genes = shape
        self.cells = cells
        self.units, self.weights, self.sums = torch.zeros((3, cells), dtype=torch.float64)
        self._arguments = (*_arguments(p, cells, genes), torch.get_num_threads())
        self._sweep = getattr(_native.cpu(), "poisson_sweep_" + suffix(p.target))
        report = getattr(_native.cpu(), "poisson_prepare_" + suffix(p.target))(
            *self._arguments, REDUCTIONS[reduction], self.units.data_ptr(), self.weights.data_ptr()
        )
        self._raise_fault = partial(
            _raise_fault, genes=genes, panels=0 if p.panel_counts is None else len(p.panel_counts)
        )
        if report[0]:
            self._raise_fault(report)

    def sweep(
        self,
        logits: Tensor,
        first: int = 0,
        *,
        loss: Tensor | None = None,
        gradient: Tensor | None = None,
        upstream: Tensor | None = None,
    ) -> None:
        """Add the losses of genes `first` … to `sums`; write each loss or gradient if asked to."""
        report = self._sweep(
            *self._arguments, self.units.data_ptr(), self.weights.data_ptr(), first,
            logits.shape[1], logits.data_ptr(), logits.stride(0), self.sums.data_ptr(),
            address(loss), address(gradient), 0 if gradient is None else gradient.stride(0),
            address(upstream), 0 if upstream is None else upstream.stride(0),
        )  # fmt: skip
        if report[0]:
            self._raise_fault(report)

    def result(self, reduction: str, dtype: torch.dtype) -> Tensor:
        """Reduce the sums: one number, or [cells]."""
        if reduction == "cell":
            per_cell: Tensor = (self.sums * self.weights).to(dtype)
            return per_cell
        total = _native.cpu().weighted_sum(
            self.sums.data_ptr(), self.weights.data_ptr(), self.cells
        )
        return torch.tensor(total, dtype=dtype)


def _raise_fault(report: tuple[int, int, int, int, float, int], genes: int, panels: int) -> None:
    fault, row, _, value, library, count = report
    if fault <= 3:
        hint = "target and logits must share one gene order"
        raise_csr_fault(Report(*report), "target", genes, hint)
    if fault == 4:
        raise ValueError(
            f"observed.panel_id names panels that do not exist in {count:,} cells, first cell "
            f"{row:,} with panel {value:,} of {panels:,}; use 0 to {panels - 1:,}"
        )
    if fault == 6:
        raise ValueError(
            f"the target's rates are NaN, or so large that the loss overflows, in {count:,} cells, "
            f"first cell {row:,}; compare target, target_kind, library and target_sum"
        )
    if fault == 7:
        raise ValueError(
            f"finite logits have a loss or gradient that is not finite in {count:,} cells, first "
            f"cell {row:,}; scale them down, or use an activation without overflow (rectified_tanh)"
        )
    raise ValueError(
        f"library sizes must be finite and not negative: {count:,} cells are not, first cell "
        f"{row:,} with {library}; pass each cell's total count"
    )


class PreparedOnCuda:
    """As `Prepared`; faults of the data are looked for with ``KERNOMICS_CHECK=1`` only."""

    def __init__(
        self, problem: Problem, shape: tuple[int, int], reduction: str, widest: int
    ) -> None:
        """Prepare for sweeps over at most `widest` genes at once."""
        p = problem
        if _native.checks_enabled():
            target = p.target.to("cpu", compute_dtype(p.target))
            others: Any = (f.cpu() if isinstance(f, Tensor) else f for f in p[1:])
            Prepared(Problem(target, *others), shape, reduction)
        cells = shape[0]
        self.cells, self.segments = cells, _segments(cells, widest)
        self.units, self.weights = p.target.new_empty((2, cells), dtype=torch.float64)
        self.sums = p.target.new_empty((cells, self.segments), dtype=torch.float64)
        self._arguments = (*_arguments(p, *shape), _KINDS[p.target.dtype])
        self._kept = problem  # its tensors, whose addresses the arguments hold
        _native.cuda().poisson_prepare(
            *self._arguments, REDUCTIONS[reduction], self.segments, self.units.data_ptr(),
            self.weights.data_ptr(), self.sums.data_ptr(), _stream(),
        )  # fmt: skip

    def sweep(
        self,
        logits: Tensor,
        first: int = 0,
        *,
        loss: Tensor | None = None,
        gradient: Tensor | None = None,
        upstream: Tensor | None = None,
    ) -> None:
        """Add the losses of genes `first` … to `sums`; write each loss or gradient if asked to."""
        _native.cuda().poisson_sweep(
            *self._arguments, first, logits.shape[1], logits.data_ptr(), _KINDS[logits.dtype],
            logits.stride(0), self.segments, self.sums.data_ptr(), address(loss),
            address(gradient), 0 if gradient is None else gradient.stride(0), address(upstream),
            0 if upstream is None else upstream.stride(0), self.units.data_ptr(),
            self.weights.data_ptr(), _stream(),
        )  # fmt: skip

    def result(self, reduction: str, dtype: torch.dtype) -> Tensor:
        """Reduce the sums: one number, or [cells]."""
        by_cell = reduction == "cell"
        out = self.sums.new_empty((self.cells,) if by_cell else (), dtype=dtype)
        _native.cuda().poisson_finish(
            self.cells, self.segments, self.sums.data_ptr(), self.weights.data_ptr(), by_cell,
            _KINDS[dtype], out.data_ptr(), _stream(),
        )  # fmt: skip
        return out


def prepare(
    problem: Problem, shape: tuple[int, int], reduction: str, widest: int | None = None
) -> Prepared | PreparedOnCuda:
    """Prepare sweeps over at most `widest` genes at once, by default all."""
    if problem.target.is_cuda:
        return PreparedOnCuda(problem, shape, reduction, shape[1] if widest is None else widest)
    return Prepared(problem, shape, reduction)


def on_its_device(function: Callable[..., T]) -> Callable[..., T]:
    """Let an op run with the device of its first argument current."""

    def run(first: Tensor, *others: Any) -> T:
        with torch.cuda.device(first.device):
            return function(first, *others)

    return run


def scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    """Multiply a saved gradient by what comes from above, a number or one for each cell.

    A loss that is itself differentiated has 1 above it: then the gradient needs no further pass.
    It may be handed out as it is: should someone write into it and run backward again, torch finds
    the saved tensor changed and says so. On CUDA only the device knows the number, so there it is
    always multiplied, into a tensor of its own: what is saved may be someone else's too.
    """
    if upstream.dim():
        return (gradient * upstream[:, None]).to(gradient.dtype)
    if type(upstream) is Tensor and not torch.compiler.is_compiling():
        if upstream.is_cuda and gradient.dtype in _KINDS and gradient.is_contiguous():
            return _scaled_on_cuda(gradient, upstream)
        if upstream.device.type == "cpu" and upstream.item() == 1:
            return gradient
    return gradient * upstream.to(gradient.dtype)


def _scaled_on_cuda(gradient: Tensor, upstream: Tensor) -> Tensor:
    by = upstream.to(compute_dtype(gradient))
    out = torch.empty_like(gradient)
    with torch.cuda.device(gradient.device):
        _native.cuda().poisson_scale(
            gradient.data_ptr(), out.data_ptr(), gradient.numel(), _KINDS[gradient.dtype],
            by.data_ptr(), _stream(),
        )  # fmt: skip
    return out


def product(a: Tensor, b: Tensor, out: Tensor, *, add: bool = False) -> None:
    """Write the matrix product a·b to `out` of any dtype, or add it."""
    if out.dtype == a.dtype and add:
        torch.addmm(out, a, b, out=out)
    elif out.dtype == a.dtype:
        torch.mm(a, b, out=out)
    elif _WIDE_PRODUCTS and (a.dtype, out.dtype) == (torch.bfloat16, torch.float32) and add:
        torch.ops.aten.addmm.dtype_out(out, a, b, out.dtype, out=out)
    elif _WIDE_PRODUCTS and (a.dtype, out.dtype) == (torch.bfloat16, torch.float32):
        torch.ops.aten.mm.dtype_out(a, b, out.dtype, out=out)
    else:
        found = torch.mm(a, b, out=a.new_empty(out.shape))  # out: nothing that autocast changes
        out.add_(found) if add else out.copy_(found)
