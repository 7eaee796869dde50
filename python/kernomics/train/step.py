"""One optimiser step over the batches of all ranks."""

from __future__ import annotations

import itertools
import math
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kernomics.errors import ConfigError, TrainingError
from kernomics.train import schedules
from kernomics.train.config import TrainConfig
from kernomics.train.digest import CellDigest
from kernomics.train.distributed import Alone, Part
from kernomics.train.holding import Holding
from kernomics.train.interfaces import (
    Batch,
    Batches,
    OptimizerFactory,
    check_losses,
    device_of,
    draws_of,
)
from kernomics.train.interrupts import Interrupts
from kernomics.train.optim import RowAdamW
from kernomics.train.state import Means, State


class Stepper:
    """What makes the optimiser steps of a run: the module, its optimizer and the ranks.

    Parameters
    ----------
    module, batches, config, optimizer_factory
        As `kernomics.train.fit` has them.
    ranks
        The processes that train together.
    last_good
        Tells, for an error, which checkpoint is the newest.
    """

    def __init__(
        self,
        module: nn.Module,
        batches: Batches,
        config: TrainConfig,
        optimizer_factory: OptimizerFactory | None,
        ranks: Alone,
        last_good: Callable[[], str],
    ) -> None:
        self.module, self.batches, self.config = module, batches, config
        self.ranks, self.last_good = ranks, last_good
        self.device = device_of(module)
        self.optimizer = (optimizer_factory or self._adamw)(module)
        self.holding = Holding(module, self.optimizer)
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        parameters = self.holding.parameters
        self.trains_all = all(id(p) in held or not p.requires_grad for p in parameters)
        # Taken before a checkpoint is loaded, whose rates are those of a step of the schedule.
        self.peak_rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.draws = draws_of(module)
        if self.draws is not None:
            self.draws.begin(config.seed, self.device)
        self.total_steps = config.max_epochs * math.ceil(batches.n_batches / config.accumulate)
        self.last_batch: Batch | None = None

    def _adamw(self, module: nn.Module) -> Optimizer:
        parameters = [p for p in module.parameters() if p.requires_grad]
        return torch.optim.AdamW(
            parameters, lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )

    def take(
        self, state: State, stream: Iterator[Batch], n: int, interrupts: Interrupts
    ) -> tuple[dict[str, float], int, signal.Signals | None]:
        """Make one optimiser step over the next n batches.

        Return their mean losses, their cells on all ranks, and the signal that any has received.
        """
        config = self.config
        on_step = getattr(self.module, "on_step", None)
        if on_step is not None:
            on_step(state.step, self.total_steps)
        factor = self._rate_factor(state.step)
        for group, rate in zip(self.optimizer.param_groups, self.peak_rates, strict=True):
            group["lr"] = rate * factor

        training_loss: Callable[[Batch], dict[str, Tensor]] = self.module.training_loss  # type: ignore[assignment]
        batches = list(itertools.islice(stream, n))
        if len(batches) < n:
            raise ConfigError(
                f"epoch {state.epoch} gave {state.batch + len(batches):,} batches, and "
                f"n_batches is {self.batches.n_batches:,}"
            )
        parts = self.ranks.parts(batches)
        cells = sum(part.whole for part in parts)
        done: list[tuple[Batch, dict[str, Tensor]]] = []
        self.holding.zero_grad()
        digest = state.digest
        seen = None if digest is None else CellDigest(digest.cells)
        for read, part in zip(batches, parts, strict=True):
            if seen is not None:
                seen.add(read.cell_ids.numpy(force=True), part.start, part.whole)
            batch = read.to(self.device) if part.own else self._stand_in(state.epoch)
            share = part.own / cells * self.holding.loss_factor
            with self.holding.computing():
                with (
                    self.ranks.computing(part, self.draws),
                    torch.autocast(
                        self.device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"
                    ),
                ):
                    losses = training_loss(batch)
                check_losses(losses)
                (losses["loss"] * share).backward()  # type: ignore[no-untyped-call]
            done.append((batch, {name: value.detach() for name, value in losses.items()}))

        means = self._means_of(state, done, [part.own for part in parts])
        if self.ranks.many:
            self.last_batch = done[-1][0]
        means, words, received = self.ranks.reduce(
            self.holding.parameters,
            self.optimizer,
            means,
            Part(sum(part.own for part in parts), 0, cells),
            [] if seen is None else [seen.in_order, seen.any_order],
            interrupts.received,
        )
        self.holding.take_gradients()
        if digest is not None:
            digest.join(cells, *words)
        if config.max_grad_norm is not None:
            means["grad_norm"] = self._step_clipped(state, config.max_grad_norm, done)
        else:
            self.optimizer.step()
        return means, cells, received

    def _stand_in(self, epoch: int) -> Batch:
        """Return what a rank computes, for nothing, where the last cells do not reach for all.

        So every rank goes the same way through the module, whatever that asks of the others.
        """
        if self.last_batch is None:
            stream = iter(self.batches.epoch(epoch, start=0))
            read = next(stream)
            if isinstance(stream, Generator):
                stream.close()
            if not len(read):
                raise ConfigError(
                    "an epoch has one batch of fewer cells than there are ranks: start fewer"
                )
            self.last_batch = read.to(self.device)
        return self.last_batch

    def _step_clipped(
        self, state: State, most: float, done: list[tuple[Batch, dict[str, Tensor]]]
    ) -> float:
        """Step with a gradient no longer than `most`; return how long it was."""
        optimizer, holding = self.optimizer, self.holding
        swept = isinstance(optimizer, RowAdamW) and self.trains_all and not holding.is_shared
        if isinstance(optimizer, RowAdamW) and swept:  # read once, not scaled where it lies
            norm = optimizer.gradient_norm()
        else:
            norm = holding.clip(most)
        if not math.isfinite(norm):
            self._stop(state, "the norm of the gradient", norm, [batch for batch, _ in done])
        if isinstance(optimizer, RowAdamW) and swept:
            optimizer.step(factor=min(1.0, most / (norm + 1e-6)))
        else:
            optimizer.step()
        return norm

    def _rate_factor(self, step: int) -> float:
        total = self.total_steps
        if self.config.schedule == "one_cycle":
            told = getattr(self.module, "cycle", None)  # a module may know better
            known = None if told is None else told(step, total)
            part, length = known or schedules.part_of(step, total, self.config.restart_at)
            return schedules.one_cycle(part, length, warmup=self.config.warmup)
        return schedules.constant(step, total)

    def _means_of(
        self, state: State, done: list[tuple[Batch, dict[str, Tensor]]], sizes: Sequence[int]
    ) -> dict[str, float]:
        """Bring the losses of all batches to the CPU in one transfer, and check them.

        A batch counts by its size, 0 for what stands in for an empty one.
        """
        stacked = [value.to(torch.float64).reshape(()) for _, ls in done for value in ls.values()]
        values = iter(torch.stack(stacked).tolist())
        means = Means()
        for (batch, losses), size in zip(done, sizes, strict=True):
            named = {name: next(values) for name in losses}
            if not math.isfinite(named["loss"]):
                self._stop(state, "the loss", named["loss"], [batch])
            means.add(named, size)
        return means.values()

    def _stop(self, state: State, what: str, value: float, batches: list[Batch]) -> NoReturn:
        """Raise a TrainingError that names the cells of the step that failed."""
        ids = torch.cat([batch.cell_ids for batch in batches]).tolist()
        shown = ", ".join(str(i) for i in ids[:5]) + (", …" if len(ids) > 5 else "")
        named = self.module.named_parameters()
        spoilt = [n for n, p in named if torch.isnan(self.holding.own(p)).any()]
        advice = "check these cells, lower the learning rate or set max_grad_norm"
        if spoilt:
            advice = (
                f"the parameter {spoilt[0]!r} already held NaN before this step, so an earlier "
                "gradient was not finite: set max_grad_norm to check every gradient"
            )
        raise TrainingError(
            f"{what} is {value} in step {state.step + 1} (epoch {state.epoch}), over "
            f"{len(ids):,} cells with cell_ids {shown}: {advice}; {self.last_good()}"
        )
