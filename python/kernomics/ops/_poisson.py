"""What the two Poisson losses share: options, targets and checks."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ._common import SparseRows, as_dtype, as_float, csr_parts, require_float, require_same_device
from ._kinds import (
    require_numbers,
    require_observed,
    require_rows,
    require_tensors,
    require_truths,
    require_words,
)

# The constants of csrc/common/activation.h and csrc/common/poisson_nll.h.
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
    return as_dtype(library, torch.float64).contiguous()


def _checked_panels(
    observed: ObservedGenes | None, cells: int, genes: int
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    if observed is None:
        return None, None, None
    panels = observed.counts.shape[0]
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
    narrow: torch.dtype | None = None,
) -> Problem:
    """Check the arguments against logits of a shape and dtype on the device of `like`.

    A dense target of dtype `narrow` stays as it is; others become that of the logits.
    """
    require_words(activation=activation, target_kind=target_kind, reduction=reduction)
    require_numbers(target_sum=target_sum, eps=eps)
    require_truths(full=full)
    require_rows("target", target)
    require_tensors(library=library)
    require_observed(observed)
    _choice("activation", activation, ACTIVATIONS)
    _choice("target_kind", target_kind, TARGET_KINDS)
    _choice("reduction", reduction, reductions)
    if not 0.0 < target_sum < float("inf"):
        raise ValueError(f"target_sum is {target_sum}; a positive number is needed")
    if not torch.finfo(dtype).smallest_normal <= eps < float("inf"):
        raise ValueError(
            f"eps is {eps}; a number of at least {torch.finfo(dtype).smallest_normal:g}, which "
            f"{dtype} holds, is needed"
        )
    cells, genes = shape
    if genes >= 2**31:
        raise ValueError(f"{like_name} has {genes:,} genes; fewer than 2³¹ are possible")
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
        like, like_name, target=values, library=library,
        **{
            "target's row pointers": indptr, "target's columns": columns,
            "observed.panel_id": panel_id, "observed.mask": mask, "observed.counts": counts,
        },
    )  # fmt: skip
    if indptr is not None or values.dtype != narrow:
        values = as_dtype(values, dtype)
    if values.dim() == 2 and values.stride(1) != 1:
        values = values.contiguous()
    return Problem(
        values, indptr, columns, _checked_library(library, target_kind, cells), panel_id, mask,
        counts, activation, target_kind, as_float(target_sum), as_float(eps), full,
    )  # fmt: skip


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """Return float64 if one of the tensors is float64, else float32."""
    wide = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if wide else torch.float32
