"""EWC: weights that mattered to earlier stages are held near where these left them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from kernomics._arguments import require_least
from kernomics.data.rng import Stream, permutation
from kernomics.data.staged import StagedCells
from kernomics.models.gil.methods.base import Method, Situation, Step
from kernomics.models.gil.methods.distillation import require_weight
from kernomics.models.gil.module import GILModule

if TYPE_CHECKING:
    from kernomics.models.gil.lesson import Lesson

FISHER_DRAW = -16
"""The first of the draws by which genes are hidden; the others count down from it."""


@dataclass(frozen=True)
class EWC(Method):
    """Elastic weight consolidation (arXiv 1612.00796), online: λ/2 Σ F (θ − θ*)².

    θ* are the weights after the stage before. F, the diagonal of the Fisher information, is the
    mean square of the gradient of small batches' losses times their cells, summed over the stages
    so far. Shared weights and embeddings are all held; a specific gene that is absent does not
    move anyway.

    Attributes
    ----------
    weight
        λ.
    n_batches, batch
        Batches of a stage's training cells, drawn evenly, and their size, by which F is estimated.
    """

    name: ClassVar[str] = "ewc"
    weight: float = 1.0
    n_batches: int = 50
    batch: int = 16
    _held: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def check(self, staged: StagedCells) -> None:
        """Refuse a weight of 0 or less, and nothing to estimate by."""
        require_weight("weight", self.weight)
        require_least(1, n_batches=self.n_batches, batch=self.batch)

    def begin(self, situation: Situation) -> None:
        """Forget what another training held, and bring what is held to the device."""
        if situation.previous is None:
            self._held.clear()
        device = situation.module.genes.device
        self._held.update({name: t.to(device) for name, t in self._held.items()})

    def loss(self, lesson: Lesson, step: Step) -> Tensor | None:
        """Return λ/2 times the weighted square of how far the weights have moved."""
        if not self._held:
            return None
        total = torch.zeros((), device=step.outputs.tokens.device)
        for name, parameter in lesson.module.named_parameters():
            anchor, fisher = self._held[f"at.{name}"], self._held[f"of.{name}"]
            moved = parameter[: len(anchor)] - anchor  # a table may have grown since
            total = total + (fisher * moved.square()).sum()
        return self.weight / 2 * total

    def end(self, situation: Situation) -> None:
        """Add this stage's Fisher information, and hold the weights where they are now."""
        found = self._fisher(situation)
        for name, parameter in situation.module.named_parameters():
            before = self._held.get(f"of.{name}")
            if before is not None:
                found[name][: len(before)] += before
            self._held[f"of.{name}"] = found[name]
            self._held[f"at.{name}"] = parameter.detach().clone()

    def _fisher(self, situation: Situation) -> dict[str, Tensor]:
        module: GILModule = situation.module
        named = dict(module.named_parameters())
        sums = {name: torch.zeros_like(p) for name, p in named.items()}
        n = min(self.n_batches, max(1, len(situation.train) // self.batch))
        order = permutation(
            len(situation.train), situation.seed, Stream.FISHER_CELLS, situation.number
        )
        for i in range(n):
            rows = np.sort(situation.train[order[i * self.batch : (i + 1) * self.batch]])
            cells = situation.staged.cells.batch(rows).to(module.genes.device)
            tokens = module.tokens(cells, module.at(FISHER_DRAW - i))
            loss = module.value_losses(module(tokens))["loss"]
            gradients = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
            for name, gradient in zip(named, gradients, strict=True):  # zeros of what is not used
                sums[name] += gradient.square() * len(rows)
        return {name: total / n for name, total in sums.items()}

    def state(self) -> dict[str, Tensor]:
        """Return what is held."""
        return dict(self._held)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up what was held."""
        if not state:
            raise KeyError("what EWC holds")
        self._held.clear()
        self._held.update(state)
