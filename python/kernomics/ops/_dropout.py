"""The kernels of dropout; see `kernomics.nn.Dropout`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from . import _native
from ._common import SCALAR_KINDS
from ._derivatives import once

STREAM = 10
"""kStreamDropout of csrc/common/philox.h."""


def dropout(x: Tensor, p: float, key: int, draw: int, first: int, *, rectified: bool) -> Tensor:
    """Return x, or max(x, 0) if `rectified`, times 1/(1 − p) where a number stays, and 0 elsewhere.

    `kernomics.ops.reference.dropout_kept` says which stay.

    Parameters
    ----------
    x
        Float, of any shape, on the CPU or a GPU. Half precision is computed in float32.
    p
        Share of the numbers that is lost, from 0 to below 1.
    key
        Any integer of 64 bits, signed.
    draw
        Which draw of that key, counted modulo 2³².
    first
        Which number of the draw x begins with.
    """
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    found: Tensor = _Dropout.apply(wide.contiguous(), p, key, draw, first, rectified)
    return found.to(x.dtype)


def _run(x: Tensor, p: float, key: int, draw: int, first: int, rectified: bool) -> Tensor:
    y = torch.empty_like(x)
    given: _native.Parameters = {
        "kind": SCALAR_KINDS[x.dtype],
        "x": x.data_ptr(),
        "y": y.data_ptr(),
        "count": x.numel(),
        "first": first,
        "key": key,
        "draw": draw,
        "threshold": math.ceil(p * 2**24),
        "scale": 1 / (1 - p),
        "rectified": rectified,
    }
    if x.is_cuda:
        with torch.cuda.device(x.device):
            _native.launch("dropout", given)
    else:
        given["threads"] = torch.get_num_threads()
        _native.cpu().dropout(given)
    return y


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, p: float, key: int, draw: int, first: int, rectified: bool
    ) -> Tensor:
        y = _run(x, p, key, draw, first, rectified)
        ctx.p, ctx.drawn = p, (key, draw, first)
        ctx.save_for_backward(*((y,) if rectified else ()))
        return y

    @staticmethod
    @once("dropout")
    def backward(ctx: Any, g: Tensor) -> Any:
        p: float = ctx.p
        if ctx.saved_tensors:  # what is not 0 there was above 0 and stayed
            (y,) = ctx.saved_tensors
            back = torch.ops.aten.threshold_backward(g, y, 0).mul_(1 / (1 - p))
        else:
            key, draw, first = ctx.drawn
            back = _run(g.contiguous(), p, key, draw, first, False)
        return back, None, None, None, None, None
