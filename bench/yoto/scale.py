"""YOTO on simulated cells of rising number, whose marker genes are known.

    python -m bench.yoto.scale                  all sizes not in bench/results/systems/ yet
    python -m bench.yoto.scale --case 100k      one size, again
    python -m bench.yoto.scale --smoke          tiny and quick, nothing recorded

Eight types with eight markers each among 20,000 genes, levels spread log-normally, so that a marker
may have fewer than one count in a hundred cells: DE finds about 52 of 64 on 3,500 cells at 1,000
counts a cell, and a logistic regression on all 64 reaches a macro-F1 of 0.75. The cells are written
to a file and read from there, never all at once. Training is timed in a process of its own, and its
peak memory is that process's. Passes differ in number, and what is done once is spread over them:
so one pass alone is timed too, at every size. Of the atlas, a million cells of some 950 non-zeros
each, YOTO makes one pass; TxFM and PolyGene take 200 steps on the same file, which need no more
memory than any number of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import torch
from numpy.typing import NDArray

from bench import machine
from bench.harness import HERE
from bench.records import read_lines
from bench.yoto.panels import append_line, environment
from kernomics.baselines import de_panel
from kernomics.data import make_split
from kernomics.data.labels import Labels
from kernomics.datasets import simulate
from kernomics.models import YOTO, PolyGene, TxFM

RESULTS = HERE / "results" / "systems" / "yoto_scale.jsonl"
N_TYPES, N_MARKERS, SEED = 8, 8, 10
FRACTIONS = (0.7, 0.1, 0.2)
DE_CELLS = 5_000


STEPS = 200
OTHERS = ("txfm", "polygene")


@dataclass(frozen=True)
class Case:
    """How many cells over how many genes, how deep, and how many passes; by default YOTO's own."""

    n_cells: int
    mean_counts: float
    n_genes: int = 20_000
    epochs: int | None = None
    others: tuple[str, ...] = ()


# Shallow cells have about 200 non-zeros each, so that a million are written in two minutes.
CASES = {
    "700": Case(700, 1_000),
    "10k": Case(10_000, 1_000),
    "100k": Case(100_000, 1_000),
    "shallow": Case(1_000_000, 200),
    "atlas": Case(1_000_000, 1_000, epochs=1, others=OTHERS),
}
SMOKE = {"smoke": Case(300, 500, 200, epochs=2, others=OTHERS)}


def prepare(case: Case, path: Path) -> dict[str, Any]:
    """Simulate the cells into a file."""
    start = time.perf_counter()
    cells = simulate(
        case.n_cells, case.n_genes, N_TYPES, N_MARKERS,
        mean_counts=case.mean_counts, seed=SEED, path=path,
    )  # fmt: skip
    cells.file.close()
    return {"simulation_seconds": time.perf_counter() - start, "file_bytes": path.stat().st_size}


def train(path: Path, epochs: int | None) -> dict[str, Any]:
    """Train with the defaults on the file, in this process; returns what it took and found."""
    start_bytes = machine._status_bytes("VmRSS")
    start = time.perf_counter()
    model = YOTO(path, "cell_type", N_TYPES * N_MARKERS, seed=SEED)
    opened = time.perf_counter()
    model.train(max_epochs=epochs, progress=False)
    seconds = time.perf_counter() - opened
    peak = machine._status_bytes("VmHWM")
    n_seen = model.training.max_epochs * len(model.split.train)
    return {
        "opening_seconds": opened - start,
        "seconds": seconds,
        "epochs": model.training.max_epochs,
        "cells_per_second": n_seen / seconds,
        "start_bytes": start_bytes,
        "peak_bytes": peak,
        "genes": model.genes,
        "test": model.test_metrics()["cell_type"],
        "warnings": model.warnings,
    }


class Enough(Exception):
    """A training was measured for as many steps as were wanted."""


class StepTimes:
    """A logger that notes when each step was done, and ends the training after some."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.times: list[float] = []

    def config(self, config: Mapping[str, Any]) -> None:
        """Take nothing of it."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Note a step."""
        if record["split"] == "step":
            self.times.append(time.perf_counter())
            if len(self.times) == self.steps:
                raise Enough

    def close(self) -> None:
        """Have nothing to close."""


