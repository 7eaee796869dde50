"""PackedEncoder against each cell alone, whatever its length and company."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from kernomics.errors import ConfigError
from kernomics.nn.packed_encoder import PADDING, PackedEncoder, Packing


def encoder(recompute: str = "nothing", n_layers: int = 2) -> PackedEncoder:
    torch.manual_seed(3)
    model = PackedEncoder(12, n_layers, 3, layer_scale=0.5, recompute=recompute)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.double()


def alone(model: PackedEncoder, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """One cell [T, d], layer after layer."""
    for block in model.blocks:
        q, k, v = (
            part.view(len(x), block.n_heads, -1).transpose(0, 1)
            for part in block.qkv(block.norm_1(x)).chunk(3, dim=-1)
        )
        logits = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        if bias is not None:
            logits = logits + bias
        mixed = (logits.softmax(-1) @ v).transpose(0, 1).reshape(len(x), -1)
        x = x + block.project(mixed) * block.scale_1
        x = x + block.narrow(F.gelu(block.widen(block.norm_2(x)))) * block.scale_2
    return model.norm(x)


def own_rows(n_first: int, lengths: list[int], cell: int) -> torch.Tensor:
    """The rows of one cell: its first tokens, then its others."""
    start = len(lengths) * n_first + sum(lengths[:cell])
    first = torch.arange(cell * n_first, (cell + 1) * n_first)
    return torch.cat([first, torch.arange(start, start + lengths[cell])])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=9),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from(["nothing", "feed_forward", "blocks"]),
)
def test_every_cell_is_encoded_as_if_alone(lengths, n_first, biased, recompute):
    model = encoder(recompute)
    n = len(lengths) * n_first + sum(lengths)
    x = torch.randn(n, 12, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(n, dtype=torch.float64, requires_grad=True) if biased else None
    counts = torch.tensor(lengths)
    packing = Packing(n_first, counts, x.device)
    out = model(x, packing, torch.arange(n), counts, bias)
    rows = [own_rows(n_first, lengths, cell) for cell in range(len(lengths))]
    expected = torch.zeros_like(out)
    for own in rows:
        expected[own] = alone(model, x[own], None if bias is None else bias[own])
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    weight = torch.randn_like(out)
    wanted = [x, *model.parameters(), *([] if bias is None else [bias])]
    for found, right in zip(
        torch.autograd.grad((out * weight).sum(), wanted),
        torch.autograd.grad((expected * weight).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.data())
def test_rows_wanted_are_those_of_all(lengths, data):
    model, n_first = encoder(), 2
    n = len(lengths) * n_first + sum(lengths)
    x = torch.randn(n, 12, dtype=torch.float64)
    counts = torch.tensor(lengths)
    packing = Packing(n_first, counts, x.device)
    everything = model(x, packing, torch.arange(n), counts)
    chosen = torch.tensor(
        data.draw(st.lists(st.booleans(), min_size=sum(lengths), max_size=sum(lengths))),
        dtype=torch.bool,
    )
    cell = torch.repeat_interleave(torch.arange(len(lengths)), counts)
    per_cell = torch.bincount(cell[chosen], minlength=len(lengths))
    first = len(lengths) * n_first
    wanted = torch.cat([torch.arange(first), first + torch.nonzero(chosen).flatten()])
    out = model(x, packing, wanted, per_cell)
    torch.testing.assert_close(out, everything[wanted], rtol=1e-12, atol=1e-12)


def test_little_is_padding():
    lengths = torch.randint(0, 2000, (200,), generator=torch.Generator().manual_seed(0))
    layout = Packing(1, lengths, torch.device("cpu")).layout
    for (cells, longest), mask in zip(layout.shapes, layout.masks, strict=True):
        if mask is not None:
            assert (~mask).sum() <= PADDING * cells * longest
    assert layout.place.unique().numel() == int(lengths.sum()) + 200


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match="the heads must divide the width"):
        PackedEncoder(10, 1, 3)
