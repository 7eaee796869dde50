"""DeepLIFT at its edges: shared memory, masks of all kinds, numbers of all sizes, errors."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from completeness import numbers, require_complete, w
from torch import nn

from kernomics.attribution import deeplift
from kernomics.errors import ConfigError

X, Y = numbers(4, 6, seed=1), numbers(4, 6, seed=2)
AT = torch.tensor([3, 0, 5])
HERE = torch.tensor([[True, True, False, False, True, True]] * 4)
THERE = torch.tensor([[True, False, True, False, True, False]] * 4)
WORKSPACE = {dtype: torch.empty(4, 6, dtype=dtype) for dtype in (torch.float32, torch.float64)}


def mean(p, x):
    return (p * w(x)[0]).sum(1)


def with_itself(x):
    """Arguments that are other views of what is changed."""
    z = x.clone()
    z.mul_(z.view_as(z))
    z.add_(z[:])
    return z.sin().sum(1)


def into_a_buffer_of_before(x):
    """A buffer that outlives the function: the baseline's run writes over the case's numbers."""
    out = WORKSPACE[x.dtype]
    torch.mm(x, w(x), out=out)
    return out.sin().sum(1)


def into_parts(x):
    out = torch.zeros(6, 8, dtype=x.dtype)
    torch.mm(x, w(x), out=out[:4, 1:7])
    torch.add(x, 1, alpha=2, out=out[2:6, :6])
    totals = torch.zeros(6, dtype=x.dtype)
    torch.sum(out.sin(), 1, out=totals)
    torch.mean(x.cos(), 1, out=totals[2:])
    return totals[:4] + totals[2:]


def turned(x):
    z = x.clone().t_()
    z.mul_(2)
    return (z.unsqueeze_(0).sin_().squeeze_(0) * x.t()).sum(0)


MEMORY = {
    "itself": with_itself,
    "workspace": into_a_buffer_of_before,
    "parts": into_parts,
    "turned": turned,
    "input": lambda x: x.mul_(2).sin().sum(1),
    "powers": lambda x: x.clone().pow_(3).sum(1),

    "nobody's": lambda x: x.new_empty(4, 6).copy_(x.sin()).sum(1),
    "whole numbers": lambda x: torch.zeros(4, 6, dtype=torch.int64).copy_(3 * x).to(x.dtype).sum(1)
    + x.sum(1),
}  # fmt: skip


@pytest.mark.parametrize("name", MEMORY)
def test_memory_that_is_shared_or_written_over_is_followed(name):
    found = require_complete(MEMORY[name], [X], [Y])
    assert found.contributions[0].any()


def test_inputs_that_a_function_changes_contribute_their_own_difference():
    """Also inputs that are views of one tensor, and that are expanded."""
    both, others = numbers(4, 12, seed=5), numbers(4, 12, seed=6)
    before = both.clone()
    case = [both[:, :6], both[:, 3:9]]
    found = require_complete(lambda a, b: a.mul_(b).sum(1), case, [others[:, :6], others[:, 3:9]])
    assert torch.equal(both, before)
    by_hand = (case[0] - others[:, :6]) * (case[1] + others[:, 3:9]) / 2
    torch.testing.assert_close(found.contributions[0], by_hand.float(), rtol=1e-5, atol=1e-6)
    wide = [x[:, :1].expand(4, 6) for x in (both, others)]
    require_complete(lambda a: a.mul_(2).sin().sum(1), wide[:1], wide[1:])


SMALL, OTHER = numbers(4, 6, seed=3).abs() * 1e-3 + 1e-6, numbers(4, 6, seed=4).abs() * 1e-3 + 1e-6
SIZES = {
    "log": (torch.log, SMALL, OTHER),
    "log2": (torch.log2, SMALL, OTHER),
    "sqrt": (torch.sqrt, SMALL, OTHER),
    "sqrt at 0": (torch.sqrt, SMALL * 0, torch.where(OTHER > 5e-4, OTHER, 0.0)),
    "rsqrt": (torch.rsqrt, SMALL, OTHER),
    "reciprocal": (torch.reciprocal, SMALL, OTHER),
    "power": (lambda x: x.pow(-1.5), SMALL, OTHER),
    "log1p": (lambda x: torch.log1p(x - 1), SMALL, OTHER),
    "elu": (lambda x: F.elu(x, 0.1), SMALL, -OTHER),
    "selu": (F.selu, SMALL, -OTHER),
    "celu": (lambda x: F.celu(x, 0.01), SMALL, -OTHER),
    "hardswish": (lambda x: F.hardswish(x + 3), SMALL, -OTHER),
    "softplus": (lambda x: F.softplus(x, 1000), SMALL, -OTHER),
    "infinite": (torch.sigmoid, X.masked_fill(X > 1, math.inf), Y.masked_fill(Y > 1, -math.inf)),
    "softmax": (lambda x: x.softmax(1) * w(x)[0], 1e4 * X, 1e4 * Y),
    "log_softmax": (lambda x: x.log_softmax(1)[:, :3], 1e3 * X, 1e3 * Y),
    "logsumexp": (lambda x: x.logsumexp(1, True), 1e3 * X, 1e3 * Y),
    "layer_norm": (lambda x: F.layer_norm(x, (6,), w(x)[0]), 1e15 * X, 1e15 * Y),
    "equal": (F.gelu, X, X),
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_numbers_of_any_size(name):
    function, case, baseline = SIZES[name]
    found = require_complete(lambda x: function(x).sum(1), [case], [baseline])
    assert found.contributions[0].isfinite().all()


def lowest(x):
    return torch.finfo(x.dtype).min


def added(x, mask, value):
    return torch.zeros_like(x).masked_fill(~mask, value)


MASKS = {
    "a factor": lambda x, m: (x * m).sum(1),
    "a mean": lambda x, m: (x * m).sum(1) / m.sum(1).clamp(min=1),
    "either": lambda x, m: ((m + (x > 1)) * x).sum(1),
    "an order": lambda x, m: (m.cumsum(1) * x).sum(1),
    "whole numbers": lambda x, m: (m.long() @ m.long().T).to(x.dtype).sum(1) + x.sum(1),
    "filled": lambda x, m: mean(x.masked_fill(~m, -math.inf).softmax(1), x),
    "filled with a number of the cells": lambda x, m: x.masked_fill(~m, x.sum()).sum(1),
    "colder": lambda x, m: mean((x.masked_fill(~m, -math.inf) / 3).softmax(1), x),
    "colder, finite": lambda x, m: mean((x.masked_fill(~m, lowest(x)) * 0.125).softmax(1), x),
    "twice": lambda x, m: mean(
        (x + added(x, m, -math.inf) + added(x, m, -math.inf)).softmax(1), x
    ),
    "logarithm": lambda x, m: mean((x + m.to(x.dtype).log()).softmax(1), x),
    "clamped": lambda x, m: mean(x.masked_fill(~m, -math.inf).clamp(min=-1e4).softmax(1), x),
    "converted": lambda x, m: mean(
        (x + added(x.double(), m, -1e300).to(x.dtype)).softmax(1), x
    ),
    "product": lambda x, m: mean((x + (1 - m.to(x.dtype)) * lowest(x)).softmax(1), x),
    "1e9": lambda x, m: mean((x + (1 - m.to(x.dtype)) * -1e9).softmax(1), x),
    "1e30": lambda x, m: mean((x + (1 - m.to(x.dtype)) * -1e30).softmax(1), x),
    "baddbmm": lambda x, m: torch.baddbmm(
        added(x, m, -math.inf)[:, None], x[:, None], w(x).expand(4, 6, 6)
    ).softmax(2).mul(w(x)[0]).sum((1, 2)),
    "log_softmax": lambda x, m: x.masked_fill(~m, -math.inf).log_softmax(1)[:, 0],
    "logsumexp": lambda x, m: x.masked_fill(~m, -math.inf).logsumexp(1),
}  # fmt: skip


@pytest.mark.parametrize("name", MASKS)
def test_masks_of_all_kinds_have_their_part(name):
    found = require_complete(MASKS[name], [X, HERE], [Y, THERE])
    assert found.contributions[1][HERE != THERE].ne(0).any()
    assert not found.contributions[1][HERE == THERE].any()


@pytest.mark.parametrize("value", ["lowest", -math.inf])
@pytest.mark.parametrize("blind", ["case", "both", "by query", "one query in both"])
@pytest.mark.parametrize("fused", [True, False])
def test_queries_that_see_nothing(value, blind, fused):
    """They have equal weights where the mask is finite, else none."""
    sides = [[numbers(2, 3, 4, 2, seed=i + j) for i in range(3)] for j in (0, 10)]
    draws = torch.rand(2, 2, 1, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.6
    draws[..., 0] = True
    if blind in ("case", "both"):
        draws = draws[:, :, :, :1].clone()
        draws[: 1 if blind == "case" else 2] = False
    else:
        draws[: 1 if blind == "by query" else 2, :, :, 2] = False

    def function(q, k, v, mask):
        bias = torch.zeros(mask.shape, dtype=q.dtype).masked_fill(
            ~mask, lowest(q) if value == "lowest" else value
        )
        if fused:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:
            out = torch._safe_softmax(q @ k.mT / q.shape[-1] ** 0.5 + bias, -1) @ v
        return out.sin().sum((1, 2, 3))

    require_complete(function, [*sides[0], draws[0]], [*sides[1], draws[1]])


@pytest.mark.parametrize("masked", [True, False])
def test_attention_that_is_causal_or_shares_keys(masked):
    q, q_bar = numbers(2, 6, 5, 2, seed=1), numbers(2, 6, 5, 2, seed=2)
    rest = [numbers(2, 2, 5, 2, seed=i) for i in (3, 4, 5, 6)]
    masks = [m[:2, None, None, :5] for m in (HERE, THERE)] if masked else [HERE, HERE]

    def function(q, k, v, mask):
        return F.scaled_dot_product_attention(
            q, k, v, enable_gqa=True, is_causal=not masked, attn_mask=mask if masked else None
        ).sin().sum((1, 2, 3))  # fmt: skip

    def parts(q, k, v, mask):
        k, v = (x.repeat_interleave(3, 1) for x in (k, v))
        z = q @ k.mT * 2**-0.5
        shut = ~mask if masked else torch.ones(5, 5, dtype=torch.bool).triu(1)
        return (z.masked_fill(shut, -math.inf).softmax(-1) @ v).sin().sum((1, 2, 3))

    case, baseline = [q, *rest[:2], masks[0]], [q_bar, *rest[2:], masks[1]]
    require_complete(function, case, baseline)
    one, two = (deeplift(f, case, baseline).contributions for f in (function, parts))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("kind", [{}, {"add_bias_kv": True, "bias": False}, {"kdim": 6, "vdim": 6}])
def test_multihead_attention_in_all_its_forms(weights, kind):
    torch.manual_seed(1)
    layer = nn.MultiheadAttention(6, 2, batch_first=True, **kind).eval()
    case, baseline = numbers(2, 4, 6, seed=1), numbers(2, 4, 6, seed=2)
    later = torch.ones(4, 4, dtype=torch.bool).triu(1)

    def function(x, hidden):
        own = layer.to(x.dtype)
        out = own(x, x, x, key_padding_mask=hidden, attn_mask=later, need_weights=weights)[0]
        return out.sin().sum((1, 2))

    hidden = [~m[:2, [0, 1, 2, 4]] for m in (HERE, THERE)]
    found = require_complete(function, [case, hidden[0]], [baseline, hidden[1]])
    assert found.contributions[1].any()


def test_in_inference_mode_and_under_autocast():
    table = torch.ones(6, 6, dtype=torch.float64)
    expected = deeplift(lambda x: F.gelu(x @ table).sum(1), [X], [Y]).contributions[0]
    with torch.inference_mode():
        table = torch.ones(6, 6, dtype=torch.float64)
        found = deeplift(lambda x: F.gelu(F.linear(x, table)).sum(1), [X + 0], [Y + 0])
    torch.testing.assert_close(found.contributions[0], expected)
    with torch.autocast("cpu", torch.bfloat16):
        require_complete(lambda x: (x.sin() * w(x)[0]).sum(1), [X], [Y])


def test_the_state_of_torch_is_as_before_after_an_error():
    def function(x):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        deeplift(function, [X], [Y])
    assert torch.backends.mha.get_fastpath_enabled()
    x = X.clone().requires_grad_()
    x.sum().backward()  # no mode is left
    assert x.grad is not None


def test_statistics_of_training_are_left_as_they_are():
    layer = nn.BatchNorm1d(6).double()
    with pytest.raises(ConfigError, match=r"BatchNorm1d is in training mode.*eval"):
        deeplift(layer, [X], [Y], 0)
    assert not layer.running_mean.any()


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda x: x.sum(1) * x.sum().item(), r"given .* for case and .*item\(\)"),
        (lambda x: (x * 2 if x.sum() > 0 else x * 3).sum(1), "given 2 for case and 3"),
        (lambda x: x[:, int(x.mean(0).argmax())], "select.* is given 1 for case and 5"),
        (lambda x: x.sum(1) if x.sum() > 0 else torch.zeros(4).double(), "same operations"),
        (lambda x: torch.from_numpy(x.numpy().sum(1)), "miss the difference.*not seen"),
        (lambda x: (x > 0).sum(1), "int64: floating-point is needed"),
        (lambda x: (x - 100).log().sum(1), "4 of 4 NaN or infinite outputs for case"),
        (lambda x: (x / 0).sum(1), "NaN or infinite"),
        (lambda x: x.norm(1, dim=1), "order 1"),
        (lambda x: F.layer_norm(x, (6,), x[0]).sum(1), "layer_norm.* has weights"),
    ],
)
def test_what_the_tape_cannot_see_or_use_is_told(function, match):
    with pytest.raises(ConfigError, match=match):
        deeplift(function, [X], [Y])


def test_lists_that_are_changed_in_place_are_told():
    def function(x):
        both = [x.clone(), 2 * x]
        torch._foreach_mul_(both, 3.0)
        return both[0].sum(1)

    with pytest.raises(ConfigError, match=r"no rule for aten\._foreach_mul"):
        deeplift(function, [X], [Y])


def test_indices_that_differ_are_told():
    for function, name in ((lambda x, i: x.gather(1, i).sum(1), "index"),
                           (lambda x, i: x[:, i[0]].sum(1), "indices")):  # fmt: skip
        with pytest.raises(ConfigError, match=f"the {name} of aten.* differs"):
            deeplift(function, [X, AT.expand(4, 3)], [Y, AT.flip(0).expand(4, 3)])


def test_large_whole_numbers_are_not_rounded():
    case, baseline = torch.full((4, 1), 100_000_001), torch.full((4, 1), 100_000_008)
    found = require_complete(lambda n: (n - 100_000_000).double().sum(1), [case], [baseline])
    assert found.contributions[0].eq(-7).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.layer_norm(x, (6,)).sum(1),
        lambda x: x.softmax(1).sum(1),
        lambda x: 1e4 * (x - x.mean(1, keepdim=True)).sum(1),
        lambda x: (x * 0).sum(1),
    ],
)
def test_a_function_that_hardly_changes_is_not_refused_for_its_rounding(function, dtype):
    case, baseline = X.to(dtype), Y.to(dtype) + 5
    found = deeplift(function, [case], [baseline])
    assert float(found.completeness()) < 1e7 * torch.finfo(dtype).eps


def test_cells_of_a_batch_with_masks_of_their_own_equal_each_alone():
    sides = [[numbers(3, 2, 4, 3, seed=i + j) for i in range(3)] for j in (0, 10)]
    masks = torch.rand(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(3)) < 0.6
    masks[1, 0] = masks[0, 0]
    masks[1, 2, :, 1] = False  # a query that sees nothing

    def function(q, k, v, mask):
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return F.layer_norm(out.flatten(1), (24,)).sin().sum(1)

    case, baseline = ([*side, mask] for side, mask in zip(sides, masks, strict=True))
    require_complete(function, case, baseline)
    whole = deeplift(function, case, baseline)
    for i in range(3):
        one, two = ([x[i : i + 1] for x in side] for side in (case, baseline))
        alone = deeplift(function, one, two)
        for a, b in zip(whole.contributions, alone.contributions, strict=True):
            torch.testing.assert_close(a[i], b[0], rtol=1e-12, atol=1e-14)
