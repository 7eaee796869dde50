"""How many starts are worth it: the best of some draws of a selection, judged on an inner split.

The outer split of a benchmark set, made with seeds outside the benchmark's, gives test cells that
are never read here. The other cells are divided again, 70 % to train, 10 % to choose the start and
20 % to judge the choice. One training makes `N_STARTS` selections; a predictor is then trained on
each start's panel, and a regression on the same panel judges it too. What the best of fewer starts
would reach is the mean over all subsets of these. One line per run goes to
bench/results/systems/yoto_starts.jsonl; what is there already is not run again.

    python -m bench.yoto.starts                    all runs
    python -m bench.yoto.starts --sets paul15      some of them
    python -m bench.yoto.starts --table            print the table of docs/yoto-benchmarks.md
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from bench.harness import HERE
from bench.records import read_lines
from bench.sets import Problem, load
from bench.table import NOTHING, grid
from bench.yoto.sweep import judged
from kernomics.data import Split, make_split
from kernomics.models import YOTO
from kernomics.models.yoto.starts import Jury

RESULTS = HERE / "results" / "systems" / "yoto_starts.jsonl"
SETS, SEEDS, K, N_STARTS = ("pbmc3k", "paul15", "oligo_2"), tuple(range(100, 106)), 16, 5
EACH = "trained predictor"
JUDGES = ("own", "regression", "own + regression", "cross-validation", EACH)
TITLES = {
    "own": "the selection's network, validation cells",
    "regression": "regression, validation cells",
    "own + regression": "mean of these two",
    "cross-validation": "regression, cross-validated on training cells",
    EACH: "a predictor trained on each, validation cells",
}
COUNTS = (1, 3, 5)
PREDICTORS = ("own", "regression")


def inner_problem(outer: Problem) -> Problem:
    """Divide the cells that are not held out again, into three parts."""
    rows = np.sort(np.concatenate([outer.split.train, outer.split.validation]))
    first = outer.cells.labels[outer.tasks[0]].subset(rows)
    part = make_split(
        len(rows), how="stratified", fractions=(0.7, 0.1, 0.2), labels=first, seed=outer.seed
    )
    three = (rows[part.train], rows[part.validation], rows[part.test])
    split = Split(*three, "stratified", first.name, outer.seed)
    return Problem(outer.cells, outer.counts, split, outer.seed)


def predictor_on(
    problem: Problem, genes: Sequence[str], first: YOTO
) -> tuple[float, dict[str, float]]:
    """Train a predictor on a panel as the second part of a training does.

    Return its macro-F1 on the validation cells, mean over tasks, and on the test cells by task.

    A panel that is forced is fixed after one step in a hundred, and the epochs are those of the
    second part.
    """
    share = 1 - first.config.fix_panel_at
    model = YOTO(
        problem.cells, n_genes=K, split=problem.split, seed=problem.seed, forced_genes=genes,
        fix_panel_at=0.01,
    )  # fmt: skip
    epochs = max(1, round(share * first.training.max_epochs))
    model.train(max_epochs=epochs, progress=False)
    last = model.history.select("validation")[-1]
    validation = mean(last[f"macro_f1/{task}"] for task in problem.tasks)
    test = {task: scores["macro_f1"] for task, scores in model.test_metrics().items()}
    return float(validation), test


def run(problem: Problem) -> dict[str, Any]:
    """Make the selections of one training, and judge each one's panel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = YOTO(
            problem.cells, n_genes=K, split=problem.split, seed=problem.seed, n_starts=N_STARTS,
            judge="own",
        )  # fmt: skip
        model.train(progress=False)
        found = model.starts
        assert found is not None
        place = {gene: i for i, gene in enumerate(problem.cells.genes)}
        jury = Jury(problem.cells, problem.split, model.tasks, "linear", lambda _: [])
        own, regression = [], []
        judged_by: dict[str, list[float]] = {"regression": [], "cross-validation": []}
        trained: list[float] = []
        for panel in found.panels:
            validation, test = predictor_on(problem, panel, model)
            trained.append(validation)
            own.append(test)
            genes = np.array([place[gene] for gene in panel])
            for i, scores in enumerate(judged_by.values()):
                scores.append(jury.regression(genes, cross_validated=i == 1)[0])
            regression.append({task: judged(problem, task, genes) for task in problem.tasks})
    return {
        "judged": {"own": found.own, **judged_by, EACH: trained},
        "test": {"own": own, "regression": regression},
        "overlap": found.mean_overlap,
        "panels": found.panels,
        "cells": [len(getattr(problem.split, part)) for part in ("train", "validation", "test")],
        "config": dataclasses.asdict(model.config),
        "training": dataclasses.asdict(model.training),
    }


def run_all(sets: Sequence[str], seeds: Sequence[int], path: Path) -> None:
    """Run what is not on record."""
    done = {(line["set"], line["seed"]) for line in read_lines(path) if "way" not in line}
    for name in sets:
        left = [seed for seed in seeds if (name, seed) not in done]
        data = load(name) if left else None
        for seed in left:
            assert data is not None
            line = {"set": name, "k": K, "seed": seed, **run(inner_problem(data.problem(seed)))}
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            print(name, seed, [round(score, 3) for score in line["judged"]["cross-validation"]])


# ---- the table -----------------------------------------------------------------------------------


def chosen(line: Mapping[str, Any], judge: str, n: int, predictor: str) -> float:
    """Return what the best of n starts by a judge reaches, mean over tasks and all subsets of n."""
    scores = np.sum([line["judged"][name] for name in judge.split(" + ")], axis=0)
    reached: list[float] = [mean(by_task.values()) for by_task in line["test"][predictor]]
    best = [max(some, key=lambda i: scores[i]) for some in combinations(range(len(scores)), n)]
    return float(mean(reached[i] for i in best))


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table: what the best of 1, 3 and 5 starts reaches, by judge.

    The difference from a single start is paired by data set and split; ± is its standard error.
    Trainings count the predictors.
    """
    newest = {(x["set"], x["seed"]): x for x in lines if "way" not in x}.values()  # bench.yoto.ways
    if not newest:
        return NOTHING
    head = ["selections", "trainings", "judge"]
    head += ["own predictor", "against one start", "logistic regression", "against one start"]
    rows = []
    for n, judge in [(1, "none"), *((n, judge) for n in COUNTS[1:] for judge in JUDGES)]:
        row = [str(n), str(n if judge == EACH else 1), TITLES.get(judge, judge)]
        for predictor in PREDICTORS:
            one = [chosen(line, "own", 1, predictor) for line in newest]
            found = [chosen(line, judge if n > 1 else "own", n, predictor) for line in newest]
            gaps = [a - b for a, b in zip(found, one, strict=True)]
            error = stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
            against = f"{mean(gaps):+.3f} ± {error:.3f}".replace("-", "−") if n > 1 else ""
            row += [f"{mean(found):.3f}", against]
        rows.append(row)
    return grid(head, rows)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS, help="another results file")
    args = parser.parse_args()
    if args.table:
        print(table(read_lines(args.out)))
        return
    torch.set_num_threads(1)
    run_all(args.sets, args.seeds, args.out)


if __name__ == "__main__":
    main()
