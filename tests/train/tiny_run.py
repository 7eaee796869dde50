"""A run that takes a moment and uses all that a checkpoint must hold; also a program to be killed.

python tiny_run.py DIRECTORY '{"resume": true, "kill_at_step": 7, ...}'
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kernomics.nn import Draws, Dropout
from kernomics.train import History, RowAdamW, TrainConfig, fit
from kernomics.train import atomic as storage

N_CELLS, N_GENES, BATCH = 44, 6, 8


def quiet(**settings: Any) -> TrainConfig:
    return TrainConfig(**{"max_epochs": 3, "progress": False, **settings})


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.05)


@dataclass
class FakeCells:
    values: Tensor
    target: Tensor
    cell_ids: Tensor

    def __len__(self) -> int:
        return len(self.cell_ids)

    def to(self, device: torch.device) -> FakeCells:
        return FakeCells(self.values.to(device), self.target.to(device), self.cell_ids.to(device))


class FakeSampler:
    def __init__(self, n_cells: int = N_CELLS, batch_size: int = BATCH) -> None:
        self.n_cells, self.batch_size = n_cells, batch_size

    @property
    def n_batches(self) -> int:
        return -(-self.n_cells // self.batch_size)

    def batch(self, epoch: int, i: int) -> np.ndarray:
        order = np.random.default_rng([1, epoch]).permutation(self.n_cells)
        return order[i * self.batch_size : (i + 1) * self.batch_size]


class Reading:
    """The batches of a sampler, each read by a function of its rows."""

    def __init__(self, sampler: Any, fetch: Callable[[np.ndarray], Any]) -> None:
        self.sampler, self.fetch = sampler, fetch

    @property
    def n_batches(self) -> int:
        return self.sampler.n_batches

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        for i in range(start, self.n_batches):
            yield self.fetch(self.sampler.batch(epoch, i))


def cells_of(n_cells: int = N_CELLS) -> Callable[[np.ndarray], FakeCells]:
    values = torch.randn(n_cells, N_GENES, generator=torch.Generator().manual_seed(0))
    target = values.sum(1) + 0.5

    def fetch(rows: np.ndarray) -> FakeCells:
        index = torch.as_tensor(rows)
        return FakeCells(values[index], target[index], index)

    return fetch


class Linear(nn.Module):
    """Linear regression from weights that are the same in every test."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, N_GENES))
        self.bias = nn.Parameter(torch.zeros(()))

    def training_loss(self, batch: FakeCells) -> dict[str, Tensor]:
        error = batch.values @ self.weight + self.bias - batch.target
        return {"loss": error.square().mean(), "absolute": error.abs().mean().detach()}


class Selecting(nn.Module):
    """Uses some rows of a table in each step, dropout, a buffer, and random numbers of its own."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.table = nn.Parameter(torch.randn(N_GENES, 4, generator=generator))
        self.draws = Draws()
        self.head = nn.Linear(4, 1)
        with torch.no_grad():
            self.head.weight.fill_(0.3)
            self.head.bias.zero_()
        self.drop = Dropout(0.25, self.draws)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.rows = torch.arange(N_GENES)
        self.before_step: Callable[[int], None] = lambda step: None

    def on_step(self, step: int, total_steps: int) -> None:
        self.before_step(step)
        device = self.table.device
        order = torch.randperm(N_GENES, device=device, generator=self.draws.generator(device))
        self.rows = order[:3].sort().values

    def training_loss(self, batch: FakeCells) -> dict[str, Tensor]:
        self.seen += len(batch)
        hidden = batch.values[:, self.rows] @ self.table[self.rows]
        error = self.head(self.drop(torch.tanh(hidden)))[:, 0] - batch.target
        return {"loss": error.square().mean(), "largest": error.abs().max().detach()}


def optimizer_of(module: nn.Module) -> RowAdamW:
    return RowAdamW(
        [
            {"params": [p for name, p in module.named_parameters() if name != "table"]},
            {"params": [module.table], "rows": lambda: module.rows},
        ],
        lr=0.03,
        weight_decay=0.01,
    )


SETTINGS: dict[str, Any] = {
    "max_epochs": 5,
    "seed": 6,  # under which the training does not end early
    "accumulate": 2,
    "schedule": "one_cycle",
    "max_grad_norm": 5.0,
    "patience": 2,
    "log_every_steps": 2,
    "checkpoint_every_epochs": 2,
    "checkpoint_every_seconds": 0.0,
    "progress": False,
}
STEPS = 15  # 3 optimiser steps in each of 5 epochs


def run(
    directory: Path | None,
    *,
    resume: bool = False,
    before_step: Callable[[int], None] | None = None,
    in_validation: Callable[[], None] | None = None,
    device: str = "cpu",
    **settings: Any,
) -> tuple[Selecting, History]:
    module, fetch = Selecting().to(device), cells_of()
    if before_step is not None:
        module.before_step = before_step

    def validate() -> dict[str, float]:
        if in_validation is not None:
            in_validation()
        batch = fetch(np.arange(N_CELLS)).to(torch.device(device))
        where = module.table.device
        # So that a validation moves the random state.
        noise = torch.rand((), device=where, generator=module.draws.generator(where)).item()
        return {"loss": module.training_loss(batch)["loss"].item(), "noise": noise}

    history = fit(
        module,
        Reading(FakeSampler(), fetch),
        TrainConfig(**{**SETTINGS, **settings}),
        run_dir=directory,
        resume=resume,
        validate=validate,
        optimizer_factory=optimizer_of,
    )
    return module, history


def main() -> None:
    directory, orders = Path(sys.argv[1]), json.loads(sys.argv[2])
    # A shell that starts tests in the background ignores SIGINT, and so would this program.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)

    def before_step(step: int) -> None:
        if step == orders.get("at_step"):
            os.kill(os.getpid(), orders["signal"])

    def in_validation() -> None:
        if orders.get("in_validation"):
            os.kill(os.getpid(), orders["signal"])

    if "at_write" in orders:
        write, left = storage.write_bytes, [orders["at_write"]]

        def write_and_die(path: Path, data: bytes) -> None:
            left[0] -= 1
            if left[0] < 0:
                write(path, data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            write(path, data)

        storage.write_bytes = write_and_die
    run(
        directory,
        resume=orders.get("resume", False),
        before_step=before_step,
        in_validation=in_validation,
    )
    print("finished")


if __name__ == "__main__":
    main()
