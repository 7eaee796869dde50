"""Pieces of a transformer block that keep half of what torch keeps for backward.

A pre-norm block in eager torch keeps 18 numbers per channel and token: x and LN(x) twice, q, k and
v, the attention's output, each branch before its LayerScale, four of the GELU's input and four of
its output. Under autocast to bfloat16, where x is float32, these are 40 bytes. Not needed are:

- x before a LayerNorm. LN(x) = w·x̂ + b; with w and b folded into the next layer's weight, x̂ is
  that layer's input, and with the standard deviation it is all that the norm's gradient needs.
- A branch before its scale, when the scale is folded into the last layer's weight.
- GELU's output, made again from its input.

Kept are x̂ twice, q, k and v, the attention's output and GELU's input: 10 numbers, 20 bytes; or,
with a third of the block's products once more in backward, all but GELU's input: 6. Nothing
but rounding differs. Folding multiplies weights where the block would multiply tokens, which are
more, and torch's autograd takes the gradients of the folded weights apart.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

PARTS = 4  # in which the tokens go where the widest tensors would be made of all of them
FEWEST = 1024  # tokens in a part; fewer would starve the products


def fold_norm(norm: nn.LayerNorm, layer: nn.Linear) -> tuple[Tensor, Tensor]:
    r"""Return weight and bias of a layer on x̂ that equal those of `layer` on LN(x) = w·x̂ + b.

    .. math:: W \mathrm{diag}(w), \quad W b + \mathrm{bias}
    """
    weight = layer.weight
    # A sum and not a product of matrices, which autocast would round.
    return weight * norm.weight, (weight * norm.bias).sum(1) + layer.bias


def fold_scale(layer: nn.Linear, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a layer whose outputs are those of `layer` times `scale`."""
    return layer.weight * scale[:, None], layer.bias * scale


def working_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of x's products: autocast's where that is on, else its own."""
    device = x.device.type
    on = torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if on else x.dtype


def normalised(x: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return x̂ in a dtype, and 1/σ [..., 1], both without a gradient; see `standardise`."""
    found, _, inverse = torch.native_layer_norm(x, x.shape[-1:], None, None, eps)
    return found.to(dtype), inverse


def standardise_backward(
    delta: Tensor, x_hat: Tensor, inverse: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return the gradient of x, in its dtype, from that of x̂."""
    width = x_hat.shape[-1]
    x_hat, inverse = x_hat.view(-1, width), inverse.view(-1, 1)
    if delta.dtype == x_hat.dtype == dtype:
        return _standardise_backward(delta.reshape(-1, width), x_hat, inverse).view_as(delta)
    grad = torch.empty_like(x_hat, dtype=dtype)
    for n, d, r, out in _parts(x_hat, delta.reshape(-1, width), inverse, grad):
        out.copy_(_standardise_backward(d.to(dtype), n.to(dtype), r))
    return grad.view_as(delta)


def _standardise_backward(delta: Tensor, x_hat: Tensor, inverse: Tensor) -> Tensor:
    # The gradient of a norm whose input is x̂ itself: mean 0, standard deviation 1.
    found, _, _ = torch.ops.aten.native_layer_norm_backward(
        delta, x_hat, x_hat.shape[-1:], torch.zeros_like(inverse), torch.ones_like(inverse),
        None, None, [True, False, False],
    )  # fmt: skip
    return found.mul_(inverse)  # type: ignore[no-any-return]


class _Standardise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        x_hat, inverse = normalised(x, eps, dtype)
        ctx.save_for_backward(x_hat, inverse)
        ctx.dtype = x.dtype
        return x_hat

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, delta: Tensor) -> Any:
        x_hat, inverse = ctx.saved_tensors
        return standardise_backward(delta, x_hat, inverse, ctx.dtype), None, None


def standardise(x: Tensor, eps: float) -> Tensor:
    r"""Bring each row to mean 0 and variance 1: LayerNorm without weight and bias.

    .. math:: \hat x = (x - \bar x)/σ, \quad
              ∂x = (δ - \bar δ - \hat x\,\overline{δ \hat x})/σ, \quad σ^2 = \mathrm{var}(x) + ε

    For backward x̂ is kept, which the next layer keeps anyway, and 1/σ. It is computed in x's dtype
    and rounded to that of autocast where autocast is on.
    """
    found: Tensor = _Standardise.apply(x, eps, working_dtype(x))  # type: ignore[no-untyped-call]
    return found


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, again: bool
    ) -> Tensor:
        dtype = x.dtype
        ctx.dtypes = w1.dtype, b1.dtype, w2.dtype, b2.dtype
        w1, b1, w2, b2 = (t.to(dtype) for t in (w1, b1, w2, b2))
        out = torch.empty_like(x)
        rows = x.reshape(-1, x.shape[-1])
        kept = [] if again else [rows.new_empty(len(rows), len(w1))]
        for n, o, *inner in _parts(rows, out.view_as(rows), *kept):
            u = torch.addmm(b1, n, w1.t(), out=inner[0]) if inner else F.linear(n, w1, b1)
            torch.addmm(b2, F.gelu(u), w2.t(), out=o)
        ctx.save_for_backward(x, w1, b1, w2, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, delta: Tensor) -> Any:
        x, w1, b1, w2, *kept = ctx.saved_tensors
        shape = x.shape
        x, delta = (t.reshape(-1, t.shape[-1]) for t in (x, delta))
        grad_x = torch.empty_like(x)
        # Sums over parts in the parameters' dtype: bfloat16 would lose what it adds.
        grads = [
            t.new_zeros(size, dtype=dtype)
            for t, size, dtype in zip(
                (w1, w1, w2, w2), (w1.shape, len(w1), w2.shape, len(w2)), ctx.dtypes, strict=True
            )
        ]
        for n, d, out, *inner in _parts(x, delta, grad_x, *kept):
            u = inner[0] if inner else F.linear(n, w1, b1)
            grads[2] += d.t() @ F.gelu(u)
            grads[3] += d.sum(0)
            du = torch.ops.aten.gelu_backward(d @ w2, u)
            grads[0] += du.t() @ n
            grads[1] += du.sum(0)
            torch.mm(du, w1, out=out)
        return grad_x.view(shape), *grads, None


def feed_forward(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, *, again: bool = False
) -> Tensor:
    """Return W₂·GELU(W₁·x + b₁) + b₂, [..., d], and keep W₁·x + b₁ for backward but not its GELU.

    Tokens go part by part, so that GELU's output and the two gradients around it, the widest
    tensors of a block, are never held for all of them. With `again` x alone is kept, and W₁·x + b₁
    computed in backward again, the same way. Weights are rounded to x's dtype; their gradients are
    summed in their own.
    """
    again = again or not torch.is_grad_enabled()  # without a backward nothing is kept
    found: Tensor = _FeedForward.apply(x, w1, b1, w2, b2, again)  # type: ignore[no-untyped-call]
    return found


def _parts(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Cut tensors along their first dimension into the same parts, at most `PARTS`."""
    size = max(FEWEST, -(-tensors[0].shape[0] // PARTS))
    if len(tensors[0]) <= size:
        return [tensors]
    return list(zip(*(torch.split(t, size) for t in tensors), strict=True))
