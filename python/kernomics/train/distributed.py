"""Many processes, or ranks, that train one model: the only place that knows torch.distributed.

Every rank takes its part of each global batch, and they add up their gradients, each weighed by its
share of the cells, so that all make the step that one process would make. What is a mean over
something else than cells asks :func:`over_ranks` what to divide by. One process has no group, and
every method here is then a way of returning its argument.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import json
import os
import signal
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.distributed as torch_distributed
from torch import Tensor, nn
from torch.optim import Optimizer

from kernomics.errors import ConfigError, KernomicsError, TrainingError
from kernomics.train.gradients import Gradients, rows_of
from kernomics.train.interfaces import Batch, Draws
from kernomics.train.places import LIMIT, Place, limit, place_of
from kernomics.train.watch import Watch

dist: Any = torch_distributed  # whose stores have no types


SHORT = 1016
"""Bytes of what the first rank tells that are sent at once; of more the rest comes after."""


class Part(NamedTuple):
    """Which cells of a global batch are this rank's: `own` of `whole`, from `start` on."""

    own: int
    start: int
    whole: int


class Alone:
    """One process: nothing is sent anywhere."""

    rank, world, local = 0, 1, 0

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes, prints and shows progress."""
        return self.rank == 0

    @property
    def many(self) -> bool:
        """Whether there are others."""
        return self.world > 1

    def parts(self, batches: Sequence[Batch]) -> list[Part]:
        """Tell which part of each of the next batches is this rank's."""
        return [Part(len(batch), 0, len(batch)) for batch in batches]

    @contextlib.contextmanager
    def computing(self, part: Part, draws: Draws | None) -> Generator[None, None, None]:
        """While a loss is computed, let counts and draws be those of the global batch."""
        yield

    def reduce(
        self,
        parameters: Sequence[nn.Parameter],
        optimizer: Optimizer,
        means: Mapping[str, float],
        part: Part,
        words: Sequence[int],
        received: signal.Signals | None,
    ) -> tuple[dict[str, float], list[int], signal.Signals | None]:
        """Add up the gradients, the means by each rank's cells, words, and all ranks' signals."""
        return dict(means), list(words), received

    def signal(self, received: signal.Signals | None) -> signal.Signals | None:
        """Return the signal that any rank has received."""
        return received

    def told(self, value: Any) -> Any:
        """Return the first rank's value, which JSON can hold."""
        return value

    def require_same(self, **values: Any) -> None:
        """Refuse to go on where ranks differ from the first one in what must be the same."""

    def spread(self, module: nn.Module) -> None:
        """Give every rank the first one's weights and buffers."""

    def wait(self) -> None:
        """Wait until every rank has come here."""

    def failed(self, error: BaseException) -> None:
        """Tell the others that this rank cannot go on, and why."""

    def leave(self) -> None:
        """Take leave of the others, when all is done."""


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
            _begin_group(place, seconds)
            if self._ours
            else dist.distributed_c10d._get_default_store()
        )
        self.watch = Watch(_another(store), self.rank, self.world, seconds)
        # Whose gradients were there in the step before.
        self._sent: WeakKeyDictionary[Optimizer, list[bool]] = WeakKeyDictionary()
        self._lost: str | None = None
        self.watch.begin()

    # -- collectives -----------------------------------------------------------------------------

    def _sum(self, tensor: Tensor) -> Tensor:
        with self._together():
            dist.all_reduce(tensor)
        return tensor

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

    def lose(self, why: str) -> str:
        """Give up the group; whoever asks anything of it later is told why."""
        self._lost = why
        self.watch.end()
        with contextlib.suppress(Exception):
            dist.destroy_process_group()
        return why

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
        global _part
        if draws is not None:
            draws.of_part(part.start, part.own, part.whole)
        _part = part
        try:
            yield
        finally:
            _part = None
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
            agreed = self._any(there)
        rows = rows_of(optimizer)
        while True:
            surprise = any(here and not sent for here, sent in zip(there, agreed, strict=True))
            buffer = Gradients(parameters, agreed, rows)
            notes = [float(surprise), *_as_counts(received), buffer.rows_sum, float(part.own)]
            notes += _as_bytes(words)
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
        totals = _as_words(head[5 : len(notes)])
        return dict(zip(means, sums, strict=True)), totals, _as_signal(head[1], head[2])

    def _any(self, here: Sequence[bool]) -> list[bool]:
        flags = torch.tensor([float(one) for one in here])
        return [count > 0 for count in self._sum(flags).tolist()]

    # -- what all must agree on ------------------------------------------------------------------

    def signal(self, received: signal.Signals | None) -> signal.Signals | None:
        """Return the signal that any rank has received."""
        return _as_signal(*self._sum(torch.tensor(_as_counts(received))).tolist())

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
            why = str(error) if isinstance(error, KernomicsError) else _told(error)
            self.watch.tell(why)
            self.lose(f"{self.watch.name} stopped: {why}")

    def leave(self) -> None:
        """Take leave of the others, when all is done."""
        if self._lost is None:
            self.watch.leave()
            if self._ours:
                self.lose("the ranks have parted: their training is over")


def _as_counts(received: signal.Signals | None) -> list[float]:
    return [float(received == signal.SIGINT), float(received == signal.SIGTERM)]


