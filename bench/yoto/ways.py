"""Other ways to make several starts: from L1's and DE's genes, ended early, or of fewer steps.

On the inner splits of `bench.yoto.starts`, whose five starts of a split are what each way is
compared with. One line per way and split goes to the same file of results; what is there already
is not run again.

    python -m bench.yoto.ways                       all ways and splits
    python -m bench.yoto.ways --ways "L1's panel" --sets paul15 --seeds 100
    python -m bench.yoto.ways --table               print the table of docs/yoto-benchmarks.md
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from bench.records import read_lines
from bench.sets import Problem, load
from bench.table import NOTHING, grid
from bench.yoto.starts import RESULTS, SEEDS, SETS, K, inner_problem, predictor_on
from bench.yoto.sweep import judged
from kernomics.baselines import Baseline, DEBaseline, L1Baseline, round_robin
from kernomics.models import YOTO

PANELS: dict[str, type[Baseline]] = {"L1's panel": L1Baseline, "DE's panel": DEBaseline}
"""Panels of others, k genes for all labels by turns, with YOTO's second part as predictor."""
TRAININGS: dict[str, dict[str, Any]] = {
    "one start": {},
    "one start from L1's genes": {"start_rankings": ("l1",)},
    "one start from DE's genes": {"start_rankings": ("de",)},
    "4 starts": {"n_starts": 4},
    "4 starts, halving": {"n_starts": 4, "halving": True},
    "4 starts of half the steps": {"n_starts": 4, "fix_panel_at": 0.25, "epochs": 0.8},
}
"""Settings; the last leaves the second part the steps it has otherwise."""
WAYS = (*TRAININGS, *PANELS)


def run(problem: Problem, way: str) -> dict[str, Any]:
    """Choose a panel in one way, and judge it by its own predictor and a regression."""
    place = {gene: i for i, gene in enumerate(problem.cells.genes)}
    begun = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if way in PANELS:
            found = [
                PANELS[way]().select(
                    problem.train_counts, problem.codes(task, problem.split.train), K,
                    seed=problem.seed,
                )
                for task in problem.tasks
            ]  # fmt: skip
            genes = problem.cells.genes[round_robin(found, K)].tolist()
            plain = YOTO(problem.cells, n_genes=K, split=problem.split, seed=problem.seed)
            own = predictor_on(problem, genes, plain)[1]
        else:
            settings = dict(TRAININGS[way])
            share = settings.pop("epochs", 1.0)
            model = YOTO(
                problem.cells, n_genes=K, split=problem.split, seed=problem.seed, **settings
            )
            model.train(max_epochs=round(share * model.training.max_epochs), progress=False)
            genes = model.genes
            own = {task: scores["macro_f1"] for task, scores in model.test_metrics().items()}
    seconds = time.process_time() - begun
    numbers = np.array([place[gene] for gene in genes])
    return {
        "own": mean(own.values()),
        "regression": mean(judged(problem, task, numbers) for task in problem.tasks),
        "genes": genes,
        "seconds": seconds,
    }


def run_all(ways: Sequence[str], sets: Sequence[str], seeds: Sequence[int], path: Path) -> None:
    """Run what is not on record."""
    done = {(line["way"], line["set"], line["seed"]) for line in read_lines(path) if "way" in line}
    for name in sets:
        data = load(name)
        for seed in seeds:
            for way in ways:
                if (way, name, seed) in done:
                    continue
                found = run(inner_problem(data.problem(seed)), way)
                line = {"way": way, "set": name, "k": K, "seed": seed, **found}
                with path.open("a") as file:
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                print(name, seed, way, f"{line['seconds']:.1f} s", flush=True)


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table: what each way reaches beside one start, over the splits it has.

    One start is the mean of the five of a split; differences are paired by split, ± is their
    standard error. Times are compared with "one start" where both are on record.
    """
    newest = {(x["way"], x["set"], x["seed"]): x for x in lines if "way" in x}
    one = {
        (x["set"], x["seed"]): {
            by: mean(mean(start.values()) for start in x["test"][by])
            for by in ("own", "regression")
        }
        for x in lines
        if "way" not in x
    }
    rows = []
    for way in WAYS:
        if way == "one start":
            continue
        found = {where: x for (name, *where_), x in newest.items() if name == way
                 and (where := tuple(where_)) in one}  # fmt: skip
        if not found:
            continue
        row = [way]
        for by in ("own", "regression"):
            gaps = [x[by] - one[where][by] for where, x in found.items()]
            error = stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
            reached = mean(x[by] for x in found.values())
            row += [f"{reached:.3f}", f"{mean(gaps):+.3f} ± {error:.3f}".replace("-", "−")]
        ratios = [
            x["seconds"] / newest["one start", *where]["seconds"]
            for where, x in found.items()
            if ("one start", *where) in newest and x["seconds"] is not None
        ]
        rows.append([*row, f"{mean(ratios):.1f} ×" if ratios else "", str(len(found))])
    if not rows:
        return NOTHING
    head = ["way", "own predictor", "against one start", "logistic regression"]
    return grid([*head, "against one start", "processor time", "splits"], rows)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS, help="another results file")
    args = parser.parse_args()
    if args.table:
        print(table(read_lines(args.out)))
        return
    torch.set_num_threads(1)
    run_all(args.ways, args.sets, args.seeds, args.out)


if __name__ == "__main__":
    main()
