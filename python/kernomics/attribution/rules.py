r"""The rules of DeepLIFT: how the multipliers of an operation's outputs become its inputs'.

A multiplier m of a tensor x says that x moves the output by m·Δx, with Δ the case less the
baseline. A rule is right when Σ m_in·Δin = m_out·Δout, so that nothing is lost on the way:
`docs/attribution.md` derives each. An average of the two sides is written x̃ = (x + x̄)/2.

Where a logit is −∞ on one side, its Δ is infinite and counts as ±1 here: the multiplier is then
the whole effect of its being there. Numbers beyond a quarter of the dtype's largest count as
infinite, since models mask with these.

A further operation is added by a function of a `Pair` and the outputs' multipliers::

    @rule("aten.my_op.default")
    def my_op(pair: Pair, m: Multipliers) -> Multipliers: ...

`VERSION` rises when a rule changes: two complete attributions may differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernomics.attribution.operation_pair import (
    Multipliers,
    Pair,
    fitting,
    infinite,
    named,
    nearly,
    one_sided,
    own_gradient,
    ratio,
    rule,
)
from kernomics.errors import ConfigError

VERSION = 1
"""Of the rules, in every result."""


# -- linear operations, and products -------------------------------------------------------------


@rule(*named(
    "view _unsafe_view t permute expand squeeze squeeze.dim squeeze.dims unsqueeze "
    "transpose.int select.int slice.Tensor cat stack split.Tensor split_with_sizes unbind.int "
    "clone detach alias index.Tensor index_select gather index_put index_add "
    "scatter.src scatter_add constant_pad_nd flip roll repeat diagonal as_strided "
    "sum sum.dim_IntList mean mean.dim cumsum neg tril triu avg_pool2d "
    "_adaptive_avg_pool2d native_batch_norm _native_batch_norm_legit_no_training "
    "slice_scatter select_scatter unfold"
))  # fmt: skip
def linear(pair: Pair, m: Multipliers) -> Multipliers:
    """Linear: multipliers go back as gradients do."""
    return own_gradient(pair, m, pair.case)


@rule("aten.copy.default")
def copy(pair: Pair, m: Multipliers) -> Multipliers:
    """Put other numbers in the place of the first argument's."""
    (g,) = m
    assert g is not None
    return [None, fitting(g, pair.case[1]) if pair.wanted[1] else None, *pair.none()[2:]]


@rule(*named("zero fill.Scalar"))
def constant(pair: Pair, m: Multipliers) -> Multipliers:
    """Nothing of the argument is left."""
    return pair.none()


@rule(*named("convolution var.correction var.dim square dot mv outer addcmul"))
def quadratic(pair: Pair, m: Multipliers) -> Multipliers:
    """At most of the second degree: Δout is the gradient at x̃ times Δin, exactly."""
    return own_gradient(pair, m, [pair.middle(i) for i in range(len(pair.case))])


@rule(*named("mm bmm"))
def matrix_product(pair: Pair, m: Multipliers) -> Multipliers:
    """Δ(AB) = ΔA·B̃ + Ã·ΔB."""
    (g,) = m
    assert g is not None
    return [
        g @ pair.middle(1).mT if pair.wanted[0] else None,
        pair.middle(0).mT @ g if pair.wanted[1] else None,
    ]


@rule(*named("addmm baddbmm addbmm"))
def matrix_product_and_sum(pair: Pair, m: Multipliers) -> Multipliers:
    """C + AB, with C often a bias; scaled ones by their own gradient."""
    (g,) = m
    if len(pair.case) > 3 or pair.wanted[0]:
        return quadratic(pair, m)
    assert g is not None
    return [
        None,
        g @ pair.middle(2).mT if pair.wanted[1] else None,
        pair.middle(1).mT @ g if pair.wanted[2] else None,
    ][: len(pair.case)]


@rule(*named("add.Tensor sub.Tensor add.Scalar sub.Scalar rsub.Scalar"))
def addition(pair: Pair, m: Multipliers) -> Multipliers:
    """Linear; where the sum is infinite on one side, the infinite summand is all of it."""
    (g,) = m
    assert g is not None
    found = own_gradient(pair, m, pair.case)
    endless = infinite(pair.case_outputs[0]) | infinite(pair.base_outputs[0])
    if not bool(endless.any()):
        return found
    for i, wanted in enumerate(pair.wanted):
        if wanted:
            own = infinite(pair.case[i]) | infinite(pair.base[i])
            part = torch.where(own, g * pair.delta_out() * pair.delta(i), 0.0)
            (finite,) = own_gradient(_only(pair, i), [g.masked_fill(endless, 0.0)], pair.case)[
                i : i + 1
            ]
            assert finite is not None
            found[i] = finite + fitting(part, pair.case[i])
    return found


