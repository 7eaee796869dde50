"""How subset size, temperature and noise change in the course of a YOTO selection."""

from __future__ import annotations

from dataclasses import dataclass

from kernomics.train import schedules


@dataclass
class Schedule:
    """How the selection changes in the course of training; see `YOTOConfig`."""

    n_genes: int
    start_genes: int
    shrink_until: float
    tau: tuple[float, float]
    noise: tuple[float, float]
    noise_until: float
    fix_at: float = 0.0
    n_starts: int = 1

    def selection_steps(self, total: int) -> int:
        """Return how many steps select; with the rest the network learns from a fixed panel."""
        return schedules.first_steps(total, self.fix_at) or total

    def start_ended(self, step: int, total: int) -> int | None:
        """Return which of several starts, from 0, ends before this step."""
        each = self.selection_steps(total) // self.n_starts
        if self.n_starts == 1 or step % each or not 0 < step <= each * self.n_starts:
            return None
        return step // each - 1

    def at(self, step: int, total: int) -> tuple[int, float, float]:
        """Return (k, τ, noise scale) of an optimiser step."""
        selecting = self.selection_steps(total)
        total = selecting // self.n_starts
        if step < selecting:
            step %= total
        share = step / max(1, total - 1)
        shrink = min(1.0, share / self.shrink_until) if self.shrink_until > 0 else 1.0
        k = self.start_genes * (self.n_genes / self.start_genes) ** shrink
        tau = schedules.exponential(step, total, start=self.tau[0], end=self.tau[1])
        fade = min(1.0, share / self.noise_until) if self.noise_until > 0 else 1.0
        noise = self.noise[0] + (self.noise[1] - self.noise[0]) * fade
        return max(self.n_genes, round(k)), tau, noise
