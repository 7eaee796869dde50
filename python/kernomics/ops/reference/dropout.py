"""Which numbers dropout keeps, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .._common import STREAM_DROPOUT
from .philox import philox4x32_10


def dropout_kept(
    p: float,
    seed: Tensor | Sequence[int],
    count: int,
    *,
    first: int = 0,
    stream: int = STREAM_DROPOUT,
) -> Tensor:
    r"""Return which numbers of a draw stay, bool [count]: those from the `first` on.

    .. math:: \text{number } e \text{ stays} \iff u_e ≥ p, \quad u_e = \lfloor w_e / 2^8 \rfloor
              / 2^{24}

    with w_e the Philox word of column e mod 2³⁴ of row ⌊e / 2³⁴⌋; see :func:`philox_words` for the
    seed, (key, step), and the stream. So whether a number stays hangs on its place alone: not on
    what else is in the batch, on the device, or on how many threads and processes there are.
    """
    key, step = (int(s) for s in seed)
    low = np.uint64(2**32 - 1)
    element = np.arange(first, first + count, dtype=np.uint64)
    row = element >> np.uint64(34)
    counter = np.stack(
        [
            (element >> np.uint64(2)) & low,
            row & low,
            (row >> np.uint64(32)) | np.uint64(stream << 16),
            np.full(count, step % 2**32, np.uint64),
        ],
        axis=-1,
    )
    words = philox4x32_10(counter, np.array([key % 2**32, (key >> 32) % 2**32], np.uint64))
    word = words[np.arange(count), (element & np.uint64(3)).astype(np.int64)]
    return torch.from_numpy((word >> np.uint32(8)) / 2**24 >= p)


def dropout(
    x: Tensor,
    p: float,
    seed: Tensor | Sequence[int] = (0, 0),
    *,
    rectified: bool = False,
    first: int = 0,
    stream: int = STREAM_DROPOUT,
) -> Tensor:
    r"""Lose some numbers, and scale the others up; see :func:`kernomics.ops.dropout`.

    .. math:: y_e = \frac{x_e}{1 - p} \text{ where number first} + e \text{ stays, else } 0

    with max(x, 0) in place of x if `rectified`, whose gradient at 0 is 0.
    """
    kept = dropout_kept(p, seed, x.numel(), first=first, stream=stream).view(x.shape)
    value = torch.relu(x) if rectified else x
    return value * (kept.double() / (1 - p)).to(value)
