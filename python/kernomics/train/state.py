"""Where a run stands, and keeping it: saving it, finding it again, continuing from it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kernomics.errors import CheckpointError, ConfigError, TrainingError
from kernomics.train.checkpoint import (
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from kernomics.train.config import COSMETIC, TrainConfig, differences, more_epochs
from kernomics.train.digest import CellDigest
from kernomics.train.holding import Holding
from kernomics.train.interfaces import FIRST_ORDER, Batches, Draws, Ordered
from kernomics.train.skipping import Ranges


@dataclass
class Means:
    """Means over cells of the losses, as sums that can be saved and continued."""

    cells: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, values: Mapping[str, float], cells: int) -> None:
        """Add the means over some more cells."""
        self.cells += cells
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * cells

    def values(self) -> dict[str, float]:
        """Return the means, 0 over no cells."""
        return {name: total / max(1, self.cells) for name, total in self.sums.items()}


@dataclass
class State:
    """Where a run stands; with the tensors, all that is needed to continue it."""

    step: int = 0  # optimiser steps done
    epoch: int = 0  # the epoch under way
    batch: int = 0  # batches of it done
    finished: bool = False
    epoch_means: Means = field(default_factory=Means)
    step_means: Means = field(default_factory=Means)
    digest: CellDigest | None = field(default_factory=CellDigest)  # of the epoch; None: not known
    best_value: float | None = None
    best_epoch: int | None = None
    not_improved: int = 0  # validations since the best one
    stopped_early: bool = False
    records: int = 0  # lines of the history
    skipped: Ranges = field(default_factory=list)  # steps that are passed over, done or to come

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> State:
        """Rebuild a state from ``dataclasses.asdict``."""
        nested: dict[str, Any] = {n: Means(**saved[n]) for n in ("epoch_means", "step_means")}
        if saved.get("digest"):
            nested["digest"] = CellDigest(**saved["digest"])
        elif saved["batch"]:  # of an earlier version: the cells of the epoch so far are not known
            nested["digest"] = None
        return cls(**{**saved, **nested})


Weights = dict[str, Any]
"""A module's ``state_dict()``."""


def copy_weights(weights: Mapping[str, Any], device: torch.device | None = None) -> Weights:
    """Copy a ``state_dict()``, to another device if one is given."""
    return {
        name: item.detach().to(device=device, copy=True) if isinstance(item, Tensor) else item
        for name, item in weights.items()
    }


def goes_by_total(module: nn.Module) -> bool:
    """Whether what a module does in a step hangs on how many steps there are in all.

    So it does if it has ``on_step``, unless its ``by_total_steps`` says no.
    """
    return hasattr(module, "on_step") and bool(getattr(module, "by_total_steps", True))


class Keeper:
    """Saves a run in `directory`, and restores it; without a directory it does nothing."""

    def __init__(
        self,
        directory: Path | None,
        config: TrainConfig,
        batches: Batches,
        module: nn.Module,
        optimizer: Optimizer,
        draws: Draws | None,
        device: torch.device,
        *,
        writes: bool = True,
    ) -> None:
        self.writes = writes  # one of several ranks does
        self.root = None if directory is None else directory / "checkpoints"
        self.config = config
        self.batches, self.n_batches = batches, batches.n_batches
        self.module = module
        self.optimizer = optimizer
        self.draws = draws
        self.device = device
        self.holding = Holding(module, optimizer)
        self._path: Path | None = None
        self._saved: dict[str, Any] | None = None
        self._time = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether ``checkpoint_every_seconds`` have passed since the last checkpoint."""
        seconds = self.config.checkpoint_every_seconds
        return seconds is not None and time.monotonic() - self._time >= seconds

    @property
    def last_good(self) -> str:
        """Which checkpoint is the newest, in words for an error."""
        if self._path is None:
            return "there is no checkpoint"
        return f"the last good checkpoint is {self._path}, resume=True continues from it"

    def begin(self, resume: bool) -> tuple[State, Weights | None]:
        """Return a fresh state, or restore everything from the newest intact checkpoint."""
        if self.root is None:
            return State(), None
        if not resume:
            there = list_checkpoints(self.root)
            if there:
                raise CheckpointError(
                    f"{self.root} holds {len(there)} checkpoints, the newest {there[-1].name}: "
                    "continue with resume=True, or choose another directory"
                )
            return State(), None
        checkpoint = load_checkpoint(self.root)
        if checkpoint is None:
            return State(), None
        parts = checkpoint.parts
        saved, given = parts["setup"]["config"], dataclasses.asdict(self.config)
        found = differences(saved, given, COSMETIC | {"max_epochs"})
        refusal = more_epochs(saved, given, by_total=goes_by_total(self.module))
        found += [] if refusal is None else [refusal]
        if parts["setup"]["n_batches"] != self.n_batches:
            found.append(
                f"batches per epoch were {parts['setup']['n_batches']} and are {self.n_batches}"
            )
        if found:
            raise ConfigError(f"{checkpoint.path} cannot be resumed: " + "; ".join(found))
        if isinstance(self.batches, Ordered):
            self.batches.use_order(parts["setup"].get("order", FIRST_ORDER))
        try:
            self.module.load_state_dict(parts["module"])
            self.optimizer.load_state_dict(parts["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{checkpoint.path} was saved from another model or optimizer: {error}"
            ) from error
        state = parts["random"].get(self.device.type)
        if self.draws is not None and state is not None:
            self.draws.restore(state)
        self._path = checkpoint.path
        self._saved = parts["state"]
        state = State.from_dict(parts["state"])
        if state.finished and not state.stopped_early and state.epoch < self.config.max_epochs:
            state.finished = False  # more epochs are asked for
        best = parts["best"]
        return state, best and copy_weights(best, self.device)

    def save(self, state: State, best: Weights | None) -> None:
        """Save a checkpoint, unless nothing happened since the last one."""
        now = dataclasses.asdict(state)
        if self.root is None or now == self._saved:
            return
        weights = self.holding.weights(keep=self.writes)
        for name, parameter in self.module.named_parameters():
            if torch.isnan(weights.get(name, self.holding.own(parameter))).any():
                raise TrainingError(
                    f"the parameter {name!r} holds NaN after step {state.step}, so no checkpoint "
                    "was saved; set max_grad_norm to check every gradient, or lower the "
                    f"learning rate; {self.last_good}"
                )
        parts = {
            "module": weights,
            "optimizer": self.holding.optimizer_state(keep=self.writes),
            "best": best and self.holding.gather(best, keep=self.writes),
        }
        if self.writes:
            self._write(self.root, state.step, now, parts)
        self._path = checkpoint_path(self.root, state.step)
        self._saved = now
        self._time = time.monotonic()

    def _write(self, root: Path, step: int, now: dict[str, Any], parts: dict[str, Any]) -> None:
        order = {"order": self.batches.order} if isinstance(self.batches, Ordered) else {}
        random = {} if self.draws is None else {self.device.type: self.draws.state()}
        save_checkpoint(
            root,
            step,
            {
                **parts,
                "random": random,
                "state": now,
                "setup": {
                    "config": dataclasses.asdict(self.config),
                    "n_batches": self.n_batches,
                    **order,
                    "torch": torch.__version__,
                },
            },
            keep=self.config.keep_checkpoints,
        )
