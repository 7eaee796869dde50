"""The YOTO benchmark: our panel against others, on real cells, resumable.

    python -m bench.yoto.panels                       every run not in bench/results/systems/ yet
    python -m bench.yoto.panels --shard 0/2           half of them; another process may take 1/2
    python -m bench.yoto.panels --experiment partial  few labels of one task
    python -m bench.yoto.panels --dry-run             what is left, and about how long it takes
    python -m bench.yoto.panels --smoke               tiny and quick, nothing recorded

A run is one method on one data set with one seed and panel size, and one line of the results file,
appended when it is done: the command may be killed at any time and goes on where it was. A run is
done when a line has the same settings; one that failed is on record with its ``error`` and is tried
again. No score is printed. The tables of the docs are made by ``bench/yoto/table.py``.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import hashlib
import importlib.metadata
import json
import os
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Any

import threadpoolctl
import torch

from bench import machine
from bench.harness import HERE
from bench.records import read_lines
from bench.sets import MAIN_SETS, SETS, Problem, load
from bench.yoto import partial, peers
from bench.yoto.methods import METHODS, Bench, Outcome, judge, settings, warm_up

RESULTS = HERE / "results" / "systems" / "yoto.jsonl"
SEEDS = (10, 11, 12, 13, 14)
SIZES = (4, 8, 16, 32, 64, 128, 256)
SMOKE: dict[str, Any] = {"sets": ["oligo_2"], "k": [8], "seeds": [100]}
RECORD_FORMAT = 1  # part of the settings: a higher number runs everything again


@dataclass(frozen=True)
class Run:
    """One line of the results: a method on a data set, with a seed and a panel size.

    `poor` is the task with few labels, empty outside the experiment ``"partial"``.
    """

    experiment: str
    set: str
    seed: int
    k: int
    method: str
    poor: str = ""

    def __str__(self) -> str:
        poor = f" (few {self.poor})" if self.poor else ""
        return f"{self.set}{poor}, seed {self.seed}, k={self.k}, {self.method}"

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the result beside the cells themselves."""
        return {
            "format": RECORD_FORMAT,
            "set": SETS[self.set].settings(),
            "method": partial.partial_settings(self.method, self.k)
            if self.poor
            else settings(self.method, self.k),
        }


def config_hash(run: Run) -> str:
    """Return twelve digits that change with a run's settings."""
    text = json.dumps(run.settings(), sort_keys=True, default=vars)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# ---- the results file ---------------------------------------------------------------------------


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one line; several processes may do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":  # a killed process stopped within its line
                file.write(b"\n")
        file.write((json.dumps(record, default=vars) + "\n").encode())


def run_of(record: dict[str, Any]) -> Run:
    """Return the run that a line is about."""
    return Run(**{field.name: record[field.name] for field in dataclasses.fields(Run)})


def done_runs(path: Path) -> set[tuple[Run, str]]:
    """Return the runs on record that did not fail, each with the hash of its settings."""
    return {(run_of(line), line["config"]) for line in read_lines(path) if "error" not in line}


# ---- what to run --------------------------------------------------------------------------------


def plan(args: argparse.Namespace) -> list[Run]:
    """List the runs asked for, one seed of all sets after the other."""
    runs: list[Run] = []
    for i, seed in enumerate(args.seeds):
        for j, name in enumerate(args.sets):
            if (i + j) % args.shard[1] == args.shard[0]:
                runs += _runs_of(args, name, seed)
    return runs


def _runs_of(args: argparse.Namespace, name: str, seed: int) -> Iterator[Run]:
    several = len(SETS[name].labels) > 1
    if args.experiment == "partial":
        sizes = [k for k in args.k if k == 32] or args.k[:1]
        for set_name, poor in partial.SCENARIOS:
            if set_name == name:
                for method in partial.METHODS:
                    yield Run("partial", name, seed, sizes[0], method, poor)
        return
    if name not in MAIN_SETS:
        return
    for k in args.k:
        for method in args.methods:
            what = METHODS[method]
            wanted = what.only is None or args.smoke
            if what.only is not None:
                sets, sizes, seeds = what.only
                wanted |= name in sets and k in sizes and seed in seeds
            if wanted and (several or not what.several_tasks):
                yield Run("main", name, seed, k, method)


def estimates(lines: list[dict[str, Any]]) -> dict[tuple[Any, ...], float]:
    """Return the mean wall time of runs on record by (method), (method, set), (…, k)."""
    times = defaultdict(list)
    for line in lines:
        if "error" not in line:
            about = (line["method"], line["set"], line["k"])
            for n in (1, 2, 3):
                times[about[:n]].append(line["wall_seconds"])
    return {about: mean(seconds) for about, seconds in times.items()}


def print_plan(runs: list[Run], lines: list[dict[str, Any]]) -> None:
    """Print what is left by method, with the time it should take."""
    known = estimates(lines)
    total, unknown = 0.0, 0
    left: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for run in runs:
        about = (run.method, run.set, run.k)
        guess = next((known[about[:n]] for n in (3, 2, 1) if about[:n] in known), None)
        left[run.method] += 1
        unknown += guess is None
        seconds[run.method] += round(guess or 0)
        total += guess or 0
    for method, count in left.items():
        print(f"{method:<14}{count:>5} runs{seconds[method]:>9,} s")
    print(
        f"{len(runs)} runs left, about {total / 3600:.1f} hours"
        + (f", not counting {unknown} of methods without a past run" if unknown else "")
    )


