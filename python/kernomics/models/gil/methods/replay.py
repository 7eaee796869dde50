"""Gene replay: some cells of each earlier stage, with their genes, are shown again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from kernomics.data.staged import StagedCells
from kernomics.models.gil.memory import require_memory
from kernomics.models.gil.methods.base import Method, Situation


@dataclass(frozen=True)
class Replay(Method):
    """Cells of earlier stages beside those of the new one, in every batch.

    Attributes
    ----------
    memory
        Cells kept of each stage.
    share
        Of a batch, which the earlier stages divide equally among them. The new stage's cells come
        as without replay, `batch_size` at a time; the kept ones come on top.
    """

    name: ClassVar[str] = "replay"
    memory: int = 1000
    share: float = 0.5

    def check(self, staged: StagedCells) -> None:
        """Refuse a memory larger than the data."""
        require_memory(self.memory, self.share, staged)

    def replayed(self, situation: Situation) -> tuple[list[NDArray[np.int64]], float]:
        """Return the cells kept of each earlier stage."""
        return situation.kept(self.memory), self.share
