"""Ghost-gene distillation: old genes that the new cells lack are asked for all the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from kernomics._arguments import require_least
from kernomics.data.staged import StagedCells
from kernomics.models.gil.methods.base import Method, Step
from kernomics.models.gil.methods.distillation import require_weight

if TYPE_CHECKING:
    from kernomics.models.gil.lesson import Lesson


@dataclass(frozen=True)
class Ghosts(Method):
    """The squared difference to the previous model's answers for specific genes of earlier stages.

    Gene distillation never touches these: they are absent from the cells at hand. Here the cell's
    state is asked for them, and the previous model, which sees the genes that it knows, is the
    teacher. No cell is kept. In the second stage there are no such genes, and nothing is added.

    Attributes
    ----------
    weight
        Of this loss beside that of the values.
    n_queries
        Ghosts asked of each cell.
    """

    name: ClassVar[str] = "ghosts"
    needs_previous: ClassVar[bool] = True
    weight: float = 1.0
    n_queries: int = 32

    def check(self, staged: StagedCells) -> None:
        """Refuse a weight of 0 or less, and no queries."""
        require_weight("weight", self.weight)
        require_least(1, n_queries=self.n_queries)

    def loss(self, lesson: Lesson, step: Step) -> Tensor | None:
        """Return the weight times the mean squared difference."""
        n_base = len(lesson.situation.staged.stages.base)
        n_ghosts = lesson.situation.n_known - n_base
        if n_ghosts <= 0:
            return None
        return self.weight * lesson.asked(step, n_base, n_ghosts, self.n_queries)
