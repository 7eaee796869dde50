"""Rules of masks: steps that many take together, and what a mask lets through."""

from __future__ import annotations

import torch

from kernomics.attribution.operation_pair import (
    Multipliers,
    Pair,
    by_quotient,
    fitting,
    named,
    ratio,
    rule,
)
from kernomics.attribution.rules import linear


@rule(*named("all.dim any.dim"))
def step_over_many(pair: Pair, m: Multipliers) -> Multipliers:
    """Share a step that many take together among those of them that changed."""
    (g,) = m
    assert g is not None
    at, keeps, moved = pair.at("dim"), pair.at("keepdim"), pair.delta(0)
    assert at is not None
    dim = pair.case[at]
    effect = g * pair.delta_out()
    if keeps is None or not pair.case[keeps]:
        effect = effect.unsqueeze(dim)
    shared = ratio(effect, (moved != 0).to(effect.dtype).sum(dim, keepdim=True))
    return [ratio(shared.expand_as(moved), moved), *pair.none()[1:]]


@rule(*named("masked_fill.Scalar masked_fill.Tensor"))
def masked_fill(pair: Pair, m: Multipliers) -> Multipliers:
    """Ascribe to the mask what is filled in on one side alone."""
    if not pair.wanted[1]:
        return linear(pair, m)
    (g,) = m
    assert g is not None
    found = pair.none()
    found[1] = by_quotient(pair, g, 1)
    if pair.wanted[0]:
        found[0] = fitting(g.masked_fill(pair.case[1] | pair.base[1], 0.0), pair.case[0])
    if pair.wanted[2]:
        found[2] = fitting(torch.where(pair.case[1] & pair.base[1], g, 0.0), pair.case[2])
    return found


@rule(*named("where.self where.ScalarOther where.ScalarSelf where.Scalar"))
def where(pair: Pair, m: Multipliers) -> Multipliers:
    """Ascribe to the condition what it takes on one side alone."""
    if not pair.wanted[0]:
        return linear(pair, m)
    (g,) = m
    assert g is not None
    found = pair.none()
    found[0] = by_quotient(pair, g, 0)
    both = (pair.case[0] & pair.base[0], ~(pair.case[0] | pair.base[0]))
    for i in (1, 2):
        if pair.wanted[i]:
            found[i] = fitting(torch.where(both[i - 1], g, 0.0), pair.case[i])
    return found
