"""The rules of softmax, of log softmax and of the norms; `docs/attribution.md` derives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernomics.attribution.operation_pair import (
    Multipliers,
    Pair,
    delta,
    infinite,
    named,
    nearly,
    one_sided,
    own_gradient,
    ratio,
    rule,
)
from kernomics.errors import ConfigError

CLOSING = 5_000.0
"""A row whose largest logit is below −CLOSING is one that a mask closes as a whole."""
LOST = 0.5
"""Share of 1 in steps of which a sum is rounded, from which on it has lost what was added."""


def softmax_multipliers(
    p: Tensor,
    p_bar: Tensor,
    change: Tensor,
    g: Tensor,
    *,
    ends: Tensor | None = None,
    dim: int = -1,
    middle: Tensor | None = None,
    rest: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Return the multipliers of the logits of a softmax, and ḡ.

    .. math:: Δp_i = M_i (Δz_i - Λ), \qquad
              Λ = \frac{\sum_{open} M_j Δz_j + \sum_{one-sided} Δp_j}{\sum_{open} M_j}

    with M_i the logarithmic mean of p_i and p̄_i. An open logit has M_i(g_i − ḡ), one that is there
    on one side alone (g_i − ḡ)Δp_i in all, with ḡ = Σ g_i M_i/Σ M_i over the open ones; Σ g_i p̃_i
    where none is open. A side that sees nothing at all has no probabilities or equal ones:
    then Σ Δp of the one-sided is not 0, and ḡ is such that they have the whole effect.

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
    middle
        (p + p̄)/2, where it is known.
    rest
        Σ g_i p̃_i of logits that are left out here.
    """
    if middle is None:
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
        other = other if rest is None else other + rest
        if ends is not None and rest is None:
            alone = torch.where(ends != 0, dp, 0.0).sum(dim, keepdim=True)
            beside = torch.where(ends != 0, 0.0, g * dp).sum(dim, keepdim=True)
            blind = alone.abs() > torch.finfo(p.dtype).eps ** 0.75
            other = torch.where(blind, -ratio(beside, alone), other)
        centre = torch.where(total > 0, centre, other)
    found = mean.mul_(g.sub_(centre))
    if ends is not None:
        found = torch.addcmul(found, g, dp.mul_(ends), out=found)
    return found, centre


@rule(*named("_softmax _safe_softmax"))
def softmax(pair: Pair, m: Multipliers) -> Multipliers:
    """Logarithmic means; see `softmax_multipliers`."""
    (g,) = m
    assert g is not None
    at = pair.at("dim")
    dim = -1 if at is None else pair.case[at]
    p, p_bar = (x[0].clone() for x in (pair.case_outputs, pair.base_outputs))
    z, z_bar = (x.to(p.dtype) for x in (pair.case[0], pair.base[0]))
    found, _ = masked_softmax_multipliers(
        p, p_bar, z, z_bar, g.clone(), pair.delta(0).to(p.dtype), dim
    )
    return [found.to(pair.case[0].dtype), *pair.none()[1:]]


