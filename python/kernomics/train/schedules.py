"""Schedules: pure functions of a step and the number of steps, so that resuming needs no state."""

from __future__ import annotations

import math

from kernomics.errors import ConfigError


def _progress(step: float, total: int) -> float:
    """Return how far `step` is on the way from step 0 to step `total` − 1, from 0 to 1."""
    if total < 1:
        raise ConfigError(f"a schedule over {total} steps is impossible: at least 1 is needed")
    if total == 1:
        return 1.0
    return min(max(step / (total - 1), 0.0), 1.0)


def first_steps(total: int, share: float) -> int:
    """Return how many of `total` steps the first part of a training in two parts takes.

    With a share of 0 or 1 there is but one part.
    """
    first = round(share * total)
    return first if 0 < first < total else 0


def part_of(step: int, total: int, restart_at: float | tuple[float, ...]) -> tuple[int, int]:
    """Return a step's number in its part of a training, and how many steps the part has."""
    shares = restart_at if isinstance(restart_at, tuple) else (restart_at,)
    ends = [first_steps(total, share) for share in shares]
    begin = max((end for end in ends if end <= step), default=0)
    return step - begin, min((end for end in ends if end > step), default=total) - begin


def constant(step: int, total: int, *, value: float = 1.0) -> float:
    """Return `value` at every step."""
    return value


def exponential(step: int, total: int, *, start: float, end: float) -> float:
    """Go from `start` at step 0 to `end` at the last step by the same factor in each step.

    value = start · (end / start)^(step / (total − 1)); the annealing of the temperature in
    differentiable top-k selection.

    Parameters
    ----------
    step
        The step, counted from 0; later than the last stays at `end`.
    total
        The number of steps.
    start, end
        The first and the last value, both above 0.

    Raises
    ------
    ConfigError
        If one of them is not above 0.
    """
    if not (start > 0 and end > 0):
        raise ConfigError(f"an exponential schedule from {start} to {end}: both must be above 0")
    share = _progress(step, total)
    if share in (0.0, 1.0):
        return end if share else start
    return float(start * (end / start) ** share)


def one_cycle(
    step: int,
    total: int,
    *,
    warmup: float = 0.1,
    start: float = 1 / 25,
    end: float = 1 / 250_000,
) -> float:
    """One cycle of the learning rate: a cosine up to 1 during the warm-up, then a cosine down.

    The same curve as :class:`torch.optim.lr_scheduler.OneCycleLR` with its default factors. The
    peak lies at step ``warmup · total − 1``, the end at step ``total − 1``.

    Parameters
    ----------
    step
        The step, counted from 0; later than the last stays at `end`.
    total
        The number of steps.
    warmup
        The share of the steps before the peak, 0 to 1; with fewer than one step of warm-up the
        first step is the peak.
    start, end
        The first and the last value, as factors of the peak.

    Source: L. N. Smith, N. Topin, "Super-Convergence", 2018.
    """
    if total < 1:
        raise ConfigError(f"a schedule over {total} steps is impossible: at least 1 is needed")
    peak = max(warmup * total - 1.0, 0.0)
    last = float(total - 1)
    if step < peak:
        return _cosine(start, 1.0, step / peak)
    if step == peak or last <= peak:
        return 1.0
    return _cosine(1.0, end, min((step - peak) / (last - peak), 1.0))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * share))