def _only(pair: Pair, i: int) -> Pair:
    wanted = [k == i for k in range(len(pair.wanted))]
    return Pair(pair.step, pair.case, pair.base, wanted, pair.case_outputs, pair.base_outputs)


@rule(*named("mul.Tensor mul.Scalar"))
def product(pair: Pair, m: Multipliers) -> Multipliers:
    """Δ(ab) = Δa·b̃ + ã·Δb; a factor that makes an infinite number of a mask has all of it."""
    (g,) = m
    assert g is not None
    endless = infinite(pair.case_outputs[0]) | infinite(pair.base_outputs[0])
    found = pair.none()
    for i, wanted in enumerate(pair.wanted):
        if not wanted:
            continue
        factor = pair.middle(1 - i)
        part = g * factor
        if bool(endless.any()):
            part = torch.where(endless, ratio(g * pair.delta_out(), pair.delta(i)), part)
        found[i] = fitting(part, pair.case[i])
    return found


@rule(*named("div.Tensor div.Scalar"))
def quotient(pair: Pair, m: Multipliers) -> Multipliers:
    """a/b as the product of a and 1/b, with Δ(1/b) = −Δb/(b·b̄)."""
    (g,) = m
    assert g is not None
    found = pair.none()
    one, two = pair.case[1], pair.base[1]
    if pair.wanted[0]:
        found[0] = fitting(g * (1 / one + 1 / two) / 2, pair.case[0])
    if pair.wanted[1]:
        found[1] = fitting(-g * pair.middle(0) / (one * two), one)
    return found


# -- elementwise functions -----------------------------------------------------------------------


@rule(*named(
    "gelu sigmoid tanh silu exp log log1p expm1 sqrt rsqrt reciprocal erf sin cos softplus elu "
    "pow.Tensor_Scalar mish hardswish log_sigmoid_forward atan sinh cosh log2 exp2"
))  # fmt: skip
def smooth(pair: Pair, m: Multipliers) -> Multipliers:
    """Δout/Δin, or the derivative at x̃ where Δin is tiny."""
    i = pair.wanted.index(True)
    g = m[0]
    assert g is not None
    if sum(pair.wanted) > 1:
        raise ConfigError(f"{pair.step.op} of two numbers that both depend on the genes")
    change = pair.case[i] - pair.base[i]
    tiny = change.abs() < nearly(change.dtype)
    slope = (pair.case_outputs[0] - pair.base_outputs[0]).div_(change)
    few = torch.nonzero(tiny.flatten()).flatten()
    if len(few):
        middle = ((pair.case[i] + pair.base[i]) / 2).flatten()[few].requires_grad_()
        with torch.enable_grad():
            leaves = [middle if k == i else x for k, x in enumerate(pair.case)]
            out = pair.step.call(leaves)
        out = out if isinstance(out, Tensor) else out[0]
        (derivative,) = torch.autograd.grad(out, middle, torch.ones_like(out))
        slope.view(-1).index_copy_(0, few, derivative)
    found = pair.none()
    found[i] = g * slope
    return found


@rule(*named("relu leaky_relu abs clamp clamp_min clamp_max hardtanh threshold maximum minimum"))
def kinked(pair: Pair, m: Multipliers) -> Multipliers:
    """Straight but for kinks: Δout/Δin, or the derivative where Δin is 0."""
    (g,) = m
    assert g is not None
    if sum(pair.wanted) > 1:
        raise ConfigError(f"{pair.step.op} of two tensors that both depend on the genes")
    i = pair.wanted.index(True)
    same = pair.case[i] == pair.base[i]
    derivative = own_gradient(pair, [torch.ones_like(g)], pair.case)[i]
    found = pair.none()
    change = pair.case_outputs[0] - pair.base_outputs[0]
    apart = pair.case[i] - pair.base[i]
    assert derivative is not None
    if g.shape != apart.shape:  # broadcast against a constant
        raise ConfigError(f"{pair.step.op} that broadcasts what depends on the genes")
    found[i] = g * torch.where(same, derivative, change / torch.where(same, 1.0, apart))
    return found