def masked_softmax_multipliers(
    p: Tensor, p_bar: Tensor, z: Tensor, z_bar: Tensor, g: Tensor, moved: Tensor, dim: int = -1
) -> tuple[Tensor, Tensor | None]:
    """Return the multipliers of logits that any mask closes, and ±1 of those of one side.

    Rows that a finite mask closes as a whole have equal probabilities, or those of what the sum
    has left of the logits. Where one side's alone is, the mask has the whole effect, since the
    effects of two logits would be numbers of the mask's size that cancel. Where both are, and
    rounding has left nothing of the logits, these have no effect.

    Parameters
    ----------
    p, p_bar
        Probabilities of both sides; overwritten.
    z, z_bar
        Logits.
    g
        The multipliers of p; overwritten.
    moved
        Δ of what closes a logit.
    dim
        Along which the softmax is taken.
    """
    if not z.numel():
        return torch.zeros_like(g), None
    still = None
    one, two = (x.masked_fill(infinite(x), -torch.inf) for x in (z, z_bar))
    tops = [x.amax(dim, keepdim=True) for x in (one, two)]
    shut = [(x <= -CLOSING) & x.isfinite() for x in tops]
    if bool((shut[0] | shut[1]).any()):
        still = shut[0] & shut[1]
        for x, top, q in ((one, tops[0], p), (two, tops[1], p_bar)):
            still = still & ((x == top) | (q == 0)).all(dim, keepdim=True)
            still = still & (top.abs() * torch.finfo(z.dtype).eps >= LOST)
        alone = [shut[0] & (tops[1] > -CLOSING / 2), shut[1] & (tops[0] > -CLOSING / 2)]
        either = alone[0] | alone[1]
        one, two = (
            torch.where(
                still,
                torch.where(x == top, 0.0, -torch.inf),
                x.masked_fill(own | (either & (q == 0)), -torch.inf),
            )
            for x, top, q, own in ((one, tops[0], p, alone[0]), (two, tops[1], p_bar, alone[1]))
        )
    change = torch.log_softmax(one, dim) - torch.log_softmax(two, dim)
    ends = one_sided(one, two)
    found, _ = softmax_multipliers(p, p_bar, change, g, ends=ends, dim=dim)
    if still is not None:
        if ends is None:
            found = found.masked_fill(still, 0.0)
        else:
            found = torch.where(still & (ends == 0), 0.0, found)
            found = torch.where(ends != 0, ratio(found, moved.abs()), found)
    return found, ends


@rule(*named("_log_softmax logsumexp"))
def log_softmax(pair: Pair, m: Multipliers) -> Multipliers:
    """Log p = z − log Σ exp z, with Δ log Σ exp z = Σ (E_i/E)Δz_i by logarithmic means."""
    (g,) = m
    assert g is not None
    assert pair.step.spec is not None
    dims = pair.step.spec.of(pair.case)[0][1]
    z, z_bar = (
        x.masked_fill(infinite(x), -torch.inf).to(g.dtype) for x in (pair.case[0], pair.base[0])
    )
    log_total, log_total_bar = (x.logsumexp(dims, keepdim=True) for x in (z, z_bar))
    _require_logits(pair, g.reshape(log_total.shape) if "logsumexp" in str(pair.step.op) else g,
                    log_total, log_total_bar, dims)  # fmt: skip
    # All as shares of the larger of both sums, so that nothing overflows.
    shift = torch.maximum(log_total, log_total_bar)
    mean = _logarithmic_mean((z - shift).exp(), (z_bar - shift).exp(), delta(z, z_bar))
    total = _logarithmic_mean(
        (log_total - shift).exp(), (log_total_bar - shift).exp(), log_total - log_total_bar
    )
    share = mean / total
    if "logsumexp" in str(pair.step.op):
        found = share * g.reshape(log_total.shape)
    else:
        found = g - g.sum(dims, keepdim=True) * share
    return [found.to(pair.case[0].dtype), *pair.none()[1:]]


def _require_logits(pair: Pair, g: Tensor, one: Tensor, two: Tensor, dims: Any) -> None:
    """Refuse rows of which a finite mask has left nothing, and which have an effect."""
    bound = LOST / torch.finfo(pair.case_outputs[0].dtype).eps
    lost = ((one <= -bound) & one.isfinite()) | ((two <= -bound) & two.isfinite())
    lost = lost & (g != 0).any(dims, keepdim=True)
    if bool(lost.any()):
        worst = float(torch.minimum(one, two)[lost].min())
        raise ConfigError(
            f"{int(lost.sum()):,} of {lost.numel():,} rows of {pair.step.op} are closed as a whole "
            f"by a finite mask (all about {worst:.3g}), in which {pair.case_outputs[0].dtype} has "
            "lost the logits to rounding: mask with -inf, leave such rows out, or take float64"
        )


