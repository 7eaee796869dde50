"""Engines whose scores add up to the difference between the two outputs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernomics.attribution.blending import Blend
from kernomics.attribution.multipliers import deeplift
from kernomics.attribution.pair_scores import (
    PairScores,
    blended_pairs,
    chosen,
    outputs_of_pairs,
    part_of,
    parts_of,
    taken,
)
from kernomics.attribution.sources import Inputs, Source

STEPS = 16
"""Points on the path of integrated gradients."""
LIFTED_AT_A_TIME = 500_000
"""Of the features of one side; DeepLIFT holds all that the model computes, on both."""


def integrated_gradients(
    source: Source, case: NDArray[np.int64], baseline: NDArray[np.int64], output: int
) -> PairScores:
    r"""Integrate the gradient on the way from the baseline cell to the case cell.

    A gene of both cells has features x(α) = x^B + α(x^I − x^B). A gene of one cell keeps its
    features, and its presence goes from 0 to 1 or back: the attention to it is multiplied by α or
    by 1 − α before the attention is normalised. So the way is continuous and ends at the two cells,
    and the scores add up to F(I) − F(B), but for the rule's error (16 points of Gauss and
    Legendre). The backward scores are the forward ones with the sign turned: the same way back.

    Parameters
    ----------
    source, case, baseline, output
        As for `grad_x_delta`.
    """
    cells, at = np.unique(np.concatenate([case, baseline]), return_inverse=True)
    inputs = source.inputs(cells)
    with torch.no_grad():
        ends = chosen(source.outputs(inputs, inputs.features), output)
    pairs = _united(inputs, at, source)
    start, to, here, both = pairs.baseline, pairs.case, pairs.here, pairs.here & pairs.there
    scores = torch.zeros(len(to), dtype=to.dtype, device=to.device)
    present = torch.zeros_like(scores)
    points, weights = np.polynomial.legendre.leggauss(STEPS)
    for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
        features = (start + float(point) * (to - start)).requires_grad_()
        faded = torch.where(here, float(np.log(point)), float(np.log1p(-point)))
        presence = None
        if not bool(both.all()):
            presence = torch.where(both, 0.0, faded).to(to.dtype).requires_grad_()
        value = source.outputs(pairs.inputs, features, presence)[:, output].sum()
        wanted = [features] if presence is None else [features, presence]
        found = torch.autograd.grad(value, wanted)
        scores += float(weight) * (found[0] * (to - start)).sum(1)
        if presence is not None:
            slope = torch.where(here, 1 / float(point), -1 / (1 - float(point)))
            present += float(weight) * torch.where(both, 0.0, found[1] * slope)
    scores += present
    return PairScores(
        pairs.blend, scores, -scores, pairs.change, outputs_of_pairs(ends, at), present
    )


def deeplift_pairs(
    source: Source, case: NDArray[np.int64], baseline: NDArray[np.int64], output: int
) -> PairScores:
    r"""DeepLIFT on the operations that the model runs: complete to rounding, in one pass.

    .. math:: f(I, B)_g = \sum_k m_{gk} (x^I_{gk} - x^B_{gk}) + \text{presence}_g, \qquad
              \sum_g f(I, B)_g = F(I) - F(B)

    with the multipliers m of `kernomics.attribution.deeplift`. A gene of one cell keeps its
    features and is masked in the other; the effect of its being there is its presence. The
    backward scores are the forward ones with the sign turned, as the rules are symmetric. The two
    cells of a pair share the phenotypes that are shown.

    Parameters
    ----------
    source, case, baseline, output
        As for `grad_x_delta`.
    """
    cells, at = np.unique(np.concatenate([case, baseline]), return_inverse=True)
    united = _united(source.inputs(cells), at, source)
    return _lifted(source, united, np.full(len(case), output))


def deeplift_empty(
    source: Source, case: NDArray[np.int64], baseline: NDArray[np.int64], output: int, other: int
) -> PairScores:
    """DeepLIFT of each cell against a cell without genes, for its own class: all is presence.

    Parameters
    ----------
    source, case, baseline, output, other
        As for `empty_baselines`.
    """
    cells, at = np.unique(np.concatenate([case, baseline]), return_inverse=True)
    inputs = source.inputs(cells)
    wanted = np.full(len(cells), output)
    wanted[np.isin(cells, baseline)] = other  # a cell is of one class
    each = np.arange(len(cells))
    alone = _united(inputs, np.concatenate([each, each]), source)
    alone = alone._replace(there=torch.zeros_like(alone.there))
    lifted = _lifted(source, alone, wanted)
    tokens, blended, change = blended_pairs(inputs, at, source)
    forward = taken(lifted.forward[tokens[0]], blended.first)
    backward = -taken(lifted.forward[tokens[1]], blended.second)
    ends = lifted.outputs[torch.from_numpy(at[: len(case)])]
    return PairScores(blended, forward, backward, change, ends, forward)


class _United(NamedTuple):
    """Pairs over the genes of either cell: the features and presence of both sides."""

    inputs: Inputs
    blend: Blend
    case: Tensor
    baseline: Tensor
    here: Tensor
    there: Tensor
    change: Tensor


def _united(inputs: Inputs, at: NDArray[np.int64], source: Source) -> _United:
    """Return pairs in which a gene of one cell has its features on both sides."""
    tokens, blended, change = blended_pairs(inputs, at, source)
    one, two = inputs.features[tokens[0]], inputs.features[tokens[1]]
    here, there = blended.first >= 0, blended.second >= 0
    case, baseline = _either(one, two, blended.first, blended.second)
    rows = inputs.rows[at[: len(at) // 2]]
    union = Inputs(blended.gene_ids, blended.lengths.cpu(), case, change, rows)
    return _United(union, blended, case, baseline, here, there, change)


def _either(one: Tensor, two: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features of both sides, each the other's where it has none."""
    places = torch.where(first >= 0, first, len(one) + second)
    others = torch.where(second >= 0, len(one) + second, first)
    both = torch.cat([one, two])
    return both[places], both[others]


def _lifted(source: Source, pairs: _United, outputs: NDArray[np.int64]) -> PairScores:
    """Run DeepLIFT over pairs, some at a time, each for an output of its own."""
    scores, presences, ends = [], [], []
    masked = not bool((pairs.here & pairs.there).all())
    for cells, tokens in parts_of(pairs.inputs.lengths, pairs.case.shape[1], LIFTED_AT_A_TIME):
        union = part_of(pairs.inputs, cells, tokens)
        sides = [[pairs.case[tokens]], [pairs.baseline[tokens]]]
        if masked:
            for side, present in zip(sides, (pairs.here, pairs.there), strict=True):
                side.append(torch.where(present[tokens], 0.0, -torch.inf).to(side[0].dtype))

        def function(
            *given: Tensor, union: Inputs = union, columns: NDArray[np.int64] = outputs[cells]
        ) -> Tensor:
            return chosen(source.outputs(union, *given), columns)

        found = deeplift(function, sides[0], sides[1])
        score = found.contributions[0].sum(1)
        present = found.contributions[1] if masked else torch.zeros_like(score)
        scores.append(score + present)
        presences.append(present)
        ends.append(torch.stack([found.case, found.baseline], 1))
    forward, presence = torch.cat(scores), torch.cat(presences)
    return PairScores(pairs.blend, forward, -forward, pairs.change, torch.cat(ends), presence)
