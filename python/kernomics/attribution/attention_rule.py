"""The rule of attention, softmax(qkᵀ·scale + mask)·v, some queries at a time.

Two products and a softmax, by the rules of these. Where a mask is of keys alone, as of genes that a
cell lacks, the keys are divided first: those open on both sides, and those of one side, which need
neither a logarithmic mean nor a product for their multipliers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kernomics.attribution.operation_pair import (
    Multipliers,
    Pair,
    delta,
    infinite,
    named,
    one_sided,
    rule,
)
from kernomics.attribution.softmax_and_norm_rules import (
    CLOSING,
    masked_softmax_multipliers,
    softmax_multipliers,
)
from kernomics.errors import ConfigError

LOGITS_AT_A_TIME = 2**18
"""Of all heads of a cell; a few matrices of so many numbers stay in a processor's cache."""


class _Side(NamedTuple):
    """Scaled queries, keys and values of a cell, [H, L, d], and the log of Σ exp z, [H, L]."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_total: Tensor


class _Found(NamedTuple):
    """The multipliers of a cell."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None


@rule(*named(
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention"
))  # fmt: skip
def attention(pair: Pair, m: Multipliers) -> Multipliers:
    """Softmax(qkᵀ·scale + mask)·v."""
    g = m[0]
    if g is None or any(x is not None for x in m[1:]):
        raise ConfigError("DeepLIFT has no rule for an attention whose log-sum-exp is used")
    dropout = pair.at("dropout_p")
    if dropout is not None and pair.case[dropout]:
        raise ConfigError("DeepLIFT has no rule for attention with dropout; call eval()")
    at = pair.at("attn_mask", "attn_bias")
    q, k, v = pair.case[:3]
    given = pair.at("scale")
    scale = q.shape[-1] ** -0.5
    if given is not None and pair.case[given] is not None:
        scale = float(pair.case[given])
    masks = None
    if at is not None and pair.case[at] is not None:
        masks = [pair.case[at], pair.base[at]]
    causal = pair.at("is_causal")
    if causal is not None and pair.case[causal]:
        later = torch.full(
            (q.shape[2], k.shape[2]), -torch.inf, dtype=q.dtype, device=q.device
        ).triu(1)
        masks = [later, later] if masks is None else [x + later for x in masks]
    shared = q.shape[1] // k.shape[1]  # heads of q that share one of k and v
    of_q, of_k, of_v = (torch.zeros_like(x) for x in (q, k, v))
    wants_mask = at is not None and pair.wanted[at]
    of_mask = torch.zeros_like(pair.case[at]) if at is not None and wants_mask else None
    for cell in range(len(q)):
        if not bool(g[cell].any()):
            continue
        own = None if masks is None else [_of_cell(x, cell) for x in masks]
        sides = []
        for i, (leaves, outputs) in enumerate(
            ((pair.case, pair.case_outputs), (pair.base, pair.base_outputs))
        ):
            queries, keys, values = (t[cell] for t in leaves[:3])
            queries = queries * scale
            if shared > 1:
                keys, values = (t.repeat_interleave(shared, 0) for t in (keys, values))
            log_total = outputs[1]
            if log_total.shape != q.shape[:-1]:
                log_total = _log_total(queries, keys, None if own is None else own[i])
            else:
                log_total = log_total[cell]
            sides.append(_Side(queries, keys, values, log_total))
        if own is None:
            found = _masked_by_key(sides[0], sides[1], None, g[cell])
        else:
            closed = [x.masked_fill(infinite(x), -torch.inf) for x in own]
            sees = all(bool((x.amax(-1) > -CLOSING).all()) for x in closed)
            if sees and own[0].shape[:2] == (1, 1):
                by_key = [x[0, 0] for x in closed]
                found = _masked_by_key(sides[0], sides[1], by_key, g[cell])
            else:
                found = _masked_anyhow(sides[0], sides[1], closed, g[cell], None if sees else own)
        of_q[cell] = found.q * scale
        for whole, part in ((of_k, found.k), (of_v, found.v)):
            whole[cell] = part.reshape(-1, shared, *part.shape[1:]).sum(1)
        if of_mask is not None and found.mask is not None:
            where = _of_cell(of_mask, cell)
            for dim in (0, 1):
                if found.mask.shape[dim] == 1:  # of one that was broadcast, which adds up again
                    where = where.narrow(dim, 0, 1)
            where += found.mask.sum_to_size(where.shape)
    result = pair.none()
    for i, x in enumerate((of_q, of_k, of_v)):
        if pair.wanted[i]:
            result[i] = x
    if at is not None:
        result[at] = of_mask
    return result


