"""YOTO on simulated cells of rising number, whose marker genes are known.

    python -m bench.yoto.scale                  all sizes not in bench/results/systems/ yet
    python -m bench.yoto.scale --cells 100000   one size, again
    python -m bench.yoto.scale --smoke          tiny and quick, nothing recorded

Eight types with eight markers each among 20,000 genes, levels spread log-normally, so that a marker
may have fewer than one count in a hundred cells: DE finds about 52 of 64 on 3,500 cells at 1,000
counts a cell, and a logistic regression on all 64 reaches a macro-F1 of 0.75. The cells are written
to a file and read from there, never all at once. Training is timed in a process of its own, and its
peak memory is that process's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
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
from kernomics.models import YOTO

RESULTS = HERE / "results" / "systems" / "yoto_scale.jsonl"
N_TYPES, N_MARKERS, SEED = 8, 8, 10
FRACTIONS = (0.7, 0.1, 0.2)
DE_CELLS = 5_000


@dataclass(frozen=True)
class Case:
    """How many cells over how many genes, and how deep."""

    n_cells: int
    mean_counts: float
    n_genes: int = 20_000


# A million cells have about 200 non-zeros each, so that they are drawn and written in two minutes.
CASES = (Case(700, 1_000), Case(10_000, 1_000), Case(100_000, 1_000), Case(1_000_000, 200))
SMOKE = (Case(300, 500, 200),)


def prepare(case: Case, path: Path) -> dict[str, Any]:
    """Simulate the cells into a file."""
    start = time.perf_counter()
    cells = simulate(
        case.n_cells, case.n_genes, N_TYPES, N_MARKERS,
        mean_counts=case.mean_counts, seed=SEED, path=path,
    )  # fmt: skip
    cells.file.close()
    return {"simulation_seconds": time.perf_counter() - start, "file_bytes": path.stat().st_size}


def train(path: Path, smoke: bool) -> dict[str, Any]:
    """Train with the defaults on the file, in this process; returns what it took and found."""
    start_bytes = machine._status_bytes("VmRSS")
    start = time.perf_counter()
    model = YOTO(path, "cell_type", N_TYPES * N_MARKERS, seed=SEED)
    opened = time.perf_counter()
    model.train(max_epochs=2 if smoke else None, progress=False)
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


def carry_out(case: Case, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Simulate, train in a fresh process, compare with the markers."""
    path = folder / "cells.h5ad"
    line: dict[str, Any] = {
        "n_cells": case.n_cells, "n_genes": case.n_genes, "n_markers": N_TYPES * N_MARKERS,
        "mean_counts": case.mean_counts, "seed": SEED, **environment(args.threads),
        "load": machine.load_average(),
        "time": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
    }  # fmt: skip
    line |= prepare(case, path)
    command = [sys.executable, "-m", "bench.yoto.scale", "--worker", str(path)]
    command += ["--threads", str(args.threads)]
    done = subprocess.run(
        [*command, *(["--smoke"] if args.smoke else [])],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    line |= json.loads(done.stdout.splitlines()[-1])
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
    parser.add_argument("--cells", nargs="+", type=int, choices=[c.n_cells for c in CASES])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="tiny and quick, nothing recorded")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--folder", type=Path, help="for the cells, 1.7 GB at most")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.worker:
        print(json.dumps(train(args.worker, args.smoke)))
        return
    done = {line["n_cells"] for line in read_lines(args.out)}
    for case in SMOKE if args.smoke else CASES:
        wanted = case.n_cells in args.cells if args.cells else case.n_cells not in done
        if args.smoke or wanted:
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                line = carry_out(case, Path(folder), args)
            if not args.smoke:
                append_line(args.out, line)
            print(
                f"{case.n_cells:,} cells: training {line['seconds']:.1f} s, "
                f"{line['cells_per_second']:,.0f} cells/s, peak {line['peak_bytes'] / 1e9:.2f} GB",
                flush=True,
            )


if __name__ == "__main__":
    main()
