"""Operations that run as others, which have rules."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernomics.errors import ConfigError

LSTM = 2
"""The mode of `mkldnn_rnn_layer` that torch uses."""


_calls = threading.Lock()
_fast: list[bool] = []
"""What the fast path was set to, once for each call that runs."""


@contextmanager
def by_parts() -> Iterator[None]:
    """Let no layer run as one operation; the setting is the process's, and other threads' too."""
    with _calls:
        _fast.append(_fast[0] if _fast else torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        with _calls:
            before = _fast.pop()
            if not _fast:
                torch.backends.mha.set_fastpath_enabled(before)


@cache
def decomposition_of(op: Any) -> Callable[..., Any] | None:
    """Return a function that does the same by other operations; None where there is none.

    In inference mode an operation such as ``linear`` reaches the tape before torch takes it apart.
    """
    if str(op) in TAKEN_APART:
        return TAKEN_APART[str(op)]
    whole = TAKEN_APART.get(str(op).replace("_.", "."))
    if whole is not None:
        return lambda x, *args, **kwargs: x.copy_(whole(x, *args, **kwargs))
    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    if torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), composite):
        return op.decompose  # type: ignore[no-any-return]
    return None


def glu(x: Tensor, dim: int = -1) -> Tensor:
    """Half of the channels times the sigmoid of the others."""
    value, gate = x.chunk(2, dim)
    return value * gate.sigmoid()


def addcdiv(x: Tensor, over: Tensor, under: Tensor, *, value: float = 1) -> Tensor:
    """X + value · over / under."""
    return x + value * (over / under)


def lstm_layer(
    x: Tensor,
    of_x: Tensor,
    of_h: Tensor,
    bias_x: Tensor,
    bias_h: Tensor,
    h: Tensor,
    c: Tensor,
    reverse: bool,
    batch_sizes: list[int],
    mode: int,
    hidden_size: int,
    num_layers: int,
    has_biases: bool,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run a layer of an LSTM, [steps, B, n] → [steps, B, m], which torch runs as one in float32."""
    if mode != LSTM or batch_sizes:
        raise ConfigError("DeepLIFT has no rule for a packed sequence; pad it, or take float64")
    gates = F.linear(x, of_x, bias_x + bias_h if has_biases else None)
    shape = h.shape
    h, c = h.reshape(-1, hidden_size), c.reshape(-1, hidden_size)
    found: list[Tensor] = []
    for step in reversed(range(len(x))) if reverse else range(len(x)):
        i, f, g, o = (gates[step] + F.linear(h, of_h)).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        found.append(h)
    out = torch.stack(found[::-1] if reverse else found)
    return out, h.reshape(shape), c.reshape(shape), x.new_empty(0)


TAKEN_APART: dict[str, Callable[..., Any]] = {
    "aten.glu.default": glu,
    "aten.addcdiv.default": addcdiv,
    "aten.mkldnn_rnn_layer.default": lstm_layer,
}
