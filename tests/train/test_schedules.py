"""Schedules are pure functions that begin, peak and end where they say."""

from __future__ import annotations

import math

import pytest
import torch

from kernomics.errors import ConfigError
from kernomics.train import schedules


@pytest.mark.parametrize(("total", "warmup"), [(100, 0.1), (100, 0.3), (37, 0.25), (11, 0.5)])
def test_one_cycle_is_the_curve_of_torch(total: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=total, pct_start=warmup
    )
    for step in range(total):
        expected = optimizer.param_groups[0]["lr"]
        assert schedules.one_cycle(step, total, warmup=warmup) == pytest.approx(expected, rel=1e-12)
        optimizer.step()
        if step + 1 < total:
            reference.step()


@pytest.mark.parametrize("total", [1, 2, 3, 10])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 1.0])
def test_one_cycle_stays_within_its_ends_for_any_length(total: int, warmup: float) -> None:
    values = [schedules.one_cycle(step, total, warmup=warmup) for step in range(total + 2)]
    assert all(1 / 250_000 <= value <= 1 for value in values)
    assert max(values) == 1.0 or 0 < warmup * total % 1 < 1
    if total > 1 and warmup < 1:
        assert values[total - 1] == pytest.approx(1 / 250_000)
        assert values[total + 1] == values[total - 1]


def test_exponential_reaches_both_ends() -> None:
    values = [schedules.exponential(s, 4, start=8.0, end=1.0) for s in range(5)]
    assert values == pytest.approx([8.0, 4.0, 2.0, 1.0, 1.0], rel=1e-15)
    assert values[0] == 8.0
    assert values[3] == 1.0


def test_schedule_of_one_step_is_at_its_end() -> None:
    assert schedules.exponential(0, 1, start=1.0, end=3.0) == 3.0
    assert schedules.one_cycle(0, 1) == 1.0


def test_constant_is_constant() -> None:
    assert {schedules.constant(s, 10, value=0.3) for s in range(12)} == {0.3}


def test_exponential_needs_positive_ends() -> None:
    for start, end in [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (math.nan, 1.0)]:
        with pytest.raises(ConfigError, match="both must be above 0"):
            schedules.exponential(0, 10, start=start, end=end)


def test_schedule_over_no_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match="over 0 steps"):
        schedules.one_cycle(0, 0)


@pytest.mark.parametrize(
    ("total", "share", "expected"),
    [(10, 0.4, 4), (10, 0.0, 0), (10, 1.0, 0), (1, 0.5, 0), (3, 0.5, 2)],
)
def test_first_part_is_its_share_of_the_steps_or_there_is_but_one(total, share, expected) -> None:
    assert schedules.first_steps(total, share) == expected
