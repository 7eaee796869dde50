"""Uniform random numbers per cell, from the same Philox as the ops, by torch on any device."""

from __future__ import annotations

import torch
from torch import Tensor

STREAM_DEPTH = 2  # one constant per purpose; those of the ops stand in csrc/common/philox.h
_LOW = 0xFFFFFFFF


def uniforms(seed: Tensor, row_ids: Tensor, n_columns: int, stream: int) -> Tensor:
    """Return a number in [0, 1) for every (row id, column), a pure function of them and the seed.

    For a few columns: the ops draw their own. The words are those of
    `kernomics.ops.reference.philox_words`, the number is the word's upper 24 bits.

    Parameters
    ----------
    seed
        int64 [2], (key, step).
    row_ids
        int64 [R], below 2⁴⁸; for cells their `cell_ids`.
    n_columns
        How many numbers a row gets.
    stream
        What they are for, below 2¹⁶.

    Returns
    -------
    Tensor
        float32 [R, n_columns].
    """
    blocks = torch.arange((n_columns + 3) // 4, device=row_ids.device)
    rows = row_ids[:, None]
    c0 = blocks[None, :].expand(len(row_ids), -1)
    c1 = (rows & _LOW).expand_as(c0)
    c2 = ((rows >> 32) + (stream << 16)).expand_as(c0)
    c3 = (seed[1] & _LOW).expand_as(c0)
    k0, k1 = seed[0] & _LOW, (seed[0] >> 32) & _LOW
    for _ in range(10):
        # Products of 64 bits wrap into the sign; shift and mask give their halves all the same.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _LOW) ^ c1 ^ k0,
            p1 & _LOW,
            ((p0 >> 32) & _LOW) ^ c3 ^ k1,
            p0 & _LOW,
        )
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    words = torch.stack([c0, c1, c2, c3], dim=-1).reshape(len(row_ids), -1)[:, :n_columns]
    return (words >> 8).to(torch.float32) * 2.0**-24
