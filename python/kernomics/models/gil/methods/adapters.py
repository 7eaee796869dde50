"""Adapters: new genes bring small networks of their own, and nothing that was learnt moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from kernomics._arguments import require_least
from kernomics.data.staged import StagedCells
from kernomics.errors import ConfigError
from kernomics.models.gil.config import GILConfig
from kernomics.models.gil.methods.base import Method, Situation
from kernomics.models.gil.methods.freezing import fix_all_but

NOTHING_LEARNS = (
    "the cells that it keeps hold no new gene, so all weights that they pass are fixed, and "
    "nothing is forgotten of them"
)


@dataclass(frozen=True)
class Adapters(Method):
    """The frozen contract: what was learnt stays, and so does what it says of cells as they were.

    After the first stage all weights and the rows of old genes are fixed. New genes act through
    rows of their own and through a stage's bottlenecks, which a cell without any of its genes
    skips: of such a cell the model says the same as before, to the bit.

    Attributes
    ----------
    rank
        Numbers in the middle of each bottleneck, at most the network's width.
    """

    name: ClassVar[str] = "adapters"
    refuses: ClassVar[Mapping[str, str]] = {
        "replay": NOTHING_LEARNS,
        "der": NOTHING_LEARNS,
        "ewc": "the weights that it holds are fixed",
        "ghosts": "it shows the cells without their new genes, so all weights that they pass are "
        "fixed",
    }
    rank: int = 16

    def check(self, staged: StagedCells) -> None:
        """Refuse bottlenecks of nothing."""
        require_least(1, rank=self.rank)

    def check_network(self, config: GILConfig) -> None:
        """Refuse bottlenecks wider than the network."""
        if self.rank > config.d_model:
            raise ConfigError(
                f"rank of method 'adapters' is {self.rank}, above the network's width of "
                f"{config.d_model} (d_model): choose {config.d_model} or less"
            )

    def begin(self, situation: Situation) -> None:
        """Give the new genes their adapter, and fix everything else."""
        if situation.previous is None:
            return
        adapter = situation.module.add_adapter(self.rank, situation.n_known)
        fix_all_but(situation, adapter.parameters())

    def end(self, situation: Situation) -> None:
        """Let everything learn again."""
        situation.module.requires_grad_(True)
