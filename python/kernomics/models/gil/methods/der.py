"""DER++: cells kept are shown again with what the model once said of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernomics._arguments import require_least
from kernomics.data import Cells
from kernomics.data.row_numbers import parts
from kernomics.data.staged import StagedCells
from kernomics.models.gil.memory import in_turn, require_memory, reservoir, with_rounds
from kernomics.models.gil.methods.base import Method, Situation, Step
from kernomics.models.gil.methods.distillation import require_weight
from kernomics.models.gil.module import STEPS_OF_A_STAGE

if TYPE_CHECKING:
    from kernomics.models.gil.lesson import Lesson

STORED_DRAW = -3
"""By which the genes hidden for the stored predictions are drawn."""
CELLS_AT_A_TIME = 128
STORED = ("rows", "n", "tokens", "queries")
"""Of each cell kept its row and how many of its genes are hidden; what is predicted of these."""


@dataclass(frozen=True)
class DER(Method):
    """Dark experience replay (arXiv 2004.07211), with predictions of hidden values for logits.

    Two batches of kept cells stand beside each of the new stage's. Of the first the same genes are
    hidden as when the cells were kept, and the predictions are held near those of then; of the
    second others are hidden, and the loss is that of training.

    Attributes
    ----------
    memory
        Cells kept of each stage.
    alpha, beta
        Weights of the two losses.
    batch
        Kept cells in each of the two batches, at most all that are kept.
    """

    name: ClassVar[str] = "der"
    memory: int = 1000
    alpha: float = 0.5
    beta: float = 0.5
    batch: int = 32
    _stored: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def check(self, staged: StagedCells) -> None:
        """Refuse a memory larger than the data, and weights of 0 or less."""
        require_memory(self.memory, 0.5, staged)
        require_weight("alpha", self.alpha)
        require_weight("beta", self.beta)
        require_least(1, batch=self.batch)

    def begin(self, situation: Situation) -> None:
        """Forget what another training stored."""
        if situation.previous is None:
            self._stored.clear()

    def loss(self, lesson: Lesson, step: Step) -> Tensor | None:
        """Return α times the difference to what was stored, plus β times the loss of training."""
        situation, module = lesson.situation, lesson.module
        if situation.previous is None:
            return None
        kept = situation.kept(self.memory)
        batch = min(self.batch, sum(map(len, kept)))
        place = 2 * batch * (int(step.draw[1]) % STEPS_OF_A_STAGE)
        cells, _ = _cells(situation, kept, place, batch)
        found = module(module.tokens(cells, module.at(STORED_DRAW)))
        at = _places(self._stored, cells.cell_ids.cpu())
        device = found.tokens.device
        n = max(1, len(at))
        old = sum(
            (getattr(found, name) - self._stored[name][at].to(device)).square().sum() * weight
            for name, weight in (("tokens", 1.0), ("queries", lesson.query_weight))
        )
        cells, rounds = _cells(situation, kept, place + batch, batch)
        tokens = module.tokens(with_rounds(cells, rounds), step.draw)
        true = module.value_losses(module(tokens))["loss"]
        return self.alpha * old / n + self.beta * true  # type: ignore[no-any-return]

    @torch.no_grad()
    def end(self, situation: Situation) -> None:
        """Store what the model says of the cells that are kept of this stage."""
        module = situation.module
        rows = reservoir(situation.staged, situation.number, self.memory, situation.seed)
        new: dict[str, list[Tensor]] = {name: [] for name in STORED}
        for part in parts(len(rows), CELLS_AT_A_TIME):
            cells = situation.staged.cells.batch(rows[part]).to(module.genes.device)
            tokens = module.tokens(cells, module.at(STORED_DRAW))
            found = module(tokens)
            new["rows"].append(cells.cell_ids.cpu())
            hidden = torch.bincount(tokens.cells[tokens.hidden], minlength=len(cells))
            new["n"].append(hidden.cpu())
            new["tokens"].append(found.tokens.cpu())
            new["queries"].append(found.queries.cpu())
        for name, tensors in new.items():
            before = [self._stored[name]] if name in self._stored else []
            self._stored[name] = torch.cat([*before, *tensors])

    def state(self) -> dict[str, Tensor]:
        """Return what is stored."""
        return dict(self._stored)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up what was stored."""
        self._stored.clear()
        self._stored.update({name: state[name] for name in STORED})


def _cells(
    situation: Situation, kept: list[NDArray[np.int64]], first: int, n: int
) -> tuple[Cells, NDArray[np.int64]]:
    rows, rounds = in_turn(kept, first, n, situation.seed)
    return situation.staged.cells.batch(rows).to(situation.module.genes.device), rounds


def _places(stored: Mapping[str, Tensor], rows: Tensor) -> Tensor:
    """Return where what is stored of some cells stands, cell by cell, int64 [M]."""
    ends = stored["n"].cumsum(0)
    order = torch.argsort(stored["rows"])
    at = order[torch.searchsorted(stored["rows"][order], rows)]
    sizes = stored["n"][at]
    starts = (ends[at] - sizes).repeat_interleave(sizes)
    within = torch.arange(int(sizes.sum())) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return starts + within
