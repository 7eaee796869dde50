"""Where all random numbers come from: counters, words, exponential and Gumbel numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._common import STREAM_GENE_SCORES

_LOW_32_BITS = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def philox4x32_10(counter: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """Turn counters into random words with Philox4x32-10 (Salmon et al., SC 2011).

    Parameters
    ----------
    counter
        uint64 [..., 4], each entry below 2³².
    key
        uint64 [2], each entry below 2³².

    Returns
    -------
    NDArray[np.uint32]
        [..., 4] random words, a pure function of counter and key.
    """
    c0, c1, c2, c3 = np.moveaxis(counter.astype(np.uint64), -1, 0)
    k0, k1 = (int(k) for k in key)
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c0
        p1 = np.uint64(0xCD9E8D57) * c2
        c0, c1 = (p1 >> _32) ^ c1 ^ np.uint64(k0), p1 & _LOW_32_BITS
        c2, c3 = (p0 >> _32) ^ c3 ^ np.uint64(k1), p0 & _LOW_32_BITS
        k0 = (k0 + 0x9E3779B9) % 2**32
        k1 = (k1 + 0xBB67AE85) % 2**32
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def philox_words(
    seed: Tensor | Sequence[int],
    row_ids: Tensor | Sequence[int],
    n_columns: int,
    stream: int = STREAM_GENE_SCORES,
) -> NDArray[np.uint32]:
    """Return the random word of every (row id, column): where kernomics' randomness comes from.

    Parameters
    ----------
    seed
        (key, step), two 64-bit integers. The step counts modulo 2³².
    row_ids
        [rows], each in [0, 2⁴⁸): what the row is (for cells the index in their collection), not
        where it stands in a batch.
    n_columns
        Columns, from 0; for cells the genes.
    stream
        Which purpose the words serve, below 2¹⁶.

    Returns
    -------
    NDArray[np.uint32]
        [rows, n_columns].
    """
    key, step = (int(s) for s in seed)
    rows = np.asarray([int(r) for r in row_ids], dtype=np.uint64)
    blocks = np.arange((n_columns + 3) // 4, dtype=np.uint64)
    counter = np.zeros((len(rows), len(blocks), 4), dtype=np.uint64)
    counter[..., 0] = blocks[None, :]  # column >> 2; the output word is column & 3
    counter[..., 1] = (rows & _LOW_32_BITS)[:, None]
    counter[..., 2] = (rows >> _32)[:, None] + np.uint64(stream << 16)
    counter[..., 3] = np.uint64(step % 2**32)
    words = philox4x32_10(counter, np.array([key % 2**32, (key >> 32) % 2**32], dtype=np.uint64))
    return words.reshape(len(rows), 4 * len(blocks))[:, :n_columns]


def exponential_from_words(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Turn 32-bit words into standard exponential numbers E, rising with the word.

    With the uniform number 1 − u, u = (r + ½)/2³², E = −log(1 − u), finite for every word r: from
    1.16e-10 to 22.87. A small E belongs to a small u, where u is finely spaced.
    """
    u = (words.astype(np.float64) + 0.5) * 2.0**-32
    complement = ((~words).astype(np.float64) + 0.5) * 2.0**-32  # 1 − u, exactly
    return np.where(u < 0.5, -np.log1p(-u), -np.log(complement))


def gumbel_from_words(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Turn 32-bit words into standard Gumbel noise g = −log E, from −3.13 to 22.87."""
    return np.asarray(-np.log(exponential_from_words(words)))


def gumbel_noise(
    seed: Tensor | Sequence[int],
    row_ids: Tensor | Sequence[int],
    n_columns: int,
    stream: int = STREAM_GENE_SCORES,
) -> Tensor:
    """Return the standard Gumbel noise that :func:`gumbel_topk` adds, float64 [rows, n_columns]."""
    return torch.from_numpy(gumbel_from_words(philox_words(seed, row_ids, n_columns, stream)))
