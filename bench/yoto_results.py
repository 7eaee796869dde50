"""What the YOTO benchmark has on record, and how two methods are compared."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev
from typing import Any

OTHERS = (
    "random", "hvg", "de", "de_joint", "l1", "l1_joint", "persist", "hard_k", "hard_k_joint",
)  # fmt: skip
"""The methods that YOTO is compared with; the rest are variants of itself."""

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


def newest(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep the last line of each run, and of each case only runs with the newest settings.

    A case is a method on a data set at one panel size: seeds of different settings are not mixed.
    """
    hashes, runs = {}, {}
    for line in lines:
        if "error" not in line:
            case = tuple(line[name] for name in ("experiment", "set", "poor", "k", "method"))
            hashes[case] = line["config"]
            runs[*case, line["seed"]] = line
    return [line for (*case, _), line in runs.items() if line["config"] == hashes[tuple(case)]]


@dataclass(frozen=True)
class Results:
    """Lines of one experiment, newest settings only."""

    lines: list[dict[str, Any]]

    @classmethod
    def of(cls, lines: Sequence[dict[str, Any]], experiment: str) -> Results:
        """Take the lines of an experiment."""
        return cls([line for line in newest(lines) if line["experiment"] == experiment])

    def where(self, **wanted: Any) -> list[dict[str, Any]]:
        """Return the lines with these values, by rising seed."""
        found = [x for x in self.lines if all(x[name] == value for name, value in wanted.items())]
        return sorted(found, key=lambda line: line["seed"])

    def score(self, task: str, predictor: str, metric: str = "macro_f1", **wanted: Any) -> BySeed:
        """Return a score by seed; empty where the method has no such predictor."""
        found = {}
        for line in self.where(**wanted):
            scores = line["scores"].get(task, {}).get(predictor)
            if scores is not None:
                found[line["seed"]] = scores[metric]
        return found

    def cases(self) -> list[tuple[str, str, int]]:
        """Return every (set, task, k) on record, in the order of the benchmark."""
        sets = dict.fromkeys(line["set"] for line in self.lines)
        found: dict[tuple[str, str, int], None] = {}
        for name in sets:
            lines = self.where(set=name)
            tasks = dict.fromkeys(task for line in lines for task in line["scores"])
            for task in tasks:
                for k in sorted({line["k"] for line in lines}):
                    found[name, task, k] = None
        return list(found)


def panel_of(line: dict[str, Any], task: str) -> list[str]:
    """Return the (first) panel that a run judged a task by."""
    genes: list[str] = next(p["genes"] for p in line["panels"] if task in p["tasks"])
    return genes


def overlap(panels: Sequence[Sequence[str]]) -> float:
    """Return the mean Jaccard index over all pairs of panels; NaN for a single one."""
    pairs = [len({*a} & {*b}) / len({*a} | {*b}) for a, b in combinations(panels, 2)]
    return mean(pairs) if pairs else math.nan


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


def hardest(
    ours: Mapping[int, float], others: Mapping[str, Mapping[int, float]]
) -> tuple[str, Difference] | None:
    """Return the contender that ours gains least over, or loses most to."""
    found = {name: paired(ours, scores) for name, scores in others.items()}
    compared = [(name, difference) for name, difference in found.items() if difference]
    return min(compared, key=lambda pair: pair[1].mean, default=None)
