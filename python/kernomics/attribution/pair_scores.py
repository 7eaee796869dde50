"""What an engine gives for pairs of cells, and how their genes are put side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernomics.attribution.blending import Blend, blend
from kernomics.attribution.sources import Inputs, Source
from kernomics.errors import ConfigError

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
    presence
        float [U], the part of the forward scores that is due to a gene's being there in one cell
        alone; the rest is due to how much of it there is. None where an engine cannot tell.
    """

    blend: Blend
    forward: Tensor
    backward: Tensor
    change: Tensor
    outputs: Tensor
    presence: Tensor | None = None


Engine = Callable[[Source, NDArray[np.int64], NDArray[np.int64], int], PairScores]
"""(source, case rows [P], baseline rows [P], class) → the scores of these pairs."""


def parts_of(
    lengths: Tensor, width: int, numbers: int = NUMBERS_AT_A_TIME
) -> Iterator[tuple[slice, slice]]:
    """Yield cells, and their tokens, of so many features at most, or one cell."""
    ends, first = np.cumsum(lengths.numpy()), 0
    while first < len(ends):
        begun = int(ends[first - 1]) if first else 0
        last = int(np.searchsorted(ends, begun + numbers // width, side="right"))
        last = max(last, first + 1)
        yield slice(first, last), slice(begun, int(ends[last - 1]))
        first = last


def part_of(inputs: Inputs, cells: slice, tokens: slice) -> Inputs:
    """Return some of the cells, which have these tokens."""
    return Inputs(
        inputs.gene_ids[tokens],
        inputs.lengths[cells],
        inputs.features[tokens],
        inputs.expression[tokens],
        inputs.rows[cells],
    )


def blended_pairs(
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
    change = taken(values[0], blended.first) - taken(values[1], blended.second)
    return tokens, blended, change


def taken(values: Tensor, places: Tensor) -> Tensor:
    """Return the values at some places, 0 at −1."""
    if not len(values):
        return torch.zeros(len(places), dtype=values.dtype, device=places.device)
    return torch.where(places >= 0, values[places.clamp_min(0)], 0.0)


def chosen(outputs: Tensor, columns: int | NDArray[np.int64]) -> Tensor:
    """Return one output of each cell [B] of [B, n], which column or which of each cell."""
    at = np.broadcast_to(np.asarray(columns), len(outputs))
    n = outputs.shape[1]
    bad = at[(at < 0) | (at >= n)] if at.dtype.kind in "iu" else at
    if len(bad):
        raise ConfigError(f"output is {bad[0]!s}: a class by its number, 0 to {n - 1}, is needed")
    where = torch.from_numpy(at.astype(np.int64)).to(outputs.device)
    return outputs.gather(1, where[:, None])[:, 0]


def outputs_of_pairs(outputs: Tensor, at: NDArray[np.int64]) -> Tensor:
    """Return the outputs of both cells of each pair, [P, 2]."""
    n = len(at) // 2
    return torch.stack([outputs[torch.from_numpy(at[:n])], outputs[torch.from_numpy(at[n:])]], 1)
