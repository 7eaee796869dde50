"""The ranks of this process: which one it is, and what is asked while a loss is computed."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Callable, Generator, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from kernomics.errors import ConfigError
from kernomics.train.distributed.alone import Alone
from kernomics.train.distributed.group import dist
from kernomics.train.distributed.many import Ranks
from kernomics.train.distributed.part import computed
from kernomics.train.places import Place, place_of

_current: Alone | None = None


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
    part = computed()
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


def _hook(one: Alone) -> None:
    """Tell the others of an error that nobody catches, and take leave when the process ends.

    A process that this one forks is no rank, however it ends.
    """
    before, process = sys.excepthook, os.getpid()

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, Exception) and os.getpid() == process:
            one.failed(error)
        before(kind, error, trace)

    def leave() -> None:
        if os.getpid() == process:
            one.leave()

    sys.excepthook = tell
    atexit.register(leave)
