"""The training loop of all models: one plain loop over steps that can be stopped and resumed."""

from __future__ import annotations

import dataclasses
import math
import signal
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from kernomics._arguments import checked
from kernomics._warnings import warn
from kernomics.errors import ConfigError, closest
from kernomics.train import atomic as storage
from kernomics.train.config import TrainConfig, config_hash
from kernomics.train.digest import CellDigest
from kernomics.train.distributed import Alone, together
from kernomics.train.history import History
from kernomics.train.interfaces import (
    Batch,
    Batches,
    Callback,
    OptimizerFactory,
    Validate,
)
from kernomics.train.interrupts import Interrupts
from kernomics.train.loggers import JSONLines, Logger
from kernomics.train.rundir import DirectoryLock, require_run
from kernomics.train.skipping import Ranges, Steps, holds, more_skipped, ranges_of
from kernomics.train.state import Keeper, Means, State, Weights, copy_weights
from kernomics.train.step import Stepper
from kernomics.train.threads import threads_for, working_on

TOGETHER = 10.0
"""Seconds within which the signals that many ranks get from several sides count as one."""


@checked
def fit(
    module: nn.Module,
    batches: Batches,
    config: TrainConfig | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    validate: Validate | None = None,
    optimizer_factory: OptimizerFactory | None = None,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    skip_steps: Steps = (),
) -> History:
    """Train a module.

    One optimiser step takes `config.accumulate` batches (fewer at the end of an epoch); each
    counts by its share of their cells, so that the gradient is that of one large batch of a loss
    that is a mean over cells.

    Parameters
    ----------
    module
        Has ``training_loss(batch) -> dict`` of scalar tensors: ``"loss"`` is optimised, the others
        are logged as means over cells. If it has ``on_step(step, total_steps)``, that is called
        before each optimiser step, counted from 0; ``by_total_steps = False`` says that nothing
        hangs on the total. If it has ``cycle(step, total_steps)``, that says which step of how many
        the learning rate has, or None for what `config` says. If it has ``news()``, the pairs
        (split, figures) that this returns after a step become records of the history. What it keeps
        from step to step must be in its ``state_dict()``. With `config.compile` its
        ``compile_step()`` is called before the first step. If it has ``operations(cells)``, the
        floating-point operations of a forward pass over so many cells, it is trained on as many
        threads as these are worth, at most torch's number. What it draws comes from
        ``module.draws``, `kernomics.nn.Draws`, if from anywhere: begun with `config.seed` and kept
        in the checkpoints. torch's global random numbers, which other threads share, are not
        touched. It is trained on the device it is on, and left in evaluation mode.
    batches
        The batches of each epoch, `kernomics.data.Loader`. A batch is asked for after ``on_step``
        of its step.
    config
        How to train.
    run_dir
        Where to keep ``metrics.jsonl`` and ``checkpoints/``; ``None`` keeps nothing.
    resume
        Continue from the newest intact checkpoint in `run_dir`; a run that was stopped before the
        first one begins anew. The result is the same, bit for bit on the CPU, as had the run never
        stopped. A larger ``max_epochs`` than before is taken where nothing was laid out for the
        smaller one, that is with ``schedule="constant"``; the validation after the former last
        epoch stays in the history and counts for `config.patience`.
    validate
        Called without arguments after every `config.validate_every` epochs, with the module in
        evaluation mode and gradients off; the figures it returns are logged.
    optimizer_factory
        Makes the optimizer; its learning rates are the peaks of the schedule. Default: AdamW with
        the learning rate and weight decay of `config`.
    callbacks
        Called after each epoch.
    loggers
        Receive every record, besides ``metrics.jsonl``.
    skip_steps
        Steps to pass over, as after a spike of the loss: numbers counted from 1 as the history and
        errors count them, or (first, last) of a range. Nothing is learnt from their cells; all
        other steps have the cells, the learning rate and the draws by number that they have
        without, while dropout goes on where it stood. A continuation remembers them. The history
        tells of them in records of split ``"skipped"``.

    Returns
    -------
    History
        The records, those from before a resumption included. If `config.patience` is set, `module`
        holds its best weights.

    Raises
    ------
    ConfigError
        If the settings make no sense, or differ from those of the run to be resumed, or a step to
        skip is done.
    CheckpointError
        If `run_dir` holds checkpoints that are not to be resumed, cannot be used or cannot be
        written.
    TrainingError
        If the loss, gradient or weights become NaN or infinite. The last good checkpoint stays.
    KeyboardInterrupt, SystemExit
        After SIGINT or SIGTERM (143), once the step, and at the end of an epoch the validation,
        is finished and all is saved.
    """
    config = TrainConfig() if config is None else config
    skip = ranges_of(skip_steps)
    if batches.n_batches < 1:
        raise ConfigError("there are no batches to train on: fewer cells than batch_size?")
    if config.patience is not None and validate is None:
        raise ConfigError(f"patience is {config.patience}, but there is no validation to monitor")
    if resume:
        require_run(run_dir)
    compile_step = getattr(module, "compile_step", None)
    if config.compile and compile_step is None:
        raise ConfigError(f"compile is set, but a {type(module).__name__} cannot be compiled")
    if config.compile and config.shard:
        raise ConfigError("compile and shard are both set: leave one of them out")
    with ExitStack() as stack:
        ranks = stack.enter_context(together())
        directory = None if run_dir is None else Path(run_dir)
        if directory is not None and ranks.first:
            directory.mkdir(parents=True, exist_ok=True)
            stack.enter_context(DirectoryLock(directory))
        run = _Run(module, batches, config, directory, validate, optimizer_factory, ranks)
        run.begin(resume, loggers, stack, skip)
        threads = threads_for(module, math.ceil(config.batch_size / ranks.world), run.device)
        stack.enter_context(working_on(threads))
        if config.compile and compile_step is not None:
            compile_step()
        if config.validate_start and run.state == State():  # not of a run that goes on
            run.validate_start()
        while not run.state.finished:
            run.train_epoch()
            run.end_epoch(callbacks)
        return run.end()