def _of_cell(mask: Tensor, cell: int) -> Tensor:
    """Return the mask of a cell, [H or 1, L or 1, K], of a mask that broadcasts."""
    mask = mask.view((1,) * (4 - mask.dim()) + tuple(mask.shape))
    own = mask[cell if len(mask) > 1 else 0]
    for dim in (0, 1):
        if own.shape[dim] > 1 and own.stride(dim) == 0:
            own = own.narrow(dim, 0, 1)
    return own


def _log_total(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    z = q @ k.mT
    return (z if mask is None else z + mask).logsumexp(-1)


def _masked_by_key(one: _Side, two: _Side, masks: list[Tensor] | None, g: Tensor) -> _Found:
    """Return the multipliers of a cell whose mask [K] is the same for all queries and heads."""
    n = one.k.shape[1]
    v_middle = (one.v + two.v) / 2
    both: slice | Tensor = slice(None)
    ends: list[_End] = []
    biases: list[Tensor | None] = [None, None]
    if masks is not None:
        here, there = (x > -torch.inf for x in masks)
        both = torch.nonzero(here & there).flatten()
        biases = [_unless_zero(x[both]) for x in masks]
        for side, mask, alone in ((one, masks[0], here & ~there), (two, masks[1], there & ~here)):
            at = torch.nonzero(alone).flatten()
            width = one.v.shape[-1] + 1
            sums = one.v.new_zeros(len(one.v), len(at), width)
            ends.append(
                _End(
                    _queries(side), at, _keys(side.k[:, at], _unless_zero(mask[at])),
                    v_middle[:, at], sums,
                )
            )  # fmt: skip
    of_q, of_k, of_v = torch.zeros_like(one.q), torch.zeros_like(one.k), torch.zeros_like(one.v)
    of_mask = None if masks is None else one.k.new_zeros(1, 1, n)
    queries = [_queries(side) for side in (one, two)]
    keys = [_keys(side.k[:, both], x) for side, x in zip((one, two), biases, strict=True)]
    k_middle = (one.k[:, both] + two.k[:, both]) / 2
    q_middle, v_open = (one.q + two.q) / 2, v_middle[:, both].contiguous()
    of_open = [torch.zeros_like(k_middle), torch.zeros_like(v_open)]
    rows = max(1, LOGITS_AT_A_TIME // (len(one.q) * n))
    for start in range(0, one.q.shape[1], rows):
        part = (slice(None), slice(start, start + rows))
        own = g[part]
        if not bool(own.any()):
            continue
        logs = [q[part] @ k for q, k in zip(queries, keys, strict=True)]
        p, p_bar = logs[0].exp(), logs[1].exp()
        middle = (p + p_bar).mul_(0.5)
        of_open[1].baddbmm_(middle.mT, own)
        alone_p = [(e.queries[part] @ e.keys).exp_() for e in ends]
        rest = None  # Σ g·p̃ over the keys of one side, for queries that see no others
        if not p.shape[-1]:
            seen = sum((x @ e.values for x, e in zip(alone_p, ends, strict=True)), 0 * own)
            rest = (seen * own).sum(-1, keepdim=True) / 2
        found, centre = softmax_multipliers(
            p, p_bar, logs[0].sub_(logs[1]), own @ v_open.mT, middle=middle, rest=rest
        )
        of_q[part] = found @ k_middle
        of_open[0].baddbmm_(found.mT, q_middle[part])
        if of_mask is not None:
            of_mask[0, 0, both] += found.sum((0, 1))
            beside = torch.cat([own, centre], -1)
            for x, e in zip(alone_p, ends, strict=True):
                e.sums.baddbmm_(x.mT, beside)
    of_k[:, both] = of_open[0]
    of_v[:, both] = of_open[1]
    for e in ends:
        # (g_j − ḡ)Δp_j summed over the queries, with g_j = m·ṽ_j.
        of_v[:, e.at] = e.sums[..., :-1] / 2
        effect = (e.sums[..., :-1] * e.values).sum(-1) - e.sums[..., -1]
        assert of_mask is not None
        of_mask[0, 0, e.at] = effect.sum(0)
    return _Found(of_q, of_k, of_v, of_mask)


class _End(NamedTuple):
    """The keys that one side alone has: its queries, which, kᵀ, ṽ, and Σ p·[m, ḡ] over queries."""

    queries: Tensor
    at: Tensor
    keys: Tensor
    values: Tensor
    sums: Tensor


def _unless_zero(mask: Tensor) -> Tensor | None:
    return mask if bool((mask != 0).any()) else None


def _queries(side: _Side) -> Tensor:
    """Return [q, −log Σ exp z, 1], whose product with `_keys` is log p, in one pass."""
    total = side.log_total[..., None]
    return torch.cat([side.q, -total, torch.ones_like(total)], -1)


def _keys(k: Tensor, bias: Tensor | None) -> Tensor:
    """Return [k, 1, bias]ᵀ."""
    ones = torch.ones_like(k[..., :1])
    added = torch.zeros_like(ones) if bias is None else bias[:, None].expand_as(ones)
    return torch.cat([k, ones, added], -1).mT.contiguous()


def _masked_anyhow(
    one: _Side, two: _Side, masks: list[Tensor], g: Tensor, given: list[Tensor] | None = None
) -> _Found:
    """Return the multipliers of a cell whose mask [H or 1, L or 1, K] is any.

    Parameters
    ----------
    one, two
        The sides.
    masks
        −∞ where closed.
    g
        The multipliers of the output.
    given
        The masks as they were given, where some query sees nothing: by these it has no
        probabilities, or, where they are finite, about equal ones.
    """
    ends = one_sided(masks[0], masks[1])
    of_q, of_k, of_v = torch.zeros_like(one.q), torch.zeros_like(one.k), torch.zeros_like(one.v)
    of_mask = torch.zeros_like(masks[0])
    k_middle, v_middle, q_middle = ((x + y) / 2 for x, y in zip(
        (one.k, one.v, one.q), (two.k, two.v, two.q), strict=True
    ))  # fmt: skip
    rows = max(1, LOGITS_AT_A_TIME // (len(one.q) * one.k.shape[1]))

    def of(mask: Tensor, start: int) -> Tensor:
        return mask[:, start : start + rows] if mask.shape[1] > 1 else mask

    for start in range(0, one.q.shape[1], rows):
        part = (slice(None), slice(start, start + rows))
        own = g[part]
        if not bool(own.any()):
            continue
        values = own @ v_middle.mT
        if given is None:
            logs = [
                side.q[part] @ side.k.mT + of(mask, start) - side.log_total[part][..., None]
                for side, mask in zip((one, two), masks, strict=True)
            ]
            p, p_bar = logs[0].exp(), logs[1].exp()
            of_v += (p + p_bar).mT @ own / 2
            end = None if ends is None else of(ends, start)
            found, _ = softmax_multipliers(p, p_bar, logs[0].sub_(logs[1]), values, ends=end)
        else:
            z, z_bar = (
                side.q[part] @ side.k.mT + of(mask, start)
                for side, mask in zip((one, two), given, strict=True)
            )
            p, p_bar = (x.softmax(-1).nan_to_num_(0.0) for x in (z, z_bar))
            of_v += (p + p_bar).mT @ own / 2
            moved = delta(of(given[0], start), of(given[1], start))
            found, end = masked_softmax_multipliers(p, p_bar, z, z_bar, values, moved)
        place = of(of_mask, start)
        place += found.sum_to_size(place.shape)
        if end is not None:
            found.masked_fill_(end != 0, 0.0)
        of_q[part] = found @ k_middle
        of_k += found.mT @ q_middle[part]
    return _Found(of_q, of_k, of_v, of_mask)