@rule(*named(
    "eq.Scalar ne.Scalar gt.Scalar lt.Scalar ge.Scalar le.Scalar eq.Tensor ne.Tensor gt.Tensor "
    "lt.Tensor ge.Tensor le.Tensor logical_not bitwise_not bitwise_and.Tensor logical_and "
    "bitwise_or.Tensor logical_or sign _to_copy"
))  # fmt: skip
def threshold(pair: Pair, m: Multipliers) -> Multipliers:
    """Take a step, as of a mask, by Δout/Δin, and 0 where nothing changes."""
    (g,) = m
    assert g is not None
    wanted = [i for i, one in enumerate(pair.wanted) if one]
    found = pair.none()
    if pair.case_outputs[0].is_floating_point() and "_to_copy" in str(pair.step.op):
        own = pair.case[0]  # of another dtype or device
        found[0] = g.to(own.device, own.dtype if own.is_floating_point() else g.dtype)
        return found
    for i in wanted:
        # Where both arguments changed, they share the effect.
        moved = torch.zeros_like(g)
        for k in wanted:
            moved += (pair.delta(k) != 0).to(g.dtype)
        effect = ratio(g * pair.delta_out(), moved)
        found[i] = fitting(ratio(effect, pair.delta(i)), pair.case[i])
    return found


@rule(*named("masked_fill.Scalar masked_fill.Tensor"))
def masked_fill(pair: Pair, m: Multipliers) -> Multipliers:
    """Ascribe to the mask what is filled in on one side alone."""
    if not pair.wanted[1]:
        return linear(pair, m)
    (g,) = m
    assert g is not None
    found = pair.none()
    found[1] = fitting(ratio(g * pair.delta_out(), pair.delta(1)), pair.case[1])
    if pair.wanted[0]:
        found[0] = fitting(g.masked_fill(pair.case[1] | pair.base[1], 0.0), pair.case[0])
    return found


@rule(*named("where.self where.ScalarOther where.ScalarSelf where.Scalar"))
def where(pair: Pair, m: Multipliers) -> Multipliers:
    """Ascribe to the condition what it takes on one side alone."""
    if not pair.wanted[0]:
        return linear(pair, m)
    (g,) = m
    assert g is not None
    found = pair.none()
    found[0] = fitting(ratio(g * pair.delta_out(), pair.delta(0)), pair.case[0])
    both = (pair.case[0] & pair.base[0], ~(pair.case[0] | pair.base[0]))
    for i in (1, 2):
        if pair.wanted[i]:
            found[i] = fitting(torch.where(both[i - 1], g, 0.0), pair.case[i])
    return found


# -- softmax, norms, attention -------------------------------------------------------------------


