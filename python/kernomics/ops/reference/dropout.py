"""Which numbers dropout keeps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .philox import philox4x32_10

STREAM = 10


def dropout_kept(p: float, key: int, draw: int, first: int, count: int) -> Tensor:
    r"""Return which numbers of a draw stay, bool [count]: those from the `first` on.

    .. math:: \text{number } e \text{ stays} \iff u_e ≥ p, \quad u_e = \lfloor w_e / 2^8 \rfloor
              / 2^{24}

    with w_e the Philox word of column e mod 2³⁴ of row ⌊e / 2³⁴⌋, of key and step (key, draw) and
    of dropout's own stream. So whether a number stays hangs on its place alone: not on what else is
    in the batch, on the device, or on how many threads and processes there are.
    """
    low = np.uint64(2**32 - 1)
    element = np.arange(first, first + count, dtype=np.uint64)
    row = element >> np.uint64(34)
    counter = np.stack(
        [
            (element >> np.uint64(2)) & low,
            row & low,
            (row >> np.uint64(32)) | np.uint64(STREAM << 16),
            np.full(count, draw % 2**32, np.uint64),
        ],
        axis=-1,
    )
    words = philox4x32_10(counter, np.array([key % 2**32, (key >> 32) % 2**32], np.uint64))
    word = words[np.arange(count), (element & np.uint64(3)).astype(np.int64)]
    return torch.from_numpy((word >> np.uint32(8)) / 2**24 >= p)
