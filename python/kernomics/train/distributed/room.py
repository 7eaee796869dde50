"""`Room`: memory that the ranks of one machine share, in which they add up tensors."""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kernomics.ops._native import cpu

WANTED = "KERNOMICS_SHARED_MEMORY"
"""Environment variable: 0 makes ranks of one machine use the network."""
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
        self.slot = min(SLOT, ALL_SLOTS // (2 * world)) // 4096 * 4096
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
        """
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
                state, rank = cpu().shared_add(*call, LOOK)
                if state == DONE:
                    break
                if state == DIFFERS:
                    raise Gone(f"rank {rank} adds up another number of values")
                why = heard()
                if why is not None:
                    raise Gone(why)
                if self._ended(rank):
                    raise Gone(f"Connection closed by rank {rank}")
                if time.monotonic() - begun > self.limit:
                    raise Gone(f"Timed out after {self.limit:g} s of waiting for rank {rank}")

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


def room_size(world: int) -> int:
    """Return the bytes of a room."""
    slot = min(SLOT, ALL_SLOTS // (2 * world)) // 4096 * 4096
    return world * ARRIVAL + 2 * world * slot


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
    path = None
    if rank == 0 and os.environ.get(WANTED, "1") != "0":
        path = make_file(world)
    name = told(str(path or ""))
    room = None
    try:
        if name:
            room = Room(Path(name), rank, world, limit)
    except (OSError, ValueError):  # another machine, or a container of its own
        room = None
    try:
        everywhere = all_can(room is not None)
    finally:
        if path is not None:
            path.unlink()
    if room is not None and not everywhere:
        room.close()
        room = None
    return room
