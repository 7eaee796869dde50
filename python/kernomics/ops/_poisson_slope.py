"""The Poisson losses' derivative in plain torch, for whoever differentiates it again."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._poisson import Problem, compute_dtype


def _dense_target(p: Problem, like: Tensor) -> Tensor:
    if p.indptr is None or p.columns is None:
        return p.target.to(like.dtype)
    row = torch.arange(like.shape[0], device=like.device).repeat_interleave(p.indptr.diff())
    stored = p.target.to(like.dtype)
    return like.new_zeros(like.shape).index_put((row, p.columns.long()), stored)


def _rates(p: Problem, like: Tensor) -> Tensor:
    """Return y, [cells, genes]."""
    target = _dense_target(p, like)
    if p.target_kind == "log1p":
        return target.exp()
    if p.target_kind == "rate":
        return target
    total = target.sum(1, dtype=torch.float64) if p.library is None else p.library
    unit = torch.where(total > 0, p.target_sum / total, 0.0)
    return 1 + target * unit.to(like.dtype)[:, None]


def _slope(z: Tensor, y: Tensor, p: Problem) -> Tensor:
    """Return ∂ℓ/∂z; see csrc/common/activation.h."""
    if p.activation == "softplus":
        rate = torch.logaddexp(z, torch.zeros_like(z))
        return torch.sigmoid(z) * (1 - y / (rate + p.eps))
    if p.activation == "identity":
        return 1 - y / (z + p.eps)
    if p.activation == "exp":
        return z.exp() - y
    alpha, off = math.log1p(p.target_sum), z <= 0
    if p.activation == "rectified_tanh":
        tanh = torch.tanh(z / (4 * math.e))
        slope = alpha * (1 - tanh.square()) / (4 * math.e) * ((alpha * tanh).exp() - y)
    else:
        slope = z.exp() - y
        off = off | (z > alpha) if p.activation == "clamped_relu" else off
    return torch.where(off, 0.0, slope)


def _weights(p: Problem, shape: torch.Size, reduction: str) -> Tensor:
    """Return what each cell's sum of losses is multiplied by, float64 [cells]."""
    cells, genes = shape
    number = torch.full((cells,), float(genes), dtype=torch.float64, device=p.target.device)
    if p.panel_counts is not None and p.panel_id is not None:
        number = p.panel_counts[p.panel_id.long()].double()
    if reduction in ("sum", "none"):
        return torch.ones_like(number)
    if reduction == "genes":
        return torch.ones_like(number) / number.sum().clamp(min=1)
    return 1 / number.clamp(min=1) / (cells if reduction == "mean" else 1)


def gradient_again(upstream: Tensor, logits: Tensor, p: Problem, reduction: str) -> Tensor:
    """Compute the logits' gradient such that torch can differentiate it, to rounding the kernels'.

    Parameters
    ----------
    upstream
        What comes from above: a number, [cells] or [cells, genes].
    logits
        [cells, genes].
    p, reduction
        As in forward; ``"none"`` weighs each loss with its own `upstream`.
    """
    z = logits.to(compute_dtype(logits))
    y = _rates(p, z)
    if p.panel_mask is None or p.panel_id is None:
        slope = _slope(z, y, p)
    else:  # where nothing was observed anything may stand, and may not reach a product with 0
        observed = p.panel_mask[p.panel_id.long()] != 0
        slope = _slope(torch.where(observed, z, 1.0), torch.where(observed, y, 1.0), p)
        slope = torch.where(observed, slope, 0.0)
    above = upstream[:, None] if upstream.dim() == 1 else upstream
    weights = _weights(p, z.shape, reduction).to(z.dtype)[:, None]
    return (slope * (weights * above)).to(logits.dtype)
