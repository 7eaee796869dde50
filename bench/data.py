"""Cells read from a file larger than a batch: cells and tokens a second, warm and cold.

An uncompressed h5ad of CSR counts with int32 indices, read in blocks of 64 cells, 64 blocks to a
buffer, in the order of one `Sampler`: by `Loader`, and by AnnData's backed reading of the same
blocks. Both are asserted to give the same batches before they are timed, and run in turn.
scDataset, where it is installed, reads blocks and buffers of the same size from AnnData's backed
matrix, in an order of its own. annbatch wants Python 3.12 and reads a store of its own: where
``KERNOMICS_PEERS`` names a folder with ``annbatch/bin/python``, an environment with annbatch and
zarrs, that one runs bench/data_annbatch.py in the same run.

Count: a cell of 1,000 non-zeros is 8 KB in the file, read once and written once into the buffer,
then read and written once more by the sweep that gathers, converts and checks: 32 KB of traffic, so
10 GB/s of copying would give 300,000 cells/s on a core; 80,000 cells/s of a disk are 640 MB/s.

    python -m bench.data               print figures
    python -m bench.data --smoke       a small file: every batch compared, nothing recorded
    python -m bench.data --record      also add to bench/results/systems (quiet machine only)
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import anndata
import h5py
import numpy as np
import torch
from scipy import sparse

from bench import machine
from bench.harness import HERE, refuse_when_busy
from bench.yoto.peers import python_of
from kernomics.data import CellCollection, Loader, Sampler

GENES, NONZEROS, BLOCK, BUFFER, BATCH = 20_000, 1_000, 64, 64, 256
READ = 512 * 1024  # bytes of a random read of the disk

Batches = Iterator[tuple[Any, Any, Any]]


def make_file(path: Path, n_cells: int) -> None:
    """Write cells of 1,000 genes each, one of every 20 neighbours, block by block."""
    step = GENES // NONZEROS
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        adata = anndata.AnnData(sparse.csr_matrix((n_cells, GENES), dtype=np.float32))
        anndata.io.write_elem(file, "/", adata)
        del file["X/data"], file["X/indices"], file["X/indptr"]
        size = n_cells * NONZEROS
        values = file["X"].create_dataset("data", (size,), np.float32)
        indices = file["X"].create_dataset("indices", (size,), np.int32)
        file["X"].create_dataset("indptr", data=np.arange(n_cells + 1) * NONZEROS)
        for first in range(0, n_cells, 8192):
            n = min(8192, n_cells - first)
            place = slice(first * NONZEROS, (first + n) * NONZEROS)
            drawn = generator.integers(0, step, (n, NONZEROS), dtype=np.int32)
            indices[place] = (np.arange(NONZEROS, dtype=np.int32) * step + drawn).ravel()
            values[place] = generator.integers(1, 9, n * NONZEROS).astype(np.float32)


def ours(path: Path, sampler: Sampler) -> Callable[[int], Batches]:
    """Read by `Loader`; what each batch reads is checked."""
    cells = CellCollection.from_anndata(path, check=False)

    def epoch(i: int) -> Batches:
        for batch in Loader(cells, sampler).epoch(i):
            yield batch.indptr, batch.indices, batch.values

    return epoch


def backed(path: Path, sampler: Sampler) -> Callable[[int], Batches]:
    """Read each block of a buffer by AnnData, backed, and put its cells in the sampler's order."""
    adata = anndata.read_h5ad(path, backed="r")

    def epoch(i: int) -> Batches:
        order, size = sampler.order(i), BLOCK * BUFFER
        for first in range(0, order.size, size):
            wanted = order[first : first + size]
            heads = np.unique(wanted // BLOCK) * BLOCK
            parts = [adata.X[head : head + BLOCK] for head in heads.tolist()]
            rows = np.searchsorted(heads, wanted // BLOCK * BLOCK) * BLOCK + wanted % BLOCK
            buffer = sparse.vstack(parts, format="csr")[rows]
            for start in range(0, wanted.size, BATCH):
                batch = buffer[start : start + BATCH]
                yield (
                    torch.from_numpy(batch.indptr.astype(np.int64)),
                    torch.from_numpy(batch.indices),
                    torch.from_numpy(batch.data),
                )

    return epoch


def scdataset(path: Path, sampler: Sampler) -> Callable[[int], Batches]:
    """Read by scDataset from the backed matrix, its blocks and buffers of our sizes."""
    library: Any = import_module("scdataset")
    adata = anndata.read_h5ad(path, backed="r")

    def fetched(cells: Any, rows: Any) -> Any:
        return cells.X[np.asarray(rows)]

    def epoch(i: int) -> Batches:
        read = library.scDataset(
            adata, library.BlockShuffling(BLOCK), BATCH,
            fetch_factor=BLOCK * BUFFER // BATCH, seed=i, fetch_callback=fetched,
        )  # fmt: skip
        for batch in read:
            yield (
                torch.from_numpy(batch.indptr.astype(np.int64)),
                torch.from_numpy(batch.indices),
                torch.from_numpy(batch.data),
            )

    return epoch


PROVIDERS = {"kernomics": ours, "AnnData, backed": backed}
OTHERS = {"scDataset": scdataset} if find_spec("scdataset") else {}


def annbatch_speeds(path: Path, n_cells: int, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Return annbatch's cells a second by state and store, none where it is not installed."""
    python = python_of("annbatch")
    if python is None:
        return {}
    order = {
        "path": str(path), "folder": str(path.parent), "n_cells": n_cells, "rounds": rounds,
        "block": BLOCK, "buffer": BUFFER, "batch": BATCH,
    }  # fmt: skip
    line = [str(python), str(HERE / "data_annbatch.py"), json.dumps(order)]
    printed = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = json.loads(printed.splitlines()[-1])
    return {
        (state, f"annbatch {found['version']}, {store}"): speeds
        for store, states in found["speeds"].items()
        for state, speeds in states.items()
    }


def forget(path: Path) -> None:
    """Drop a file from the system's memory, so that the disk is read again."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def disk_rate(path: Path, n_reads: int = 400) -> float:
    """Return bytes a second of random reads of 512 KB that are not in memory."""
    forget(path)
    places = range(0, path.stat().st_size - READ, READ)
    chosen = random.Random(0).sample(places, min(n_reads, len(places)))
    descriptor = os.open(path, os.O_RDONLY)
    begun = time.perf_counter()
    for place in chosen:
        os.pread(descriptor, READ, place)
    took = time.perf_counter() - begun
    os.close(descriptor)
    return len(chosen) * READ / took


def timed(batches: Batches, n_batches: int) -> float:
    """Return cells a second of the first batches."""
    n, begun = 0, time.perf_counter()
    for i, (indptr, _, _) in enumerate(batches, 1):
        n += indptr.numel() - 1
        if i == n_batches:
            break
    return n / (time.perf_counter() - begun)


def _epoch(epoch: Callable[[int], Batches], n_batches: int) -> float:
    return timed(epoch(0), n_batches)


def measure(path: Path, n_cells: int, rounds: int) -> list[dict[str, Any]]:
    """Compare the providers' batches, then time them in turn."""
    sampler = Sampler(np.arange(n_cells), BATCH, block_size=BLOCK, buffer_blocks=BUFFER)
    epochs = {name: make(path, sampler) for name, make in PROVIDERS.items()}
    for batches in zip(*(epoch(0) for epoch in epochs.values()), strict=True):
        for one in batches[1:]:
            assert all(torch.equal(a, b) for a, b in zip(batches[0], one, strict=True))
    epochs |= {name: make(path, sampler) for name, make in OTHERS.items()}
    found: dict[tuple[str, str], list[float]] = {}
    n_batches = sampler.n_batches
    for i in range(1, rounds + 1):
        for state in ("warm", "cold"):
            for name, epoch in epochs.items():
                if state == "cold":
                    forget(path)
                found.setdefault((state, name), []).append(timed(epoch(i), n_batches))
    found |= annbatch_speeds(path, n_cells, rounds)
    rate = disk_rate(path)
    cpu = torch.device("cpu")
    peaks = {
        name: machine.peak_extra_bytes(partial(_epoch, epoch, n_batches), cpu)
        for name, epoch in epochs.items()
    }
    per_cell = 8 * NONZEROS
    return [
        {
            "op": "data",
            "case": f"h5ad CSR, {n_cells:,} cells, {NONZEROS} non-zeros, block {BLOCK}, {state}",
            "provider": name,
            "cells_per_s": round(median(speeds)),
            "p20": round(float(np.percentile(speeds, 20))),
            "p80": round(float(np.percentile(speeds, 80))),
            "tokens_per_s": round(median(speeds) * NONZEROS),
            "gb_per_s": median(speeds) * per_cell / 1e9,
            "disk_gb_per_s": rate / 1e9,
            "share_of_disk": (
                # Of the bytes of the file, of which annbatch's stores have as many as they have.
                median(speeds) * per_cell / rate if state == "cold" and name in peaks else None
            ),
            "peak_extra_bytes": peaks.get(name),  # not of another process
        }
        for (state, name), speeds in found.items()
    ]


def main() -> None:
    """Run as the command line asks."""
    parser = argparse.ArgumentParser(description="Benchmark reading cells from a file.")
    parser.add_argument("--smoke", action="store_true", help="a small file, nothing recorded")
    parser.add_argument("--record", action="store_true", help="write the results file")
    parser.add_argument("--cells", type=int, default=100_000, help="in the file, of 8 KB each")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to put the file, on the disk to measure")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "systems")
    args = parser.parse_args()
    if args.record:
        refuse_when_busy()
    torch.set_num_threads(args.threads)
    n_cells, rounds = (5_000, 1) if args.smoke else (args.cells, args.rounds)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "cells.h5ad"
        make_file(path, n_cells)
        records = measure(path, n_cells, rounds)
    for r in records:
        share = "" if r["share_of_disk"] is None else f"  {r['share_of_disk']:.0%} of the disk"
        peak = r["peak_extra_bytes"]
        memory = "" if peak is None else f"{peak / 1e6:.0f} MB"
        print(
            f"{r['case']:<66}{r['provider']:<30}{r['cells_per_s']:>10,} cells/s"
            f"{r['tokens_per_s']:>15,} tokens/s{memory:>10}{share}"
        )
    if args.record:
        about = machine.describe(torch.device("cpu")) | {
            "threads": args.threads,
            "time": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
        }
        args.out.mkdir(parents=True, exist_ok=True)
        with (args.out / "data.jsonl").open("a") as file:
            file.writelines(json.dumps(about | record) + "\n" for record in records)


if __name__ == "__main__":
    main()
