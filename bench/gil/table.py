"""Write the tables of docs/gil.md from bench/results/systems/gil.jsonl.

``python -m bench.gil.table``
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import mean, stdev
from typing import Any

from bench.gil.methods import OUT, ROOT
from bench.records import paired, read_lines
from bench.table import grid, put_between

PAGE = ROOT / "docs" / "gil.md"
SCORES = {"linear_accuracy": "types, linear", "knn_accuracy": "types, kNN"}
Runs = Mapping[int, Mapping[str, Any]]


def spread(values: Sequence[float], signed: bool = False) -> str:
    """Write a mean and its standard error."""
    if not values:
        return ""
    text = (f"{mean(values):+.3f}" if signed else f"{mean(values):.3f}").replace("-", "−")
    if len(values) == 1:
        return text
    return f"{text} ± {stdev(values) / len(values) ** 0.5:.3f}"


def runs_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, Runs]:
    """Return the runs by method and seed; a later line takes the place of an earlier one."""
    found: dict[str, Any] = {}
    for line in lines:
        found.setdefault(line["method"], {})[line["seed"]] = line
    return found


def loss(run: Mapping[str, Any], of: str, after: str, group: str) -> float:
    """Return the loss of a group of genes after a stage."""
    return float(run["losses"][of][run["after"].index(after)][run["stages"].index(group)])


def delta(run: Mapping[str, Any], of: str) -> float:
    """Return what was forgotten of the first stage's specific genes."""
    _, first, *_ = run["stages"]
    return loss(run, of, run["stages"][-1], first) - loss(run, of, first, first)


def final(run: Mapping[str, Any], of: str = "tokens") -> float:
    """Return the mean loss of all specific genes at the end."""
    return mean(loss(run, of, run["stages"][-1], group) for group in run["stages"][1:])


def accuracy(run: Mapping[str, Any], score: str = "linear_accuracy") -> float:
    """Return how well cell types are told at the end."""
    return float(run["classes"]["means"][run["stages"][-1]][score])


def main_table(found: Mapping[str, Runs], of: str) -> str:
    """Return losses, forgetting and classification by method."""
    rows, names = [], []
    for name, runs in found.items():
        every = list(runs.values())
        names = every[0]["stages"]
        last, joint = names[-1], name == "joint"
        at_end = [spread([loss(run, of, last, group) for run in every]) for group in names]
        learnt = [] if joint else [loss(run, of, names[1], names[1]) for run in every]
        rows.append(
            [
                name,
                str(len(every)),
                at_end[0],
                spread(learnt),
                at_end[1],
                spread([] if joint else [delta(run, of) for run in every], signed=True),
                *at_end[2:],
                spread([final(run, of) for run in every]),
                *(spread([accuracy(run, score) for run in every]) for score in SCORES),
            ]
        )
    later = [f"{other}, now" for other in names[2:]]
    return grid(
        ["method", "seeds", "base, now", f"{names[1]}, learnt", f"{names[1]}, now", "Δ", *later,
         "all specific", *SCORES.values()],
        rows,
    )  # fmt: skip


def paired_table(found: Mapping[str, Runs], against: Mapping[str, str]) -> str:
    """Return paired differences of methods to others, over the seeds that both have."""
    measures: dict[str, Callable[[Mapping[str, Any]], float]] = {
        "specific genes' loss, tokens": final,
        "the same, state": lambda run: final(run, "queries"),
        **{name: partial(accuracy, score=score) for score, name in SCORES.items()},
    }
    rows = []
    for name, other in against.items():
        if name not in found or other not in found:
            continue
        row = [f"{name} − {other}"]
        for measure in measures.values():
            one, two = ({s: measure(r) for s, r in found[n].items()} for n in (name, other))
            difference = paired(one, two)
            row.append("" if difference is None else str(difference).strip("*"))
        row.append(f"{newest_ratio(found[name], found['naive']):.3f}")
        rows.append(row)
    return grid(["difference", *measures, "newest genes' loss, of naive's"], rows)


def newest_ratio(runs: Runs, naive: Runs) -> float:
    """Return the newest genes' loss as a share of what naive training reaches."""
    both = sorted(runs.keys() & naive.keys())
    last = next(iter(runs.values()))["stages"][-1]
    return mean(
        loss(runs[seed], "tokens", last, last) / loss(naive[seed], "tokens", last, last)
        for seed in both
    )


AGAINST = {
    "ghosts": "distillation",
    "ghosts, half": "distillation",
    "distillation + ghosts": "distillation",
    "adapters": "distillation",
    "der 5%": "replay 5%",
    "replay 5%, a quarter": "replay 5%",
    "replay 5%, a quarter + ghosts": "replay 5%",
    "replay 5%, a tenth + ghosts": "replay 5%",
    "replay 5% + distillation": "replay 5%",
}


def main() -> None:
    """Write the tables."""
    lines = read_lines(OUT)
    two, three = (runs_of([x for x in lines if len(x["stages"]) == n]) for n in (3, 4))
    text = PAGE.read_text(encoding="utf-8")
    made = {of: main_table(two, of) for of in ("tokens", "queries")}
    if three:
        made["three"] = main_table(three, "tokens")
    made["paired"] = paired_table(two, AGAINST)
    for name, table in made.items():
        text = put_between(
            text, f"<!-- gil-{name} -->", f"<!-- gil-{name}: end -->", table, PAGE.name
        )
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
