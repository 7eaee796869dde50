"""DeepLIFT of any function: complete, antisymmetric, and what other tools find where they agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from completeness import BOUNDS, error_of, numbers, require_complete, w
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kernomics.attribution import deeplift
from kernomics.attribution.operation_pair import RULES
from kernomics.attribution.tape import Tape
from kernomics.errors import ConfigError
from kernomics.nn.encoder import Encoder
from kernomics.nn.packed_encoder import PackedEncoder, Packing

MASK = torch.tensor([True, False, True, True, False, True])
AT = torch.tensor([3, 0, 5])


def buffered(x):
    """Writes into parts of a buffer, over one another, and reads parts of it."""
    out = torch.zeros_like(x)
    torch.mm(x, w(x), out=out)
    out[:, 1:3] = x[:, :2].tanh()
    out[:, 2:4].mul_(x[:, 2:4])
    out[0].add_(1.0)
    kept = out[:, 2].exp()
    out.mul_(0.5)
    return out.sigmoid().sum(1) + kept


GRU = {
    dtype: nn.GRU(6, 3, batch_first=True).requires_grad_(False).to(dtype)
    for dtype in (torch.float32, torch.float64)
}
FUNCTIONS = {
    "matrices": lambda x: (x @ x.mT @ x @ w(x)).sum(1),
    "bmm": lambda x: torch.bmm(x[:, :, None], x[:, None]).flatten(1).sin().sum(1),
    "addmm": lambda x: torch.addmm(x, x, x[:, :6].mT @ x, beta=0.5, alpha=2.0)[:, 0],
    "bias": lambda x: F.linear(x, w(x), w(x)[0]).tanh().sum(1),
    "baddbmm": lambda x: torch.baddbmm(x[:, None], x[:, None], w(x).expand(4, 6, 6)).sum((1, 2)),
    "product": lambda x: (x * x[:, [0]] * 2).sum(1),
    "quotient": lambda x: (x / (x.exp() + 1) + 1 / (x.square() + 1)).sum(1),
    "sums": lambda x: (x + x[:, :1] - 3 * x.mean(1, keepdim=True) + (1 - x)).cumsum(1)[:, -1],
    "scalars": lambda x: (torch.rsub(x, 2.0) - x.mean() + x.sum()).sum(1),
    "smooth": lambda x: (
        F.gelu(x) + F.silu(x) + x.sigmoid() + x.tanh() + x.exp() + x.sin() + x.cos() + x.erf()
        + F.softplus(x) + F.elu(x) + F.mish(x) + F.logsigmoid(x) + x.atan() + x.sinh() + x.cosh()
        + x.expm1() + F.selu(x) + F.hardswish(x) + F.gelu(x, approximate="tanh") + x.exp2()
    ).sum(1),
    "positive": lambda x: (
        (x.square() + 1).log() + (x.square() + 1).sqrt() + (x.square() + 1).rsqrt()
        + (x.square() + 1).reciprocal() + (x.square() + 1).log1p() + (x.square() + 1).log2()
        + x.pow(3)
    ).sum(1),
    "kinked": lambda x: (
        F.relu(x) + F.leaky_relu(x) + x.abs() + x.clamp(-0.5, 0.5) + F.hardtanh(x)
        + x.clamp_min(0.1) + x.clamp_max(0.2) + F.threshold(x, 0.1, 0.0)
    ).sum(1),
    "steps": lambda x: torch.where(x > 0.1, x, 2 * x.square()).masked_fill(x < -1, 3.0).sum(1),
    "conditions": lambda x: torch.where(
        ((x > 0) & (x.flip(1) < 1)) | (x >= 0.5) | ~(x <= 0.7), 2.0, -1.0
    ).sum(1),
    "comparisons": lambda x: ((x > x.flip(1)).to(x.dtype) * x.sign()).sum(1)
    + torch.logical_and(x > 0, x > 0.3).to(x.dtype).sum(1)
    + torch.logical_or(x > 0, x > 0.3).logical_not().to(x.dtype).sum(1),
    "steps of many": lambda x: ((x > -0.4).all(1) | (x > 1).any(1, True)[:, 0]).to(x.dtype)
    + ((x > 0.9).any(0) * x).sum(1),
    "softmax": lambda x: (x.softmax(1) * x).sum(1) + x.softmax(0)[:, 1],
    "log_softmax": lambda x: x.log_softmax(1)[:, 2] * 3 + x.logsumexp(1)
    + x.logsumexp(1, True)[:, 0],
    "layer_norm": lambda x: F.layer_norm(x, (6,), w(x)[0], w(x)[1]).square().sum(1)
    + F.layer_norm(x.view(4, 2, 3), (2, 3)).sin().sum((1, 2)),
    "rms_norm": lambda x: F.rms_norm(x, (6,), w(x)[0]).tanh().sum(1),
    "variance": lambda x: x.var(1) + x.var(1, correction=0),
    "moved": lambda x: torch.cat(
        [
            x.t().contiguous().t()[:, 1:3].repeat(1, 2).roll(1, 1), x[:, MASK], x[:, AT],
            x.index_select(1, AT), x.gather(1, AT.expand(4, 3)), x.flip(1).unsqueeze(1)[:, 0],
            torch.stack([x, 2 * x], 2).flatten(1), x.view(4, 2, 3).transpose(1, 2).reshape(4, 6),
            *x.split(2, 1), *x.split([1, 5], 1), *[c[:, None] for c in x.unbind(1)], x.tril(),
            F.pad(x, (1, 0)), x[:, None].expand(4, 2, 6).permute(0, 2, 1).flatten(1),
            x[:, None].squeeze(),
            x.detach(), x.select(1, 2)[:, None], x.clone().to(torch.float64).to(x.dtype), x.triu(),
        ], 1,
    ).sin().sum(1),
    "scattered": lambda x: (
        torch.zeros_like(x).index_add(1, AT, x[:, :3])
        .index_put((torch.arange(4), AT[[0, 1, 2, 0]]), x[:, 0])
        .scatter_add(1, AT.expand(4, 3), x[:, 3:]).scatter(1, AT[:1].expand(4, 1), x[:, :1]).tanh()
    ).sum(1),
    "convolution": lambda x: F.avg_pool1d(F.conv1d(x[:, None], w(x)[:2, None, :3]), 2)
    .tanh().flatten(1).sum(1),
    "batch_norm": lambda x: F.batch_norm(x, w(x)[0], w(x)[1].square(), w(x)[2], w(x)[3])
    .tanh().sum(1),
    "buffers": buffered,
    "in_place": lambda x: F.relu(x.clone().mul_(2).add_(x), inplace=True).sub_(x).div_(3).sum(1),
    "cleared": lambda x: (x.clone().zero_() + x).sum(1) + x.clone().fill_(2.0).sum(1)
    + torch.zeros_like(x).fill_(x[0, 0]).sum(1),
    "logsumexp of several": lambda x: x.view(4, 2, 3).logsumexp((1, 2))
    + x.view(4, 2, 3).logsumexp((-1, 1), True)[:, 0, 0],
    "deviation": lambda x: x.std(1) + x.std(1, correction=0),
    "norm": lambda x: F.normalize(x, dim=1)[:, 0] + x.norm(dim=1),
    "group_norm": lambda x: F.group_norm(x, 2, w(x)[0], w(x)[1]).mul(w(x)[0]).sum(1),
    "group_norm of positions": lambda x: F.group_norm(x.view(4, 2, 3), 2, w(x)[0, :2]).sin()
    .sum((1, 2)),
    "instance_norm": lambda x: F.instance_norm(x.view(4, 2, 3), weight=w(x)[0, :2]).sin()
    .sum((1, 2)),
    "batch_norm of the batch": lambda x: F.batch_norm(x, None, None, w(x)[0], training=True)
    .sin().sum(1),
    "celu": lambda x: F.celu(x).sum(1),
    "safe softmax": lambda x: F.scaled_dot_product_attention(
        x.view(4, 3, 2), x.view(4, 3, 2).sin(), x.view(4, 3, 2).cos()
    ).sum((1, 2)),
    "recurrent": lambda x: GRU[x.dtype](x[:, None])[0].sum((1, 2)),
    "similarity": lambda x: F.cosine_similarity(x, x.flip(1).exp()),
    "more kinks": lambda x: (F.hardsigmoid(3 * x) + F.prelu(x, w(x)[0].abs())).sum(1)
    + torch.clamp_max(x, w(x)[0]).sum(1),
    "mixed": lambda x: x.lerp(x.sin(), 0.3).index_fill(1, AT, 2.0).sin().sum(1),
    "xor": lambda x: ((x > 0) ^ (x > 0.5)).to(x.dtype).sum(1)
    + torch.logical_xor(x > 0, x > 0.5).to(x.dtype).sum(1),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nothing_is_lost(name):
    case, baseline = numbers(4, 6, seed=1), numbers(4, 6, seed=2)
    baseline[0] = case[0]  # nothing changes in one cell
    baseline[1, :3] = case[1, :3] + 1e-9  # and next to nothing elsewhere
    require_complete(FUNCTIONS[name], [case], [baseline])


def test_every_rule_is_tried():
    """But for operations of other devices, and those whose names depend on torch's version."""
    seen = set()
    transformer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True).double().eval()
    functions = {
        **FUNCTIONS,
        "transformer": lambda x: transformer(x[:, None].repeat(1, 2, 1)).sum((1, 2)),
    }
    for function in functions.values():
        x = numbers(4, 6)
        with torch.no_grad(), Tape([x], lambda _: True) as tape:
            function(x)
        seen |= {str(step.op) for step in tape.steps}
    elsewhere = (
        "_scaled_dot_product_flash_attention.", "efficient", "cudnn", "detach", "alias",
        "_fused_rms_norm", "diagonal", "as_strided", "_adaptive_avg_pool2d", "avg_pool2d", "unfold",
        "native_batch_norm", "slice_scatter", "select_scatter", "squeeze.dims",
        "dot", "mv", "outer", "addcmul", "addbmm", "maximum", "minimum", "Scalar",
        "eq.", "ne.", "lt.Tensor", "ge.Tensor", "le.Tensor", "Tensor_Tensor", "baddbmm", "square",
        "masked_fill.Tensor", "_unsafe_view", "neg.", "repeat", "var.dim", "sum.default", "sparse",
    )  # fmt: skip
    missed = {name for name in RULES if name not in seen and not any(x in name for x in elsewhere)}
    assert not missed


