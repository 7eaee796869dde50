"""Joint: all stages at once, the oracle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kernomics.models.gil.methods.base import Method


@dataclass(frozen=True)
class Joint(Method):
    """All stages' cells together, each with the genes of its own stage: nothing is forgotten."""

    name: ClassVar[str] = "joint"
    alone: ClassVar[bool] = True

    def plan(self, n_stages: int) -> list[list[int]]:
        """Return all stages as one."""
        return [list(range(n_stages))]
