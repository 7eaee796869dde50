"""dropout: lose numbers by Philox words, rectified before if asked, in one sweep."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from . import _native
from ._common import (
    LIBRARY,
    SCALAR_KINDS,
    STREAM_DROPOUT,
    Report,
    address,
    as_dtype,
    as_float,
    draw_seed,
    require_float,
    require_same_device,
    require_seed,
    require_stream,
)
from ._derivatives import apply, call, differentiates, once, register
from ._kinds import require_given, require_integers, require_numbers, require_truths, shown

LIBRARY.define(
    "dropout(Tensor x, float p, Tensor seed, int stream, SymInt first, bool rectified) -> Tensor"
)
# y is that of a rectified forward, whose backward needs no seed.
LIBRARY.define(
    "dropout_backward(Tensor delta, Tensor? y, float p, Tensor? seed, int stream, SymInt first)"
    " -> Tensor"
)
_LAST = 2**62  # of a draw's numbers


def _room(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _draw(x: Tensor, p: float, seed: Tensor | None, stream: int, first: int) -> _native.Parameters:
    """Return DropoutDraw in csrc/common/dropout.h, and the kind of x."""
    return {
        "kind": SCALAR_KINDS[x.dtype],
        "count": x.numel(),
        "first": first,
        "seed": address(seed),
        "stream": stream,
        "threshold": math.ceil(p * 2**24),
        "scale": 1 / (1 - p),
    }


def _forward(
    x: Tensor, p: float, seed: Tensor, stream: int, first: int, rectified: bool
) -> tuple[Tensor, _native.Parameters]:
    """Return room for y, and Dropout in csrc/common/dropout.h."""
    y = torch.empty_like(x)
    given = _draw(x, p, seed, stream, first)
    given["x"], given["y"], given["rectified"] = x.data_ptr(), y.data_ptr(), rectified
    return y, given


def _forward_cpu(x: Tensor, *options: Any) -> Tensor:
    x = x.contiguous()
    y, given = _forward(x, *options)
    given["threads"] = torch.get_num_threads()
    report = _native.cpu().dropout(given)
    if report[0]:
        _, first, _, _, number, count = Report(*report)
        raise ValueError(
            f"finite numbers of x are beyond {str(x.dtype)[6:]} when divided by 1 − p: {count:,} "
            f"of {x.numel():,}, first number {first:,} with {number:g}; scale x down"
        )
    return y


def _forward_cuda(x: Tensor, *options: Any) -> Tensor:
    if _native.checks_enabled():  # the CPU's kernel, on copies, finds faults and names them
        _forward_cpu(*(a.cpu() if isinstance(a, Tensor) else a for a in (x, *options)))
    with torch.cuda.device(x.device):
        x = x.contiguous()
        y, given = _forward(x, *options)
        _native.launch("dropout", given)
    return y


def _backward(
    delta: Tensor, y: Tensor | None, p: float, seed: Tensor | None, stream: int, first: int
) -> tuple[Tensor, _native.Parameters]:
    """Return room for the gradient of x, and DropoutBackward in csrc/common/dropout.h."""
    grad = torch.empty_like(delta)
    given = _draw(delta, p, seed, stream, first)
    given["delta"], given["y"], given["grad"] = delta.data_ptr(), address(y), grad.data_ptr()
    return grad, given


def _backward_cpu(delta: Tensor, y: Tensor | None, *options: Any) -> Tensor:
    delta, y = delta.contiguous(), None if y is None else y.contiguous()
    grad, given = _backward(delta, y, *options)
    given["threads"] = torch.get_num_threads()
    _native.cpu().dropout_backward(given)
    return grad


def _backward_cuda(delta: Tensor, y: Tensor | None, *options: Any) -> Tensor:
    with torch.cuda.device(delta.device):
        delta, y = delta.contiguous(), None if y is None else y.contiguous()
        grad, given = _backward(delta, y, *options)
        _native.launch("dropout_backward", given)
    return grad


register("dropout", "dropout", _forward_cpu, _forward_cuda, _room)
register("dropout_backward", "dropout", _backward_cpu, _backward_cuda, _room)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, p: float, seed: Tensor, stream: int, first: int, rectified: bool
    ) -> Tensor:
        y: Tensor = call(torch.ops.kernomics.dropout, x, p, seed, stream, first, rectified)
        ctx.save_for_backward(*((y, None) if rectified else (None, seed)))
        ctx.options = p, stream, first
        return y

    @staticmethod
    @once("dropout")
    def backward(ctx: Any, delta: Tensor) -> Any:
        y, seed = ctx.saved_tensors
        p, stream, first = ctx.options
        grad = call(torch.ops.kernomics.dropout_backward, delta, y, p, seed, stream, first)
        return grad, None, None, None, None, None


def _check_options(x: Tensor, p: Any, first: int, stream: int) -> None:
    if x.layout != torch.strided:
        raise TypeError(f"x has layout {x.layout}; pass it dense")
    require_float(x, "x")
    if isinstance(p, Tensor):
        raise TypeError(f"p is {shown(p)}; a number is needed")
    if not 0 <= p < 1:
        raise ValueError(f"p = {p} must lie from 0 to below 1")
    if not 0 <= first <= _LAST:
        raise ValueError(f"first = {first} must lie between 0 and 2⁶²")
    require_stream(stream)


def dropout(
    x: Tensor,
    p: float,
    seed: Tensor | None = None,
    *,
    rectified: bool = False,
    first: int = 0,
    stream: int = STREAM_DROPOUT,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Set numbers to 0 at random, at the rate p, and scale the others so that their mean stays.

    Dropout (Srivastava et al., JMLR 2014), its training form alone. With u the uniform number, of
    24 bits, of a number's random word,

    .. math:: y_e = \begin{cases} x_e / (1 - p) & u_{\mathrm{first} + e} ≥ p \\
              0 & \text{otherwise} \end{cases}
              \qquad
              ∂L/∂x_e = \begin{cases} (∂L/∂y_e) / (1 - p) & u_{\mathrm{first} + e} ≥ p \\
              0 & \text{otherwise} \end{cases}

    and if `rectified` the same of max(x, 0): ReLU and dropout in one sweep. Each number has one
    word of its own (:func:`kernomics.ops.reference.dropout_kept`), so what stays depends on neither
    threads nor device, and no mask is kept: backward draws the words again, or reads what stayed
    from a rectified y. The part of a batch that begins with its number `first` loses what it would
    within the whole.

    Parameters
    ----------
    x
        Of any shape and strides, float64, float32, bfloat16 or float16. Half precision is computed
        in float32.
    p
        Share of the numbers that is lost, from 0 to below 1; 0 loses none. A number, for each of
        which ``torch.compile`` makes a graph.
    seed
        int64 [2], (key, step), on the device of x. Drawn from `generator` when not given.
    rectified
        Whether numbers below 0 are set to 0 first; the gradient at 0 is then 0.
    first
        Which number of the draw x begins with, from 0 to 2⁶².
    stream
        Which of the 65,536 independent streams of random words to use.
    generator
        Where a missing seed is drawn from; torch's default generator when not given.

    Returns
    -------
    Tensor
        y, of the shape and dtype of x, contiguous. NaN stays NaN; an infinite number that is lost
        is 0·∞, NaN, as in torch.

    Raises
    ------
    ValueError
        p, `first` or `stream` out of range, a seed that is not int64 [2] or on another device;
        finite numbers of x that are beyond the dtype it is computed in when divided by 1 − p. On
        CUDA the last is looked for when the environment variable ``KERNOMICS_CHECK`` is 1; without
        it they become infinite, and so does what is beyond float16 or bfloat16 alone, as in torch.
    TypeError
        An x that is no dense tensor of floating-point numbers; a p that is no number.
    RuntimeError
        Tensors on CUDA in a build without CUDA kernels.
    """
    require_given(x=x)
    require_numbers(p=p)
    require_integers(first=first, stream=stream)
    require_truths(rectified=rectified)
    _check_options(x, p, first, stream)
    seed = require_seed(draw_seed(generator, x.device) if seed is None else seed)
    require_same_device(x, "x", seed=seed)
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    arguments = as_dtype(x, exact), as_float(p), seed, stream, first, bool(rectified)
    y: Tensor
    if differentiates(x):
        y = apply("dropout", _Dropout, *arguments)
    else:
        y = call(torch.ops.kernomics.dropout, *arguments)
    return as_dtype(y, x.dtype)
