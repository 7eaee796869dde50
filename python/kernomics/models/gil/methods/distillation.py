"""Gene distillation: the model before the stage says what genes it knows should be taken for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from kernomics.data.staged import StagedCells
from kernomics.errors import ConfigError
from kernomics.models.gil.methods.base import Method, Step
from kernomics.train.distributed import over_ranks

if TYPE_CHECKING:
    from kernomics.models.gil.lesson import Lesson


def require_weight(name: str, weight: float) -> None:
    """Refuse a weight of a loss that is none."""
    if not 0 < weight < math.inf:
        raise ConfigError(f"{name} is {weight}: it must be above 0; leave the method out instead")


@dataclass(frozen=True)
class Distillation(Method):
    """The squared difference to the previous model's predictions of hidden genes that it knows.

    The previous model sees the same genes with the same ones hidden, but for those it does not
    know.

    Attributes
    ----------
    weight
        λ, of this loss beside that of the values.
    """

    name: ClassVar[str] = "distillation"
    needs_previous: ClassVar[bool] = True
    weight: float = 1.0

    def check(self, staged: StagedCells) -> None:
        """Refuse a weight of 0 or less."""
        require_weight("weight", self.weight)

    def loss(self, lesson: Lesson, step: Step) -> Tensor | None:
        """Return λ times the mean of both predictions' squared differences."""
        teacher = lesson.taught(step)
        if teacher is None:
            return None
        hidden = step.tokens.gene_ids[step.tokens.hidden]
        known = hidden < lesson.situation.n_known
        (n,) = over_ranks(len(teacher.tokens))
        of_tokens = (step.outputs.tokens[known] - teacher.tokens).square().sum() / n
        of_queries = (step.outputs.queries[known] - teacher.queries).square().sum() / n
        return self.weight * torch.add(of_tokens, of_queries, alpha=lesson.query_weight)