class _Run:
    """A run under way: what the loop works with, and the pieces of the loop."""

    def __init__(
        self,
        module: nn.Module,
        batches: Batches,
        config: TrainConfig,
        directory: Path | None,
        validate: Validate | None,
        optimizer_factory: OptimizerFactory | None,
        ranks: Alone,
    ) -> None:
        self.module, self.ranks = module, ranks
        self.batches = batches
        self.config = config
        self.metrics = None if directory is None else directory / "metrics.jsonl"
        self.validate = validate
        self.stepper = Stepper(
            module, batches, config, optimizer_factory, ranks, lambda: self.keeper.last_good
        )
        self.optimizer, self.device = self.stepper.optimizer, self.stepper.device
        self.n_batches, self.total_steps = batches.n_batches, self.stepper.total_steps
        self.keeper = Keeper(
            directory, config, batches, module, self.optimizer, self.stepper.draws, self.device,
            writes=ranks.first,
        )  # fmt: skip
        self.state = State()
        self.best: Weights | None = None
        self.history = History()

    def begin(
        self, resume: bool, loggers: Sequence[Logger], stack: ExitStack, skip: Ranges
    ) -> None:
        """Restore what is to be resumed, and open what `stack` will close."""
        self.state, self.best = self.keeper.begin(resume)
        state = self.state
        state.skipped = more_skipped(state.skipped, skip, state.step, self.total_steps)
        self.ranks.require_same(
            batches_in_an_epoch=self.n_batches,
            settings=config_hash(dataclasses.asdict(self.config)),
            steps_done=state.step,
            steps_to_skip=state.skipped,
            shard=self.config.shard,
        )
        self.ranks.spread(self.module)
        self.holding = self.ranks.hold(self.module, self.optimizer, shard=self.config.shard)
        self.stepper.holding = self.keeper.holding = self.holding
        self.best = self.best and self.holding.share_out(self.best)
        self.loggers = list(loggers) if self.ranks.first else []
        self.lines: JSONLines | None = None
        if self.metrics is not None and self.ranks.first:
            self.lines = JSONLines(self.metrics, keep=self.state.records)
            self.loggers.insert(0, self.lines)
            self.history.extend(History.read(self.metrics))
            if len(self.history) < self.state.records:
                warn(
                    f"{self.metrics} holds {len(self.history)} records, but the checkpoint was "
                    f"saved after {self.state.records}: the history has a gap"
                )
                self.state.records = len(self.history)
        if self.ranks.many:
            self.history = History(self.ranks.told(list(self.history)))
            self.state.records = len(self.history)
        for logger in self.loggers:
            stack.callback(logger.close)
            logger.config(dataclasses.asdict(self.config))
        self.interrupts = stack.enter_context(Interrupts(TOGETHER if self.ranks.many else 0.0))
        self.bar: Any = tqdm(
            total=self.total_steps,
            initial=self.state.step,
            unit="step",
            desc="training",
            disable=not (self.config.progress and self.ranks.first),
            mininterval=0.1 if sys.stderr.isatty() else 30.0,  # a log file wants few lines
        )
        stack.callback(self.bar.close)

    # -- one epoch -------------------------------------------------------------------------------

    def train_epoch(self) -> None:
        """Train from where the epoch stands to its end."""
        state = self.state
        self.module.train()
        self.epoch_begun, self.epoch_cells = time.monotonic(), 0
        with ExitStack() as stack:
            stream: Iterator[Batch] | None = None
            while state.batch < self.n_batches:
                if holds(state.skipped, state.step + 1):
                    stack.close()
                    stream = None
                    self._skip()
                    continue
                if stream is None:
                    stream = iter(self.batches.epoch(state.epoch, start=state.batch))
                    if isinstance(stream, Generator):  # it may have read ahead in a thread
                        stack.enter_context(closing(stream))
                last = min(state.batch + self.config.accumulate, self.n_batches)
                means, cells, received = self.stepper.take(
                    state, stream, last - state.batch, self.interrupts
                )
                state.step += 1
                state.batch = last
                state.epoch_means.add(means, cells)
                self.epoch_cells += cells
                self._tell()
                self._log_steps(means, cells)
                self._show(means["loss"])
                # Not before a validation, which may depend on what the module last did: a run is
                # resumed only where a step comes next, and on_step is called.
                if state.batch < self.n_batches:
                    self._save_or_leave(received, due=self._due())

    def _skip(self) -> None:
        """Pass over the steps from here that are to be skipped, within the epoch."""
        state, first = self.state, self.state.step + 1
        on_step = getattr(self.module, "on_step", None)
        while state.batch < self.n_batches and holds(state.skipped, state.step + 1):
            if on_step is not None:  # what the module does at a step of its schedule is done
                on_step(state.step, self.total_steps)
            state.step += 1
            state.batch = min(state.batch + self.config.accumulate, self.n_batches)
            self._tell()
        self.bar.update(state.step + 1 - first)
        self._log("skipped", first_step=first, last_step=state.step)

    # -- the end of an epoch ---------------------------------------------------------------------

    def end_epoch(self, callbacks: Sequence[Callback]) -> None:
        """Log, validate, decide whether to go on, and save."""
        state, config = self.state, self.config
        last = state.epoch + 1 == config.max_epochs
        seconds = time.monotonic() - self.epoch_begun
        self._log(
            "train",
            **state.epoch_means.values(),
            learning_rate=self.optimizer.param_groups[0]["lr"],
            cells=state.epoch_means.cells,
            **({} if state.digest is None else state.digest.figures()),
            seconds=seconds,
            cells_per_second=self.epoch_cells / seconds if seconds > 0 else 0.0,
        )
        due = (state.epoch + 1) % config.validate_every == 0 or last
        stop = due and self._validated()
        if callbacks:
            with self.holding.gathered():
                for callback in callbacks:
                    ended = callback(state.epoch, self.module)
                    stop = (isinstance(ended, bool) and ended) or stop  # whatever else is returned
        stop = self.ranks.told(stop)
        state.stopped_early = stop and not last
        state.finished = stop or last
        state.epoch_means, state.digest = Means(), CellDigest()
        state.epoch += 1
        state.batch = 0
        received = self.ranks.signal(self.interrupts.received)
        due = state.finished or state.epoch % config.checkpoint_every_epochs == 0
        self._save_or_leave(received, due=due)

    def validate_start(self) -> None:
        """Validate the weights given, as those of epoch −1."""
        self.state.epoch = -1
        self._validated()
        self.state.epoch = 0

    def _validated(self) -> bool:
        """Validate, if there is how; tell whether patience is at its end."""
        if self.validate is None:
            return False
        self.module.eval()
        with torch.no_grad(), self.holding.gathered():
            figures = {name: float(value) for name, value in self.validate().items()}
        figures = self.ranks.told(figures)
        self._log("validation", **figures)
        patience = self.config.patience
        return patience is not None and self._out_of_patience(figures, patience)

    def _out_of_patience(self, figures: Mapping[str, float], patience: int) -> bool:
        """Keep the weights if the monitored figure improved; tell whether to stop."""
        state, config = self.state, self.config
        name = config.monitor
        if name not in figures:
            name = name.removeprefix("validation_")
        if name not in figures:
            raise ConfigError(
                f"monitor is {config.monitor!r}, which validation did not return; "
                f"{closest(config.monitor, figures)}"
            )
        value = figures[name]
        sign = 1.0 if config.mode == "min" else -1.0
        if math.isfinite(value) and (
            state.best_value is None or sign * (state.best_value - value) > config.min_delta
        ):
            state.best_value, state.best_epoch, state.not_improved = value, state.epoch, 0
            self.best = copy_weights(self.module.state_dict())
        else:
            state.not_improved += 1
        return state.not_improved >= patience

    def end(self) -> History:
        """Restore the best weights, and return the history."""
        best = self.best and self.holding.gather(self.best, keep=True)
        self.holding.release()
        if best is not None:
            self.module.load_state_dict(best)
        self.module.eval()
        self.history.best_epoch = self.state.best_epoch
        self.history.best_value = self.state.best_value
        self.history.stopped_early = self.state.stopped_early
        return self.history

    # -- what is seen and kept -------------------------------------------------------------------

    def _log(self, split: str, **figures: Any) -> None:
        state = self.state
        # As the file will hold it, so that a history read again is the same.
        record: dict[str, Any] = storage.jsonable(
            {"step": state.step, "epoch": state.epoch, "split": split, **figures}
        )
        self.history.append(record)
        state.records += 1
        for logger in self.loggers:
            logger.log(record)

    def _tell(self) -> None:
        """Log what the module has to tell of its step, if it tells anything."""
        news = getattr(self.module, "news", None)
        for split, figures in () if news is None else news():
            self._log(split, **figures)

    def _log_steps(self, means: Mapping[str, float], cells: int) -> None:
        every = self.config.log_every_steps
        if every is not None:
            self.state.step_means.add(means, cells)
            if self.state.step % every == 0:
                rate = self.optimizer.param_groups[0]["lr"]
                self._log("step", **self.state.step_means.values(), learning_rate=rate)
                self.state.step_means = Means()

    def _show(self, loss: float) -> None:
        speed = self.epoch_cells / max(time.monotonic() - self.epoch_begun, 1e-9)
        self.bar.set_postfix_str(
            f"epoch {self.state.epoch + 1}/{self.config.max_epochs}, loss {loss:.4g}, "
            f"{speed:,.0f} cells/s",
            refresh=False,
        )
        self.bar.update()

    def _due(self) -> bool:
        """Tell whether it is time to save, which ranks that hold parts must do together."""
        due = self.keeper.due
        by_the_clock = self.config.checkpoint_every_seconds is not None
        return self.ranks.told(due) if by_the_clock and self.holding.is_shared else due

    def _save_or_leave(self, received: signal.Signals | None, *, due: bool) -> None:
        """Save if it is due or a signal came; in the latter case also leave."""
        if due or received is not None:
            if self.lines is not None:
                self.lines.sync()
            self.keeper.save(self.state, self.best)
        if received is not None:
            self.holding.release()
            self.ranks.wait()  # for the one that saves
            self.interrupts.received = received
            self.interrupts.leave(
                f"training was interrupted after step {self.state.step}; {self.keeper.last_good}"
            )
