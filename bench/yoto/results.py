"""What the YOTO benchmark has on record, and how two methods are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean, stdev
from typing import Any

from bench.records import BySeed, Difference, paired
from bench.sets import SETS
from bench.yoto.peers import VERSIONS

OTHERS = (
    "random", "hvg", "de", "de_joint", "l1", "l1_joint", "persist", "hard_k", "hard_k_joint",
    *VERSIONS,
)  # fmt: skip
"""The methods that YOTO is compared with; the rest are variants of itself."""


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


def beside_l1(results: Results) -> str:
    """Say how a regression on our panels does beside one on L1's, by how many genes L1 has.

    For a label alone, or with k for all labels as ours, and with k for each of several; means over
    cases, ± the standard error over these.
    """
    gaps: dict[str, list[float]] = {"as many genes": [], "k genes for each of two labels": []}
    for name, task, k in results.cases():
        several = len(SETS[name].labels) > 1
        ours = results.score(task, "lr", set=name, k=k, method="yoto")
        for title, other in zip(gaps, ("l1_joint" if several else "l1", "l1"), strict=True):
            gap = paired(ours, results.score(task, "lr", set=name, k=k, method=other))
            if gap and (several or title == "as many genes"):
                gaps[title].append(gap.mean)
    told = [
        f"L1 with {title} {mean(of):+.3f} ± {stdev(of) / len(of) ** 0.5:.3f} ({len(of)} cases)"
        for title, of in gaps.items()
        if len(of) > 1
    ]
    told = [text.replace(" -", " −") for text in told]
    return "- logistic regression, mean difference from " + ", from ".join(told) if told else ""


def hardest(
    ours: Mapping[int, float], others: Mapping[str, Mapping[int, float]]
) -> tuple[str, Difference] | None:
    """Return the contender that ours gains least over, or loses most to."""
    found = {name: paired(ours, scores) for name, scores in others.items()}
    compared = [(name, difference) for name, difference in found.items() if difference]
    return min(compared, key=lambda pair: pair[1].mean, default=None)
