r"""Attention of one query a cell, its CLS token, without keys and values.

With n the normalised tokens of a cell, and of each head the query q, keys K = W_k n + b_k and
values V = W_v n + b_v,

.. math:: \sum_k p_k V_k = W_v \sum_k p_k n_k + b_v \sum_k p_k, \qquad
          p = \mathrm{softmax}(a^T n), \quad a = W_k^T q/\sqrt{d/H}.

a is one vector of d numbers a head: scores and means of n take 4·H·d operations a token, where keys
and values take 4·d², and nothing as long as the tokens is written. b_k adds one number to all
scores of a head, which a softmax does not see: its gradient is 0. The norm n = w·x̂ + b likewise is
applied to a and to the mean of x̂, not to tokens. Only rounding differs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kernomics.nn.memory_efficient import normalised, standardise_backward, working_dtype


def query_of(cls: Tensor, norm: nn.LayerNorm, qkv: nn.Linear, n_heads: int) -> Tensor:
    """Return each head's a·w, which scores x̂, [H, B, d], from the standardised CLS [B, d]."""
    rows, width = cls.shape
    wq, wk, _ = qkv.weight.view(3, width, width).unbind()
    q = F.linear(torch.addcmul(norm.bias, cls, norm.weight), wq, qkv.bias[:width])
    by_head = q.view(rows, n_heads, -1).transpose(0, 1) * (width // n_heads) ** -0.5
    return torch.bmm(by_head, wk.view(n_heads, -1, width)) * norm.weight


def values_of(
    means: Tensor, norm: nn.LayerNorm, qkv: nn.Linear, seen: Tensor | None = None
) -> Tensor:
    """Return Σ p V, [B, d], from each head's Σ p x̂, [H, B, d].

    `seen` is Σ p, [B, 1]: 0 for a cell that sees no token. By default it is 1.
    """
    heads, rows, width = means.shape
    weight, bias = qkv.weight[2 * width :], qkv.bias[2 * width :]
    shift = norm.bias if seen is None else norm.bias * seen
    by_head = torch.bmm(torch.addcmul(shift, means, norm.weight), weight.view(heads, -1, width).mT)
    mixed = by_head.transpose(0, 1).reshape(rows, width)
    return mixed + (bias if seen is None else bias * seen)


class _StandardiseAroundCls(torch.autograd.Function):
    """x's first token, its x̂, and x̂: one gradient as long as x, not three."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        x_hat, inverse = normalised(x, eps, dtype)
        ctx.save_for_backward(x_hat, inverse)
        ctx.dtype = x.dtype
        return x[:, 0].clone(), x_hat[:, 0].clone(), x_hat

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_cls: Tensor, of_first: Tensor, of_all: Tensor) -> Any:
        x_hat, inverse = ctx.saved_tensors
        found = standardise_backward(of_all, x_hat, inverse, ctx.dtype)
        first = standardise_backward(
            of_first, x_hat[:, 0].contiguous(), inverse[:, 0].contiguous(), ctx.dtype
        )
        found[:, 0] += of_cls + first
        return found, None, None


class _Means(torch.autograd.Function):
    """Each head's Σ p x̂, from a [H, B, d], x̂ [B, T, d] and a mask [B, 1, T]."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, x_hat: Tensor, mask: Tensor | None) -> Tensor:
        ctx.dtype = a.dtype
        a = a.to(x_hat.dtype).transpose(0, 1)
        z = torch.bmm(a, x_hat.mT)
        if z.element_size() < 4:
            z = z.float()
        if mask is None:
            p = z.softmax(-1)
        else:
            z = z + mask if mask.is_floating_point() else z.masked_fill(~mask, -torch.inf)
            p = torch.ops.aten._safe_softmax(z, -1)
            ctx.mask = mask.shape, mask.dtype
        p = p.to(x_hat.dtype)
        ctx.save_for_backward(a, x_hat, p)
        return torch.bmm(p, x_hat).transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, delta: Tensor) -> Any:
        a, x_hat, p = ctx.saved_tensors
        delta = delta.to(x_hat.dtype).transpose(0, 1)
        of_z = torch._softmax_backward_data(torch.bmm(delta, x_hat.mT), p, -1, p.dtype)
        # Both products with x̂ as one, so that its gradient is written once.
        of_x_hat = torch.bmm(torch.cat([p, of_z], 1).mT, torch.cat([delta, a], 1))
        of_mask = None
        if ctx.needs_input_grad[2]:
            shape, dtype = ctx.mask
            of_mask = of_z.sum_to_size(shape).to(dtype)
        return torch.bmm(of_z, x_hat).transpose(0, 1).to(ctx.dtype), of_x_hat, of_mask


def attend_from_cls(
    x: Tensor, norm: nn.LayerNorm, qkv: nn.Linear, n_heads: int, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the CLS tokens [B, d] and their attention to all tokens of their cells, [B, d].

    Parameters
    ----------
    x
        [B, T, d], CLS first.
    norm
        Of the tokens.
    qkv
        Makes queries, keys and values of the normalised tokens.
    n_heads
        H.
    mask
        [B, 1, 1, T], bool, False at padding, or float, what is added to the scores; None when there
        is none. A cell that sees no token has 0.
    """
    cls, first, x_hat = _StandardiseAroundCls.apply(  # type: ignore[no-untyped-call]
        x, norm.eps, working_dtype(x)
    )
    a, seen = query_of(first, norm, qkv, n_heads), None
    if mask is not None:
        mask = mask[:, 0]
        closed = mask == -torch.inf if mask.is_floating_point() else ~mask
        seen = (~closed.all(-1)).to(x.dtype)
    means = _Means.apply(a, x_hat, mask)  # type: ignore[no-untyped-call]
    return cls, values_of(means, norm, qkv, seen)