@pytest.mark.parametrize("masks", ["equal", "one-sided", "half", "disjoint", "empty", "alone"])
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_a_transformer_with_any_masks_is_complete(masks, scale):
    lengths = torch.tensor([40, 40, 23, 1])
    n = 4 + int(lengths.sum())
    torch.manual_seed(3)
    encoder = PackedEncoder(16, 3, 4, layer_scale=1.0)
    case, baseline = scale * numbers(n, 16, seed=4), scale * numbers(n, 16, seed=5)
    u = torch.rand(n - 4, generator=torch.Generator().manual_seed(6))
    here = torch.zeros(n, dtype=torch.float64)
    there = here.clone()
    if masks == "one-sided":
        there[4:][u < 0.4] = -torch.inf
    elif masks == "half":
        there[4:][u < 0.4] = -torch.inf
        here[4:][(u > 0.4) & (u < 0.8)] = -torch.inf
    elif masks in ("disjoint", "alone"):
        there[4:][u < 0.5] = -torch.inf
        here[4:][u >= 0.5] = -torch.inf
    elif masks == "empty":
        there[4:] = -torch.inf
    if masks == "alone":  # the first tokens are closed as well: no key is open on both sides
        here[:4], there[0], there[1:4] = 0.0, -torch.inf, 0.0
    packing = Packing(1, lengths, torch.device("cpu"))

    def function(x, presence):
        own = encoder.to(x.dtype)
        none = torch.zeros(4, dtype=torch.int64)
        return own(x, packing, torch.arange(4), none, presence)[:, 3]

    found = require_complete(function, [case, here], [baseline, there])
    one_sided = here.isinf() != there.isinf()
    assert not found.contributions[1][~one_sided].any()
    if masks != "equal":
        assert found.contributions[1][one_sided].ne(0).all()


