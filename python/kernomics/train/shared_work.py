"""Work on cells that ranks share and nobody learns from: representing, predicting, attributing.

The cells are cut into pieces, of which each rank computes every `world`-th, and the first one is
sent them in their order, one at a time: it writes them where one process would have written them. A
piece is made of the same batches as in one process, so that the result is the same to the bit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as torch_distributed
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from kernomics.errors import TrainingError
from kernomics.train.distributed import Alone, Ranks, ranks
from kernomics.train.places import limit

dist: Any = torch_distributed

CELLS_OF_A_PIECE = 256
"""At most, where a batch has no more: what a rank holds of its results, and reads in one place."""
DONE = "done"

Item = TypeVar("Item")


def pieces(n_rows: int, batch_size: int, world: int) -> list[slice]:
    """Cut rows into pieces of whole batches, with some for every rank where there are enough."""
    n_batches = -(-n_rows // batch_size)
    step = batch_size * max(1, min(CELLS_OF_A_PIECE // batch_size, -(-n_batches // world)))
    return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


# -- from all ranks to the first -------------------------------------------------------------------


def _round(one: Alone, own: Tensor | None) -> Iterator[Tensor | None]:
    """Yield on the first rank what bytes each rank gives, in their order; None where it has none.

    All ranks take part, and the others yield nothing.
    """
    assert isinstance(one, Ranks)
    with one._together():
        if not one.first:
            dist.send(torch.tensor([-1 if own is None else len(own)]), 0)
            if own is not None and len(own):
                dist.send(own, 0)
            return
        yield own
        for rank in range(1, one.world):
            size = torch.zeros(1, dtype=torch.int64)
            dist.recv(size, rank)
            data = torch.empty(max(0, int(size)), dtype=torch.uint8)
            if len(data):
                dist.recv(data, rank)
            yield None if size < 0 else data


class InOrder:
    """What the rows of this rank are written to; on the first rank they all arrive in `place`.

    Parameters
    ----------
    one
        This process among the ranks.
    parts
        The pieces of all rows.
    width
        Numbers of a row.
    place
        On the first rank an array [n_rows, width], written from its first row to its last.
    """

    def __init__(self, one: Alone, parts: Sequence[slice], width: int, place: Any = None) -> None:
        self.one, self.parts, self.place = one, parts, place
        self.own = parts[one.rank :: one.world]
        self.shape = (sum(part.stop - part.start for part in self.own), width)
        self._filled, self._rounds = 0, 0
        self._piece = self._next()

    def _next(self) -> NDArray[np.float32]:
        """Return room for this rank's next piece."""
        n_rows = 0
        if self._rounds < len(self.own):
            part = self.own[self._rounds]
            n_rows = part.stop - part.start
        return np.empty((n_rows, self.shape[1]), np.float32)

    def __setitem__(self, rows: slice, values: NDArray[np.float32]) -> None:
        """Take the next rows; a piece that is whole goes to the first rank."""
        assert isinstance(self.one, Ranks)
        if self.one.watch.heard is not None:  # before a piece is whole, which may take long
            raise TrainingError(self.one.lose(self.one.watch.heard))
        taken = 0
        while taken < len(values):
            some = values[taken : taken + len(self._piece) - self._filled]
            self._piece[self._filled : self._filled + len(some)] = some
            taken, self._filled = taken + len(some), self._filled + len(some)
            if self._filled == len(self._piece):
                self._send(self._piece)

    def _send(self, piece: NDArray[np.float32] | None) -> None:
        own = None if piece is None else torch.from_numpy(piece.reshape(-1).view(np.uint8))
        first = self._rounds * self.one.world
        for number, data in enumerate(_round(self.one, own), start=first):
            if data is not None:
                found = data.numpy().view(np.float32)
                self.place[self.parts[number]] = found.reshape(-1, self.shape[1])
        self._rounds, self._filled = self._rounds + 1, 0
        self._piece = self._next()

    def finish(self) -> None:
        """Take part until the others have sent their last piece too."""
        while self._rounds * self.one.world < len(self.parts):
            self._send(None)


def in_order(
    one: Alone, items: Sequence[Item], compute: Callable[[Item], Mapping[str, Tensor]]
) -> Iterator[dict[str, Tensor]]:
    """Yield on the first rank the tensors that are computed of each item, in their order.

    Each rank computes every `world`-th item; the others yield nothing.
    """
    for start in range(0, len(items), one.world):
        own = None
        if start + one.rank < len(items):
            found = compute(items[start + one.rank])
            # Each in memory of its own, as the format wants it.
            whole = torch.contiguous_format
            data = save({n: t.detach().cpu().clone(memory_format=whole) for n, t in found.items()})
            own = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        for received in _round(one, own):
            if received is not None:
                yield load(received.numpy().tobytes())


# -- who shares ------------------------------------------------------------------------------------

_sharing: Alone | None = None


@contextmanager
def sharing() -> Generator[None, None, None]:
    """Let the ranks share what is done in the block, where it can be; `sharers` are they."""
    global _sharing
    _sharing = ranks()
    try:
        yield
    finally:
        _sharing = None


def sharers() -> Alone:
    """Return the ranks that share this work: one process, except in `sharing`."""
    return Alone() if _sharing is None else _sharing


# -- what the first rank asks for ------------------------------------------------------------------


class Crew:
    """The first rank at its work, and the others, which help where it asks them to.

    While the first one is busy with something else, it says so from time to time, so that they wait
    however long that takes.

    Parameters
    ----------
    one
        This process among the ranks.
    every
        Seconds between two such messages; by default a quarter of those within which a rank must
        answer.
    """

    def __init__(self, one: Alone, every: float | None = None) -> None:
        self.one = one
        self.every = limit() / 4 if every is None else every
        self._asking, self._over = threading.Lock(), threading.Event()

    def requests(self) -> Iterator[Any]:
        """Yield what the first rank asks of the others, until it needs them no longer."""
        while (said := self.one.told(None)) != DONE:
            if said is not None:
                yield said

    @contextmanager
    def at_work(self) -> Generator[None, None, None]:
        """Let the first rank ask for help in the block, and then the others go."""
        thread = threading.Thread(target=self._say_busy, name="kernomics-crew", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
        self.one.told(DONE)

    @contextmanager
    def asking(self, request: Any) -> Generator[None, None, None]:
        """Ask the others for what JSON can hold, and take part in it in the block."""
        with self._asking:
            self.one.told(request)
            try:
                yield
            except Exception as error:  # the others wait in the midst of it, whoever catches this
                self.one.failed(error)
                raise

    def _say_busy(self) -> None:
        while not self._over.wait(self.every):
            with self._asking:
                try:
                    self.one.told(None)
                except TrainingError:
                    return  # whoever asks the others next is told
