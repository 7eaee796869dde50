"""`Part`: which cells of a global batch are this rank's."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import NamedTuple


class Part(NamedTuple):
    """Which cells of a global batch are this rank's: `own` of `whole`, from `start` on."""

    own: int
    start: int
    whole: int


_computed: Part | None = None


def computed() -> Part | None:
    """Return of which part the loss is computed now, if one is."""
    return _computed


@contextlib.contextmanager
def loss_of(part: Part) -> Generator[None, None, None]:
    """While a loss is computed, say of which part it is."""
    global _computed
    _computed = part
    try:
        yield
    finally:
        _computed = None
