"""The order of an epoch: which row comes at each place, a function of seed, epoch and place.

An order has a version, which checkpoints keep, so that a run goes on under the one it was begun
with. Version 1 makes the permutation of a whole epoch. Version 2 makes a buffer of it: its time
and memory are those of a buffer wherever the place is, and however many rows there are.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from kernomics._mixing import mixed
from kernomics.data.rng import Stream, permutation, philox, uniforms

Ints = npt.NDArray[np.int64]

VERSION = 2
"""Of the order that new runs take."""
SHUFFLED = 2**16
"""Up to so many things are shuffled one by one; more are permuted by a `Bijection`."""
TABLED = 2**20
"""Up to so many rows drawn one by one have their order of an epoch kept."""
ROUNDS = 10
BUFFERS_KEPT = 4


class Order(Protocol):
    """Which of n rows come at some places of an epoch."""

    def at(self, epoch: int, start: int, stop: int) -> Ints:
        """Return the rows at the places from `start` up to `stop`, int64 [stop − start]."""


class Bijection:
    """A permutation of 0 … n−1 of which every part can be made alone, keyed by 64-bit words.

    A Feistel network over the bits of n − 1, whose round function is SplitMix64's finaliser of
    one half and a word; numbers beyond n are sent through it again until they are below, less than
    once on average.
    """

    def __init__(self, n: int, words: npt.NDArray[np.uint64]) -> None:
        bits = max(n - 1, 0).bit_length()
        self.n, self.words = n, words
        self.low = np.uint64(bits // 2)
        self.masks = [np.uint64((1 << width) - 1) for width in (bits - bits // 2, bits // 2)]

    def __call__(self, numbers: Ints) -> Ints:
        """Return where each number goes."""
        return self._walked(numbers, range(len(self.words)))

    def inverse(self, numbers: Ints) -> Ints:
        """Return where each number comes from."""
        return self._walked(numbers, range(len(self.words) - 1, -1, -1))

    def _walked(self, numbers: Ints, rounds: range) -> Ints:
        found = self._sent(numbers.astype(np.uint64), rounds)
        beyond = np.flatnonzero(found >= self.n)
        while beyond.size:
            found[beyond] = self._sent(found[beyond], rounds)
            beyond = beyond[found[beyond] >= self.n]
        return found.astype(np.int64)

    def _sent(self, x: npt.NDArray[np.uint64], rounds: range) -> npt.NDArray[np.uint64]:
        halves = [x >> self.low, x & self.masks[1]]  # the high bits, and the low
        for i in rounds:
            one = i % 2
            halves[one] ^= mixed(halves[1 - one] ^ self.words[i]) & self.masks[one]
        return halves[0] << self.low | halves[1]


class Permuted:
    """A permutation of 0 … n−1 of one epoch: a table of up to `tabled`, else a `Bijection`."""

    def __init__(self, n: int, seed: int, stream: Stream, epoch: int, tabled: int = 0) -> None:
        self.table: Ints | None = None
        if n <= SHUFFLED:
            self.table = permutation(n, seed, stream, epoch)
            return
        self.bijection = Bijection(n, philox(seed, stream, epoch).random_raw(ROUNDS))
        if n <= tabled:
            self.table = self.bijection(np.arange(n))

    def at(self, start: int, stop: int) -> Ints:
        """Return what comes at some places."""
        if self.table is not None:
            return self.table[start:stop]
        return self.bijection(np.arange(start, stop))

    def place_of(self, one: int) -> int:
        """Return at which place one comes."""
        if self.table is not None:
            return int(np.flatnonzero(self.table == one)[0])
        return int(self.bijection.inverse(np.array([one]))[0])


class Shuffled:
    """All rows permuted one by one; version 2 with blocks of one row."""

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed = n, seed
        self._kept: tuple[int, Permuted] | None = None

    def at(self, epoch: int, start: int, stop: int) -> Ints:
        """Return the rows at some places."""
        kept = self._kept  # read once: another thread may be in another epoch
        if kept is None or kept[0] != epoch:
            order = Permuted(self.n, self.seed, Stream.SAMPLER_ROWS, epoch, TABLED)
            kept = self._kept = (epoch, order)
        return kept[1].at(start, stop)


class Buffered:
    """Blocks of rows permuted, and the rows of each buffer of blocks shuffled; version 2.

    The rows of a buffer are put in their order before they are shuffled, so that the short block
    at the end of the rows is the last of its buffer. With one buffer the order is version 1's.
    """

    def __init__(self, n: int, seed: int, block_size: int, buffer_blocks: int) -> None:
        self.n, self.seed, self.block_size = n, seed, block_size
        self.n_blocks = -(-n // block_size)
        self.buffer_blocks = min(buffer_blocks, self.n_blocks)
        self.missing = self.n_blocks * block_size - n  # rows that the short block lacks
        self._kept: tuple[int, Permuted, int] | None = None
        self._buffers: tuple[tuple[int, int, Ints], ...] = ()

    def at(self, epoch: int, start: int, stop: int) -> Ints:
        """Return the rows at some places."""
        if stop <= start:
            return np.empty(0, np.int64)
        blocks, short = self._blocks(epoch)
        size = self.block_size * self.buffer_blocks
        after_short = (short + 1) * size - self.missing  # where the buffer after the short's begins

        def buffer_of(place: int) -> int:
            return (place + (self.missing if place >= after_short else 0)) // size

        parts = []
        for j in range(buffer_of(start), buffer_of(stop - 1) + 1):
            begin = j * size - (self.missing if j > short else 0)
            parts.append(self._buffer(epoch, blocks, j)[max(0, start - begin) : stop - begin])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _blocks(self, epoch: int) -> tuple[Permuted, int]:
        """Return the blocks' permutation, and the buffer that holds the short block."""
        kept = self._kept
        if kept is None or kept[0] != epoch:
            blocks = Permuted(self.n_blocks, self.seed, Stream.SAMPLER_BLOCKS, epoch)
            short = blocks.place_of(self.n_blocks - 1) // self.buffer_blocks
            kept = self._kept = (epoch, blocks, short)
        return kept[1], kept[2]

    def _buffer(self, epoch: int, blocks: Permuted, j: int) -> Ints:
        buffers = self._buffers
        for kept in buffers:
            if kept[:2] == (epoch, j):
                return kept[2]
        first = j * self.buffer_blocks
        here = np.sort(blocks.at(first, min(first + self.buffer_blocks, self.n_blocks)))
        rows = (here[:, None] * self.block_size + np.arange(self.block_size)).reshape(-1)
        if here[-1] == self.n_blocks - 1:
            rows = rows[: len(rows) - self.missing]
        rows = rows[permutation(len(rows), self.seed, Stream.SAMPLER_ROWS, epoch, part=j)]
        self._buffers = (*buffers[1 - BUFFERS_KEPT :], (epoch, j, rows))
        return rows