@settings(max_examples=20)
@given(
    tokens=st.integers(2, 9), heads=st.sampled_from([1, 2]), seed=st.integers(0, 99),
    share=st.sampled_from([0.0, 0.3, 1.0]), by_query=st.booleans(),
)  # fmt: skip
def test_attention_by_any_mask_equals_its_parts(tokens, heads, seed, share, by_query):
    """The fused rule against products and a softmax, which have rules of their own."""
    shape = (2, heads, tokens, 3)
    case = [numbers(*shape, seed=seed + i) for i in range(3)]
    baseline = [numbers(*shape, seed=seed + 10 + i) for i in range(3)]
    draws = torch.rand(
        2, 2, 1, tokens if by_query else 1, tokens, generator=torch.Generator().manual_seed(seed)
    )
    masks = numbers(2, 2, 1, draws.shape[3], tokens, seed=seed).masked_fill(
        draws < share, -torch.inf
    )
    masks[..., 0] = 0.0  # a query that sees nothing has no softmax

    def fused(q, k, v, mask):
        return (
            F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.7).sin().sum((1, 2, 3))
        )

    def parts(q, k, v, mask):
        p = ((q * 0.7) @ k.mT + mask).softmax(-1)
        return (p @ v).sin().sum((1, 2, 3))

    one = deeplift(fused, [*case, masks[0]], [*baseline, masks[1]])
    two = deeplift(parts, [*case, masks[0]], [*baseline, masks[1]])
    assert error_of(one) < 1e-9
    for x, y in zip(one.contributions, two.contributions, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-10)