def _logarithmic_mean(one: Tensor, two: Tensor, change: Tensor) -> Tensor:
    """Return (one − two)/change, where change is log one − log two."""
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
    both = (c + c_bar) * (rho * rho_bar)  # as ρ²ρ̄² may be too small for float32
    through = (g * both).sum(-1, keepdim=True) / (rho + rho_bar) / (2 * c.shape[-1])
    return g * (rho + rho_bar) / 2 - through * both


@rule("aten.native_layer_norm.default")
def layer_norm(pair: Pair, m: Multipliers) -> Multipliers:
    """Centred, then `normalised_multipliers`."""
    x, n = pair.case[0], len(_shape(pair))
    g = _weighted(pair, _alone(pair, m))
    wide = (*x.shape[: x.dim() - n], -1)
    found = _centred(
        [t.reshape(wide) for t in (x, pair.base[0], g)],
        [s[2].reshape(wide) for s in (pair.case_outputs, pair.base_outputs)],
    )
    return [found.reshape(x.shape), *pair.none()[1:]]


def _centred(rows: Sequence[Tensor], rho: Sequence[Tensor]) -> Tensor:
    """Return the multipliers of x from x, x̄ and g, where (x − mean)·ρ comes out of each row."""
    c, c_bar = (x - x.mean(-1, keepdim=True) for x in rows[:2])
    found = normalised_multipliers(c, c_bar, rho[0], rho[1], rows[2])
    return found - found.mean(-1, keepdim=True)


def _alone(pair: Pair, m: Multipliers) -> Tensor:
    """Return the multipliers of a norm's output, when its input alone depends on the inputs."""
    if any(pair.wanted[1:]) or any(x is not None for x in m[1:]):
        raise ConfigError(
            f"{pair.step.op} has weights or statistics that depend on the inputs, for which "
            "there is no rule"
        )
    assert m[0] is not None
    return m[0]


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
    g = _weighted(pair, _alone(pair, m))
    x, x_bar = pair.case[0], pair.base[0]
    wide = (*x.shape[: x.dim() - len(_shape(pair))], -1)
    rho, rho_bar = (s[1].reshape(wide) for s in (pair.case_outputs, pair.base_outputs))
    flat = [t.reshape(wide) for t in (x, x_bar, g)]
    found = normalised_multipliers(flat[0], flat[1], rho, rho_bar, flat[2])
    return [found.reshape(x.shape), *pair.none()[1:]]


@rule("aten.native_group_norm.default")
def group_norm(pair: Pair, m: Multipliers) -> Multipliers:
    """As `layer_norm`, of each group of channels."""
    g = _alone(pair, m)
    x = pair.case[0]
    n_groups = pair.case_outputs[1].shape[1]
    wide = (len(x) * n_groups, -1)
    found = _centred(
        [t.reshape(wide) for t in (x, pair.base[0], _by_channel(pair, g))],
        [s[2].reshape(-1, 1) for s in (pair.case_outputs, pair.base_outputs)],
    )
    return [found.reshape(x.shape), *pair.none()[1:]]


@rule("aten.native_batch_norm.default")
def batch_norm(pair: Pair, m: Multipliers) -> Multipliers:
    """Linear with statistics that are given; else as `layer_norm`, of each channel."""
    g = _alone(pair, m)
    at = pair.at("training")
    if at is None or not pair.case[at]:
        return own_gradient(pair, m, pair.case)
    x = pair.case[0]
    turned = x.transpose(0, 1)
    found = _centred(
        [t.transpose(0, 1).flatten(1) for t in (x, pair.base[0], _by_channel(pair, g))],
        [s[2][:, None] for s in (pair.case_outputs, pair.base_outputs)],
    )
    return [found.reshape(turned.shape).transpose(0, 1), *pair.none()[1:]]


def _by_channel(pair: Pair, g: Tensor) -> Tensor:
    at = pair.at("weight")
    if at is None or pair.case[at] is None:
        return g
    weight: Tensor = pair.case[at]
    return g * weight.view(-1, *[1] * (g.dim() - 2))