def _as_signal(interrupts: float, terms: float) -> signal.Signals | None:
    if interrupts:
        return signal.SIGINT
    return signal.SIGTERM if terms else None


def _as_bytes(words: Sequence[int]) -> list[float]:
    """Return words of 64 bits as numbers whose sums over ranks float32 holds exactly."""
    return [float(byte) for word in words for byte in word.to_bytes(8, "little")]


def _as_words(sums: Sequence[float]) -> list[int]:
    """Return the sums of words, modulo 2⁶⁴, from those of their bytes."""
    eights = [sums[i : i + 8] for i in range(0, len(sums), 8)]
    return [sum(round(one) << 8 * j for j, one in enumerate(e)) % 2**64 for e in eights]


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


# -- the ranks of this process --------------------------------------------------------------------

_current: Alone | None = None
_part: Part | None = None  # of the batch whose loss is computed now


def ranks() -> Alone:
    """Return this process among those that train together, started by torchrun, Slurm or a script.

    A group of torch.distributed that a script has begun is used as it is.
    """
    global _current
    if _current is None:
        place: Place | None = place_of()
        if dist.is_available() and dist.is_initialized():
            rank, world = dist.get_rank(), dist.get_world_size()
            local = int(os.environ.get("LOCAL_RANK", rank))
            place = Place(rank, world, local, "", 0) if world > 1 else None
        _current = found = Alone() if place is None else Ranks(place)
        if found.many:
            _hook(found)
        return found
    return _current


@contextlib.contextmanager
def together() -> Generator[Alone, None, None]:
    """Return the ranks; should this one fail inside the block, the others are told why."""
    one = ranks()
    try:
        yield one
    except Exception as error:
        one.failed(error)
        raise


def first_alone() -> None:
    """Let the first rank go on as one process; the others end here, with success."""
    global _current
    one = ranks()
    if one.many:
        one.wait()
        one.leave()
        _current = Alone()
        if not one.first:
            raise SystemExit(0)


def over_ranks(
    *counts: Tensor | int, of_whole: Callable[[], Sequence[Tensor | int]] | None = None
) -> list[Any]:
    """Return by what this rank divides a sum over what it has counted, never 0.

    It is such that the mean over all ranks, weighted by their cells, of sum / number is the sum of
    all sums over the sum of all counts. One process, or one that does not train just now, divides
    by its own count. All ranks must ask, with as many counts; they then exchange them, which
    `of_whole`, what all ranks together count, saves where a rank can tell it by itself.
    """
    part = _part
    if part is None:
        return [max(1, n) if isinstance(n, int) else _at_least(n) for n in counts]
    if of_whole is not None:
        return [float(total) * part.own / part.whole or 1.0 for total in of_whole()]
    own = torch.stack([torch.as_tensor(n, dtype=torch.float64, device="cpu") for n in counts])
    one = ranks()
    assert isinstance(one, Ranks)
    sums = one._sum(own if part.own else torch.zeros_like(own)).tolist()
    return [total * part.own / part.whole or 1.0 for total in sums]


def _at_least(count: Tensor) -> Tensor:
    least = torch.finfo(count.dtype).tiny if count.is_floating_point() else 1
    return count.clamp_min(least)


def own_device(device: torch.device) -> torch.device:
    """Return the GPU of this rank on its machine, where ``"cuda"`` alone was asked for."""
    one = ranks()
    if str(device) != "cuda" or not one.many:
        return device
    count = torch.cuda.device_count()
    if one.local >= count:
        raise ConfigError(
            f"rank {one.rank} is number {one.local} on its machine, which has {count} GPUs: start "
            "one process for each GPU"
        )
    torch.cuda.set_device(one.local)
    return torch.device("cuda", one.local)


def _begin_group(place: Place, seconds: float) -> Any:
    """Begin the process group; return the store by which the ranks found each other."""
    os.environ.update(
        RANK=str(place.rank),
        WORLD_SIZE=str(place.world),
        LOCAL_RANK=str(place.local),
        MASTER_ADDR=place.address,
        MASTER_PORT=str(place.port),
    )
    span = datetime.timedelta(seconds=seconds)
    try:
        store, rank, world = next(iter(dist.rendezvous("env://", timeout=span)))
        nccl = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if nccl else "gloo",
            store=dist.PrefixStore("kernomics", store),
            rank=rank,
            world_size=world,
            timeout=span,
        )
    except RuntimeError as error:
        raise TrainingError(
            f"rank {place.rank} of {place.world} did not find the others at {place.address}, port "
            f"{place.port}, within {seconds:g} s ({error}): start as many processes, and set "
            f"MASTER_ADDR and MASTER_PORT if they are on several machines; {LIMIT} sets the seconds"
        ) from error
    return store


def _another(store: Any) -> Any:
    """Return another connection to a store, for a thread of its own."""
    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    if isinstance(store, dist.TCPStore):
        span = datetime.timedelta(seconds=10)
        store = dist.TCPStore(
            store.host, store.port, is_master=False, wait_for_workers=False, timeout=span
        )
    begun = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"kernomics-watch/{begun}", store)


def _hook(one: Alone) -> None:
    """Tell the others of an error that nobody catches, and take leave when the process ends."""
    before = sys.excepthook

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, Exception):
            one.failed(error)
        before(kind, error, trace)

    sys.excepthook = tell
    atexit.register(one.leave)
