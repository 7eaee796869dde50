"""`Whole`: what a process that gets a part of a batch knows of all of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class Whole(NamedTuple):
    """The batch that several ranks share, of which each has a part.

    Every rank knows it without asking the others: a sampler says which cells are in a batch, and
    labels are in memory.

    Attributes
    ----------
    rank, world
        Whose part it is, and of how many.
    start
        How many of its cells come before those of this part.
    n_cells
        Of all ranks together.
    labels
        Per label column those of all cells, as in `Cells`; on the CPU.
    """

    rank: int
    world: int
    start: int
    n_cells: int
    labels: Mapping[str, Tensor]
