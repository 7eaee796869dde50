r"""What each op means, in plain torch and numpy: read this to learn the mathematics.

The functions follow the papers' formulas literally, with the papers' symbols and without regard to
speed or memory; the tests hold the fused kernels to them. Everything is differentiable by autograd.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._common import STREAM_GENE_SCORES, STREAM_TOKENS
from ._poisson import ObservedGenes
from .panels import Panels

__all__ = [
    "embed_tokens",
    "exponential_from_words",
    "gumbel_from_words",
    "gumbel_noise",
    "gumbel_topk",
    "linear_poisson_nll",
    "masked_linear",
    "neuralsort_mask",
    "philox4x32_10",
    "philox_words",
    "poisson_nll",
    "relaxed_mask",
    "sample_tokens",
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


# ---- sample_tokens ------------------------------------------------------------------------------


def sample_tokens(
    counts: Tensor,
    n_tokens: int,
    *,
    cell_ids: Tensor | Sequence[int],
    seed: Tensor | Sequence[int],
    library: Tensor | None = None,
    observed: Panels | None = None,
    candidates: str = "observed",
    weights: Tensor | None = None,
    target_sum: float | None = 1e5,
    transform: str = "log1p",
    stream: int = STREAM_TOKENS,
) -> tuple[Tensor, Tensor]:
    r"""Draw n_tokens genes of each cell; see :func:`kernomics.ops.sample_tokens`.

    Every (cell id, gene) has a random word, and the candidates with the smallest words are drawn,
    or with weights those with the smallest E/w, E the exponential number of the word. The value is

    .. math:: x = \log(1 + \mathrm{count}·\mathrm{target\_sum} / \mathrm{library}).

    Parameters
    ----------
    counts
        [cells, genes], dense or sparse.
    n_tokens
        K.
    cell_ids, seed, stream
        What addresses the words; see :func:`philox_words`.
    library
        [cells], the cells' own sums by default.
    observed
        The panel of genes that each cell's data set observed; all genes by default.
    candidates
        "observed", or "expressed" for those of them with a count.
    weights
        [genes].
    target_sum
        What the counts are scaled to sum to; None leaves them.
    transform
        "log1p", or "counts" for the counts as they are.

    Returns
    -------
    gene_ids : int32 [cells, K]
        The drawn genes, ascending; −1 for those that a cell lacks.
    values : [cells, K]
        Their values, 0 at −1.
    """
    dense = counts.to_dense()
    cells, genes = dense.shape
    allowed = torch.ones((cells, genes), dtype=torch.bool)
    if observed is not None:
        allowed &= observed.mask.bool()[observed.panel_id.long()]
    if candidates == "expressed":
        allowed &= dense != 0
    if weights is not None:
        allowed &= weights > 0

    total = dense.sum(1) if library is None else library
    factor = torch.ones_like(total) if target_sum is None else target_sum / total
    factor = factor.where(total > 0, 0.0) if target_sum is not None else factor
    x = dense if transform == "counts" else torch.log1p(dense * factor[:, None])

    words = philox_words(seed, cell_ids, genes, stream)
    gene_ids = torch.full((cells, n_tokens), -1, dtype=torch.int32)
    values = torch.zeros((cells, n_tokens), dtype=dense.dtype)
    for b in range(cells):
        own = allowed[b].nonzero().flatten()
        keys = words[b, own].astype(np.float64)  # exact: 32 bits
        if weights is not None:
            keys = exponential_from_words(words[b, own]) / weights[own].numpy()
        first = np.argsort(keys, kind="stable")[:n_tokens]
        drawn = own[torch.from_numpy(first)].sort().values
        gene_ids[b, : len(drawn)] = drawn.int()
        values[b, : len(drawn)] = x[b, drawn]
    return gene_ids, values


# ---- embed_tokens -------------------------------------------------------------------------------


def embed_tokens(
    gene_ids: Tensor,
    values: Tensor | None,
    table: Tensor,
    *,
    combine: str = "concat",
    value_embedding: Tensor | None = None,
    cls: Tensor | None = None,
) -> Tensor:
    """Make tokens of genes and their values; see :func:`kernomics.ops.embed_tokens`.

    Concat: token = [E_i ; x_i], where E_i is row i of the table without its last column. Add: token
    = E_i + v_i. Id −1 is padding, a token of zeros. A CLS token goes in front of each cell's.

    Parameters
    ----------
    gene_ids
        i, [cells, tokens].
    values
        x, [cells, tokens], for concat.
    table
        E, [genes, d].
    combine
        "concat" or "add".
    value_embedding
        v, [cells, tokens, d], for add.
    cls
        [d].

    Returns
    -------
    Tensor
        [cells, tokens, d], or one token more per cell.
    """
    embedding = table[gene_ids.clamp(min=0)]
    if combine == "concat":
        assert values is not None
        tokens = torch.cat([embedding[..., :-1], values[..., None]], dim=-1)
    else:
        assert value_embedding is not None
        tokens = embedding + value_embedding
    tokens = torch.where(gene_ids[..., None] >= 0, tokens, 0.0)
    if cls is None:
        return tokens
    return torch.cat([cls.expand(len(tokens), 1, -1), tokens], dim=1)


# ---- poisson_nll --------------------------------------------------------------------------------


def log_rate(z: Tensor, activation: str, target_sum: float = 1e5) -> Tensor:
    """Return φ(z), the predicted log of a gene's rate, for the activations that give one."""
    alpha, beta = math.log(target_sum + 1), 4 * math.e
    if activation == "rectified_tanh":
        return alpha * torch.relu(torch.tanh(z / beta))
    if activation == "relu":
        return torch.relu(z)
    if activation == "clamped_relu":
        return torch.relu(z).clamp(max=alpha)
    return z  # "exp"


