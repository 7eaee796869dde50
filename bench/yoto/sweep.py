"""The sweep behind YOTO's defaults: one setting changed at a time, judged on an inner split.

The outer split of a benchmark set, made with seeds outside the benchmark's, gives test cells that
are never read here. The other cells are divided again, 70 % to train and 30 % to judge. One line
per run goes to bench/results/systems/yoto_sweep.jsonl; what is there already is not run again.

    python -m bench.yoto.sweep                       all variants, two seeds
    python -m bench.yoto.sweep --variants default "no noise" --shard 0/2
    python -m bench.yoto.sweep --table               print the table of docs/yoto-benchmarks.md
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from bench.harness import HERE
from bench.records import read_lines
from bench.sets import Problem, load
from bench.table import NOTHING
from kernomics.baselines import de_panel
from kernomics.data import Split, make_split
from kernomics.metrics import evaluate_genes
from kernomics.models import YOTO
from kernomics.train import config_hash

ROUND = 2  # a higher number runs everything again, about the defaults there are by then
ROUNDS = {
    1: "about scores by Adam at 0.03 and input that is not centred",
    2: "about the defaults",
}
RESULTS = HERE / "results" / "systems" / "yoto_sweep.jsonl"
SETS, SIZES, SEEDS = ("pbmc3k", "paul15", "oligo_2"), (16, 64), (100, 101)

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "NeuralSort": {"relaxation": "neuralsort"},
    "softmax": {"relaxation": "softmax"},
    "τ to 0.05": {"tau_end": 0.05},
    "τ 1 throughout": {"tau_end": 1.0},
    "no noise": {"noise_start": 0.0},
    "noise from 1": {"noise_start": 1.0},
    "noise 1 to the end": {"noise_start": 1.0, "noise_end": 1.0, "noise_until": 1.0},
    "no shrinking": {"start_genes": "k"},
    "from 8 k genes": {"start_genes": "8 k"},
    "shrink over 0.8": {"shrink_until": 0.8},
    "no prior": {"marker_prior": 0.0},
    "prior 0.1": {"marker_prior": 0.1},
    "prior 1": {"marker_prior": 1.0},
    "select to the end": {"fix_panel_at": 0.0},
    "fix panel at 0.7": {"fix_panel_at": 0.7},
    "no smoothing": {"label_smoothing": 0.0},
    "balanced class weights": {"class_weights": "balanced"},
    "equal class weights": {"class_weights": None},
    "dropout 0.1": {"dropout": 0.1},
    "dropout 0.5": {"dropout": 0.5},
    "score rate 0.03": {"score_learning_rate": 0.03},
    "score rate 0.3": {"score_learning_rate": 0.3},
    "learning rate 0.001": {"training": {"learning_rate": 1e-3}},
    "learning rate 0.01": {"training": {"learning_rate": 1e-2}},
    "weight decay 0.05": {"training": {"weight_decay": 0.05}},
    "weight decay 1": {"training": {"weight_decay": 1.0}},
    "no private encoders": {"private_encoders": False},
    "one hidden layer": {"hidden": (128,)},
    "256-256": {"hidden": (256, 256)},
    "twice the steps": {"epochs": 2.0},
    "half the steps": {"epochs": 0.5},
}
"""Settings by name, as overrides of the defaults; "k" and "8 k" are in panel sizes."""


def inner_problem(outer: Problem) -> Problem:
    """Divide the cells that are not held out again: none of the test cells is in the result."""
    rows = np.sort(np.concatenate([outer.split.train, outer.split.validation]))
    first = outer.cells.labels[outer.tasks[0]].subset(rows)
    part = make_split(
        len(rows), how="stratified", fractions=(0.7, 0.0, 0.3), labels=first, seed=outer.seed
    )
    nobody = np.array([], np.int64)
    split = Split(rows[part.train], nobody, rows[part.test], "stratified", first.name, outer.seed)
    return Problem(outer.cells, outer.counts, split, outer.seed)


def judged(problem: Problem, task: str, genes: np.ndarray[Any, Any]) -> float:
    """Macro-F1 of an independent logistic regression on some genes."""
    return evaluate_genes(
        problem.train_counts[:, genes],
        problem.codes(task, problem.split.train),
        problem.test_counts[:, genes],
        problem.codes(task, problem.split.test),
    ).macro_f1


def run(problem: Problem, k: int, variant: Mapping[str, Any]) -> dict[str, Any]:
    """Train once with some settings changed."""
    settings = dict(variant)
    training, epochs = dict(settings.pop("training", {})), settings.pop("epochs", 1.0)
    if "start_genes" in settings:
        settings["start_genes"] = {"k": k, "8 k": 8 * k}[settings["start_genes"]]
    model = YOTO(problem.cells, n_genes=k, split=problem.split, seed=problem.seed, **settings)
    training.setdefault("max_epochs", round(model.training.max_epochs * epochs))
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.train(progress=False, **training)
    seconds = time.perf_counter() - begun
    place = {gene: i for i, gene in enumerate(problem.cells.genes)}
    genes = np.array([place[gene] for gene in model.genes])
    return {
        "own": {task: scores["macro_f1"] for task, scores in model.test_metrics().items()},
        "regression": {task: judged(problem, task, genes) for task in problem.tasks},
        "genes": model.genes,
        "seconds": round(seconds, 2),
        "config": dataclasses.asdict(model.config),
        "training": dataclasses.asdict(model.training),
    }


def de_reference(problem: Problem, k: int) -> dict[str, Any]:
    """DE markers, k for each task alone."""
    scores = {}
    for task in problem.tasks:
        codes = problem.codes(task, problem.split.train)
        scores[task] = judged(problem, task, de_panel(problem.train_counts, codes, k))
    return {"regression": scores}


def sweep(names: Sequence[str], sets: Sequence[str], seeds: Sequence[int], shard: str) -> None:
    """Run what is not on record."""
    mine, of = (int(part) for part in shard.split("/"))
    done = {
        (x["variant"], x["set"], x["k"], x["seed"], x["settings"])
        for x in read_lines(RESULTS)
        if x["round"] == ROUND
    }
    todo = [
        (name, data, k, seed) for data in sets for name in names for k in SIZES for seed in seeds
    ]
    problems: dict[str, Any] = {}
    for name, data, k, seed in todo[mine::of]:
        settings = config_hash(VARIANTS[name]) if name != "DE" else ""
        if (name, data, k, seed, settings) in done:
            continue
        if data not in problems:
            problems = {data: load(data)}
        problem = inner_problem(problems[data].problem(seed))
        found = de_reference(problem, k) if name == "DE" else run(problem, k, VARIANTS[name])
        line = {"round": ROUND, "variant": name, "set": data, "k": k, "seed": seed}
        line |= {"settings": settings, **found}
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        with RESULTS.open("a") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        print(name, data, k, seed, {t: round(v, 3) for t, v in found["regression"].items()})


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return Markdown tables, one for each round of the sweep."""
    parts = []
    for number, title in ROUNDS.items():
        of_round = [line for line in lines if line["round"] == number]
        if of_round:
            parts.append(f"Round {number}, {title}:\n\n{_table_of_round(of_round)}")
    return "\n\n".join(parts) or NOTHING


