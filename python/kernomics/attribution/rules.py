r"""The rules of DeepLIFT: how the multipliers of an operation's outputs become its inputs'.

A multiplier m of a tensor x says that x moves the output by m·Δx, with Δ the case less the
baseline. A rule is right when Σ m_in·Δin = m_out·Δout, so that nothing is lost on the way:
`docs/attribution.md` derives each. An average of the two sides is written x̃ = (x + x̄)/2.

Where a logit is −∞ on one side, its Δ is infinite and counts as ±1 here: the multiplier is then
the whole effect of its being there. Numbers beyond 1e29 count as infinite, since models mask with
these (`operation_pair.infinite`). A row of logits that a smaller one closes as a whole, such as
−1e9, is treated as if it were infinite (`masked_softmax_multipliers`).

Masks, softmax and norms, and attention have files of their own. A further operation is added by a
function of a `Pair` and the outputs' multipliers::

    @rule("aten.my_op.default")
    def my_op(pair: Pair, m: Multipliers) -> Multipliers: ...

`VERSION` rises when a rule changes: two complete attributions may differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernomics.attribution.kernels import no_kernel_per_shape
from kernomics.attribution.operation_pair import (
    INFINITE,
    Multipliers,
    Pair,
    bounded,
    by_quotient,
    delta,
    endless,
    fitting,
    infinite,
    named,
    nearly,
    own_gradient,
    ratio,
    rule,
)
from kernomics.errors import ConfigError

VERSION = 2
"""Of the rules, in every result."""


# -- linear operations, and products -------------------------------------------------------------


@rule(*named(
    "permute expand select.int slice.Tensor cat stack split.Tensor split_with_sizes unbind.int "
    "clone detach alias index.Tensor index_select gather index_add _sparse_addmm "
    "scatter.src scatter_add constant_pad_nd flip roll repeat diagonal as_strided "
    "sum sum.dim_IntList mean mean.dim cumsum neg tril triu avg_pool2d "
    "_adaptive_avg_pool2d slice_scatter select_scatter unfold fill.Tensor "
    "unsafe_split.Tensor index_fill.int_Scalar lerp.Scalar"
))  # fmt: skip
def linear(pair: Pair, m: Multipliers) -> Multipliers:
    """Linear: multipliers go back as gradients do."""
    _require_constant(pair, "index", "indices")
    return own_gradient(pair, m, pair.case)


@rule(*named("view _unsafe_view unsqueeze squeeze squeeze.dim squeeze.dims"))
def reshaping(pair: Pair, m: Multipliers) -> Multipliers:
    """Keep the numbers and their order; `linear` would do, and so many steps are such."""
    (g,) = m
    assert g is not None
    return [g.reshape(pair.case[0].shape), *pair.none()[1:]]


@rule(*named("t transpose.int"))
def transposition(pair: Pair, m: Multipliers) -> Multipliers:
    """Change two dimensions back; `linear` would do."""
    (g,) = m
    assert g is not None
    found = g.t() if len(pair.case) == 1 else g.transpose(*pair.case[1:])
    return [found, *pair.none()[1:]]


@rule(*named("index_put"))
def index_put(pair: Pair, m: Multipliers) -> Multipliers:
    """Linear; a number that is put where a mask is, as by ``x[mask] = 0``, is filled in."""
    at: Any = pair.at("indices")
    number, adds = pair.at("values"), pair.at("accumulate")
    assert number is not None
    last = at[-1]
    if not pair.wanted[last]:
        return linear(pair, m)
    x, mask = pair.case[0], pair.case[last]
    filled = all(pair.case[i] is None for i in at[:-1]) and mask.dtype == torch.bool
    if not filled or pair.case[number].numel() != 1 or (adds is not None and pair.case[adds]):
        return linear(pair, m)  # which says what is wrong
    before = len(at) - 1
    wide = (*[1] * before, *mask.shape, *[1] * (x.dim() - before - mask.dim()))
    masks = [side[last].view(wide) for side in (pair.case, pair.base)]
    found = pair.none()
    (g,) = m
    assert g is not None
    part = ratio(g * pair.delta_out(), delta(*masks).to(g.dtype))
    found[last] = fitting(part, masks[0]).view(mask.shape)
    if pair.wanted[0]:
        found[0] = g.masked_fill(masks[0] | masks[1], 0.0)
    if pair.wanted[number]:
        found[number] = fitting(torch.where(masks[0] & masks[1], g, 0.0), pair.case[number])
    return found


def _require_constant(pair: Pair, *names: str) -> None:
    """Refuse arguments that differ between the sides."""
    for name in names:
        at = pair.at(name)
        for i in at if isinstance(at, list) else [at]:
            if i is not None and pair.wanted[i]:
                raise ConfigError(
                    f"the {name} of {pair.step.op} depends on the inputs and differs between case "
                    "and baseline, which cannot be attributed; give both sides the same"
                )


@rule(*named("copy _to_copy"))
def conversion(pair: Pair, m: Multipliers) -> Multipliers:
    """Numbers as they are, or in another dtype, which may round them to whole ones."""
    (g,) = m
    assert g is not None
    i = pair.at("src")  # of copy, whose other argument is overwritten
    i = 0 if i is None else i
    found = pair.none()
    if not pair.wanted[i]:
        return found
    own = pair.case[i]
    masks = endless(pair) if own.shape != g.shape else endless(pair, i)
    if not pair.case_outputs[0].is_floating_point():
        back = by_quotient(pair, g, i)
    elif masks is not None:
        back = fitting(torch.where(masks, ratio(g * pair.delta_out(), pair.delta(i)), g), own)
    else:
        back = fitting(g, own)
    found[i] = back.to(own.device, own.dtype if own.is_floating_point() else g.dtype)
    return found


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
        g @ pair.middle(1).mT.to(g.dtype) if pair.wanted[0] else None,
        pair.middle(0).mT.to(g.dtype) @ g if pair.wanted[1] else None,
    ]


@rule(*named("addmm baddbmm addbmm"))
def matrix_product_and_sum(pair: Pair, m: Multipliers) -> Multipliers:
    """C + AB, with C often a bias; scaled ones by their own gradient."""
    (g,) = m
    if pair.wanted[0]:
        middles = [pair.middle(i) for i in range(len(pair.case))]
        return _sum_of_masks(pair, m, middles, [0])
    if len(pair.case) > 3:
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
    if pair.case_outputs[0].dtype == torch.bool:
        return threshold(pair, m)  # of masks, where True + True is True
    return _sum_of_masks(pair, m, pair.case, [i for i, one in enumerate(pair.wanted) if one])


def _sum_of_masks(
    pair: Pair, m: Multipliers, at: Sequence[Any], summands: Sequence[int]
) -> Multipliers:
    """Return the gradient; where the sum is infinite on one side, of the infinite summands alone.

    Where several are, as of a mask that is added twice, they share the effect.
    """
    (g,) = m
    assert g is not None
    masks = endless(pair)
    if masks is None:
        return own_gradient(pair, m, at)
    found = own_gradient(pair, [g.masked_fill(masks, 0.0)], at)
    moved = {}
    for i in summands:
        ends = infinite(pair.case[i]) | infinite(pair.base[i])
        moved[i] = torch.where(ends, pair.delta(i), 0.0)
    effect = ratio(g * pair.delta_out(), sum((x.abs() for x in moved.values()), 0 * g))
    for i, change in moved.items():
        old = found[i]
        assert old is not None
        found[i] = old + fitting(torch.where(masks, effect * change, 0.0), pair.case[i])
    return found


@rule(*named("mul.Tensor mul.Scalar"))
def product(pair: Pair, m: Multipliers) -> Multipliers:
    """Δ(ab) = Δa·b̃ + ã·Δb; a factor that makes an infinite number of a mask has all of it."""
    return _factors(pair, m, [pair.middle(1), pair.middle(0)])


def _factors(pair: Pair, m: Multipliers, slopes: Sequence[Any]) -> Multipliers:
    """Return the multipliers of two factors, by quotient where a mask makes them infinite."""
    (g,) = m
    assert g is not None
    found = pair.none()
    wanted = [i for i in (0, 1) if pair.wanted[i]]
    masks = endless(pair, *wanted)
    effect = g * pair.delta_out() if masks is not None else None
    if effect is not None and len(wanted) > 1:
        effect = effect / (1 + (pair.delta(0) != 0).logical_and(pair.delta(1) != 0).to(g.dtype))
    for i in wanted:
        part = g * slopes[i]
        if masks is not None and effect is not None:
            part = torch.where(masks, ratio(effect, pair.delta(i)), part)
        found[i] = fitting(part, pair.case[i])
    return found


@rule(*named("div.Tensor div.Scalar"))
def quotient(pair: Pair, m: Multipliers) -> Multipliers:
    """a/b as the product of a and 1/b, with Δ(1/b) = −Δb/(b·b̄)."""
    one, two = pair.case[1], pair.base[1]
    if isinstance(one, Tensor) and not one.is_floating_point():
        one, two = one.double(), two.double()
    by_one = (1 / one + 1 / two) / 2 if pair.wanted[0] else None
    by_two = -pair.middle(0) / (one * two) if pair.wanted[1] else None
    return _factors(pair, m, [by_one, by_two])


@rule(*named("std.correction linalg_vector_norm"))
def root(pair: Pair, m: Multipliers) -> Multipliers:
    """Take the root of a quadratic: Δ√s = Δs/(√s + √s̄)."""
    (g,) = m
    assert g is not None
    order = pair.at("ord")
    if order is not None and pair.case[order] != 2:
        raise ConfigError(f"DeepLIFT has no rule for a norm of order {pair.case[order]}, but of 2")
    middle = pair.middle(0).requires_grad_()
    with torch.enable_grad():
        square = pair.step.call([middle, *pair.case[1:]]).square()
    both = pair.case_outputs[0] + pair.base_outputs[0]
    (found,) = torch.autograd.grad(square, middle, ratio(g, both))
    return [found.nan_to_num(nan=0.0), *pair.none()[1:]]


# -- elementwise functions -----------------------------------------------------------------------


KINKS = {"elu": (0.0,), "celu": (0.0,), "hardswish": (-3.0, 3.0)}
"""Where functions that are smooth otherwise are not."""


@rule(*named(
    "gelu sigmoid tanh silu exp log log1p expm1 sqrt rsqrt reciprocal erf sin cos softplus elu "
    "pow.Tensor_Scalar pow.Scalar mish hardswish log_sigmoid_forward atan sinh cosh log2 exp2 celu"
))  # fmt: skip
def smooth(pair: Pair, m: Multipliers) -> Multipliers:
    """Δout/Δin, or the derivative at x̃ where Δin is tiny."""
    i = pair.wanted.index(True)
    g = m[0]
    assert g is not None
    if sum(pair.wanted) > 1:
        raise ConfigError(f"{pair.step.op} of two numbers that both depend on the inputs")
    one, two = pair.case[i], pair.base[i]
    change = one - two
    slope = (pair.case_outputs[0] - pair.base_outputs[0]).div_(change)
    few = torch.nonzero(_tiny(pair, change).flatten()).flatten()
    if len(few):
        middle = ((one + two) / 2).flatten()[few].requires_grad_()
        with torch.enable_grad(), no_kernel_per_shape():  # how many are few differs every time
            leaves = [middle if k == i else x for k, x in enumerate(pair.case)]
            out = pair.step.call(leaves)
            out = out if isinstance(out, Tensor) else out[0]
            (derivative,) = torch.autograd.grad(out, middle, torch.ones_like(out))
        # √0 has an infinite one, and multiplies a difference of 0.
        derivative = derivative.nan_to_num_(0.0, 0.0, 0.0)
        slope = slope.flatten().index_copy_(0, few, derivative).view(slope.shape)
    if not bounded(slope, math.inf) or not bounded(change, INFINITE):
        masks = endless(pair, i)
        if masks is not None:
            slope = torch.where(masks, ratio(pair.delta_out(), pair.delta(i)), slope)
    found = pair.none()
    found[i] = g * slope
    return found


def _tiny(pair: Pair, change: Tensor) -> Tensor:
    """Tell where the derivative at x̃ is closer than Δout/Δin, which is lost in rounding.

    As the derivative is off by the square of Δin as a share of the length on which the function
    bends, Δin must be small beside that: 1, but next to a pole or root less.
    """
    name = pair.step.op.overloadpacket.__name__
    one, two = (side[pair.wanted.index(True)] for side in (pair.case, pair.base))
    bound: float | Tensor = nearly(change.dtype)
    size = change.abs()
    if name == "pow" and str(pair.step.op) == "aten.pow.Scalar":
        bound /= max(1.0, abs(math.log(abs(pair.case[0]) or 1.0)))  # of the base
    elif name in ("log", "log2", "sqrt", "rsqrt", "reciprocal", "pow"):
        bound = bound * torch.minimum(one.abs(), two.abs()).clamp_max(1.0)
        if name == "pow":
            bound = bound / max(1.0, abs(float(pair.case[1])))
    elif name == "log1p":
        bound = bound * (1 + torch.minimum(one, two)).clamp(0.0, 1.0)
    elif name in ("softplus", "elu", "celu"):
        given = [pair.at(x) for x in ("beta", "input_scale", "alpha" if name == "celu" else "beta")]
        for at in given:
            if at is not None:
                number = abs(float(pair.case[at]))
                bound *= min(1.0, number if name == "celu" else 1 / number)
    tiny = size <= bound
    for kink in _kinks(pair, name):
        tiny &= ((one < kink) == (two < kink)) | (size == 0)
    return tiny


def _kinks(pair: Pair, name: str) -> tuple[float, ...]:
    """Return where a function jumps or bends at once."""
    if name != "softplus":
        return KINKS.get(name, ())
    beta, threshold = (
        default if at is None else float(pair.case[at])
        for at, default in ((pair.at("beta"), 1.0), (pair.at("threshold"), 20.0))
    )
    return (threshold / beta,)  # from where on it is x, and 2e-9 less at 20


@rule(
    *named(
        "relu leaky_relu abs clamp clamp_min clamp_max hardtanh threshold maximum minimum "
        "hardsigmoid _prelu_kernel clamp_min.Tensor clamp_max.Tensor"
    )
)
def kinked(pair: Pair, m: Multipliers) -> Multipliers:
    """Straight but for kinks: Δout/Δin, or the derivative where Δin is 0."""
    (g,) = m
    assert g is not None
    if sum(pair.wanted) > 1:
        raise ConfigError(f"{pair.step.op} of two tensors that both depend on the inputs")
    i = pair.wanted.index(True)
    same = pair.case[i] == pair.base[i]
    derivative = own_gradient(pair, [torch.ones_like(g)], pair.case)[i]
    found = pair.none()
    assert derivative is not None
    if g.shape != same.shape:  # broadcast against a constant
        raise ConfigError(f"{pair.step.op} that broadcasts what depends on the inputs")
    found[i] = g * torch.where(same, derivative, ratio(pair.delta_out(), pair.delta(i)))
    return found


@rule(*named(
    "eq.Scalar ne.Scalar gt.Scalar lt.Scalar ge.Scalar le.Scalar eq.Tensor ne.Tensor gt.Tensor "
    "lt.Tensor ge.Tensor le.Tensor logical_not bitwise_not bitwise_and.Tensor logical_and "
    "bitwise_or.Tensor logical_or bitwise_xor.Tensor logical_xor sign"
))  # fmt: skip
def threshold(pair: Pair, m: Multipliers) -> Multipliers:
    """Take a step, as of a mask, by Δout/Δin, and 0 where nothing changes."""
    (g,) = m
    assert g is not None
    wanted = [i for i, one in enumerate(pair.wanted) if one]
    found = pair.none()
    for i in wanted:
        # Where both arguments changed, they share the effect.
        moved = torch.zeros_like(g)
        for k in wanted:
            moved += (pair.delta(k) != 0).to(g.dtype)
        effect = ratio(g * pair.delta_out(), moved)
        found[i] = fitting(ratio(effect, pair.delta(i)), pair.case[i])
    return found
