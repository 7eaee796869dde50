"""What a training's processes send, as the system counts it, beside what the cost model says."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from kernomics.train.cost import bytes_sent
from kernomics.train.distributed import ranks
from kernomics.train.step import Stepper

BYTES_SENT = 200
"""Where Linux's ``struct tcp_info`` has tcpi_bytes_sent."""


def sent_by_sockets() -> int:
    """Return the bytes that this process's TCP connections have sent so far."""
    total = 0
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if not str(path.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(path.name))) as one:
                info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                total += struct.unpack_from("Q", info, BYTES_SENT)[0]
    return total


def gradient_numbers(module: nn.Module) -> int:
    """Return how many numbers the gradients of the last step hold."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return sum((g._values() if g.is_sparse else g).numel() for g in gradients)


@contextlib.contextmanager
def steps_watched() -> Iterator[list[tuple[float, float]]]:
    """Yield, of each step inside the block, the bytes predicted and those that were sent."""
    found: list[tuple[float, float]] = []
    take = Stepper.take

    def watched(stepper: Stepper, *args: Any) -> Any:
        before = sent_by_sockets()
        result = take(stepper, *args)
        sent = sent_by_sockets() - before
        found.append((bytes_sent(gradient_numbers(stepper.module), ranks().world), float(sent)))
        return result

    Stepper.take = watched  # type: ignore[method-assign, assignment]
    try:
        yield found
    finally:
        Stepper.take = take  # type: ignore[method-assign]
