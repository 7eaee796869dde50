"""Blocks that keep less: the numbers of the plain formula, and how little is kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from kernomics.nn import Encoder
from kernomics.nn import memory_efficient as lean
from kernomics.nn.memory_efficient import feed_forward, standardise

Block = Callable[..., Tensor]


@pytest.fixture
def plain() -> Block:
    """The same block as one torch layer after the other."""
    from bench.txfm import eager as txfm_eager

    return txfm_eager.block


def blocks(width: int = 16, n_layers: int = 2, heads: int = 4) -> Encoder:
    """Blocks whose norms, biases and scales are not those of the start."""
    torch.manual_seed(1)
    model = Encoder(width, n_layers, heads, layer_scale=0.5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn_like(parameter)
            else:
                assert "weight" in name
    return model


def gradients(run: Block, model: Encoder, x: Tensor, *options: object) -> list[Tensor]:
    """Return the block's output and the gradients of its input and parameters."""
    block = model.blocks[0]
    x = x.clone().requires_grad_()
    out = run(block, x, *options)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(x.dtype)
    found = torch.autograd.grad((out * weight).sum(), [x, *block.parameters()])
    return [out.detach(), *found]


def ours(block: torch.nn.Module, x: Tensor, mask: object, keep: object, cls_only: bool) -> Tensor:
    found: Tensor = block(x, mask, keep, cls_only=cls_only)
    return found


def again(block: torch.nn.Module, x: Tensor, mask: object, keep: object, cls_only: bool) -> Tensor:
    found: Tensor = block(x, mask, keep, cls_only=cls_only, again=True)
    return found


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 5),
    tokens=st.integers(1, 9),
    cls_only=st.booleans(),
    padded=st.booleans(),
    depth=st.booleans(),
    fewest=st.integers(1, 20),
    run=st.sampled_from([ours, again]),
)
def test_a_block_and_its_gradients_are_those_of_the_plain_one(
    rows: int, tokens: int, cls_only: bool, padded: bool, depth: bool, fewest: int, run: Block
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lean, "FEWEST", fewest)
        from bench.txfm import eager as txfm_eager

        model = blocks().double()
        x = torch.randn(rows, tokens, 16, generator=torch.Generator().manual_seed(rows)).double()
        mask = torch.ones(rows, 1, 1, tokens, dtype=torch.bool)
        mask[:, :, :, 1 + tokens // 2 :] = False
        keep = torch.linspace(0, 2, 2 * rows).view(rows, 2).double() if depth else None
        options = (mask if padded else None, keep, cls_only)
        found = gradients(run, model, x, *options)
        expected = gradients(txfm_eager.block, model, x, *options)
    for one, other in zip(found, expected, strict=True):
        # Products of 64 numbers and gradients through 1/σ lose three digits of sixteen at most.
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_float32_differs_by_rounding_alone(plain: Block) -> None:
    x = torch.randn(4, 33, 16, generator=torch.Generator().manual_seed(0))
    model = blocks()
    found = gradients(ours, model, x, None, None, False)
    expected = gradients(plain, model, x, None, None, False)
    exact = gradients(plain, model.double(), x.double(), None, None, False)
    for one, other, true in zip(found, expected, exact, strict=True):
        error = (other - true).abs().max()
        assert (one - true).abs().max() <= 4 * error + 1e-6 * true.abs().max()


def test_under_autocast_gradients_are_as_near_the_truth_as_those_of_torch(plain: Block) -> None:
    x = torch.randn(8, 65, 64, generator=torch.Generator().manual_seed(0))
    model = blocks(64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(ours, model, x, None, None, False)
        expected = gradients(plain, model, x, None, None, False)
    exact = gradients(plain, model, x, None, None, False)
    for one, other, true in zip(found, expected, exact, strict=True):
        assert one.dtype == true.dtype
        # Both round every layer's input to bfloat16; which of the two is nearer is chance.
        assert (one - true).norm() <= 1.5 * (other - true).norm() + 1e-6 * true.norm()


@pytest.mark.parametrize("fewest", [1, 1000])
def test_pieces_have_the_gradients_of_finite_differences(
    monkeypatch: pytest.MonkeyPatch, fewest: int
) -> None:
    monkeypatch.setattr(lean, "FEWEST", fewest)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    assert torch.autograd.gradcheck(lambda x: standardise(x, 1e-5), (draw(2, 3, 5),))
    inputs = draw(2, 3, 4), draw(6, 4), draw(6), draw(4, 6), draw(4)
    assert torch.autograd.gradcheck(feed_forward, inputs)
    assert torch.autograd.gradcheck(partial(feed_forward, again=True), inputs)


def test_pieces_are_the_formulas() -> None:
    x = torch.randn(3, 7, 8)
    torch.testing.assert_close(standardise(x, 1e-5), F.layer_norm(x, (8,)))
    w1, b1, w2, b2 = torch.randn(32, 8), torch.randn(32), torch.randn(8, 32), torch.randn(8)
    expected = F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)
    torch.testing.assert_close(feed_forward(x, w1, b1, w2, b2), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("bf16", "numbers", "fewer", "eager"), [(True, 20, 12, 40), (False, 40, 24, 72)]
)
def test_a_block_keeps_ten_numbers_a_channel_or_six_and_torch_eighteen(
    plain: Block, bf16: bool, numbers: int, fewer: int, eager: int
) -> None:
    """In bytes: two each in bfloat16, where torch keeps x in float32 as well, else four."""
    rows, tokens, width = 4, 64, 32
    block = blocks(width).blocks[0]
    x = torch.randn(rows, tokens, width, requires_grad=True)

    def kept(run: Block) -> int:
        held: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            # What has a dimension of all tokens is kept of tokens; the rest is of weights.
            if tensor.numel() >= rows * tokens * width:
                storage = tensor.untyped_storage()
                held[storage.data_ptr()] = storage.nbytes()
            return tensor

        with (
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
            saved_tensors_hooks(pack, lambda tensor: tensor),
        ):
            out = run(block, x, None, None, False)
        assert out.requires_grad  # what was packed is alive up to here
        return sum(held.values()) // (rows * tokens * width)

    assert kept(ours) == numbers
    assert kept(again) == fewer
    assert kept(plain) == eager
