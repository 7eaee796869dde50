"""A training takes as many threads as its steps are worth, and leaves torch's number as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tiny_run import quiet
from torch import Tensor, nn

from kernomics.models.txfm.config import TxFMConfig
from kernomics.models.txfm.module import TxFMModule
from kernomics.train import fit
from kernomics.train.threads import OPERATIONS_OF_A_THREAD, threads_for, working_on

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


class Cells:
    def __init__(self) -> None:
        self.cell_ids = torch.arange(4)

    def __len__(self) -> int:
        return 4

    def to(self, device: torch.device) -> Cells:
        return self


class Batches:
    n_batches = 2

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Cells]:
        return iter([Cells() for _ in range(start, 2)])


class Worker(nn.Module):
    by_total_steps = False

    def __init__(self, operations_of_a_cell: float | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.seen: list[int] = []
        if operations_of_a_cell is not None:
            self.operations = lambda cells: cells * operations_of_a_cell

    def training_loss(self, cells: Cells) -> dict[str, Tensor]:
        self.seen.append(torch.get_num_threads())
        return {"loss": self.weight.square().sum()}


@pytest.mark.parametrize(
    ("operations", "threads"), [(None, 3), (1.0, 1), (OPERATIONS_OF_A_THREAD / 2, 2), (1e12, 3)]
)
def test_a_training_takes_the_threads_that_its_step_is_worth(
    operations: float | None, threads: int
) -> None:
    module = Worker(operations)
    fit(module, Batches(), quiet(max_epochs=1, batch_size=4))
    assert module.seen == [threads, threads]
    assert torch.get_num_threads() == 3


def test_threads_come_back_after_an_error() -> None:
    def fail() -> None:
        with working_on(1):
            assert torch.get_num_threads() == 1
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(
    ("size", "cells", "genes", "threads"), [("XXS", 64, 1000, 1), ("XS", 64, 1000, 3)]
)
def test_a_step_of_the_smallest_txfm_is_worth_one_thread(
    size: str, cells: int, genes: int, threads: int
) -> None:
    module = TxFMModule(genes, TxFMConfig.of_size(size))
    assert threads_for(module, cells, CPU) == threads
    assert threads_for(module, cells, torch.device("cuda")) == 3


def test_operations_of_txfm_are_those_of_its_products() -> None:
    """Of one block no token is made: 4·H·T·d for scores and means, then rows of CLS alone."""
    module = TxFMModule(50, TxFMConfig.of_size("XXS", n_tokens=20))
    d, heads, layers = 64, 4, 4
    encoder = 4 * heads * 21 * d + 24 * d * d
    decoder = 2 * d * d * (2 * layers + 2) + 2 * d * 50
    path = 2 * 50 * 32 + 2 * d * 32
    assert module.operations(7) == 7 * (encoder + path + decoder)
