"""How subset size, temperature and noise change in the course of a YOTO selection."""

from __future__ import annotations

from dataclasses import dataclass

from kernomics.train import schedules


@dataclass(frozen=True)
class Leg:
    """A stretch of steps in which one start selects.

    Attributes
    ----------
    level, turn
        How often starts were ended before, from 0, and the leg's place among those of its level.
    first, last
        Its first step of the training, and the one after its last.
    begin, end
        The same within the selection of its start.
    """

    level: int
    turn: int
    first: int
    last: int
    begin: int
    end: int


def survivors(n_starts: int, halving: bool) -> list[int]:
    """Return how many starts select in each level: half of those before, rounded up, down to 1."""
    left = [n_starts]
    while halving and left[-1] > 1:
        left.append((left[-1] + 1) // 2)
    return left


def legs_of(n_starts: int, each: int, halving: bool) -> list[Leg]:
    """Return who selects when, for starts of so many steps.

    Without halving one start after the other. With it the last one left has the second half of its
    steps to itself, the two before that the second quarter, and so on.
    """
    counts = survivors(n_starts, halving)
    ends = [each >> (len(counts) - 1 - level) for level in range(len(counts))]
    legs: list[Leg] = []
    for level, (count, begin, end) in enumerate(zip(counts, [0, *ends], ends, strict=False)):
        for turn in range(count):
            first = legs[-1].last if legs else 0
            legs.append(Leg(level, turn, first, first + end - begin, begin, end))
    return legs


@dataclass
class Schedule:
    """How the selection changes in the course of training; see `YOTOConfig`.

    With several starts `legs` say who selects when, and a start has `each` steps in all.
    """

    n_genes: int
    start_genes: int
    shrink_until: float
    tau: tuple[float, float]
    noise: tuple[float, float]
    noise_until: float
    fix_at: float = 0.0
    each: int = 0
    legs: tuple[Leg, ...] = ()

    def selection_steps(self, total: int) -> int:
        """Return how many steps select; with the rest the network learns from a fixed panel."""
        return schedules.first_steps(total, self.fix_at) or total

    def leg_ended(self, step: int) -> int | None:
        """Return the number of the leg that ends before this step."""
        return next((i for i, leg in enumerate(self.legs) if leg.last == step), None)

    def place(self, step: int, total: int) -> tuple[int, int]:
        """Return a step's number within its start's selection, and how many steps that has."""
        for leg in self.legs:
            if leg.first <= step < leg.last:
                return leg.begin + step - leg.first, self.each
        return step, self.each or self.selection_steps(total)

    def cycle(self, step: int, total: int) -> tuple[int, int] | None:
        """Return which step of how many the learning rate has; None where the plan knows.

        A start has one cycle, however many legs it has.
        """
        selecting = self.selection_steps(total)
        if not self.legs:
            return None
        if step < selecting:
            return self.place(step, total)
        return step - selecting, total - selecting

    def at(self, step: int, total: int) -> tuple[int, float, float]:
        """Return (k, τ, noise scale) of an optimiser step."""
        step, total = self.place(step, total)
        share = step / max(1, total - 1)
        shrink = min(1.0, share / self.shrink_until) if self.shrink_until > 0 else 1.0
        k = self.start_genes * (self.n_genes / self.start_genes) ** shrink
        tau = schedules.exponential(step, total, start=self.tau[0], end=self.tau[1])
        fade = min(1.0, share / self.noise_until) if self.noise_until > 0 else 1.0
        noise = self.noise[0] + (self.noise[1] - self.noise[0]) * fade
        return max(self.n_genes, round(k)), tau, noise
