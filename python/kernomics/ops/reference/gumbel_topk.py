"""The k best genes under Gumbel noise, and the relaxed masks that gradients go through."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._common import STREAM_GENE_SCORES
from .philox import gumbel_noise


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
