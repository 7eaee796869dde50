"""Encoder: CLS read-out, padding, stochastic depth, and what falls away in the last block."""

import pytest
import torch

from kernomics.errors import ConfigError
from kernomics.nn import CountDecoder, Encoder
from kernomics.nn.encoder import cls_products


@pytest.fixture
def tokens():
    torch.manual_seed(0)
    return torch.randn(3, 9, 16)


def encoder(**options):
    torch.manual_seed(1)
    return Encoder(16, 3, 4, layer_scale=0.5, **options)


def test_the_last_block_for_cls_alone_gives_what_the_whole_block_gives(tokens):
    model = encoder()
    expected = model.layers(tokens)
    torch.testing.assert_close(model(tokens), expected[-1])
    assert [x.shape for x in expected] == [(3, 16)] * 3


def test_a_block_is_the_formula(tokens):
    block = encoder().blocks[0]

    def norm(x, layer):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt()
        return scaled * layer.weight + layer.bias

    normed = norm(tokens, block.norm_1)
    q, k, v = (normed @ block.qkv.weight.T + block.qkv.bias).split(16, dim=-1)
    heads = []
    for h in range(4):
        part = slice(4 * h, 4 * h + 4)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / 2).softmax(-1)
        heads.append(weights @ v[..., part])
    x = tokens + block.scale_1 * block.project(torch.cat(heads, -1))
    inner = torch.nn.functional.gelu(block.widen(norm(x, block.norm_2)))
    expected = x + block.scale_2 * block.narrow(inner)
    torch.testing.assert_close(block(tokens, None, None), expected, rtol=1e-4, atol=1e-5)


def test_the_order_of_tokens_does_not_matter(tokens):
    model = encoder()
    order = torch.tensor([0, 5, 3, 8, 1, 2, 7, 4, 6])
    torch.testing.assert_close(model(tokens[:, order]), model(tokens), rtol=1e-4, atol=1e-5)


def test_padding_changes_nothing(tokens):
    model = encoder()
    padded = torch.cat([tokens, torch.full((3, 4, 16), 7.0)], dim=1)
    padding = torch.zeros(3, 13, dtype=torch.bool)
    padding[:, 9:] = True
    torch.testing.assert_close(model(padded, padding), model(tokens), rtol=1e-4, atol=1e-5)


def test_stochastic_depth_leaves_out_branches_by_the_number_given(tokens):
    model = encoder(stochastic_depth=0.5)
    assert model.rates == [0.0, 0.25, 0.5]
    uniform = torch.full((3, 6), 0.9)
    uniform[0] = 0.1  # the first cell loses every branch of blocks 2 and 3
    found = model(tokens, uniform=uniform)
    only_first = model.norm(model.blocks[0](tokens, None, None)[:, 0])
    torch.testing.assert_close(found[0], only_first[0])
    assert not torch.allclose(found[1], only_first[1])
    # Kept branches are scaled up, so that their expectation is that of all.
    x = model.blocks[0](tokens, None, None)
    for i, rate in ((1, 0.25), (2, 0.5)):
        x = model.blocks[i](x, None, torch.full((3, 2), 1 / (1 - rate)))
    torch.testing.assert_close(found[1], model.norm(x[:, 0])[1])


def test_recomputing_gives_the_same_gradients(tokens):
    found = []
    for recompute in ("nothing", "feed_forward", "blocks"):
        model = encoder(recompute=recompute)
        model(tokens).square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    for kept, *again in zip(*found, strict=True):
        for gradient in again:
            torch.testing.assert_close(kept, gradient)


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match="d_model is 16 and n_heads 3"):
        Encoder(16, 1, 3)


def test_products_are_counted_as_torch_counts_them(tokens):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = encoder()
    # The flash kernel of the CPU is not counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens)
    assert counter.get_total_flops() == 3 * cls_products(16, 3, 4, 9)


@pytest.mark.parametrize("n_layers", [0, 1, 4])
def test_decoder_has_the_layers_asked_for(n_layers):
    decoder = CountDecoder(8, 30, n_layers)
    x = torch.randn(5, 8)
    assert decoder(x).shape == (5, 30)
    torch.testing.assert_close(
        decoder(x), decoder.hidden(x) @ decoder.genes.weight.T + decoder.genes.bias
    )
    squares = sum(p.numel() for p in decoder.layers.parameters() if p.dim() == 2) // 64
    assert squares == (2 * n_layers + 2 if n_layers else 0)


def test_a_bias_is_added_to_the_logits_of_every_block(tokens):
    """Of minus infinity it is padding, in any dtype; a constant changes nothing."""
    model = encoder().double()
    tokens = tokens.double()
    padding = torch.zeros(tokens.shape[:2], dtype=torch.bool)
    padding[:, -1] = True
    hidden = torch.zeros(tokens.shape[:2]).masked_fill(padding, -torch.inf)
    expected = model(tokens, padding)
    torch.testing.assert_close(model(tokens, bias=hidden), expected)
    constant = torch.full_like(hidden, 3.0)
    torch.testing.assert_close(model(tokens, padding, bias=constant), expected)
    assert not torch.allclose(model(tokens), expected)