def take_steps(system: str, path: Path, steps: int) -> dict[str, Any]:
    """Take some steps of another system with its defaults on the file, in this process."""
    start_bytes, start = machine._status_bytes("VmRSS"), time.perf_counter()
    if system == "txfm":
        model: Any = TxFM(path, n_genes=1_000, seed=SEED)
    else:
        model = PolyGene(path, "cell_type", seed=SEED)
    opened, times = time.perf_counter(), StepTimes(steps)
    with suppress(Enough):
        model.train(1, loggers=[times], log_every_steps=1, progress=False)
    taken = len(times.times)
    return {
        "opening_seconds": opened - start,
        "steps": taken,
        "batch_size": model.training.batch_size,
        "seconds": times.times[-1] - opened,
        "milliseconds_a_step": 1e3 * (times.times[-1] - times.times[0]) / max(1, taken - 1),
        "start_bytes": start_bytes,
        "peak_bytes": machine._status_bytes("VmHWM"),
    }


def markers(path: Path) -> tuple[NDArray[np.bool_], list[str]]:
    """Return which genes mark a type, and the names of all."""
    cells = anndata.read_h5ad(path, backed="r")
    found = cells.var["marker_of"].notna().to_numpy(), cells.var_names.tolist()
    cells.file.close()
    return found


def de_genes(path: Path, n_genes: int) -> list[str]:
    """Return as many DE genes of at most 5,000 of the training cells."""
    cells = anndata.read_h5ad(path, backed="r")
    label = Labels.from_series(cells.obs["cell_type"], "cell_type")
    split = make_split(cells.n_obs, how="stratified", fractions=FRACTIONS, labels=label, seed=SEED)
    drawn = np.random.default_rng(SEED).permutation(split.train)[:DE_CELLS]
    rows = np.sort(drawn)
    part = cells[rows].to_memory()
    cells.file.close()
    chosen = de_panel(part.X, label.values[rows], n_genes)
    names: list[str] = part.var_names[chosen].tolist()
    return names


def worked(what: str, path: Path, number: int | None, threads: int) -> dict[str, Any]:
    """Return what a fresh process found."""
    command = [sys.executable, "-m", "bench.yoto.scale", "--worker", what, str(path)]
    command += ["--threads", str(threads)] + ([] if number is None else ["--number", str(number)])
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def carry_out(name: str, case: Case, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Simulate, train in a fresh process, compare with the markers."""
    path = folder / "cells.h5ad"
    line: dict[str, Any] = {
        "case": name, "n_cells": case.n_cells, "n_genes": case.n_genes,
        "n_markers": N_TYPES * N_MARKERS,
        "mean_counts": case.mean_counts, "seed": SEED, **environment(args.threads),
        "load": machine.load_average(),
        "time": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
    }  # fmt: skip
    line |= prepare(case, path)
    line |= worked("yoto", path, case.epochs, args.threads)
    once = worked("yoto", path, 1, args.threads)
    line["one_epoch"] = {key: once[key] for key in ("seconds", "cells_per_second", "peak_bytes")}
    steps = 2 if args.smoke else STEPS
    line["others"] = {x: worked(x, path, steps, args.threads) for x in case.others}
    is_marker, names = markers(path)
    marking = {name for name, marks in zip(names, is_marker, strict=True) if marks}
    line["recovered"] = {
        "yoto": len(marking & set(line["genes"])),
        "de": len(marking & set(de_genes(path, len(marking)))),
    }
    line["nonzeros"] = _nonzeros(path)
    line["dense_bytes"] = 4 * case.n_cells * case.n_genes
    return line


def _nonzeros(path: Path) -> int:
    cells = anndata.read_h5ad(path, backed="r")
    count = int(cells.X.group["indptr"][-1])
    cells.file.close()
    return count


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Benchmark YOTO on simulated cells.")
    parser.add_argument("--case", nargs="+", choices=list(CASES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="tiny and quick, nothing recorded")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--folder", type=Path, help="for the cells, 8 GB at most")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.worker:
        what, path = args.worker[0], Path(args.worker[1])
        found = train(path, args.number) if what == "yoto" else take_steps(what, path, args.number)
        print(json.dumps(found))
        return
    done = {line["case"] for line in read_lines(args.out)}
    for name, case in (SMOKE if args.smoke else CASES).items():
        wanted = name in args.case if args.case else name not in done
        if args.smoke or wanted:
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                line = carry_out(name, case, Path(folder), args)
            if not args.smoke:
                append_line(args.out, line)
            print(
                f"{case.n_cells:,} cells: training {line['seconds']:.1f} s, "
                f"{line['cells_per_second']:,.0f} cells/s, peak {line['peak_bytes'] / 1e9:.2f} GB, "
                f"{line['recovered']['yoto']} markers",
                *(
                    f"{x}: {found['steps']} steps of {found['milliseconds_a_step']:.0f} ms, "
                    f"peak {found['peak_bytes'] / 1e9:.2f} GB"
                    for x, found in line["others"].items()
                ),
                sep="; ", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
