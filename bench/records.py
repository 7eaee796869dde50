"""Lines of results files, and how two methods are compared over seeds."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

BySeed = dict[int, float]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a results file, leaving out a line that a killed process did not finish."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            print(f"{path.name}: left out a torn line", file=sys.stderr)
    return found


@dataclass(frozen=True)
class Difference:
    """A paired comparison: mean of ours − other over common seeds, and its standard error."""

    mean: float
    error: float
    n: int

    @property
    def verdict(self) -> str:
        """``"won"`` or ``"lost"`` by more than one standard error, else ``"even"``."""
        if math.isnan(self.error) or abs(self.mean) <= self.error:
            return "even"
        return "won" if self.mean > 0 else "lost"

    def __str__(self) -> str:
        error = "" if math.isnan(self.error) else f" ± {self.error:.3f}"
        text = f"{self.mean:+.3f}{error}".replace("-", "−")
        return f"**{text}**" if self.verdict == "won" else text


def paired(ours: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """Compare over the seeds that both have; None when there is none."""
    differences = [ours[seed] - other[seed] for seed in sorted(ours.keys() & other.keys())]
    if not differences:
        return None
    n = len(differences)
    error = stdev(differences) / math.sqrt(n) if n > 1 else math.nan
    return Difference(mean(differences), error, n)