def target_rate(
    target: Tensor, target_kind: str, library: Tensor | None = None, target_sum: float = 1e5
) -> Tensor:
    """Return y, the rate that a target [cells, genes] stands for."""
    if target_kind == "log1p":
        return target.exp()
    if target_kind == "counts":
        total = target.sum(1) if library is None else library.to(target)
        unit = torch.where(total > 0, target_sum / total, 0.0)
        return 1 + target * unit[:, None]
    return target  # "rate"


def poisson_nll(
    logits: Tensor,
    target: Tensor,
    *,
    activation: str = "rectified_tanh",
    target_kind: str = "log1p",
    library: Tensor | None = None,
    target_sum: float = 1e5,
    observed: ObservedGenes | None = None,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Tensor:
    r"""Compare predicted expression with counts; see :func:`kernomics.ops.poisson_nll`.

    A Poisson variable of rate λ takes the value y with probability λ^y e^{−λ}/y!. Minus its
    logarithm, without the term that does not depend on λ, is

    .. math:: ℓ = λ - y \log λ = e^{φ(z)} - y\,φ(z).
    """
    y = target_rate(target.to_dense(), target_kind, library, target_sum)
    if activation in ("softplus", "identity"):
        rate = (
            torch.logaddexp(logits, torch.zeros_like(logits))
            if activation == "softplus"
            else logits
        )
        loss = rate - y * (rate + eps).log()
    else:
        phi = log_rate(logits, activation, target_sum)
        loss = phi.exp() - y * phi
    if full:
        loss = loss + torch.where(y > 1, y * y.log() - y + 0.5 * (2 * math.pi * y).log(), 0.0)
    return reduce_loss(loss, observed, reduction)


def reduce_loss(loss: Tensor, observed: ObservedGenes | None, reduction: str) -> Tensor:
    """Reduce losses [cells, genes], of which only those of observed genes count."""
    genes = torch.full((len(loss),), float(loss.shape[1])).to(loss)
    if observed is not None:
        panel = observed.panel_id.long()
        loss = torch.where(observed.mask[panel] != 0, loss, 0.0)
        genes = observed.counts[panel].to(loss)
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction == "genes":
        return loss.sum() / genes.sum().clamp(min=1)
    cell = loss.sum(1) / genes.clamp(min=1)
    return cell if reduction == "cell" else cell.sum() / max(1, len(cell))


def linear_poisson_nll(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, **options: Any
) -> Tensor:
    """Let a linear layer give the logits; see :func:`kernomics.ops.linear_poisson_nll`.

    z = h Wᵀ + bias, then :func:`poisson_nll` with its options. `hidden` is h [cells, H], `weight` W
    [genes, H].
    """
    logits = hidden @ weight.T
    return poisson_nll(logits if bias is None else logits + bias, target, **options)
