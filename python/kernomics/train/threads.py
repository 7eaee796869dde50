"""How many threads a training is worth: few where its steps are short."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

OPERATIONS_OF_A_THREAD = 2.5e8
"""Of a step's forward pass, that another thread must have to do. A step of 5e7 took as long on two
quiet cores as on one, for twice the processor time, and with both cores busy 40 times as long: its
hundreds of small parallel regions each wait for the last thread to be given a core."""


def threads_for(module: nn.Module, cells: int, device: torch.device) -> int:
    """Return how many threads a step over a batch of cells is worth; torch's number is the most.

    It follows from the model and the batch alone, not from the machine or its load, so that a
    training gives the same bits wherever it is worth one thread.

    Parameters
    ----------
    module
        If it has ``operations(cells)``, the floating-point operations of a forward pass over so
        many cells, its threads go by them; else they are torch's.
    cells
        Cells of a batch.
    device
        Where it trains.
    """
    most = torch.get_num_threads()
    operations = getattr(module, "operations", None)
    if operations is None or device.type != "cpu":
        return most
    return max(1, min(most, int(operations(cells) / OPERATIONS_OF_A_THREAD)))


@contextmanager
def working_on(threads: int) -> Iterator[None]:
    """Let torch and our kernels use so many threads meanwhile, in the calling thread."""
    before = torch.get_num_threads()
    if threads != before:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
