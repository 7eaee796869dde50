"""`Sampler`: which cells make up batch i of epoch e, as a pure function of seed, e and i."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from kernomics._arguments import checked, numbers_of, require_least
from kernomics.data import order as orders
from kernomics.data.row_numbers import row_numbers
from kernomics.errors import ConfigError, DataError


class Sampler:
    """Shuffled batches of rows, without state: any step is reached without reading data.

    The order of an epoch is a permutation keyed by (seed, epoch). With blocks, the rows, which are
    sorted, are cut into runs of `block_size`; the runs are shuffled, and then the rows within
    buffers of `buffer_blocks` runs. Reading a file a buffer at a time, or batches that hold whole
    buffers, then touches long contiguous ranges. A batch is made in the time and memory of a
    buffer, wherever in an epoch it is and however many rows there are.

    With weights, rows are drawn with replacement, as many in an epoch as there are rows: a row
    comes in one as often as its weight says on average, and not once.

    Parameters
    ----------
    rows
        int [n], the cells to draw from, each once per epoch. A ``range`` stays one, in no memory.
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
    weights
        float [n], how often each row is drawn in relation to the others; 0 is never. None draws
        each row once per epoch. See `balanced_weights`.
    version
        Of the order: 2, or 1, under which runs of earlier versions were begun and go on; that one
        makes the permutation of a whole epoch.

    Raises
    ------
    ConfigError
        If the arguments do not fit together, or nothing can be drawn by the weights.
    DataError
        If the rows are no numbers of cells, or the weights no numbers of 0 or more, one per row.
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
        weights: npt.ArrayLike | None = None,
        version: int = orders.VERSION,
    ) -> None:
        self.rows: range | npt.NDArray[np.int64] = _numbered(rows)
        self.n_rows = len(self.rows)
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
        if self.n_rows == 0:
            raise ConfigError("there are no rows to draw from")
        if drop_last and self.n_rows < batch_size:
            raise ConfigError(
                f"{self.n_rows:,} rows do not fill a batch of {batch_size:,}, and drop_last "
                "is set; lower batch_size"
            )
        if weights is not None and not shuffle:
            raise ConfigError("weights are given, but shuffle is False: leave one of them out")
        self.weights = None if weights is None else _weights(weights, self.n_rows)
        self.batch_size, self.seed = batch_size, seed
        self.block_size, self.buffer_blocks = block_size, buffer_blocks
        self.rank, self.world = rank, world
        self.drop_last, self.shuffle = drop_last, shuffle
        self._take(version)

    def _take(self, version: int) -> None:
        """Take a version of the order."""
        if not 1 <= version <= orders.VERSION:
            raise ConfigError(
                f"version is {version}: the versions of the order are 1 to {orders.VERSION}; was "
                "this run begun with a later kernomics?"
            )
        self.version = version
        self._order = orders.order_of(
            self.n_rows,
            self.seed,
            self.block_size,
            self.buffer_blocks,
            shuffle=self.shuffle,
            weights=self.weights,
            version=version,
        )

    @checked
    def with_version(self, version: int) -> Sampler:
        """Return a sampler that is alike but for the version of its order."""
        other = copy.copy(self)
        other._take(version)
        return other

    @property
    def last(self) -> int:
        """The highest row that is drawn."""
        if isinstance(self.rows, range):
            return max(self.rows[0], self.rows[-1])
        return int(self.rows.max())

    @property
    def n_batches(self) -> int:
        """Batches per epoch."""
        whole, rest = divmod(self.n_rows, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __len__(self) -> int:
        return self.n_batches

    @checked
    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return all rows in the order of an epoch, int64 [n]."""
        return self._between(epoch, 0, self.n_rows)

    def _between(self, epoch: int, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Return the rows at some places of an epoch."""
        if epoch < 0:
            raise ConfigError(f"epoch is {epoch}: epochs are counted from 0")
        places = self._order.at(epoch, start, stop)
        if isinstance(self.rows, range):
            return self.rows.start + self.rows.step * places
        return self.rows[places]

    @checked
    def global_batch(self, epoch: int, i: int) -> npt.NDArray[np.int64]:
        """Return the rows of batch i of all ranks together."""
        if not 0 <= i < self.n_batches:
            raise ConfigError(
                f"batch {i} was asked for, but an epoch has {self.n_batches}, counted from 0"
            )
        start = i * self.batch_size
        return self._between(epoch, start, min(start + self.batch_size, self.n_rows))

    @checked
    def batch(self, epoch: int, i: int) -> npt.NDArray[np.int64]:
        """Return this rank's rows of batch i of an epoch, int64 [about batch_size / world]."""
        rows = self.global_batch(epoch, i)
        return rows[self.part_of(rows.size)].copy()

    @checked
    def part_of(self, n: int) -> slice:
        """Return which of the n cells of a global batch are this rank's."""
        require_least(0, n=n)
        start, stop = (n * r // self.world for r in (self.rank, self.rank + 1))
        return slice(start, stop)

    @checked
    def batches(self, epoch: int, start: int = 0) -> Iterator[npt.NDArray[np.int64]]:
        """Yield this rank's batches of an epoch, from batch `start` on."""
        for i in range(start, self.n_batches):
            yield self.batch(epoch, i)


def _numbered(rows: npt.ArrayLike) -> range | npt.NDArray[np.int64]:
    """Return a copy of the rows' numbers, which are of cells that the sampler does not know."""
    if isinstance(rows, range) and (not rows or min(rows[0], rows[-1]) >= 0):
        return rows
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


def _weights(weights: npt.ArrayLike, n_rows: int) -> npt.NDArray[np.float64]:
    """Return the rows' weights, of which every one can be drawn by."""
    found = numbers_of("weights", weights)
    if found.shape != (n_rows,):
        raise DataError(f"weights have shape {found.shape}, but there are {n_rows:,} rows")
    wrong = np.flatnonzero(~(np.isfinite(found) & (found >= 0)))
    if wrong.size:
        raise DataError(
            f"{wrong.size:,} of the {n_rows:,} weights are negative or not finite, first "
            f"{found[wrong[0]]} of row {wrong[0]:,}: a weight is a number of 0 or more"
        )
    with np.errstate(over="ignore"):
        total = float(found.sum())
    if not 0 < total < np.inf:
        raise ConfigError(
            f"the weights sum to {total}: at least one must be above 0, and their sum finite"
        )
    return found
