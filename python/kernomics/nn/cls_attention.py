r"""Attention of one query a cell, its CLS token, without keys and values.

With x̂ the normalised tokens of a cell, and of each head the query q, keys K = W_k x̂ + b_k and
values V = W_v x̂ + b_v,

.. math:: \sum_k p_k V_k = W_v \sum_k p_k \hat x_k + b_v \sum_k p_k, \qquad
          p = \mathrm{softmax}(a^T \hat x), \quad a = W_k^T q/\sqrt{d/H}.

a is one vector of d numbers a head: scores and means of x̂ take 4·H·d operations a token, where keys
and values take 4·d², and nothing as long as the tokens is written but x̂. b_k adds one number to all
scores of a head, which a softmax does not see: its gradient is 0. Only rounding differs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernomics.nn.memory_efficient import normalised, standardise_backward, working_dtype


def absorbed(q: Tensor, key_weight: Tensor, n_heads: int) -> Tensor:
    """Return each head's a = W_kᵀq/√(d/H), [H, B, d], from q [B, d] and W_k [d, d]."""
    by_head = _by_head(q, n_heads) * (q.shape[1] // n_heads) ** -0.5
    return torch.bmm(by_head, key_weight.view(n_heads, -1, q.shape[1]))


def values_of(
    means: Tensor, weight: Tensor, bias: Tensor, seen: Tensor | None = None
) -> Tensor:
    """Return W_v Σ p x̂ + b_v Σ p, [B, d], from each head's Σ p x̂ [H, B, d].

    Σ p is `seen` [B, 1], 0 for cells that see no token; 1 by default.
    """
    heads, rows, width = means.shape
    by_head = torch.bmm(means, weight.view(heads, -1, width).mT)
    mixed = by_head.transpose(0, 1).reshape(rows, width)
    return mixed + (bias if seen is None else bias * seen)


def _by_head(rows: Tensor, n_heads: int) -> Tensor:
    return rows.view(len(rows), n_heads, -1).transpose(0, 1)


class _ClsMeans(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        eps: float,
        dtype: torch.dtype,
        n_heads: int,
        query_weight: Tensor,
        query_bias: Tensor,
        key_weight: Tensor,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        wq, bq, wk = (t.to(dtype) for t in (query_weight, query_bias, key_weight))
        x_hat, inverse = normalised(x, eps, dtype)
        q = F.linear(x_hat[:, 0], wq, bq)
        a = absorbed(q, wk, n_heads).transpose(0, 1)  # [B, H, d]
        z = torch.bmm(a, x_hat.mT)  # [B, H, T]
        if z.element_size() < 4:
            z = z.float()
        if mask is None:
            p = z.softmax(-1)
        elif mask.dtype == torch.bool:
            p = torch.ops.aten._safe_softmax(z.masked_fill(~mask[:, 0], -torch.inf), -1)
        else:
            p = torch.ops.aten._safe_softmax(z + mask[:, 0], -1)
        p = p.to(dtype)
        means = torch.bmm(p, x_hat).transpose(0, 1)
        ctx.save_for_backward(x_hat, inverse, a, p, q, wq, wk)
        ctx.dtypes = x.dtype, [t.dtype for t in (query_weight, query_bias, key_weight)]
        ctx.mask = None if mask is None else (mask.shape, mask.dtype)
        return x[:, 0].clone(), means

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_cls: Tensor, of_means: Tensor) -> Any:
        x_hat, inverse, a, p, q, wq, wk = ctx.saved_tensors
        dtype, heads = x_hat.dtype, a.shape[1]
        of_means = of_means.to(dtype).transpose(0, 1)
        of_p = torch.bmm(of_means, x_hat.mT)
        of_z = torch._softmax_backward_data(of_p, p, -1, p.dtype)
        # Both products with the tokens as one, so that their gradient is written once.
        of_tokens = torch.bmm(torch.cat([p, of_z], 1).mT, torch.cat([of_means, a], 1))
        of_a = torch.bmm(of_z, x_hat).transpose(0, 1)
        scale = (q.shape[1] // heads) ** -0.5
        of_q = torch.bmm(of_a, wk.view(heads, -1, wk.shape[1]).mT) * scale
        of_wk = torch.bmm((_by_head(q, heads) * scale).mT, of_a).view_as(wk)
        of_q = of_q.transpose(0, 1).reshape(q.shape)
        of_wq, of_bq = of_q.t() @ x_hat[:, 0], of_q.sum(0)
        of_tokens[:, 0] += of_q @ wq
        of_x = standardise_backward(of_tokens, x_hat, inverse, ctx.dtypes[0])
        of_x[:, 0] += of_cls
        of_mask = None
        if ctx.mask is not None and ctx.needs_input_grad[7]:
            shape, mask_dtype = ctx.mask
            of_mask = of_z[:, None].sum_to_size(shape).to(mask_dtype)
        weights = (t.to(own) for t, own in zip((of_wq, of_bq, of_wk), ctx.dtypes[1], strict=True))
        return of_x, None, None, None, *weights, of_mask


def attend_from_cls(
    x: Tensor, eps: float, n_heads: int, weight: Tensor, bias: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the CLS token [B, d] and its attention to all tokens of its cell, [B, d].

    Parameters
    ----------
    x
        [B, T, d], CLS first.
    eps
        Of the norm of the tokens.
    n_heads
        H.
    weight, bias
        [3·d, d] and [3·d], which make queries, keys and values of the normalised tokens.
    mask
        [B, 1, 1, T], bool, False at padding, or float, what is added to the scores; None when there
        is none. A cell that sees no token has 0.
    """
    width = x.shape[-1]
    wq, wk, wv = weight.view(3, width, width)
    bq, _, bv = bias.view(3, width)
    cls, means = _ClsMeans.apply(  # type: ignore[no-untyped-call]
        x, eps, working_dtype(x), n_heads, wq, bq, wk, mask
    )
    seen = None
    if mask is not None:
        open_ = mask if mask.dtype == torch.bool else mask > -torch.inf
        seen = open_[:, 0, 0].any(-1, keepdim=True).to(means.dtype)
    return cls, values_of(means, wv, bv, seen)
