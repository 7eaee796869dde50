"""Freezing: after the first stage the new genes' embeddings learn, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from kernomics.models.gil.methods.base import Method, Situation


def fix_all_but(situation: Situation, learning: Iterable[nn.Parameter] = ()) -> None:
    """Fix everything but the rows of the new genes, and some weights."""
    n_known, module = situation.n_known, situation.module
    module.requires_grad_(False)
    for parameter in (module.genes, *learning):
        parameter.requires_grad_(True)

    def of_new_rows(gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient[:n_known] = 0  # and Adam, which has no moments of them, leaves them alone
        return gradient

    module.genes.register_hook(of_new_rows)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Freezing(Method):
    """Whatever an earlier stage learnt stays as it is, to the bit.

    So do the predictions of the model for cells that have none of the new genes.
    """

    name: ClassVar[str] = "freezing"
    alone: ClassVar[bool] = True

    def begin(self, situation: Situation) -> None:
        """Fix everything but the rows of the new genes."""
        if situation.previous is not None:
            fix_all_but(situation)

    def end(self, situation: Situation) -> None:
        """Let everything learn again."""
        situation.module.requires_grad_(True)
