"""The calls of the Poisson losses' kernels, on the CPU and on CUDA."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from . import _native
from ._common import SCALAR_KINDS, Report, address, raise_csr_fault
from ._poisson import ACTIVATIONS, REDUCTIONS, TARGET_KINDS, Problem, compute_dtype

T = TypeVar("T")

_SCALED = (torch.float32, torch.float64, torch.bfloat16)  # by poisson_scale

# On CUDA a row is cut where there are fewer rows than blocks that fill a GPU, in parts of at least
# four tiles. By the sizes alone, so that every GPU adds in the same order.
_BLOCKS, _PART = 2048, 4096

# From torch 2.8 on a product of bfloat16 can be kept as float32, before it is rounded.
_WIDE_PRODUCTS = "dtype_out" in torch.ops.aten.mm.overloads()


def _segments(cells: int, genes: int) -> int:
    return max(1, min(math.ceil(_BLOCKS / max(1, cells)), math.ceil(genes / _PART)))


class _Sweeper:
    """A problem's parameters, with each cell's two numbers and its sums of losses."""

    def __init__(self, problem: Problem, shape: tuple[int, int], segments: int) -> None:
        p, (cells, genes) = problem, shape
        self.cells, self.segments = cells, segments
        # units [cells], weights [cells] and sums [cells, segments], one after the other
        self._room = p.target.new_empty(cells * (2 + segments), dtype=torch.float64)
        units = self._room.data_ptr()
        self._addresses = units, units + 8 * cells, units + 16 * cells
        self._kept = problem  # its tensors, whose addresses the parameters hold
        # PoissonProblem in csrc/common/poisson_nll.h
        self._problem: _native.Parameters = {
            "rows": cells,
            "genes": genes,
            "target_kind": TARGET_KINDS[p.target_kind],
            "values": p.target.data_ptr(),
            "values_kind": SCALAR_KINDS[p.target.dtype],
            "indptr": address(p.indptr),
            "columns": address(p.columns),
            "wide_columns": p.columns is not None and p.columns.dtype == torch.int64,
            "stored": p.target.shape[0],
            "row_stride": p.target.stride(0) if p.indptr is None else 0,
            "library": address(p.library),
            "panel": address(p.panel_id),
            "mask": address(p.panel_mask),
            "counts": address(p.panel_counts),
            "panels": 0 if p.panel_counts is None else len(p.panel_counts),
            "activation": ACTIVATIONS[p.activation],
            "target_sum": p.target_sum,
            "eps": p.eps,
            "full": p.full,
        }

    @property
    def weights(self) -> Tensor:
        """[cells], what the sum of a cell's losses is multiplied by."""
        return self._room[self.cells : 2 * self.cells]

    @property
    def sums(self) -> Tensor:
        """[cells, segments], the losses that the sweeps added."""
        return self._room[2 * self.cells :].view(self.cells, self.segments)

    def _prepare(self, reduction: str) -> _native.Parameters:
        units, weights, sums = self._addresses
        return {
            **self._problem,
            "reduction": REDUCTIONS[reduction],
            "segments": self.segments,
            "units": units,
            "weights": weights,
            "sums": sums,
        }

    def _strip(
        self,
        logits: Tensor,
        first: int,
        loss: Tensor | None,
        gradient: Tensor | None,
        upstream: Tensor | None,
    ) -> _native.Parameters:
        units, weights, sums = self._addresses
        return {
            **self._problem,
            "first": first,
            "count": logits.shape[1],
            "logits": logits.data_ptr(),
            "logits_kind": SCALAR_KINDS[logits.dtype],
            "logits_stride": logits.stride(0),
            "segments": self.segments,
            "sums": sums,
            "loss": address(loss),
            "gradient": address(gradient),
            "gradient_stride": 0 if gradient is None else gradient.stride(0),
            "upstream": address(upstream),
            "upstream_stride": 0 if upstream is None else upstream.stride(0),
            "units": units,
            "weights": weights,
        }


class Prepared(_Sweeper):
    """A checked problem with each cell's two numbers, ready for sweeps on the CPU."""

    def __init__(self, problem: Problem, shape: tuple[int, int], reduction: str) -> None:
        super().__init__(problem, shape, segments=1)
        self._problem["threads"] = torch.get_num_threads()
        self._raise_if_bad(_native.cpu().poisson_prepare(self._prepare(reduction)))

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
        parameters = self._strip(logits, first, loss, gradient, upstream)
        self._raise_if_bad(_native.cpu().poisson_sweep(parameters))

    def _raise_if_bad(self, found: tuple[Any, ...]) -> None:
        if found[0]:
            _raise_fault(Report(*found), int(self._problem["genes"]), int(self._problem["panels"]))

    def result(self, reduction: str, dtype: torch.dtype) -> Tensor:
        """Reduce the sums: one number, or [cells]."""
        if reduction == "cell":
            per_cell: Tensor = (self.sums[:, 0] * self.weights).to(dtype)
            return per_cell
        _, weights, sums = self._addresses
        total = _native.cpu().weighted_sum(sums, weights, self.cells)
        return torch.scalar_tensor(total, dtype=dtype)


def _raise_fault(report: Report, genes: int, panels: int) -> None:
    fault, row, _, value, library, count = report
    if fault <= 3:
        hint = "target and logits must share one gene order"
        raise_csr_fault(report, "target", genes, hint)
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


class PreparedOnCuda(_Sweeper):
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
        super().__init__(problem, shape, _segments(shape[0], widest))
        _native.launch("poisson_prepare", self._prepare(reduction))

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
        parameters = self._strip(logits, first, loss, gradient, upstream)
        _native.launch("poisson_sweep", parameters)

    def result(self, reduction: str, dtype: torch.dtype) -> Tensor:
        """Reduce the sums: one number, or [cells]."""
        by_cell = reduction == "cell"
        _, weights, sums = self._addresses
        out = self._room.new_empty((self.cells,) if by_cell else (), dtype=dtype)
        parameters: _native.Parameters = {
            "rows": self.cells,
            "segments": self.segments,
            "sums": sums,
            "weights": weights,
            "by_cell": by_cell,
            "out_kind": SCALAR_KINDS[dtype],
            "out": out.data_ptr(),
        }
        _native.launch("poisson_finish", parameters)
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
        if upstream.is_cuda and gradient.dtype in _SCALED and gradient.is_contiguous():
            return _scaled_on_cuda(gradient, upstream)
        if upstream.device.type == "cpu" and upstream.item() == 1:
            return gradient
    return gradient * upstream.to(gradient.dtype)


def _scaled_on_cuda(gradient: Tensor, upstream: Tensor) -> Tensor:
    by = upstream.to(compute_dtype(gradient))
    out = torch.empty_like(gradient)
    with torch.cuda.device(gradient.device):
        parameters: _native.Parameters = {
            "from": gradient.data_ptr(),
            "to": out.data_ptr(),
            "count": gradient.numel(),
            "kind": SCALAR_KINDS[gradient.dtype],
            "factor": by.data_ptr(),
        }
        _native.launch("poisson_scale", parameters)
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