def test_two_tokens_by_hand():
    """One query and two keys, of which the second is there in the case alone."""
    x, x_bar = torch.tensor([[0.5, 2.0]]).double(), torch.tensor([[1.5, 2.0]]).double()
    here, there = torch.tensor([[0.0, 0.0]]).double(), torch.tensor([[0.0, -math.inf]]).double()

    def function(x, mask):
        z = 2 * x + mask  # logits
        return (z.softmax(1) * x).sum(1)  # values

    found = deeplift(function, [x, here], [x_bar, there])
    p = np.exp([1.0, 4.0]) / np.exp([1.0, 4.0]).sum()
    # Values: Δ(p₁v₁) has p̃₁Δv₁, with p̄₁ = 1. The multipliers of p are ṽ = (1, 2).
    of_value = (p[0] + 1) / 2 * -1.0
    # Softmax: ḡ is ṽ₁ as the first logit alone is open, so that it has nothing and the second,
    # which is there in the case alone, (2 − 1)·p₂.
    presence = (2.0 - 1.0) * p[1]
    np.testing.assert_allclose(found.contributions[0], [[of_value, 0.0]], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found.contributions[1], [[0.0, presence]], rtol=1e-12)
    effect = p[0] * 0.5 + p[1] * 2.0 - 1.5
    assert of_value + presence == pytest.approx(effect, rel=1e-12)


def test_two_open_tokens_by_hand():
    x, x_bar = torch.tensor([[0.5, 2.0]]).double(), torch.tensor([[1.5, 1.0]]).double()
    found = deeplift(lambda z: z.softmax(1)[:, 0], [x], [x_bar])
    p, p_bar = (np.exp(z) / np.exp(z).sum() for z in (x.numpy()[0], x_bar.numpy()[0]))
    mean = (p - p_bar) / (np.log(p) - np.log(p_bar))
    g = np.array([1.0, 0.0])
    multipliers = mean * (g - (g * mean).sum() / mean.sum())
    np.testing.assert_allclose(found.multipliers[0][0], multipliers, rtol=1e-12)


