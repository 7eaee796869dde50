"""Naive: one stage after the other, and nothing against forgetting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kernomics.models.gil.methods.base import Method


@dataclass(frozen=True)
class Naive(Method):
    """The paper's baseline: each stage's cells alone, in their turn."""

    name: ClassVar[str] = "naive"
    alone: ClassVar[bool] = True
