r"""What each op means, in plain torch and numpy: read this to learn the mathematics.

The functions follow the papers' formulas literally, with the papers' symbols and without regard to
speed or memory; the tests hold the fused kernels to them. Everything is differentiable by autograd.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._common import STREAM_GENE_SCORES

__all__ = [
    "gumbel_from_words",
    "gumbel_noise",
    "gumbel_topk",
    "masked_linear",
    "neuralsort_mask",
    "philox4x32_10",
    "philox_words",
    "relaxed_mask",
    "softmax_mask",
    "softsort_mask",
]

# ---- random numbers -----------------------------------------------------------------------------

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


def gumbel_from_words(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Turn 32-bit words into standard Gumbel noise g = −log E, E exponentially distributed.

    With the uniform number 1 − u, u = (r + ½)/2³², E = −log(1 − u), finite for every word r: from
    −3.13 to 22.87. A large g belongs to a small u, where u is finely spaced.
    """
    u = (words.astype(np.float64) + 0.5) * 2.0**-32
    complement = ((~words).astype(np.float64) + 0.5) * 2.0**-32  # 1 − u, exactly
    exponential = np.where(u < 0.5, -np.log1p(-u), -np.log(complement))
    return np.asarray(-np.log(exponential))


def gumbel_noise(
    seed: Tensor | Sequence[int],
    row_ids: Tensor | Sequence[int],
    n_columns: int,
    stream: int = STREAM_GENE_SCORES,
) -> Tensor:
    """Return the standard Gumbel noise that :func:`gumbel_topk` adds, float64 [rows, n_columns]."""
    return torch.from_numpy(gumbel_from_words(philox_words(seed, row_ids, n_columns, stream)))


# ---- gumbel_topk --------------------------------------------------------------------------------


def softsort_mask(y: Tensor, k: int, tau: float) -> Tensor:
    r"""SoftSort's relaxed top-k mask (Prillo & Eisenschlos 2020), [n] from scores [n].

    .. math:: Γ_j = Σ_{i≤k} \mathrm{softmax}_j(-|y_{(i)} - y_j| / τ), y_{(1)} ≥ y_{(2)} ≥ …
    """
    largest = torch.sort(y, descending=True, stable=True).values[:k]
    distance = (largest[:, None] - y[None, :]).abs()
    return torch.softmax(-distance / tau, dim=1).sum(0)


def neuralsort_mask(y: Tensor, k: int, tau: float) -> Tensor:
    r"""NeuralSort's relaxed top-k mask (Grover et al. 2019), [n] from scores [n].

    .. math:: Γ_j = Σ_{i≤k} \mathrm{softmax}_j(((n + 1 - 2i) y_j - Σ_l |y_j - y_l|) / τ)
    """
    n = len(y)
    rank = torch.arange(1, k + 1, dtype=y.dtype, device=y.device)
    spread = (y[:, None] - y[None, :]).abs().sum(1)
    logits = ((n + 1 - 2 * rank)[:, None] * y[None, :] - spread[None, :]) / tau
    return torch.softmax(logits, dim=1).sum(0)


def softmax_mask(y: Tensor, k: int, tau: float) -> Tensor:
    """Return the simplest relaxed mask, Γ = k softmax(y/τ), [n] from scores [n]."""
    return k * torch.softmax(y / tau, dim=0)


_MASKS = {"softsort": softsort_mask, "neuralsort": neuralsort_mask, "softmax": softmax_mask}


def relaxed_mask(scores: Tensor, k: int, *, tau: float, relaxation: str = "softsort") -> Tensor:
    """Compute the relaxed top-k mask Γ; see :func:`kernomics.ops.relaxed_mask`.

    Genes with score +inf are forced (Γ = 1) and those with −inf forbidden (Γ = 0). Both leave the
    problem first: with f forced genes, k − f are chosen among the finite ones.
    """
    if scores.dim() == 2:
        return torch.stack([relaxed_mask(r, k, tau=tau, relaxation=relaxation) for r in scores])
    finite, forced = scores.isfinite(), scores == float("inf")
    gamma = _MASKS[relaxation](scores[finite], k - int(forced.sum()), tau)
    return forced.to(scores.dtype).masked_scatter(finite, gamma)


def gumbel_topk(
    scores: Tensor,
    k: int,
    *,
    tau: float,
    relaxation: str = "softsort",
    noise: bool | float = True,
    seed: Tensor | Sequence[int] = (0, 0),
    row_ids: Tensor | Sequence[int] | None = None,
    stream: int = STREAM_GENE_SCORES,
) -> tuple[Tensor, Tensor]:
    """Choose k genes by perturbed scores, straight through; see :func:`kernomics.ops.gumbel_topk`.

    y = s + noise·g. The k largest y win, ties going to the smaller index. The mask is 0/1 forward
    and has the gradient of the relaxed mask Γ(y) backward.

    Returns
    -------
    indices : int64 [rows, k] or [k]
        The chosen genes, ascending.
    mask : [rows, genes] or [genes]
        1 for the chosen genes, 0 for the others.
    """
    y = scores if scores.dim() == 2 else scores[None]
    if noise:
        ids = range(len(y)) if row_ids is None else row_ids
        g = gumbel_noise(seed, ids, y.shape[1], stream).to(y)
        y = y + float(noise) * g
    winners = torch.sort(y, dim=1, descending=True, stable=True).indices[:, :k]
    indices = winners.sort(dim=1).values
    hard = torch.zeros_like(y).scatter(1, indices, 1.0)
    gamma = relaxed_mask(y, k, tau=tau, relaxation=relaxation)
    mask = hard + (gamma - gamma.detach())  # the parenthesis is exactly 0
    return (indices, mask) if scores.dim() == 2 else (indices[0], mask[0])


# ---- masked_linear ------------------------------------------------------------------------------


def masked_linear(
    x: Tensor,
    mask: Tensor,
    indices: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    grad_indices: Tensor | None = None,
) -> Tensor:
    r"""Let a linear layer see the chosen genes alone; see :func:`kernomics.ops.masked_linear`.

    .. math:: y_b = Σ_{j∈S} m_j x_{bj} W_j + \mathrm{bias}

    The gradient pretends that every gene took part: ∂y_b/∂m_j = x_bj W_j also for genes outside S
    (or for those in `grad_indices`), so that the mask learns what a gene would have added.

    Parameters
    ----------
    x
        [cells, genes], dense or sparse.
    mask
        m, [genes].
    indices
        S, the chosen genes.
    weight
        W, [genes, outputs].
    bias
        [outputs].
    grad_indices
        The genes whose mask gets a gradient, −1 being none; every gene when not given.

    Returns
    -------
    Tensor
        y, [cells, outputs].
    """
    chosen = torch.zeros_like(mask)
    chosen[indices] = 1
    learns = torch.ones_like(mask)
    if grad_indices is not None:
        learns = torch.zeros_like(mask)
        learns[grad_indices[grad_indices >= 0]] = 1
    change = mask - mask.detach()  # exactly 0, with gradient 1
    m = chosen * mask.detach() + learns * change
    y = (x.to_dense() * m) @ weight
    return y if bias is None else y + bias
