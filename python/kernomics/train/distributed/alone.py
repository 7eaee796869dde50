"""`Alone`: what a training asks of its ranks, and what one process answers."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from kernomics.errors import ConfigError
from kernomics.train.distributed.part import Part
from kernomics.train.holding import Holding
from kernomics.train.interfaces import Batch, Draws


class Alone:
    """One process: nothing is sent anywhere."""

    rank, world, local = 0, 1, 0

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes, prints and shows progress."""
        return self.rank == 0

    @property
    def many(self) -> bool:
        """Whether there are others."""
        return self.world > 1

    def parts(self, batches: Sequence[Batch]) -> list[Part]:
        """Tell which part of each of the next batches is this rank's."""
        return [Part(len(batch), 0, len(batch)) for batch in batches]

    @contextlib.contextmanager
    def computing(self, part: Part, draws: Draws | None) -> Generator[None, None, None]:
        """While a loss is computed, let counts and draws be those of the global batch."""
        yield

    def reduce(
        self,
        parameters: Sequence[nn.Parameter],
        optimizer: Optimizer,
        means: Mapping[str, float],
        part: Part,
        words: Sequence[int],
        received: signal.Signals | None,
    ) -> tuple[dict[str, float], list[int], signal.Signals | None]:
        """Add up the gradients, the means by each rank's cells, words, and all ranks' signals."""
        return dict(means), list(words), received

    def hold(self, module: nn.Module, optimizer: Optimizer, *, shard: bool) -> Holding:
        """Return where the weights are from now on; they are all here unless `shard` is set."""
        if shard:
            raise ConfigError(
                "shard is set, but there is one process: start several with torchrun, or leave it "
                "out"
            )
        return Holding(module, optimizer)

    def signal(self, received: signal.Signals | None) -> signal.Signals | None:
        """Return the signal that any rank has received."""
        return received

    def told(self, value: Any) -> Any:
        """Return the first rank's value, which JSON can hold."""
        return value

    def require_same(self, **values: Any) -> None:
        """Refuse to go on where ranks differ from the first one in what must be the same."""

    def spread(self, module: nn.Module) -> None:
        """Give every rank the first one's weights and buffers."""

    def wait(self) -> None:
        """Wait until every rank has come here."""

    def failed(self, error: BaseException) -> None:
        """Tell the others that this rank cannot go on, and why."""

    def leave(self) -> None:
        """Take leave of the others, when all is done."""