def _table_of_round(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return a table: each variant's mean macro-F1, and how it differs from the default.

    The difference is paired by data set, panel size, seed and task; ± is its standard error.
    """
    scores: dict[str, dict[tuple[Any, ...], tuple[float, float]]] = {}
    for x in lines:
        of = scores.setdefault(x["variant"], {})
        for task, value in x["regression"].items():
            of[x["set"], x["k"], x["seed"], task] = (x.get("own", {}).get(task, np.nan), value)
    rows = [
        "| variant | own predictor | against the default | logistic regression | against the "
        "default | runs |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in ["default", *(name for name in scores if name not in ("default", "DE")), "DE"]:
        found = scores.get(name)
        if not found:
            continue
        cells = [name]
        for i in (0, 1):
            values = [pair[i] for pair in found.values()]
            gaps = [found[key][i] - scores["default"][key][i] for key in found]
            if np.isnan(values).all():
                cells += ["", ""]
                continue
            against = ""
            if name != "default":
                error = stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else np.nan
                against = f"{mean(gaps):+.3f} ± {error:.3f}"
            cells += [f"{mean(values):.3f}", against]
        runs = len({key[:3] for key in found})
        rows.append("| " + " | ".join([*cells, str(runs)]) + " |")
    return "\n".join(rows)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    everything = [*VARIANTS, "DE"]
    parser.add_argument("--variants", nargs="+", default=everything, choices=everything)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--shard", default="0/1", help="this process's share of the runs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--out", type=Path, help="another results file")
    args = parser.parse_args()
    if args.out:
        global RESULTS
        RESULTS = args.out
    if args.table:
        print(table(read_lines(RESULTS)))
        return
    torch.set_num_threads(args.threads)
    sweep(args.variants, args.sets, args.seeds, args.shard)


if __name__ == "__main__":
    main()
