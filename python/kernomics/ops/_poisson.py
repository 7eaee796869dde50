"""What the two Poisson losses share: options, targets, checks, and the calls of the kernels."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from . import _native
from ._common import (
    SparseRows,
    address,
    csr_parts,
    raise_csr_fault,
    require_float,
    require_same_device,
    suffix,
)

# The constants of csrc/common/activation.h and csrc/cpu/kernels.h.
ACTIVATIONS = {
    "rectified_tanh": 0, "relu": 1, "clamped_relu": 2, "exp": 3, "softplus": 4, "identity": 5,
}  # fmt: skip
TARGET_KINDS = {"log1p": 0, "counts": 1, "rate": 2}
REDUCTIONS = {"mean": 0, "genes": 1, "sum": 2, "cell": 3}

# How a schema names the fields of `Problem`.
PROBLEM_SCHEMA = (
    "Tensor target, Tensor? indptr, Tensor? columns, Tensor? library, Tensor? panel_id, "
    "Tensor? panel_mask, Tensor? panel_counts, str activation, str target_kind, float target_sum, "
    "float eps, bool full"
)


class ObservedGenes(Protocol):
    """Which genes were measured in each cell, as a few panels that cells share."""

    @property
    def panel_id(self) -> Tensor:
        """int32 [B], the panel of each cell."""

    @property
    def mask(self) -> Tensor:
        """uint8 [P, G], not 0 for the genes of a panel."""

    @property
    def counts(self) -> Tensor:
        """int64 [P], how many genes a panel has."""


class Problem(NamedTuple):
    """All that defines the loss besides the logits, in the order of `PROBLEM_SCHEMA`."""

    target: Tensor  # [B, G], or the values of a CSR target
    indptr: Tensor | None
    columns: Tensor | None
    library: Tensor | None
    panel_id: Tensor | None
    panel_mask: Tensor | None
    panel_counts: Tensor | None
    activation: str
    target_kind: str
    target_sum: float
    eps: float
    full: bool


# ---- checks, once, in the public functions ------------------------------------------------------


def _choice(name: str, value: str, choices: dict[str, int]) -> None:
    if value not in choices:
        known = ", ".join(repr(c) for c in choices)
        raise ValueError(f"{name} is {value!r}; it is one of {known}")


def _checked_library(library: Tensor | None, target_kind: str, cells: int) -> Tensor | None:
    if library is None:
        return None
    if target_kind != "counts":
        raise ValueError(
            f"library is given, but target_kind is {target_kind!r}; only counts are divided by it"
        )
    if library.shape != (cells,):
        raise ValueError(f"library has shape {tuple(library.shape)}; [{cells}] is needed")
    return library.to(torch.float64).contiguous()


def _checked_panels(
    observed: ObservedGenes | None, cells: int, genes: int
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    if observed is None:
        return None, None, None
    panels = len(observed.counts)
    expected: dict[str, tuple[Tensor, tuple[torch.dtype, ...], tuple[int, ...]]] = {
        "panel_id": (observed.panel_id, (torch.int32,), (cells,)),
        "mask": (observed.mask, (torch.uint8, torch.bool), (panels, genes)),
        "counts": (observed.counts, (torch.int64,), (panels,)),
    }
    for name, (tensor, dtypes, shape) in expected.items():
        if tensor.dtype not in dtypes or tensor.shape != shape:
            raise ValueError(
                f"observed.{name} is {tensor.dtype} of shape {tuple(tensor.shape)}; "
                f"{dtypes[0]} {list(shape)} is needed"
            )
    mask = observed.mask.contiguous()
    mask = mask.view(torch.uint8) if mask.dtype == torch.bool else mask
    return observed.panel_id.contiguous(), mask, observed.counts.contiguous()


def checked_problem(
    shape: tuple[int, int],
    like: Tensor,
    like_name: str,
    dtype: torch.dtype,
    target: Tensor | SparseRows,
    *,
    activation: str,
    target_kind: str,
    library: Tensor | None,
    target_sum: float,
    observed: ObservedGenes | None,
    full: bool,
    eps: float,
    reduction: str,
    reductions: dict[str, int],
) -> Problem:
    """Check the arguments against logits of a shape and dtype on the device of `like`."""
    _choice("activation", activation, ACTIVATIONS)
    _choice("target_kind", target_kind, TARGET_KINDS)
    _choice("reduction", reduction, reductions)
    if like.device.type == "cuda":
        raise NotImplementedError(
            f"{like_name} is on {like.device}, and the Poisson losses have no CUDA kernel yet; "
            "move the tensors to the CPU"
        )
    if not (math.isfinite(target_sum) and target_sum > 0):
        raise ValueError(f"target_sum is {target_sum}; a positive number is needed")
    cells, genes = shape
    if tuple(target.shape) != (cells, genes):
        raise ValueError(
            f"target has shape {tuple(target.shape)}; [{cells}, {genes}], a target for each cell "
            "and gene, is needed"
        )
    indptr: Tensor | None = None
    columns: Tensor | None = None
    if isinstance(target, Tensor) and target.layout == torch.strided:
        require_float(target, "target")
        values = target
    elif isinstance(target, Tensor) and target.layout != torch.sparse_csr:
        raise TypeError(
            f"target has layout {target.layout}; pass it dense or as target.to_sparse_csr()"
        )
    else:
        indptr, columns, values = csr_parts(target, "target")
    if torch.is_grad_enabled() and values.requires_grad:
        raise ValueError(
            "target requires a gradient, and the loss gives it none; pass target.detach()"
        )
    panel_id, mask, counts = _checked_panels(observed, cells, genes)
    require_same_device(
        like, like_name, target=values, library=library, **{"observed.panel_id": panel_id}
    )
    values = values.to(dtype)
    if values.dim() == 2 and values.stride(1) != 1:
        values = values.contiguous()
    return Problem(
        values, indptr, columns, _checked_library(library, target_kind, cells), panel_id, mask,
        counts, activation, target_kind, float(target_sum), float(eps), full,
    )  # fmt: skip


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """Return float64 if one of the tensors is float64, else float32."""
    wide = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if wide else torch.float32


def scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    """Multiply a gradient by what comes from above, a number or one for each cell.

    A loss that is itself differentiated has 1 above it: then the gradient needs no further pass.
    It may be handed out as it is: should someone write into it and run backward again, torch finds
    the saved tensor changed and says so.
    """
    if upstream.dim():
        return gradient * upstream[:, None]
    plain = type(upstream) is Tensor and upstream.device.type == "cpu"
    if not torch.compiler.is_compiling() and plain and upstream.item() == 1:
        return gradient
    return gradient * upstream


# ---- the kernels --------------------------------------------------------------------------------


class Prepared:
    """A checked problem with each cell's two numbers, ready for sweeps on the CPU."""

    def __init__(self, problem: Problem, shape: tuple[int, ...], reduction: str) -> None:
        p = problem
        cells, genes = shape
        self.cells = cells
        self.units, self.weights, self.sums = torch.zeros((3, cells), dtype=torch.float64)
        self._arguments = (
            cells, genes, TARGET_KINDS[p.target_kind], p.target.data_ptr(), address(p.indptr),
            address(p.columns), p.columns is not None and p.columns.dtype == torch.int64,
            p.target.shape[0], p.target.stride(0) if p.indptr is None else 0, address(p.library),
            address(p.panel_id), address(p.panel_mask), address(p.panel_counts),
            0 if p.panel_counts is None else len(p.panel_counts), ACTIVATIONS[p.activation],
            p.target_sum, p.eps, p.full, torch.get_num_threads(),
        )  # fmt: skip
        self._sweep = getattr(_native.cpu(), "poisson_sweep_" + suffix(p.target))
        report = getattr(_native.cpu(), "poisson_prepare_" + suffix(p.target))(
            *self._arguments, REDUCTIONS[reduction], self.units.data_ptr(), self.weights.data_ptr()
        )
        if report[0]:
            panels = 0 if p.panel_counts is None else len(p.panel_counts)
            _raise_fault(report, genes, panels)

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
        self._sweep(
            *self._arguments, self.units.data_ptr(), self.weights.data_ptr(), first,
            logits.shape[1], logits.data_ptr(), logits.stride(0), self.sums.data_ptr(),
            address(loss), address(gradient), 0 if gradient is None else gradient.stride(0),
            address(upstream), 0 if upstream is None else upstream.stride(0),
        )  # fmt: skip

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
    fault, row, position, value, library, count = report
    if fault <= 3:
        hint = "target and logits must share one gene order"
        raise_csr_fault((fault, row, position, value, count), "target", genes, hint)
    if fault == 4:
        raise ValueError(
            f"observed.panel_id names panels that do not exist in {count:,} cells, first cell "
            f"{row:,} with panel {value:,} of {panels:,}; use 0 to {panels - 1:,}"
        )
    raise ValueError(
        f"library sizes must be finite and not negative: {count:,} cells are not, first cell "
        f"{row:,} with {library}; pass each cell's total count"
    )
