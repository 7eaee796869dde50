"""`Sampler`: which cells make up batch i of epoch e, as a pure function of seed, e and i."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from kernomics._arguments import checked
from kernomics.data.rng import Stream, permutation
from kernomics.data.row_numbers import row_numbers
from kernomics.errors import ConfigError, DataError


class Sampler:
    """Shuffled batches of rows, without state: any step is reached without reading data.

    The order of an epoch is a permutation keyed by (seed, epoch). With blocks, the rows, which are
    sorted, are cut into runs of `block_size`; the runs are shuffled, and then the rows within
    buffers of `buffer_blocks` runs. Reading a file a buffer at a time, or batches that hold whole
    buffers, then touches long contiguous ranges.

    Parameters
    ----------
    rows
        int [n], the cells to draw from, each once per epoch.
    batch_size
        Cells per global batch, over all ranks together.
    seed
        Any integer.
    block_size
        Rows per run; 1 shuffles all rows.
    buffer_blocks
        Runs shuffled together.
    rank, world
        Which part of each global batch this process takes. The parts are consecutive, so their
        concatenation over ranks is the batch that one rank would see; in an epoch's last batch
        they may differ by one in size, and be empty when it has fewer cells than there are ranks.
    drop_last
        Leave out an epoch's last batch when it is not full.
    shuffle
        False gives the rows in their order, for validation.
    """

    @checked
    def __init__(
        self,
        rows: npt.ArrayLike,
        batch_size: int,
        seed: int = 0,
        *,
        block_size: int = 1,
        buffer_blocks: int = 64,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
        shuffle: bool = True,
    ) -> None:
        self.rows = _numbered(rows)
        for name, value in (
            ("batch_size", batch_size),
            ("block_size", block_size),
            ("buffer_blocks", buffer_blocks),
            ("world", world),
        ):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        if not 0 <= rank < world:
            raise ConfigError(f"rank must be from 0 to world - 1 = {world - 1}, not {rank}")
        if batch_size < world:
            raise ConfigError(
                f"a global batch of {batch_size} cells leaves some of {world} ranks without any; "
                "raise batch_size, which counts the cells of all ranks together"
            )
        if self.rows.size == 0:
            raise ConfigError("there are no rows to draw from")
        if drop_last and self.rows.size < batch_size:
            raise ConfigError(
                f"{self.rows.size:,} rows do not fill a batch of {batch_size:,}, and drop_last "
                "is set; lower batch_size"
            )
        self.batch_size, self.seed = batch_size, seed
        self.block_size, self.buffer_blocks = block_size, buffer_blocks
        self.rank, self.world = rank, world
        self.drop_last, self.shuffle = drop_last, shuffle
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None  # the last epoch asked for

    @property
    def n_batches(self) -> int:
        """Batches per epoch."""
        whole, rest = divmod(self.rows.size, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __len__(self) -> int:
        return self.n_batches

    @checked
    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return all rows in the order of an epoch, int64 [n]."""
        if epoch < 0:
            raise ConfigError(f"epoch is {epoch}: epochs are counted from 0")
        if not self.shuffle:
            return self.rows
        kept = self._order  # read once: another thread may be in another epoch
        if kept is None or kept[0] != epoch:
            kept = self._order = (epoch, self.rows[self._positions(epoch)])
        return kept[1]

    def _positions(self, epoch: int) -> npt.NDArray[np.int64]:
        n = self.rows.size
        shuffled = permutation(n, self.seed, Stream.SAMPLER_ROWS, epoch)
        if self.block_size == 1:
            return shuffled
        n_blocks = -(-n // self.block_size)
        block_order = permutation(n_blocks, self.seed, Stream.SAMPLER_BLOCKS, epoch)
        buffer_of_block = np.empty(n_blocks, dtype=np.int64)
        buffer_of_block[block_order] = np.arange(n_blocks) // self.buffer_blocks
        buffer = buffer_of_block[shuffled // self.block_size]
        return shuffled[np.argsort(buffer, kind="stable")]

    @checked
    def global_batch(self, epoch: int, i: int) -> npt.NDArray[np.int64]:
        """Return the rows of batch i of all ranks together."""
        if not 0 <= i < self.n_batches:
            raise ConfigError(
                f"batch {i} was asked for, but an epoch has {self.n_batches}, counted from 0"
            )
        return self.order(epoch)[i * self.batch_size : (i + 1) * self.batch_size]

    @checked
    def batch(self, epoch: int, i: int) -> npt.NDArray[np.int64]:
        """Return this rank's rows of batch i of an epoch, int64 [about batch_size / world]."""
        rows = self.global_batch(epoch, i)
        start, stop = (rows.size * r // self.world for r in (self.rank, self.rank + 1))
        return rows[start:stop].copy()

    @checked
    def batches(self, epoch: int, start: int = 0) -> Iterator[npt.NDArray[np.int64]]:
        """Yield this rank's batches of an epoch, from batch `start` on."""
        for i in range(start, self.n_batches):
            yield self.batch(epoch, i)


def _numbered(rows: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return a copy of the rows' numbers, which are of cells that the sampler does not know."""
    given = np.asarray(rows)
    if given.dtype == bool:
        raise DataError(
            f"rows are a mask of shape {given.shape}: give the cells' numbers, numpy.flatnonzero "
            "of the mask"
        )
    if not given.size:
        return np.empty(0, np.int64)
    most = int(given.max()) if given.dtype.kind in "iu" else 0
    return row_numbers(given, most + 1)
