"""Engines of gradients: the attribution paper's scores, which do not add up."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
    tokens, blended, change = blended_pairs(inputs, at, source)
    sides = [inputs.features[side] for side in tokens]
    slopes = [gradients[side] for side in tokens]
    places = (blended.first, blended.second)
    shared = torch.nonzero((places[0] >= 0) & (places[1] >= 0)).flatten()
    found = []
    for own, other in ((0, 1), (1, 0)):
        score = taken((slopes[own] * sides[own]).sum(1), places[own])
        products = slopes[own][places[own][shared]] * sides[other][places[other][shared]]
        score[shared] -= products.sum(1)
        found.append(score)
    return PairScores(blended, found[0], found[1], change, outputs_of_pairs(known.outputs, at))


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
    tokens, blended, change = blended_pairs(inputs, at, source)
    forward = taken(whole[tokens[0]], blended.first)
    backward = -taken(whole[tokens[1]], blended.second)
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


def _gradients(source: Source, inputs: Inputs, outputs: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Return ∂(each cell's output)/∂features [N, w], and the outputs [B]; parts at a time."""
    found, values = [], []
    for cells, tokens in parts_of(inputs.lengths, inputs.features.shape[1]):
        part = part_of(inputs, cells, tokens)
        features = part.features.detach().requires_grad_()
        value = chosen(source.outputs(part, features), outputs[cells])
        found.append(torch.autograd.grad(value.sum(), features)[0])
        values.append(value.detach())
    return torch.cat(found), torch.cat(values)
