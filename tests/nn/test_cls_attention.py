"""CLS as the only query: the numbers of keys and values, which are never made."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from kernomics.nn.cls_attention import attend_from_cls

ROWS, TOKENS, WIDTH, HEADS = 5, 11, 16, 4


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def layers() -> tuple[nn.LayerNorm, nn.Linear]:
    torch.manual_seed(0)
    norm, qkv = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
    with torch.no_grad():
        norm.weight += 0.3 * torch.randn(WIDTH)
        norm.bias += 0.3 * torch.randn(WIDTH)
    return norm, qkv


def plain(
    x: Tensor, norm: nn.LayerNorm, qkv: nn.Linear, heads: int, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """By queries, keys and values of all tokens, and a softmax written out."""
    q, k, v = (
        part.view(len(x), -1, heads, x.shape[-1] // heads).transpose(1, 2)
        for part in qkv(norm(x)).chunk(3, dim=-1)
    )
    z = q[:, :, :1] @ k.mT / q.shape[-1] ** 0.5
    if mask is not None:
        z = z + mask if mask.is_floating_point() else z.masked_fill(~mask, -torch.inf)
    p = z.softmax(-1).nan_to_num(0.0)
    return x[:, 0], (p @ v).transpose(1, 2).reshape(len(x), -1)


def masks(kind: str) -> Tensor | None:
    seen = torch.arange(TOKENS) < torch.tensor([11, 7, 1, 11, 3])[:, None]
    if kind == "a cell sees nothing":
        seen[1] = False
    added = drawn(ROWS, TOKENS).double()
    return {
        "none": None,
        "padding": seen[:, None, None],
        "a cell sees nothing": seen[:, None, None],
        "added": added[:, None, None],
        "added and padding": added.masked_fill(~seen, -torch.inf)[:, None, None],
    }[kind]


@pytest.mark.parametrize(
    "kind", ["none", "padding", "a cell sees nothing", "added", "added and padding"]
)
def test_numbers_and_gradients_are_those_of_keys_and_values(kind: str) -> None:
    norm, qkv = (layer.double() for layer in layers())
    x, mask = drawn(ROWS, TOKENS, WIDTH).double().requires_grad_(), masks(kind)
    leaves = [x, *norm.parameters(), *qkv.parameters()]
    if mask is not None and mask.is_floating_point():
        leaves.append(mask.requires_grad_())
    found = []
    for attend in (attend_from_cls, plain):
        cls, mixed = attend(x, norm, qkv, HEADS, mask)
        assert bool(mixed.isfinite().all())
        total = (cls * drawn(ROWS, WIDTH)).sum() + (mixed * drawn(WIDTH, ROWS).T).sum()
        found.append([cls, mixed, *torch.autograd.grad(total, leaves)])
    for one, other in zip(*found, strict=True):
        # What a softmax of nothing leaves behind in the plain one's gradient is not a number.
        torch.testing.assert_close(one, other.nan_to_num(0.0), rtol=1e-12, atol=1e-12)
    if kind == "a cell sees nothing":
        assert not found[0][1][1].any()


def test_a_bias_of_the_keys_has_no_gradient() -> None:
    norm, qkv = layers()
    attend_from_cls(drawn(ROWS, TOKENS, WIDTH), norm, qkv, HEADS, None)[1].sum().backward()
    assert qkv.bias.grad is not None
    assert not qkv.bias.grad[WIDTH : 2 * WIDTH].any()
    assert qkv.bias.grad[2 * WIDTH :].any()


def test_float32_differs_by_rounding_alone() -> None:
    """At most a few times as far from float64 as keys and values are."""
    x = drawn(8, 513, WIDTH)
    norm, qkv = layers()
    found, expected, exact = (
        gradients(attend, t(x), t(norm), t(qkv))
        for attend, t in (
            (attend_from_cls, lambda one: one.float()),
            (plain, lambda one: one.float()),
            (plain, lambda one: one.double()),
        )
    )
    for one, other, true in zip(found, expected, exact, strict=True):
        error = (other - true).abs().max()
        assert (one - true).abs().max() <= 4 * error + 1e-6 * true.abs().max()


def gradients(attend: object, x: Tensor, norm: nn.LayerNorm, qkv: nn.Linear) -> list[Tensor]:
    x = x.detach().requires_grad_()
    _, mixed = attend(x, norm, qkv, HEADS, None)  # type: ignore[operator]
    total = (mixed * drawn(*mixed.shape).to(mixed.dtype)).sum()
    leaves = [x, *norm.parameters(), *qkv.parameters()]
    return [mixed.detach(), *torch.autograd.grad(total, leaves)]


def test_under_autocast_gradients_are_as_near_the_truth_as_those_of_torch() -> None:
    x, (norm, qkv) = drawn(8, 65, WIDTH), layers()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = (gradients(a, x, norm, qkv) for a in (attend_from_cls, plain))
    exact = gradients(plain, x, norm, qkv)
    for one, other, true in zip(found, expected, exact, strict=True):
        assert one.dtype == true.dtype or one is found[0]
        # Both round their products' inputs to bfloat16; which of the two is nearer is chance.
        assert (one - true).norm() <= 1.5 * (other - true).norm() + 1e-6 * true.norm()


def test_nothing_but_the_tokens_is_kept_of_each_token() -> None:
    x, (norm, qkv) = drawn(ROWS, 64, WIDTH).requires_grad_(), layers()
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.numel() >= ROWS * 64:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        _, mixed = attend_from_cls(x, norm, qkv, HEADS, None)
    assert mixed.requires_grad
    weights = sum(p.untyped_storage().nbytes() for p in qkv.parameters())
    a_token = (sum(held.values()) - weights) / (ROWS * 64 * 4)
    assert WIDTH < a_token < WIDTH + HEADS + 3  # x̂, p and 1/σ


def test_one_query_is_what_scaled_dot_product_attention_gives() -> None:
    norm, qkv = layers()
    x = drawn(ROWS, TOKENS, WIDTH)
    q, k, v = (
        part.view(ROWS, -1, HEADS, WIDTH // HEADS).transpose(1, 2)
        for part in qkv(norm(x)).chunk(3, dim=-1)
    )
    expected = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)[:, 0]
    found = attend_from_cls(x, norm, qkv, HEADS, None)[1]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
