"""A command that was started as one of several processes."""

from __future__ import annotations

import contextlib
import os
import signal
import warnings
from collections.abc import Generator
from typing import Any, NoReturn

from kernomics.errors import ConfigError

TRAINING = ("select", "pretrain", "finetune", "increment")
"""Commands whose training several processes share."""
RUNNING = ("embed", "attribute", "evaluate")
"""Commands that run a trained model in several processes."""
TOLD_BY = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""One of these is in the environment where there may be several."""


@contextlib.contextmanager
def among_ranks(command: str) -> Generator[int, None, None]:
    """Run a command as this process's rank, which is given; only the first one prints.

    Should this process fail, the others are told why.
    """
    if not any(name in os.environ for name in TOLD_BY):
        yield 0
        return
    from kernomics.train.distributed import together
    from kernomics.train.places import place_of

    place = place_of()
    if place is None:
        yield 0
        return
    if command not in TRAINING + RUNNING:
        raise ConfigError(
            f"{place.world} processes were started, but only {', '.join(TRAINING + RUNNING)} share "
            f"their work: start kernomics {command} as one process, without torchrun or srun"
        )
    with contextlib.ExitStack() as stack:
        if command in RUNNING:
            # What starts the ranks ends the others in this way when one has failed; they leave
            # nothing half written. A training saves first.
            before = signal.signal(signal.SIGTERM, _end)
            stack.callback(signal.signal, signal.SIGTERM, before)
        one = stack.enter_context(together())
        if not one.first:
            warnings.simplefilter("ignore")
            nothing = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123
            stack.enter_context(contextlib.redirect_stdout(nothing))
        yield one.rank


def _end(*_: Any) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)
