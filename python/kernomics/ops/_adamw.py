"""The CPU kernels of AdamW and of the gradient's norm, on tables of addresses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from . import _native
from ._common import SCALAR_KINDS

Slot = tuple[int, ...]
"""One parameter, `AdamWSlot` in csrc/common/adamw.h."""
GRADIENT = 4
"""The gradient's place in a slot."""

KERNEL_DTYPES = (torch.float32, torch.float64)


def fits(*tensors: Tensor) -> bool:
    """Whether tensors lie as the kernels take them: all of one such dtype, on the CPU, no gaps."""
    dtype = tensors[0].dtype
    return dtype in KERNEL_DTYPES and all(
        t.dtype is dtype and t.device.type == "cpu" and t.is_contiguous() for t in tensors
    )


def slot_of(
    value: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    steps: Tensor,
    touched: Tensor | None,
    compact: bool,
) -> Slot:
    """Return the table's row of a parameter; see `adamw_step`.

    Parameters
    ----------
    steps
        float32 [], or int64 [rows] where each row counts its own.
    touched
        int64 [n], the rows to update; None for all.
    compact
        Whether `gradient` holds those rows alone.
    """
    rows = value.shape[0] if value.dim() else 1
    return (
        value.data_ptr(),
        mean.data_ptr(),
        square.data_ptr(),
        steps.data_ptr(),
        gradient.data_ptr(),
        int(compact),
        int(steps.dtype is torch.int64),
        0 if touched is None else touched.data_ptr(),
        rows if touched is None else touched.shape[0],
        rows,
        value.numel() // rows if rows else 0,
    )


def adamw_step(
    slots: Sequence[Sequence[int]],
    dtype: torch.dtype,
    *,
    rate: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
    factor: float,
    one_scale: bool,
) -> bool:
    """Update parameters; return False, and update none, if touched rows do not ascend in range."""
    table = np.array(slots, np.int64)
    report = _native.cpu().adamw_step(
        {
            "kind": SCALAR_KINDS[dtype],
            "slots": table.ctypes.data,
            "slot_count": len(slots),
            "rate": float(rate),
            "weight_decay": float(weight_decay),
            "beta1": float(betas[0]),
            "beta2": float(betas[1]),
            "eps": float(eps),
            "factor": float(factor),
            "one_scale": one_scale,
            "threads": torch.get_num_threads(),
        }
    )
    return not report[0]


def square_sum(tensors: Sequence[Tensor]) -> float:
    """Return Σ x² over tensors of one dtype that `fits`."""
    if not tensors:
        return 0.0
    table = np.array([(t.data_ptr(), t.numel()) for t in tensors], np.int64)
    out = np.zeros(1)
    _native.cpu().square_sum(
        {
            "kind": SCALAR_KINDS[tensors[0].dtype],
            "lists": table.ctypes.data,
            "list_count": len(tensors),
            "out": out.ctypes.data,
            "threads": torch.get_num_threads(),
        }
    )
    return float(out[0])
