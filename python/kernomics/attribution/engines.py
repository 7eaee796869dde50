"""Engines: the attribution of a model's output to the genes of pairs of cells.

All take a `Source`, blocks of pairs and the class whose output is attributed, and give for each
gene of each pair how much it moves that output from the one cell to the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernomics.attribution.blending import Blend, blend
from kernomics.attribution.sources import Inputs, Source

STEPS = 16
"""Points on the path of integrated gradients."""
NUMBERS_AT_A_TIME = 1_000_000
"""Of the features that one pass through the model is given."""


class PairScores(NamedTuple):
    """What an engine gives for some pairs.

    Attributes
    ----------
    blend
        Their genes.
    forward, backward
        float [U]: from baseline to case, and from case to baseline.
    change
        float [U], the log-normalised expression of the case cell less that of the baseline cell.
    outputs
        float [P, 2]: the attributed output at the two ends of the way that the forward scores are
        of, the case cell and what it is compared with.
    """

    blend: Blend
    forward: Tensor
    backward: Tensor
    change: Tensor
    outputs: Tensor


Engine = Callable[[Source, NDArray[np.int64], NDArray[np.int64], int], PairScores]
"""(source, case rows [P], baseline rows [P], class) → the scores of these pairs."""


class CellGradients(NamedTuple):
    """The gradients of one output of some cells, which all pairs of these cells share.

    Attributes
    ----------
    rows
        int64 [B], which cells, ascending.
    inputs
        Their genes.
    gradients
        float [N, w], of each cell's output by the features of its genes.
    outputs
        float [B].
    """

    rows: NDArray[np.int64]
    inputs: Inputs
    gradients: Tensor
    outputs: Tensor


def cell_gradients(source: Source, rows: NDArray[np.int64], output: int) -> CellGradients:
    """Run cells through the model, each once.

    Parameters
    ----------
    source
        The model and its cells.
    rows
        int64, the cells; repeated ones count once.
    output
        Which of the source's outputs.
    """
    cells = np.unique(rows)
    inputs = source.inputs(cells)
    return CellGradients(cells, inputs, *_gradients(source, inputs, np.full(len(cells), output)))


def grad_x_delta(
    source: Source,
    case: NDArray[np.int64],
    baseline: NDArray[np.int64],
    output: int,
    known: CellGradients | None = None,
) -> PairScores:
    r"""Gradient times difference: what the attribution paper's figures are.

    .. math:: f(I, B)_g = \sum_k \frac{∂F(I)}{∂x_{gk}} (x^I_{gk} - x^B_{gk}), \qquad
              f(B, I)_g = \sum_k \frac{∂F(B)}{∂x_{gk}} (x^B_{gk} - x^I_{gk})

    with the features x of a gene, zero where a cell lacks it, and the output F of the case, for
    both directions. A gene that I lacks is masked there, so that its forward score is zero. It is
    what DeepLIFT's hooks return on a transformer whose softmax and GELU are functions. As the
    gradient at a cell is the same for all its pairs, each cell runs through the model once.

    Parameters
    ----------
    source
        The model and its cells.
    case, baseline
        int64 [P], rows of the cells I and B.
    output
        Which of the source's outputs.
    known
        The gradients of these cells and perhaps others, if they are known already.
    """
    both_sides = np.concatenate([case, baseline])
    if known is None:
        known = cell_gradients(source, both_sides, output)
    inputs, gradients = known.inputs, known.gradients
    at = np.searchsorted(known.rows, both_sides)
    tokens, blended, change = _blended(inputs, at, source)
    sides = [inputs.features[side] for side in tokens]
    slopes = [gradients[side] for side in tokens]
    places = (blended.first, blended.second)
    shared = torch.nonzero((places[0] >= 0) & (places[1] >= 0)).flatten()
    found = []
    for own, other in ((0, 1), (1, 0)):
        score = _taken((slopes[own] * sides[own]).sum(1), places[own])
        products = slopes[own][places[own][shared]] * sides[other][places[other][shared]]
        score[shared] -= products.sum(1)
        found.append(score)
    return PairScores(blended, found[0], found[1], change, _of_pairs(known.outputs, at))


def empty_baselines(
    source: Source,
    case: NDArray[np.int64],
    baseline: NDArray[np.int64],
    output: int,
    other: int,
) -> PairScores:
    r"""Gradient times features of each cell, for its own class: the paper's alternative.

    .. math:: f'(I, E)_g = \sum_k \frac{∂F_I(I)}{∂x_{gk}} x^I_{gk}, \qquad
              f'(B, E)_g = \sum_k \frac{∂F_B(B)}{∂x_{gk}} x^B_{gk}

    The first is `forward`; `backward` is the second with its sign turned, so that their mean is the
    paper's difference (f'(I, E) − f'(B, E))/2.

    Parameters
    ----------
    source, case, baseline
        As for `grad_x_delta`.
    output, other
        The outputs of the case's and of the baseline's class.
    """
    cells, at = np.unique(np.concatenate([case, baseline]), return_inverse=True)
    inputs = source.inputs(cells)
    wanted = np.full(len(cells), output)
    wanted[np.isin(cells, baseline)] = other  # a cell is of one class
    gradients, outputs = _gradients(source, inputs, wanted)
    whole = (gradients * inputs.features).sum(1)
    tokens, blended, change = _blended(inputs, at, source)
    forward = _taken(whole[tokens[0]], blended.first)
    backward = -_taken(whole[tokens[1]], blended.second)
    none = Inputs(
        inputs.gene_ids[:0],
        torch.zeros_like(inputs.lengths),
        inputs.features[:0],
        inputs.expression[:0],
        inputs.rows,
    )
    with torch.no_grad():
        empty = source.outputs(none, none.features)[:, output]
    of_case = torch.from_numpy(at[: len(case)])
    ends = torch.stack([outputs[of_case], empty[of_case]], 1)
    return PairScores(blended, forward, backward, change, ends)


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
        ends = source.outputs(inputs, inputs.features)[:, output]
    tokens, blended, change = _blended(inputs, at, source)
    one, two = inputs.features[tokens[0]], inputs.features[tokens[1]]
    here, there = blended.first >= 0, blended.second >= 0
    to = torch.where(
        here[:, None], one[blended.first.clamp_min(0)], two[blended.second.clamp_min(0)]
    )
    start = torch.where(there[:, None], two[blended.second.clamp_min(0)], to)
    both = here & there
    union = Inputs(
        blended.gene_ids, blended.lengths.cpu(), to, change, inputs.rows[at[: len(case)]]
    )
    scores = torch.zeros(len(to), dtype=to.dtype, device=to.device)
    points, weights = np.polynomial.legendre.leggauss(STEPS)
    for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
        features = (start + float(point) * (to - start)).requires_grad_()
        faded = torch.where(here, float(np.log(point)), float(np.log1p(-point)))
        presence = None
        if not bool(both.all()):
            presence = torch.where(both, 0.0, faded).to(to.dtype).requires_grad_()
        value = source.outputs(union, features, presence)[:, output].sum()
        wanted = [features] if presence is None else [features, presence]
        found = torch.autograd.grad(value, wanted)
        scores += float(weight) * (found[0] * (to - start)).sum(1)
        if presence is not None:
            slope = torch.where(here, 1 / float(point), -1 / (1 - float(point)))
            scores += float(weight) * torch.where(both, 0.0, found[1] * slope)
    return PairScores(blended, scores, -scores, change, _of_pairs(ends, at))


ENGINES: dict[str, Engine] = {
    "grad_x_delta": grad_x_delta,
    "integrated_gradients": integrated_gradients,
}


def _gradients(source: Source, inputs: Inputs, outputs: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Return ∂(each cell's output)/∂features [N, w], and the outputs [B]; parts at a time."""
    ends = np.cumsum(inputs.lengths.numpy())
    width = inputs.features.shape[1]
    found, values, first = [], [], 0
    while first < len(ends):
        begun = ends[first - 1] if first else 0
        last = int(np.searchsorted(ends, begun + NUMBERS_AT_A_TIME // width, side="right"))
        last = max(last, first + 1)
        tokens = slice(int(begun), int(ends[last - 1]))
        part = Inputs(
            inputs.gene_ids[tokens],
            inputs.lengths[first:last],
            inputs.features[tokens],
            inputs.expression[tokens],
            inputs.rows[first:last],
        )
        features = part.features.detach().requires_grad_()
        chosen = torch.from_numpy(outputs[first:last]).to(features.device)
        value = source.outputs(part, features).gather(1, chosen[:, None])[:, 0]
        found.append(torch.autograd.grad(value.sum(), features)[0])
        values.append(value.detach())
        first = last
    return torch.cat(found), torch.cat(values)


def _blended(
    inputs: Inputs, at: NDArray[np.int64], source: Source
) -> tuple[list[Tensor], Blend, Tensor]:
    """Return the tokens of the cells of each side, the blend of the pairs, and the change."""
    n = len(at) // 2
    starts = inputs.lengths.cumsum(0) - inputs.lengths
    device = inputs.gene_ids.device
    tokens, lengths = [], []
    for side in (at[:n], at[n:]):
        of_cells = torch.from_numpy(side)
        own = inputs.lengths[of_cells]
        within = torch.arange(int(own.sum())) - torch.repeat_interleave(own.cumsum(0) - own, own)
        tokens.append((torch.repeat_interleave(starts[of_cells], own) + within).to(device))
        lengths.append(own.to(device))
    genes = [inputs.gene_ids[side] for side in tokens]
    blended = blend(genes[0], lengths[0], genes[1], lengths[1], len(source.genes))
    values = [inputs.expression[side] for side in tokens]
    change = _taken(values[0], blended.first) - _taken(values[1], blended.second)
    return tokens, blended, change


def _taken(values: Tensor, places: Tensor) -> Tensor:
    """Return the values at some places, 0 at −1."""
    if not len(values):
        return torch.zeros(len(places), dtype=values.dtype, device=places.device)
    return torch.where(places >= 0, values[places.clamp_min(0)], 0.0)


def _of_pairs(outputs: Tensor, at: NDArray[np.int64]) -> Tensor:
    n = len(at) // 2
    return torch.stack([outputs[torch.from_numpy(at[:n])], outputs[torch.from_numpy(at[n:])]], 1)
