"""`Ranks`: one of several processes that train together."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from collections.abc import Generator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kernomics.errors import ConfigError, KernomicsError, TrainingError
from kernomics.train.distributed.alone import Alone
from kernomics.train.distributed.group import another_connection, begin_group, dist
from kernomics.train.distributed.part import Part, loss_of
from kernomics.train.distributed.room import KINDS, Room, shared_room
from kernomics.train.distributed.sharding import Sharding
from kernomics.train.distributed.words import as_bytes, as_counts, as_signal, as_words
from kernomics.train.gradients import Gradients, rows_of
from kernomics.train.holding import Holding
from kernomics.train.interfaces import Batch, Draws
from kernomics.train.places import Place, limit
from kernomics.train.watch import Watch

SHORT = 1016
"""Bytes of what the first rank tells that are sent at once; of more the rest comes after."""


class Ranks(Alone):
    """One of several processes.

    Parameters
    ----------
    place
        Which, and where the others are found.
    """

    def __init__(self, place: Place) -> None:
        self.rank, self.world, self.local = place.rank, place.world, place.local
        seconds = limit()
        self._ours = not dist.is_initialized()
        store = (
            begin_group(place, seconds)
            if self._ours
            else dist.distributed_c10d._get_default_store()
        )
        self.watch = Watch(another_connection(store), self.rank, self.world, seconds)
        # Whose gradients were there in the step before.
        self._sent: WeakKeyDictionary[Optimizer, list[bool]] = WeakKeyDictionary()
        self._lost: str | None = None
        self._room: Room | None = None
        self._asks_room = True
        self.watch.begin()

    # -- collectives -----------------------------------------------------------------------------

    def _sum(self, tensor: Tensor) -> Tensor:
        """Add up a contiguous tensor over all ranks, in place."""
        with self._together():
            if tensor.device.type == "cpu" and tensor.dtype in KINDS and self._has_room():
                assert self._room is not None
                self._room.sum(tensor, lambda: self.watch.heard)
            else:
                dist.all_reduce(tensor)
        return tensor

    def _has_room(self) -> bool:
        """Tell whether all ranks are on one machine and have memory in common."""
        if self._asks_room:
            self._asks_room = False
            self._room = shared_room(self.rank, self.world, limit(), self.told, self._all)
        return self._room is not None

    def _all(self, here: bool) -> bool:
        flag = torch.tensor([float(here)])
        with self._together():
            dist.all_reduce(flag)
        return float(flag) == self.world

    @contextlib.contextmanager
    def _together(self) -> Generator[None, None, None]:
        """Say which rank is gone, and why, where a collective fails."""
        if self._lost is not None:
            raise TrainingError(self._lost)
        self.watch.calls += 1
        try:
            yield
        except RuntimeError as error:
            raise TrainingError(self.lose(self.watch.explain(str(error)))) from error

    @contextlib.contextmanager
    def torchs_own(self) -> Generator[None, None, None]:
        """Say which rank is gone, and why, where collectives fail that torch makes by itself."""
        self.watch.calls += 1
        try:
            yield
        except RuntimeError as error:
            if not re.search(r"gloo|nccl|[Cc]onnection|[Tt]imed out", str(error)):
                raise
            raise TrainingError(self.lose(self.watch.explain(str(error)))) from error

    def lose(self, why: str) -> str:
        """Give up the group; whoever asks anything of it later is told why."""
        self._lost = why
        self.watch.end()
        self._leave_room()
        with contextlib.suppress(Exception):
            dist.destroy_process_group()
        return why

    def _leave_room(self) -> None:
        if self._room is not None:
            self._room.close()
            self._room, self._asks_room = None, False

    def parts(self, batches: Sequence[Batch]) -> list[Part]:
        """Tell which part of each of the next batches is this rank's.

        Those of a `kernomics.data.Loader` know it; of others the ranks tell each other the sizes.
        """
        wholes = [getattr(batch, "whole", None) for batch in batches]
        known = [whole for whole in wholes if whole is not None]
        for whole in known:
            if (whole.rank, whole.world) != (self.rank, self.world):
                raise ConfigError(
                    f"the batches are those of rank {whole.rank} of {whole.world}, and this is "
                    f"rank {self.rank} of {self.world}: make the sampler with this rank and world"
                )
        sizes = [len(batch) for batch in batches]
        if len(known) == len(sizes):
            return [
                Part(size, whole.start, whole.n_cells)
                for size, whole in zip(sizes, known, strict=True)
            ]
        table = torch.zeros(self.world, len(sizes), dtype=torch.float64)
        table[self.rank] = torch.tensor(list(sizes), dtype=torch.float64)
        ends = self._sum(table).long().cumsum(0)
        return [
            Part(size, int(end) - size, int(whole))
            for size, end, whole in zip(sizes, ends[self.rank], ends[-1], strict=True)
        ]

    @contextlib.contextmanager
    def computing(self, part: Part, draws: Draws | None) -> Generator[None, None, None]:
        """While a loss is computed, let counts and draws be those of the global batch."""
        if draws is not None:
            draws.of_part(part.start, part.own, part.whole)
        try:
            with loss_of(part):
                yield
        finally:
            if draws is not None:
                draws.of_part(0, 0, 0)

    # -- gradients -------------------------------------------------------------------------------

    def reduce(
        self,
        parameters: Sequence[nn.Parameter],
        optimizer: Optimizer,
        means: Mapping[str, float],
        part: Part,
        words: Sequence[int],
        received: signal.Signals | None,
    ) -> tuple[dict[str, float], list[int], signal.Signals | None]:
        """Add up the gradients, the means by each rank's cells, words, and all ranks' signals.

        Words have 64 bits, and are added up modulo 2⁶⁴. All goes in one buffer. Which gradients are
        in it was agreed in the step before; a rank that has another one says so, and the step is
        sent again. Of a table of which the optimizer updates some rows (`RowAdamW`), these rows
        alone are sent. A parameter without a gradient on any rank has none afterwards.
        """
        there = [p.grad is not None for p in parameters]
        agreed = self._sent.get(optimizer)
        if agreed is None:
            agreed = self._any(there) if there else []
        rows = rows_of(optimizer)
        while True:
            surprise = any(here and not sent for here, sent in zip(there, agreed, strict=True))
            buffer = Gradients(parameters, agreed, rows)
            notes = [float(surprise), *as_counts(received), buffer.rows_sum, float(part.own)]
            notes += as_bytes(words)
            counts = [float(here) for here, sent in zip(there, agreed, strict=True) if sent]
            values = [part.own / part.whole * value for value in means.values()]
            found = buffer.pack([*notes, *counts, *values])
            self._sum(found)
            head = found[: len(notes) + len(counts) + len(values)].tolist()
            if not head[0]:
                break
            agreed = self._any(there)
        if round(head[3]) != round(self.world * buffer.rows_sum):
            raise TrainingError(
                f"{self.watch.name} updates other rows of a table than the other ranks: what is "
                "drawn in a step must hang on the seed and the step alone"
            )
        if round(head[4]) != part.whole:
            raise TrainingError(
                f"the ranks have {round(head[4]):,} cells in a step, and {part.whole:,} belong to "
                "it: each must train on all cells of its part of a batch"
            )
        counts = head[len(notes) : len(notes) + len(counts)]
        buffer.unpack(found, counts)
        present = iter(counts)
        self._sent[optimizer] = [sent and next(present) > 0 for sent in agreed]
        sums = head[len(notes) + len(counts) :]
        totals = as_words(head[5 : len(notes)])
        return dict(zip(means, sums, strict=True)), totals, as_signal(head[1], head[2])

    def _any(self, here: Sequence[bool]) -> list[bool]:
        flags = torch.tensor([float(one) for one in here])
        return [count > 0 for count in self._sum(flags).tolist()]

    def added(self, value: float) -> float:
        """Return the sum of a number over all ranks."""
        return float(self._sum(torch.tensor([value], dtype=torch.float64)))

    def hold(self, module: nn.Module, optimizer: Optimizer, *, shard: bool) -> Holding:
        """Return where the weights are from now on; each rank has a part if `shard` is set."""
        return Sharding(self, module, optimizer) if shard else Holding(module, optimizer)

    # -- what all must agree on ------------------------------------------------------------------

    def signal(self, received: signal.Signals | None) -> signal.Signals | None:
        """Return the signal that any rank has received."""
        return as_signal(*self._sum(torch.tensor(as_counts(received))).tolist())

    def told(self, value: Any) -> Any:
        """Return the first rank's value, which JSON can hold."""
        text = json.dumps(value).encode() if self.first else b""
        head = len(text).to_bytes(8, "little") + text[:SHORT]
        told = self._sent_by_first(head.ljust(8 + SHORT, b"\0"))
        size, told = int.from_bytes(told[:8], "little"), told[8:]
        if size > SHORT:
            told += self._sent_by_first(text[SHORT:].ljust(size - SHORT, b"\0"))
        return json.loads(told[:size])

    def _sent_by_first(self, data: bytes) -> bytes:
        """Return the first rank's bytes, as many as are given here."""
        text = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        with self._together():
            dist.broadcast(text, 0)
        return text.numpy().tobytes()

    def require_same(self, **values: Any) -> None:
        """Refuse to go on where ranks differ from the first one in what must be the same."""
        firsts = self.told(values)
        differing = [name for name, value in values.items() if firsts[name] != value]
        if differing:
            name = differing[0]
            raise ConfigError(
                f"{self.watch.name} has {name.replace('_', ' ')} {values[name]!r}, and rank 0 "
                f"{firsts[name]!r}: start all ranks with the same command, on the same files"
            )
        self.wait()

    def spread(self, module: nn.Module) -> None:
        """Give every rank the first one's weights and buffers."""
        tensors = [*module.parameters(), *module.buffers()]
        for kind in dict.fromkeys((t.dtype, t.device) for t in tensors):
            alike = [t.detach() for t in tensors if (t.dtype, t.device) == kind]
            as_bytes = [t.contiguous().reshape(-1).view(torch.uint8) for t in alike]
            flat = torch.cat(as_bytes)
            with self._together():
                dist.broadcast(flat, 0)
            for t, part in zip(alike, torch.split(flat, [len(b) for b in as_bytes]), strict=True):
                t.copy_(part.clone().view(t.dtype).view_as(t))

    def wait(self) -> None:
        """Wait until every rank has come here."""
        self._sum(torch.zeros(1))

    # -- the end ---------------------------------------------------------------------------------

    def failed(self, error: BaseException) -> None:
        """Tell the others that this rank cannot go on, and why."""
        if self._lost is None:
            why = (
                str(error)
                if isinstance(error, KernomicsError)
                else f"{type(error).__name__}: {error}"
            )
            self.watch.tell(why)
            self.lose(f"{self.watch.name} stopped: {why}")

    def leave(self) -> None:
        """Take leave of the others, when all is done."""
        if self._lost is None:
            self.watch.end()
            self.watch.leave()
            self._leave_room()
            if self._ours:
                self.lose("the ranks have parted: their training is over")