# ---- one run ------------------------------------------------------------------------------------


def carry_out(run: Run, problem: Problem, bench: Bench) -> dict[str, Any]:
    """Choose genes, judge them, and return what goes on record."""
    if run.poor:
        problem = partial.with_few_labels(problem, run.poor)
        outcome = partial.run(run.method, problem, run.poor, run.k, bench.smoke)
        problem = partial.only_task(problem, run.poor, labelled_cells=False)
    else:
        outcome = METHODS[run.method].run(run.method, bench, run.k)
    start = time.perf_counter()
    scores = judge(problem, outcome.panels)
    return _facts(problem, outcome) | {
        "scores": scores,
        "evaluation_seconds": time.perf_counter() - start,
    }


def _facts(problem: Problem, outcome: Outcome) -> dict[str, Any]:
    split, names = problem.split, problem.cells.genes
    panels = [
        {"tasks": panel.tasks, "genes": names[panel.genes].tolist(), "info": panel.info}
        for panel in outcome.panels
    ]
    labelled = {task: int((problem.codes(task, split.train) >= 0).sum()) for task in problem.tasks}
    return {
        "panels": panels,
        "n_trainings": outcome.n_trainings,
        "seconds": outcome.seconds,
        "peak_rss_bytes": outcome.peak_bytes,
        "peak_extra_bytes": outcome.extra_bytes,
        "warnings": outcome.warnings,
        "cells": {part: len(getattr(split, part)) for part in ("train", "validation", "test")},
        "labelled_train": labelled,
        "n_genes": problem.cells.n_genes,
        "split": {"how": split.how, "by": split.by, "seed": split.seed},
    }


def environment(threads: int) -> dict[str, Any]:
    """Return machine, versions and commit, as recorded with every run."""
    about = machine.describe(torch.device("cpu"))
    for package in ("numpy", "scanpy", "scikit-learn"):
        about["versions"][package] = importlib.metadata.version(package)
    return about | {"threads": threads}


def run_all(runs: list[Run], path: Path, args: argparse.Namespace) -> int:
    """Carry out runs and record them; return how many failed."""
    about = environment(args.threads)
    failed = count = 0
    for (name, seed), group in groupby(runs, key=lambda run: (run.set, run.seed)):
        problem = bench = None
        for run in group:
            count += 1
            digest = config_hash(run)
            if (run, digest) in done_runs(path):  # another process may have been quicker
                continue
            line = dataclasses.asdict(run) | {
                "config": digest,
                **about,
                "load": machine.load_average(),
                "time": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
            }
            start = time.perf_counter()
            try:
                if problem is None or bench is None:
                    problem = load(name, smoke=args.smoke).problem(seed)
                    bench = Bench(problem, max(args.k), args.smoke)
                line |= carry_out(run, problem, bench) | {"settings": run.settings()}
            except Exception as error:
                failed += 1
                line |= {"error": f"{type(error).__name__}: {error}"}
                traceback.print_exc()
            line["wall_seconds"] = time.perf_counter() - start
            append_line(path, line)
            print(f"[{count}/{len(runs)}] {run}: {line['wall_seconds']:.1f} s", flush=True)
    return failed


# ---- the command --------------------------------------------------------------------------------


def _shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and int(part) < int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is no share such as 0/2 or 1/2")
    return int(part), int(parts)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Benchmark YOTO on real cells.")
    parser.add_argument("--experiment", choices=["main", "partial"], default="main")
    parser.add_argument("--sets", nargs="+", choices=list(SETS))
    parser.add_argument(
        "--methods", nargs="+", choices=list(METHODS),
        default=[name for name in METHODS if not peers.missing(name)],
    )  # fmt: skip
    parser.add_argument("--k", nargs="+", type=int, help="panel sizes")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shard", type=_shard, default=(0, 1), help="such as 0/2")
    parser.add_argument("--out", type=Path, help="results file")
    parser.add_argument("--dry-run", action="store_true", help="list what is left")
    parser.add_argument("--smoke", action="store_true", help="tiny and quick, nothing recorded")
    args = parser.parse_args(argv)
    if args.smoke and args.out:
        parser.error("--smoke records nothing; leave out --out")
    usual = SMOKE if args.smoke else {"sets": list(SETS), "k": list(SIZES), "seeds": list(SEEDS)}
    for name, value in usual.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = _arguments(argv)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "yoto.jsonl" if args.smoke else args.out or RESULTS
        done = done_runs(path)
        runs = [run for run in plan(args) if (run, config_hash(run)) not in done]
        if args.dry_run:
            print_plan(runs, read_lines(path))
            return
        warm_up(args.threads)  # loads the libraries that are then held to the number of threads
        with threadpoolctl.threadpool_limits(args.threads):
            failed = run_all(runs, path, args)
    if failed:
        sys.exit(f"{failed} of {len(runs)} runs failed; they are tried again next time")


if __name__ == "__main__":
    main()
