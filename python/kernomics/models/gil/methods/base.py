"""What a method against forgetting is: a few moments of a training at which it may do something.

A new one is a file beside this: a frozen dataclass of its settings that inherits from `Method`,
with a `name`, and the moments that it needs; `methods/__init__` lists it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kernomics.data import Cells
from kernomics.data.staged import StagedCells
from kernomics.models.gil.config import GILConfig
from kernomics.models.gil.memory import reservoir
from kernomics.models.gil.module import GILModule, Outputs
from kernomics.models.gil.tokens import Tokens

if TYPE_CHECKING:
    from kernomics.models.gil.lesson import Lesson


@dataclass(frozen=True)
class Situation:
    """Where a training stands when a stage begins or ends.

    Attributes
    ----------
    number
        Of the stage, from 0; of the last one where several are trained together.
    module
        What is trained.
    previous
        The model after the stage before, frozen, which knows the genes of then; None at first.
    staged
        The cells.
    train
        int64 [n], the cells of this stage to train on.
    seed
        Of the training.
    """

    number: int
    module: GILModule
    previous: GILModule | None
    staged: StagedCells
    train: NDArray[np.int64]
    seed: int
    _kept: dict[int, list[NDArray[np.int64]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def kept(self, memory: int) -> list[NDArray[np.int64]]:
        """Return the cells kept of each earlier stage, each int64 [memory]; drawn once."""
        if memory not in self._kept:
            self._kept[memory] = [
                reservoir(self.staged, stage, memory, self.seed) for stage in range(self.number)
            ]
        return self._kept[memory]

    @property
    def n_known(self) -> int:
        """How many genes, the first of the vocabulary, were known before."""
        return 0 if self.previous is None else self.previous.n_genes


@dataclass(frozen=True)
class Step:
    """One batch of a training step, and what the network made of it.

    Attributes
    ----------
    cells, tokens, outputs
        The batch, the genes shown of it, and the predictions of those hidden.
    draw
        int64 [2], (seed, step): by which everything in this step is drawn.
    """

    cells: Cells
    tokens: Tokens
    outputs: Outputs
    draw: Tensor


class Method:
    """A method against forgetting; each moment does nothing unless a method says otherwise.

    Attributes
    ----------
    name
        By which it is asked for.
    alone
        Whether it cannot be combined with others.
    needs_previous
        Whether it does nothing without a model of an earlier stage.
    refuses
        Methods, by name, that it cannot be combined with, and why.
    """

    name: ClassVar[str]
    alone: ClassVar[bool] = False
    needs_previous: ClassVar[bool] = False
    refuses: ClassVar[Mapping[str, str]] = {}

    def settings(self) -> dict[str, Any]:
        """Return the name and the settings, JSON-able."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {"name": self.name, **{f.name: getattr(self, f.name) for f in fields if f.init}}

    def plan(self, n_stages: int) -> list[list[int]]:
        """Return which stages are trained together, in their order."""
        return [[i] for i in range(n_stages)]

    def check(self, staged: StagedCells) -> None:
        """Refuse settings that do not fit the cells."""

    def check_network(self, config: GILConfig) -> None:
        """Refuse settings that do not fit the network."""

    def begin(self, situation: Situation) -> None:
        """Prepare for a stage, before its optimiser is made."""

    def replayed(self, situation: Situation) -> tuple[list[NDArray[np.int64]], float]:
        """Return earlier stages' cells to mix into the batches, and their share of a batch."""
        return [], 0.0

    def loss(self, lesson: Lesson, step: Step) -> Tensor | None:
        """Return what is added to the loss of a batch, or None."""
        return None

    def end(self, situation: Situation) -> None:
        """Take leave of a stage, after its training: let go what `begin` took hold of."""

    def state(self) -> dict[str, Tensor]:
        """Return what must be kept from one stage to the next, beside the model itself."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` returned; a KeyError says that something is not there."""