# -- other tools ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
def test_a_relu_network_equals_captum():
    from captum.attr import DeepLift as Captum

    torch.manual_seed(7)
    model = nn.Sequential(
        nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 3)
    ).double()  # fmt: skip
    case, baseline = numbers(5, 9, seed=8), numbers(5, 9, seed=9)
    theirs = Captum(model).attribute(case.requires_grad_(), baseline.requires_grad_(), target=2)
    ours = deeplift(model, [case], [baseline], 2).contributions[0]
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("part", ["activations", "layer_norm"])
def test_shared_rules_equal_tangermeme(part):
    tangermeme = pytest.importorskip("tangermeme.deep_lift_shap")
    torch.manual_seed(10)
    inner: list[nn.Module] = [nn.GELU(), nn.Linear(8, 8), nn.ELU(), nn.Linear(8, 8), nn.ReLU()]
    if part == "layer_norm":
        inner = [nn.LayerNorm(8), nn.Linear(8, 8), nn.Sigmoid()]
    model = nn.Sequential(
        nn.Conv1d(4, 8, 3), nn.SiLU(), nn.Flatten(), nn.Linear(48, 8), *inner, nn.Linear(8, 2)
    ).eval()  # fmt: skip
    bases = torch.arange(24).view(3, 8)
    case = F.one_hot((bases * 7 + 1) % 4, 4).mT.float()
    other = F.one_hot((bases * 5 // 3) % 4, 4).mT.float()
    theirs = tangermeme.deep_lift_shap(
        model, case, references=other[:, None], target=1, device="cpu", hypothetical=True,
        raw_outputs=True, warning_threshold=1e-3,
    )  # fmt: skip
    ours = deeplift(model, [case], [other], 1)
    torch.testing.assert_close(ours.multipliers[0], theirs.reshape(case.shape), rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_an_encoder_of_transformers_works_out_of_the_box(attention):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(11)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, num_labels=3, attn_implementation=attention,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    case, baseline = numbers(3, 7, 16, seed=12).float(), numbers(3, 7, 16, seed=13).float()
    here, there = torch.ones(3, 7), torch.ones(3, 7)
    here[0, 5:], there[0, 3:], there[1, 6:] = 0, 0, 0

    def function(x, mask):
        return model(inputs_embeds=x, attention_mask=mask).logits

    found = deeplift(function, [case, here], [baseline, there], 1)
    assert error_of(found) <= BOUNDS[torch.float32]
    one_sided = here != there
    assert found.contributions[1][one_sided].ne(0).all()
    assert not found.contributions[1][~one_sided].any()
    # Nothing was rewritten, hooked or left behind.
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def test_a_layer_of_torch_is_complete_with_its_own_masks():
    torch.manual_seed(14)
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, activation="gelu")
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    case, baseline = numbers(2, 5, 12, seed=15), numbers(2, 5, 12, seed=16)
    here = torch.tensor([[False] * 5, [False, False, False, True, True]])
    there = torch.tensor([[False, True, True, False, False], [False, True, False, False, True]])

    def function(x, hidden):
        return model.to(x.dtype)(x, src_key_padding_mask=hidden)[:, 0, 0]

    found = require_complete(function, [case, here], [baseline, there])
    assert found.contributions[1][here != there].ne(0).all()


def test_the_encoder_of_txfm_is_complete():
    torch.manual_seed(17)
    encoder = Encoder(16, 2, 4, layer_scale=1.0)
    case, baseline = numbers(3, 9, 16, seed=18), numbers(3, 9, 16, seed=19)
    require_complete(lambda x: encoder.to(x.dtype)(x)[:, 2], [case], [baseline])


# -- cells, outputs, errors ----------------------------------------------------------------------


def test_a_batch_equals_its_cells_one_by_one_each_for_its_output():
    torch.manual_seed(20)
    model = nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3)).double()
    case, baseline = numbers(4, 5, seed=21), numbers(4, 5, seed=22)
    outputs = torch.tensor([2, 0, 1, 2])
    whole = deeplift(model, [case], [baseline], outputs)
    for i in range(4):
        alone = deeplift(model, [case[i : i + 1]], [baseline[i : i + 1]], int(outputs[i]))
        torch.testing.assert_close(
            whole.contributions[0][i], alone.contributions[0][0], rtol=0, atol=1e-12
        )


