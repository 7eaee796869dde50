"""`Room`: memory that the ranks of one machine share, in which they add up tensors."""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kernomics.errors import ConfigError
from kernomics.ops._native import cpu

WANTED = "KERNOMICS_SHARED_MEMORY"
"""Environment variable: 0, on any rank, makes those of one machine use the network."""
FOLDER = Path("/dev/shm")
KINDS = {torch.float32: 0, torch.float64: 1, torch.int64: 2}
"""SumKind of csrc/cpu/shared_sum.h."""
ARRIVAL = 64
"""Bytes of an Arrival there."""
SLOT, ALL_SLOTS = 2**20, 2**25
"""Most bytes of a rank's numbers in a turn, which stay in the second cache, and of all slots."""
LOOK = 0.1
"""Seconds after which a rank that waits looks whether the others are alive."""
DONE, WAITING, DIFFERS = range(3)


class Gone(RuntimeError):
    """A rank does not come to where the others wait for it."""


class Room:
    """A file in memory that all ranks have open; see csrc/cpu/shared_sum.h.

    A rank holds a lock on the byte of its number while it lives; the system takes it away from a
    process that ends in whatever way.

    Parameters
    ----------
    path
        The file.
    rank, world
        Which of how many.
    limit
        Seconds that the others are waited for.
    """

    def __init__(self, path: Path, rank: int, world: int, limit: float) -> None:
        self.rank, self.world, self.limit = rank, world, limit
        self.slot = slot_size(world)
        self.turn = 0
        self._file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, rank)
            self._map = mmap.mmap(self._file, room_size(world))
        except BaseException:
            os.close(self._file)
            raise
        self._bytes: np.ndarray | None = np.frombuffer(self._map, np.uint8)
        self._address = self._bytes.ctypes.data

    def sum(self, values: Tensor, heard: Callable[[], str | None]) -> None:
        """Add up a tensor over all ranks, in place.

        Parameters
        ----------
        values
            Any shape; float32, float64 or int64, on the CPU, contiguous. The same on all ranks.
        heard
            Tells why the training cannot go on, once it is known; asked while others are waited
            for.

        Raises
        ------
        Gone
            If a rank died, failed, or does not come within the limit.
        ValueError
            If the values are not contiguous.
        """
        if not values.is_contiguous():  # of which other memory would be overwritten
            raise ValueError(f"values of shape {tuple(values.shape)} are not contiguous")
        size = values.element_size()
        step = self.slot // size
        for first in range(0, values.numel(), step):
            self.turn += 1
            call = (
                *(self._address, self.world, self.rank, self.slot, self.turn, KINDS[values.dtype]),
                *(min(step, values.numel() - first), values.data_ptr() + first * size),
            )
            cpu().shared_put(*call)
            begun = time.monotonic()
            while True:
                state, late = cpu().shared_add(*call, LOOK)
                why = self._lost(late, begun, heard) if state == WAITING else None
                if why is not None:  # it may have come since, and gone because all was done
                    state, rank = cpu().shared_add(*call, 0.0)
                    if state == WAITING and rank == late:
                        raise Gone(why)
                    late = rank
                if state == DONE:
                    break
                if state == DIFFERS:
                    raise Gone(f"rank {late} adds up values of another number or kind")

    def _lost(self, rank: int, begun: float, heard: Callable[[], str | None]) -> str | None:
        """Return why a rank is waited for no longer, None if it is."""
        why = heard()
        if why is None and self._ended(rank):
            why = f"Connection closed by rank {rank}"
        if why is None and time.monotonic() - begun > self.limit:
            why = f"Timed out after {self.limit:g} s of waiting for rank {rank}"
        return why

    def _ended(self, rank: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, rank)
        except OSError:
            return False
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, rank)
        return True

    def close(self) -> None:
        """Leave; the memory goes when all have left."""
        if self._bytes is not None:
            self._bytes = None
            self._map.close()
            os.close(self._file)


def slot_size(world: int) -> int:
    """Return the bytes of a slot, whole pages."""
    return min(SLOT, ALL_SLOTS // (2 * world)) // 4096 * 4096


def room_size(world: int) -> int:
    """Return the bytes of a room: an arrival and two slots for each rank."""
    return world * (ARRIVAL + 2 * slot_size(world))


def make_file(world: int) -> Path | None:
    """Make the file of a room; None where the system has no such memory, or not enough of it."""
    path = FOLDER / f"kernomics-{secrets.token_hex(16)}"
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        os.posix_fallocate(file, 0, room_size(world))  # so that no page is missing later
    except OSError:
        path.unlink()
        return None
    finally:
        os.close(file)
    return path


def wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether ranks of one machine are to share memory."""
    text = environment.get(WANTED, "1")
    if text not in ("", "0", "1"):
        raise ConfigError(f"{WANTED} is {text!r}: give 0 to use the network, or 1")
    return text != "0"


def shared_room(
    rank: int, world: int, limit: float, told: Callable[[str], str], all_can: Callable[[bool], bool]
) -> Room | None:
    """Return the room of all ranks, None if they cannot share one.

    Parameters
    ----------
    told
        Returns the first rank's value.
    all_can
        Tells whether all ranks say yes.
    """
    if not all_can(wanted()):  # so that no file waits for ranks that are late
        return None
    path = make_file(world) if rank == 0 else None
    room = None
    try:
        name = told(str(path or ""))
        try:
            if name:
                room = Room(Path(name), rank, world, limit)
        except (OSError, ValueError):  # another machine, or a container of its own
            room = None
        everywhere = all_can(room is not None)
    except BaseException:
        if room is not None:
            room.close()
        raise
    finally:
        if path is not None:
            path.unlink(missing_ok=True)
    if room is not None and not everywhere:
        room.close()
        room = None
    return room
