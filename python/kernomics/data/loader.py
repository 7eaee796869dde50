"""`Loader`: the batches of a training, read ahead of it where they come from a file."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from kernomics._arguments import checked
from kernomics.data.cells import Cells
from kernomics.data.collection import CellCollection
from kernomics.data.sampler import Sampler
from kernomics.data.whole import Whole
from kernomics.errors import ConfigError


class Loader:
    """The batches of each epoch, in the sampler's order.

    Batch i of an epoch is ``cells.batch(sampler.batch(epoch, i))``, wherever the cells are and
    whatever was read before. From a file, with a sampler that works in blocks, the batches of one
    buffer are read together, in long contiguous ranges, so that each part of the file is read
    about once per epoch; and a thread reads the next buffer while the training uses this one. The
    ranges are longest where `batch_size` divides the sampler's ``block_size * buffer_blocks``.

    Parameters
    ----------
    cells
        What to read.
    sampler
        Which rows make up each batch.
    read_ahead
        Buffers to read ahead in a thread, for cells on disk; 0 reads each when it is wanted.
    """

    @checked
    def __init__(self, cells: CellCollection, sampler: Sampler, *, read_ahead: int = 1) -> None:
        if read_ahead < 0:
            raise ConfigError(f"read_ahead is {read_ahead}: it must be at least 0")
        last = sampler.last
        if last >= cells.n_cells:
            raise ConfigError(
                f"the sampler draws row {last:,}, but there are {cells.n_cells:,} cells: was it "
                "made for other data?"
            )
        self.cells, self.sampler, self.read_ahead = cells, sampler, read_ahead

    @property
    def n_batches(self) -> int:
        """Batches in an epoch."""
        return self.sampler.n_batches

    @property
    def order(self) -> int:
        """The version of the sampler's order."""
        return self.sampler.version

    @checked
    def use_order(self, version: int) -> None:
        """Go on under a version of the order, that of a run to be resumed."""
        self.sampler = self.sampler.with_version(version)

    def __len__(self) -> int:
        return self.n_batches

    @checked
    def epoch(self, epoch: int, start: int = 0) -> Generator[Cells, None, None]:
        """Yield the batches of an epoch, from batch `start` on.

        Parameters
        ----------
        epoch, start
            Both counted from 0. Nothing before `start` is read, but for the rest of its buffer.

        Yields
        ------
        Cells
            A batch, on the CPU.
        """
        for name, value in (("epoch", epoch), ("start", start)):
            if value < 0:
                raise ConfigError(f"{name} is {value}: counting starts at 0")
        groups = self._groups(epoch, start)
        if self.cells.on_disk and self.read_ahead:
            groups = _ahead(groups, self.read_ahead)
        return _one_by_one(groups)

    def _groups(self, epoch: int, start: int) -> Generator[list[Cells], None, None]:
        """Read the batches of a buffer together."""
        sampler, together = self.sampler, 1
        if self.cells.on_disk and sampler.block_size > 1:
            together = max(1, sampler.block_size * sampler.buffer_blocks // sampler.batch_size)
        while start < self.n_batches:
            stop = min((start // together + 1) * together, self.n_batches)
            wholes = [sampler.global_batch(epoch, i) for i in range(start, stop)]
            rows = [whole[sampler.part_of(whole.size)] for whole in wholes]
            cells = self.cells.batch(np.concatenate(rows))
            ends = np.cumsum([part.size for part in rows]).tolist()
            parts = [
                cells.slice(end - part.size, end) for part, end in zip(rows, ends, strict=True)
            ]
            if sampler.world > 1:
                parts = list(map(self._part_of, parts, wholes))
            yield parts
            start = stop

    def _part_of(self, cells: Cells, rows: npt.NDArray[np.int64]) -> Cells:
        """Let a rank's part of a batch know of all its rows."""
        labels = {
            name: torch.from_numpy(label.values[rows]) for name, label in self.cells.labels.items()
        }
        sampler = self.sampler
        start = sampler.part_of(rows.size).start
        whole = Whole(sampler.rank, sampler.world, start, rows.size, labels)
        return replace(cells, whole=whole)


def _one_by_one(groups: Generator[list[Cells], None, None]) -> Generator[Cells, None, None]:
    try:
        for group in groups:
            yield from group
    finally:
        groups.close()


def _ahead(groups: Iterator[list[Cells]], depth: int) -> Generator[list[Cells], None, None]:
    """Let a thread read up to `depth` groups ahead; its errors are raised where they are due."""
    done: queue.Queue[list[Cells] | BaseException | None] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: list[Cells] | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                done.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def read() -> None:
        try:
            for group in groups:
                put(group)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=read, name="kernomics-reader", daemon=True)
    thread.start()
    try:
        while (item := done.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
