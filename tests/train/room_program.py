"""One rank in a room: `room_program.py ROOM RANK WORLD LIMIT JOB` writes what it found in JSON."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import torch

from kernomics.train.distributed.room import Gone, Room

DTYPES = (torch.float32, torch.float64, torch.int64)


def values(rank: int, i: int, slot: int) -> torch.Tensor:
    """Return what a rank gives in a sum: of every kind, and sizes about the ends of a slot."""
    dtype = DTYPES[i % 3]
    whole = slot // dtype.itemsize
    size = (1, 0, 7, 1025, whole - 1, whole, whole + 1, 2 * whole + 3)[i % 8]
    generator = torch.Generator().manual_seed(1000 * i + rank)
    if dtype == torch.int64:
        return torch.randint(-(2**62), 2**62, (size,), generator=generator)
    return torch.randn(size, generator=generator, dtype=dtype) * 10.0 ** (rank % 5)


def main() -> None:
    """Do the job."""
    rank, world, limit, job = int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5]
    room = Room(Path(sys.argv[1]), rank, world, limit)
    Path(f"{sys.argv[1]}.{rank}").touch()
    while not all(Path(f"{sys.argv[1]}.{r}").exists() for r in range(world)):
        time.sleep(0.01)
    if job == "sums":
        wrong, clock = [], random.Random(rank)
        for i in range(48):
            own = values(rank, i, room.slot)
            room.sum(own, lambda: None)
            expected = values(0, i, room.slot)
            for other in range(1, world):
                expected += values(other, i, room.slot)
            if own.numpy().tobytes() != expected.numpy().tobytes():
                wrong.append(i)
            time.sleep(clock.choice((0, 0, 0.001, 0.003)))
        print(json.dumps({"wrong": wrong, "turns": room.turn}))
        return
    room.sum(torch.ones(5), lambda: None)
    if rank == world - 1:  # which the others wait for
        if job in ("sleeps", "told"):
            time.sleep(30)
        if job == "differs":
            room.sum(torch.ones(6), lambda: None)
        if job == "kinds":  # of as many bytes as the others'
            room.sum(torch.ones(2, dtype=torch.float64), lambda: None)
        return
    begun = time.monotonic()
    heard = (lambda: "rank 7 stopped: no disk") if job == "told" else (lambda: None)
    try:
        room.sum(torch.ones(4 if job == "kinds" else 5), heard)
    except Gone as error:
        print(json.dumps({"why": str(error), "seconds": time.monotonic() - begun}))


if __name__ == "__main__":
    main()
