"""Steps of a training that are passed over, as after a spike of the loss."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence

from kernomics.errors import ConfigError

Steps = Iterable[int | tuple[int, int]]
"""Steps counted from 1, as the history counts them, and ranges of them, both ends included."""
Ranges = list[list[int]]
"""Steps as ranges [first, last] that are sorted and have steps between them."""


def ranges_of(steps: Steps) -> Ranges:
    """Return steps as ranges."""
    found: Ranges = []
    for one in steps:
        try:
            ends = [
                operator.index(end) for end in (one if isinstance(one, Sequence) else [one] * 2)
            ]
            first, last = ends
        except (TypeError, ValueError):
            raise ConfigError(
                f"skip_steps holds {one!r}: give a step, or (first, last) of a range"
            ) from None
        if not 1 <= first <= last:
            raise ConfigError(
                f"skip_steps holds {one!r}: steps are counted from 1, and a range goes from its "
                "first to its last"
            )
        found.append([first, last])
    return joined(found)


def joined(ranges: Ranges) -> Ranges:
    """Return ranges sorted, those that meet as one."""
    found: Ranges = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1][1] = max(found[-1][1], last)
        else:
            found.append([first, last])
    return found


def holds(ranges: Ranges, step: int) -> bool:
    """Tell whether a step is in one of some ranges."""
    return any(first <= step <= last for first, last in ranges)


def more_skipped(known: Ranges, given: Ranges, done: int, total: int) -> Ranges:
    """Return all steps to skip, those known and those given, which must still be to do.

    A step that is done may be given again if it was skipped.
    """
    for first, last in given:
        if last > total:
            raise ConfigError(
                f"skip_steps names step {max(first, total + 1):,}, but this training has "
                f"{total:,} steps, counted from 1"
            )
        trained = next((s for s in range(first, min(last, done) + 1) if not holds(known, s)), None)
        if trained is not None:
            raise ConfigError(
                f"skip_steps names step {trained:,}, which is done: the checkpoint that the run "
                f"goes on from holds {done:,} steps; resume from one before that step, by moving "
                "the later ones out of checkpoints, or skip steps from there on"
            )
    return joined([*known, *given])
