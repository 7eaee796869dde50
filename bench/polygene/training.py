"""PolyGene's training step beside the same network in plain torch, padded to the longest cell.

    python -m bench.polygene.training --cells 32 --repeats 9

Batches are those of a training on real cells, whose lengths are uneven: Kang's cells express 18 to
2,007 genes, 565 on average. A line on the screen and one in `--out` for each limit on a cell's
genes: cells per second of both, in turn in one run, their ratio, and the share of the padded
network's tokens that are padding.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

import kernomics
from bench.machine import describe
from bench.polygene import eager
from kernomics.data import Sampler
from kernomics.models import PolyGene
from kernomics.models.polygene.module import PolyGeneModule

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "bench" / "results" / "systems" / "polygene-training.jsonl"


def seconds(call: Any) -> float:
    """Return how long one call takes."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def compare(data: Path, size: str, n_cells: int, n_tokens: int, repeats: int) -> dict[str, Any]:
    """Time steps of both on the same batches."""
    model = PolyGene(data / "kang_ifnb_harmony.h5ad", "perturbation", size, n_tokens=n_tokens)
    module: PolyGeneModule = model._module()
    sampler = Sampler(model.split.train, n_cells)
    batches = [model.cells.batch(sampler.batch(0, i)) for i in range(repeats + 1)]
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)

    def step(loss_of: Any, cells: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(cells).backward()
        optimizer.step()

    ways = {
        "kernomics": lambda cells: module.training_loss(cells)["loss"],
        "torch, padded": lambda cells: eager.training_loss(module, cells),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for i, cells in enumerate(batches):
        for name, loss_of in ways.items():
            took = seconds(lambda loss_of=loss_of, cells=cells: step(loss_of, cells))
            if i:  # the first warms up
                times[name].append(took)
    lengths = torch.cat(
        [cells.indptr.diff().clamp_max(n_tokens).max() - cells.indptr.diff().clamp_max(n_tokens)
         for cells in batches]
    )  # fmt: skip
    longest = sum(int(c.indptr.diff().clamp_max(n_tokens).max()) * len(c) for c in batches)
    rates = {name: n_cells / median(values) for name, values in times.items()}
    return {
        "bench": "polygene-training",
        "version": kernomics.__version__,
        **describe(torch.device("cpu")),
        "load_average": round(os.getloadavg()[0], 1),
        "size": size,
        "cells": n_cells,
        "n_tokens": n_tokens,
        "padding": float(lengths.sum()) / longest,
        "cells_per_second": rates,
        "ratio": rates["kernomics"] / rates["torch, padded"],
    }


def main() -> None:
    """Compare at several limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("KERNOMICS_DATA", str(ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--size", default="XXS")
    parser.add_argument("--cells", type=int, default=32)
    parser.add_argument("--n-tokens", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    for n_tokens in args.n_tokens:
        line = compare(args.data, args.size, args.cells, n_tokens, args.repeats)
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(n_tokens, line["cells_per_second"], round(line["ratio"], 2), flush=True)


if __name__ == "__main__":
    main()