class Whole:
    """Version 1: the blocks and buffers of `Buffered`, by a permutation of all rows at once."""

    def __init__(self, n: int, seed: int, block_size: int, buffer_blocks: int) -> None:
        self.n, self.seed = n, seed
        self.block_size, self.buffer_blocks = block_size, buffer_blocks
        self._kept: tuple[int, Ints] | None = None

    def at(self, epoch: int, start: int, stop: int) -> Ints:
        """Return the rows at some places."""
        kept = self._kept
        if kept is None or kept[0] != epoch:
            kept = self._kept = (epoch, self._made(epoch))
        return kept[1][start:stop]

    def _made(self, epoch: int) -> Ints:
        shuffled = permutation(self.n, self.seed, Stream.SAMPLER_ROWS, epoch)
        if self.block_size == 1:
            return shuffled
        n_blocks = -(-self.n // self.block_size)
        block_order = permutation(n_blocks, self.seed, Stream.SAMPLER_BLOCKS, epoch)
        buffer_of_block = np.empty(n_blocks, dtype=np.int64)
        buffer_of_block[block_order] = np.arange(n_blocks) // self.buffer_blocks
        buffer = buffer_of_block[shuffled // self.block_size]
        return shuffled[np.argsort(buffer, kind="stable")]


class Given:
    """The rows as they come."""

    def at(self, epoch: int, start: int, stop: int) -> Ints:
        """Return the rows at some places."""
        return np.arange(start, stop)


class Weighted:
    """Rows drawn with replacement, each as often as its weight says."""

    def __init__(self, weights: npt.NDArray[np.float64], seed: int) -> None:
        self.sums, self.seed = np.cumsum(weights), seed
        self.last = int(np.flatnonzero(weights)[-1])

    def at(self, epoch: int, start: int, stop: int) -> Ints:
        """Return the rows drawn at some places."""
        drawn = uniforms(self.seed, Stream.SAMPLER_DRAWS, epoch, start, stop) * self.sums[-1]
        # A draw that rounds up to the sum of all is of the last row that has a weight.
        rows: Ints = np.searchsorted(self.sums, drawn, side="right")
        return np.minimum(rows, self.last)


def order_of(
    n: int,
    seed: int,
    block_size: int,
    buffer_blocks: int,
    *,
    shuffle: bool,
    weights: npt.NDArray[np.float64] | None,
    version: int,
) -> Order:
    """Return the order that a sampler's arguments ask for."""
    if weights is not None:
        return Weighted(weights, seed)
    if not shuffle:
        return Given()
    if version == 1:
        return Whole(n, seed, block_size, buffer_blocks)
    if block_size == 1:
        return Shuffled(n, seed)
    return Buffered(n, seed, block_size, buffer_blocks)