def test_the_inputs_are_left_as_they_are_and_gradients_stay_away():
    weight = torch.ones(3, requires_grad=True)
    case, baseline = torch.ones(2, 3), torch.zeros(2, 3)
    found = deeplift(lambda x: x.mul_(weight).sum(1), [case], [baseline])
    assert torch.equal(case, torch.ones(2, 3))
    assert weight.grad is None
    assert not found.contributions[0].requires_grad
    torch.testing.assert_close(found.contributions[0], torch.ones(2, 3))


def test_an_input_that_is_not_used_contributes_nothing():
    x, y = numbers(2, 3, seed=1), numbers(2, 3, seed=2)
    found = deeplift(lambda a, b: a.sum(1), [x, x], [y, y])
    assert not found.contributions[1].any()
    constant = deeplift(lambda a: torch.ones(2), [x], [y])
    assert not constant.contributions[0].any()


class Cumulative(nn.Module):
    def forward(self, x):
        return x.cummax(1).values


def test_an_operation_without_a_rule_is_named_with_its_place():
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(Cumulative()), nn.Linear(3, 1)).double()
    x, y = numbers(2, 3, seed=1), numbers(2, 3, seed=2)
    with pytest.raises(ConfigError, match=r"no rule for aten.cummax.*1\.0 \(Cumulative\).*write"):
        deeplift(model, [x], [y], 0)


def test_numbers_of_tokens_are_refused_with_a_remedy():
    table = nn.Embedding(5, 3)
    ids = torch.tensor([[1, 2], [3, 4]])
    with pytest.raises(ConfigError, match=r"Embedding.*give the function the embeddings"):
        deeplift(lambda x: table(x).sum((1, 2)), [ids], [ids.flip(1)])


def test_an_operation_without_a_rule_beside_the_way_does_no_harm():
    x, y = numbers(2, 3, seed=1), numbers(2, 3, seed=2)

    def function(x):
        x.cummax(1)
        return x.sum(1)

    torch.testing.assert_close(deeplift(function, [x], [y]).contributions[0], x - y)


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda x: F.dropout(x, 0.5).sum(1), "training mode|no rule for"),
        (lambda x: (x + torch.rand(2, 3)).sum(1), r"training mode.*eval"),
        (lambda x: x.sum(1) if x.sum() > 0 else 2 * x.sum(1), "decides by the values|no rule"),
        (lambda x: x[x > 0], "different shapes|same operations"),
        (lambda x: x, r"say by output="),
        (lambda x: (x, x), "one tensor is needed"),
    ],
)
def test_what_cannot_be_attributed_is_told(function, match):
    with pytest.raises(ConfigError, match=match):
        deeplift(function, [torch.ones(2, 3)], [-torch.ones(2, 3)])


@pytest.mark.parametrize(
    ("case", "baseline", "output", "match"),
    [
        (torch.ones(2, 3), torch.ones(2, 3), 0, "case is tensor.*must be a list"),
        ([torch.ones(2, 3)], [torch.ones(3, 3)], 0, r"input 0 is .*\(2, 3\).*\(3, 3\)"),
        ([], [], 0, "case has no inputs"),
        ([torch.ones(2, 3)], [], 0, "case has 1 inputs and baseline 0"),
        ([torch.full((2, 3), math.nan)], [torch.ones(2, 3)], 0, r"case\[0\] has 6 NaN"),
        ([np.ones((2, 3))], [torch.ones(2, 3)], 0, r"case\[0\] is a ndarray.*must be a Tensor"),
        ([torch.ones(2, 3)], [torch.zeros(2, 3)], 3, "0 to 2 are possible"),
        ([torch.ones(2, 3)], [torch.zeros(2, 3)], torch.tensor([0, 1, 2]), r"\[2\] is needed"),
        ([torch.ones(2, 3)], [torch.zeros(2, 3)], 0.5, "an integer"),
    ],
)
def test_bad_inputs_are_told(case, baseline, output, match):
    with pytest.raises(ConfigError, match=match):
        deeplift(lambda x: x, case, baseline, output)
