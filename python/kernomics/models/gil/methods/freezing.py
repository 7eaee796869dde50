"""Freezing: after the first stage the new genes' embeddings learn, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kernomics.models.gil.methods.base import Method, Situation


@dataclass(frozen=True)
class Freezing(Method):
    """Whatever an earlier stage learnt stays as it is, to the bit.

    So do the predictions of the model for cells that have none of the new genes.
    """

    name: ClassVar[str] = "freezing"
    alone: ClassVar[bool] = True

    def begin(self, situation: Situation) -> None:
        """Fix everything but the rows of the new genes."""
        n_known, module = situation.n_known, situation.module
        if situation.previous is None:
            return
        for parameter in module.parameters():
            parameter.requires_grad_(parameter is module.genes)

        def of_new_rows(gradient: Tensor) -> Tensor:
            gradient = gradient.clone()
            gradient[:n_known] = 0  # and Adam, which has no moments of them, leaves them alone
            return gradient

        module.genes.register_hook(of_new_rows)  # type: ignore[no-untyped-call]

    def end(self, situation: Situation) -> None:
        """Let everything learn again."""
        situation.module.requires_grad_(True)
