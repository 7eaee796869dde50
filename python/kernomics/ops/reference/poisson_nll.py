"""The Poisson loss of predicted expression, and its activations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._poisson import ObservedGenes


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