def softmax_multipliers(
    p: Tensor,
    p_bar: Tensor,
    change: Tensor,
    g: Tensor,
    *,
    ends: Tensor | None = None,
    dim: int = -1,
    rest: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Return the multipliers of the logits of a softmax, and ḡ.

    .. math:: Δp_i = M_i (Δz_i - Λ), \qquad
              Λ = \frac{\sum_{open} M_j Δz_j + \sum_{one-sided} Δp_j}{\sum_{open} M_j}

    with M_i the logarithmic mean of p_i and p̄_i. An open logit has M_i(g_i − ḡ), one that is there
    on one side alone (g_i − ḡ)Δp_i in all, with ḡ = Σ g_i M_i/Σ M_i over the open ones; Σ g_i p̃_i
    where none is open.

    Parameters
    ----------
    p, p_bar
        Probabilities of both sides; overwritten.
    change
        Δ log p, infinite or NaN where a side has none; overwritten.
    g
        The multipliers of p; overwritten.
    ends
        ±1 where the case or the baseline alone has a logit, else 0; None where all are open.
    dim
        Along which the softmax is taken.
    rest
        Σ g_i p̃_i of logits that are left out here.
    """
    middle = (p + p_bar).mul_(0.5)
    dp = p.sub_(p_bar)
    tiny = change.abs() < nearly(p.dtype)
    mean = torch.where(tiny, middle, dp / change)
    if ends is not None:
        mean.nan_to_num_(nan=0.0)
    total = mean.sum(dim, keepdim=True)
    weighted = torch.mul(g, mean, out=change).sum(dim, keepdim=True)
    centre = weighted / torch.where(total > 0, total, 1.0)
    if bool((total <= 0).any()):
        other = torch.mul(g, middle, out=change).sum(dim, keepdim=True)
        centre = torch.where(total > 0, centre, other if rest is None else other + rest)
    found = mean.mul_(g.sub_(centre))
    if ends is not None:
        found = torch.addcmul(found, g, dp.mul_(ends), out=found)
    return found, centre


@rule("aten._softmax.default")
def softmax(pair: Pair, m: Multipliers) -> Multipliers:
    """Logarithmic means; see `softmax_multipliers`."""
    (g,) = m
    assert g is not None
    dim = pair.case[1]
    z, z_bar = (x.masked_fill(infinite(x), -torch.inf) for x in (pair.case[0], pair.base[0]))
    change = torch.log_softmax(z, dim) - torch.log_softmax(z_bar, dim)
    p, p_bar = (x[0].clone() for x in (pair.case_outputs, pair.base_outputs))
    found, _ = softmax_multipliers(p, p_bar, change, g.clone(), ends=one_sided(z, z_bar), dim=dim)
    return [found, *pair.none()[1:]]


@rule(*named("_log_softmax logsumexp"))
def log_softmax(pair: Pair, m: Multipliers) -> Multipliers:
    """Log p = z − log Σ exp z, with Δ log Σ exp z = Σ (E_i/E)Δz_i by logarithmic means."""
    (g,) = m
    assert g is not None
    z, z_bar, dim = pair.case[0], pair.base[0], pair.case[1]
    dims = dim if isinstance(dim, int) else pair.case[1 : len(pair.case)]
    shift = torch.maximum(z, z_bar).amax(dims, keepdim=True)
    one, two = (z - shift).exp(), (z_bar - shift).exp()
    total, total_bar = one.sum(dims, keepdim=True), two.sum(dims, keepdim=True)
    share = _logarithmic_mean(one, two) / _logarithmic_mean(total, total_bar)
    if "logsumexp" in str(pair.step.op):
        keepdim = g.dim() == z.dim()
        wide = g if keepdim else g.reshape(total.shape)
        return [wide * share, *pair.none()[1:]]
    return [g - g.sum(dims, keepdim=True) * share, *pair.none()[1:]]


def _logarithmic_mean(one: Tensor, two: Tensor) -> Tensor:
    change = one.log() - two.log()
    tiny = change.abs() < nearly(one.dtype)
    return torch.where(tiny, (one + two) / 2, (one - two) / torch.where(tiny, 1.0, change))


def normalised_multipliers(
    c: Tensor, c_bar: Tensor, rho: Tensor, rho_bar: Tensor, g: Tensor
) -> Tensor:
    r"""Return the multipliers of c, where c·ρ comes out and ρ = (mean c² + ε)^(−1/2).

    .. math:: Δ(cρ) = c̃ Δρ + ρ̃ Δc, \qquad
              Δρ = -\frac{ρ^2 ρ̄^2}{ρ + ρ̄} \operatorname{mean}((c + c̄) Δc)

    which is exact, and needs no division by a difference.
    """
    both = c + c_bar
    slope = -(rho * rho_bar).square() / (rho + rho_bar)
    through = (g * both).sum(-1, keepdim=True) / 2 * slope / c.shape[-1]
    return g * (rho + rho_bar) / 2 + through * both


@rule("aten.native_layer_norm.default")
def layer_norm(pair: Pair, m: Multipliers) -> Multipliers:
    """Centred, then `normalised_multipliers`."""
    g = m[0]
    if any(pair.wanted[1:]) or any(x is not None for x in m[1:]):
        raise ConfigError("a LayerNorm whose weights or statistics depend on the genes")
    assert g is not None
    x, x_bar, n = pair.case[0], pair.base[0], len(_shape(pair))
    g = _weighted(pair, g)
    wide = (*x.shape[: x.dim() - n], -1)
    flat = [t.reshape(wide) for t in (x, x_bar, g)]
    rho, rho_bar = (s[2].reshape(wide) for s in (pair.case_outputs, pair.base_outputs))
    c, c_bar = (t - t.mean(-1, keepdim=True) for t in flat[:2])
    found = normalised_multipliers(c, c_bar, rho, rho_bar, flat[2])
    return [(found - found.mean(-1, keepdim=True)).reshape(x.shape), *pair.none()[1:]]


def _weighted(pair: Pair, g: Tensor) -> Tensor:
    at = pair.at("weight")
    return g if at is None or pair.case[at] is None else g * pair.case[at]


def _shape(pair: Pair) -> Sequence[int]:
    assert pair.step.spec is not None
    args, _ = pair.step.spec.of(pair.case)
    return args[1]  # type: ignore[no-any-return]


@rule("aten._fused_rms_norm.default")
def rms_norm(pair: Pair, m: Multipliers) -> Multipliers:
    """`normalised_multipliers` of x itself."""
    g = m[0]
    if any(pair.wanted[1:]) or any(x is not None for x in m[1:]):
        raise ConfigError("an RMSNorm whose weights or statistics depend on the genes")
    assert g is not None
    g = _weighted(pair, g)
    x, x_bar = pair.case[0], pair.base[0]
    wide = (*x.shape[: x.dim() - len(_shape(pair))], -1)
    rho, rho_bar = (s[1].reshape(wide) for s in (pair.case_outputs, pair.base_outputs))
    flat = [t.reshape(wide) for t in (x, x_bar, g)]
    found = normalised_multipliers(flat[0], flat[1], rho, rho_bar, flat[2])
    return [found.reshape(x.shape), *pair.none()[1:]]
