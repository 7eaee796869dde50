"""Feature distillation: the state of a cell stays what it was to the previous model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from kernomics._arguments import require_least
from kernomics.data.staged import StagedCells
from kernomics.models.gil.methods.base import Method, Step
from kernomics.models.gil.methods.distillation import require_weight
from kernomics.nn.precision import widened

if TYPE_CHECKING:
    from kernomics.models.gil.lesson import Lesson


@dataclass(frozen=True)
class Features(Method):
    """The squared difference to the previous model's cell states, and to their answers.

    The previous model sees the genes that it knows. Both are asked for the same genes, drawn from
    all those that it knows, whether the cell has them or not.

    Attributes
    ----------
    weight
        Of this loss beside that of the values.
    n_queries
        Genes asked of each cell, at most as many as are known.
    """

    name: ClassVar[str] = "features"
    needs_previous: ClassVar[bool] = True
    weight: float = 1.0
    n_queries: int = 32

    def check(self, staged: StagedCells) -> None:
        """Refuse a weight of 0 or less, and no queries."""
        require_weight("weight", self.weight)
        require_least(1, n_queries=self.n_queries)

    def loss(self, lesson: Lesson, step: Step) -> Tensor | None:
        """Return the weight times the sum of both mean squared differences."""
        teacher = lesson.taught(step)
        if teacher is None:
            return None
        states = (widened(step.outputs.cls) - widened(teacher.cls)).square().mean()
        answers = lesson.asked(step, self.n_queries)
        return self.weight * torch.add(states, answers)
