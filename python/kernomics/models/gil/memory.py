"""Cells of earlier stages that are kept, and batches in which they come again.

What is kept is which cells; their counts are read where all the others are, from memory or a file.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from kernomics.data import CellCollection, Cells, Loader, Sampler
from kernomics.data.rng import Stream, draws_of_names, permutation
from kernomics.data.staged import StagedCells
from kernomics.errors import ConfigError


def reservoir(staged: StagedCells, stage: int, size: int, seed: int) -> NDArray[np.int64]:
    """Return the cells kept of a stage's training cells, ascending int64 [size].

    Those with the smallest draws of their names: every cell is as likely as the next, and a cell
    is kept or not whatever the order they come in.
    """
    rows = staged.rows(stage)
    draws = draws_of_names(staged.cells.cell_names[rows], seed, Stream.RESERVOIR)
    return np.sort(rows[np.argsort(draws, kind="stable")[:size]])


def require_memory(memory: int, share: float, staged: StagedCells) -> None:
    """Refuse a memory that no stage fills, and a share that is none."""
    if memory < 1:
        raise ConfigError(f"memory is {memory}: at least 1 cell of each stage must be kept")
    if not 0 < share < 1:
        raise ConfigError(
            f"share is {share}: it is the kept cells' share of a batch, above 0 and below 1"
        )
    sizes = [len(staged.rows(i)) for i in range(len(staged.stages) - 1)]
    short = [i for i, size in enumerate(sizes) if size < memory]
    if short:
        raise ConfigError(
            f"memory is {memory:,} cells of each stage, more than {len(short)} of the "
            f"{len(sizes)} stages before the last have to train on, first "
            f"{staged.stages.names[short[0]]!r} with {sizes[short[0]]:,}: at most "
            f"{min(sizes):,} are possible"
        )


def in_turn(
    kept: Sequence[NDArray[np.int64]], first: int, n: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return n kept cells, and in which round of its stage's each comes.

    They are places `first` to `first + n` of an endless list, in which the stages take turns and
    each one's cells come round by round, every round in another order.
    """
    slots = first + np.arange(n)
    stage, turn = slots % len(kept), slots // len(kept)
    rows, rounds = np.empty(n, np.int64), np.empty(n, np.int64)
    for j, cells in enumerate(kept):
        mine = np.flatnonzero(stage == j)
        rounds[mine], place = np.divmod(turn[mine], len(cells))
        for round_ in np.unique(rounds[mine]):
            at = rounds[mine] == round_
            order = permutation(len(cells), seed, Stream.REPLAY, int(round_) * len(kept) + j)
            rows[mine[at]] = cells[order[place[at]]]
    return rows, rounds


def with_rounds(cells: Cells, rounds: NDArray[np.int64]) -> Cells:
    """Give the last cells of a batch other ids each round, and so other draws."""
    ids = cells.cell_ids.clone()
    ids[len(ids) - len(rounds) :] += ((torch.from_numpy(rounds) % 2**15 + 1) << 32).to(ids.device)
    return replace(cells, cell_ids=ids)


class ReplayLoader:
    """The batches of a stage, with cells of earlier stages at the end of each.

    Parameters
    ----------
    cells, sampler
        As for `Loader`: the new stage's batches, which come as without replay.
    kept
        Per earlier stage the cells kept, each int64 [m].
    share
        The kept cells' share of a batch.
    seed
        Of their order; see `in_turn`.
    """

    def __init__(
        self,
        cells: CellCollection,
        sampler: Sampler,
        kept: Sequence[NDArray[np.int64]],
        share: float,
        seed: int,
    ) -> None:
        self.sampler, self.kept, self.seed = sampler, list(kept), seed
        self.ratio = share / (1 - share)
        self.loader = Loader(cells, _Mixed(sampler, self))

    @property
    def n_batches(self) -> int:
        """Batches in an epoch, as many as without replay."""
        return self.sampler.n_batches

    @property
    def order(self) -> int:
        """The version of the new stage's order; the kept cells' has one alone."""
        return self.sampler.version

    def use_order(self, version: int) -> None:
        """Go on under a version of the order; see `kernomics.data.Loader`."""
        self.sampler = self.sampler.with_version(version)
        self.loader.use_order(version)

    def drawn(self, epoch: int, i: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the kept cells in a batch, and the round of each; see `in_turn`."""
        full = max(1, round(self.sampler.batch_size * self.ratio))
        n_new = len(self.sampler.global_batch(epoch, i))
        n = min(full, max(1, round(n_new * self.ratio)))
        return in_turn(self.kept, (epoch * self.n_batches + i) * full, n, self.seed)

    def epoch(self, epoch: int, start: int = 0) -> Generator[Cells, None, None]:
        """Yield the batches of an epoch; a kept cell has another id each round, and other draws."""
        for i, cells in enumerate(self.loader.epoch(epoch, start), start=start):
            yield with_rounds(cells, self._rounds(epoch, i))

    def _rounds(self, epoch: int, i: int) -> NDArray[np.int64]:
        """Return the rounds of the kept cells in this rank's part of a batch."""
        rank, world = self.sampler.rank, self.sampler.world
        n_new, rounds = len(self.sampler.global_batch(epoch, i)), self.drawn(epoch, i)[1]
        size = n_new + len(rounds)
        start, stop = (max(0, size * r // world - n_new) for r in (rank, rank + 1))
        return rounds[start:stop]


class _Mixed(Sampler):
    """A sampler's batches, each followed by kept cells."""

    def __init__(self, sampler: Sampler, loader: ReplayLoader) -> None:
        self.__dict__.update(sampler.__dict__)
        self._loader = loader

    def global_batch(self, epoch: int, i: int) -> NDArray[np.int64]:
        """Return the rows of a batch of all ranks together, the kept ones last."""
        return np.concatenate([super().global_batch(epoch, i), self._loader.drawn(epoch, i)[0]])
