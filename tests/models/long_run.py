"""A long run of a tiny TxFM; also a program to be killed.

python long_run.py DIRECTORY STEPS DIE_AFTER [WHOLE_FILES]
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kernomics.data import Cells, Sampler
from kernomics.models import TxFMConfig
from kernomics.models.txfm.module import TxFMModule
from kernomics.train import History, TrainConfig, fit
from kernomics.train import atomic as storage

N_CELLS, N_GENES, BATCH, STEPS_AN_EPOCH = 80, 12, 4, 20
CHECKPOINTS = 20  # of a whole run
CONFIG = TxFMConfig(
    d_model=4, n_layers=2, n_heads=1, n_tokens=3, decoder_layers=0, stochastic_depth=0.2
)


class Dying(TxFMModule):
    """Dies before step `last`, or while it writes, after it, the file that follows some others."""

    last = -1
    whole_files: int | None = None

    def on_step(self, step: int, total_steps: int) -> None:
        super().on_step(step, total_steps)
        if step == self.last:
            if self.whole_files is None:
                os.kill(os.getpid(), signal.SIGKILL)
            else:
                die_in_a_write(self.whole_files)


def die_in_a_write(whole_files: int) -> None:
    """From now on write that many files, half of one more, and die."""
    write, left = storage.write_bytes, [whole_files]

    def write_or_die(path: Path, data: bytes) -> None:
        if left[0] == 0:
            write(path, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        write(path, data)

    storage.write_bytes = write_or_die


def run(directory: Path, steps: int) -> History:
    """Train, or go on, to the end."""
    torch.manual_seed(0)
    counts = torch.poisson(torch.full((N_CELLS, N_GENES), 2.0)) + 1
    library, genes = counts.sum(1), torch.arange(N_GENES, dtype=torch.int32)

    class Batches:
        sampler = Sampler(np.arange(N_CELLS), BATCH, 0, block_size=1)
        n_batches = sampler.n_batches

        def epoch(self, epoch: int, start: int = 0) -> Iterator[Cells]:
            for rows in self.sampler.batches(epoch, start):
                n, ids = len(rows), torch.as_tensor(rows)
                yield Cells(
                    torch.arange(n + 1) * N_GENES, genes.repeat(n), counts[ids].flatten(), N_GENES,
                    ids, library[ids],
                )  # fmt: skip

    def fused(module: nn.Module) -> torch.optim.AdamW:
        return torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=0.01, fused=True)

    config = TrainConfig(
        max_epochs=steps // STEPS_AN_EPOCH,
        batch_size=BATCH,
        schedule="one_cycle",
        max_grad_norm=1.0,
        log_every_steps=40,
        checkpoint_every_epochs=steps // STEPS_AN_EPOCH // CHECKPOINTS,
        progress=False,
    )
    return fit(
        Dying(N_GENES, CONFIG),
        Batches(),
        config,
        run_dir=directory,
        resume=(directory / "metrics.jsonl").exists(),  # there is nothing to resume at first
        optimizer_factory=fused,
    )


def main() -> None:
    """Run, as told to the end or not."""
    directory, steps, Dying.last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if len(sys.argv) > 4:
        Dying.whole_files = int(sys.argv[4])
    torch.set_num_threads(1)
    run(directory, steps)
    print("finished")


if __name__ == "__main__":
    main()
