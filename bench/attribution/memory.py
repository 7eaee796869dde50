"""Memory by pairs: the peak of a process as it attributes more and more of them.

    python -m bench.attribution.memory --engine deeplift --pairs 10000 --n-tokens 128

The peak is noted whenever the cells of more pairs are read: it is flat once all shapes of tensors
have been met. It is the VmHWM of the process, since `ru_maxrss` begins with the peak of the process
that started it. `malloc` says what of the heap is in use at the end, and what is free: holes that
no tensor fits into, if that grows. One JSON line per engine to `--out`
(bench/results/systems/attribution-memory.jsonl).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import time
from pathlib import Path
from typing import Any

import torch

import kernomics
from bench.attribution.engines import pairs_of, prepared
from bench.machine import describe
from kernomics.attribution import PhenotypeSource, attribute_pairs
from kernomics.attribution.engines import COMPLETE
from kernomics.attribution.reduction import PAIRS_AT_A_TIME

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "bench" / "results" / "systems" / "attribution-memory.jsonl"
MARKS = (100, 300, 1_000, 3_000, 10_000, 30_000)


def peak() -> int:
    """Return the peak resident memory of this process, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


class _Heap(ctypes.Structure):
    """What glibc's mallinfo2 returns."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    ]  # fmt: skip


def heap() -> dict[str, int]:
    """Return the bytes of the heap that are in use and free, and the number of free blocks."""
    libc = ctypes.CDLL("libc.so.6")
    libc.mallinfo2.restype = _Heap
    found = libc.mallinfo2()
    return {"used": found.uordblks, "free": found.fordblks, "free_blocks": found.ordblks}


class Watched:
    """A source that notes the peak as cells are read.

    Parameters
    ----------
    source
        The source.
    pairs
        The pairs that it will be asked for.
    whole_blocks
        Whether the cells of a block of pairs are read at once, or of some pairs at a time.
    """

    def __init__(self, source: PhenotypeSource, pairs: Any, whole_blocks: bool) -> None:
        self.source = source
        self.genes, self.view = source.genes, source.view
        self.has_all_genes = source.has_all_genes
        self.outputs = source.outputs
        size = len(pairs) if whole_blocks else PAIRS_AT_A_TIME
        self.starts = [i for x in pairs.blocks() for i in range(x.start, x.stop, size)]
        self.noted: dict[int, int] = {}

    def inputs(self, rows: Any) -> Any:
        """Read cells."""
        done = self.starts.pop(0) if self.starts else 0
        for mark in MARKS:
            if mark <= done:
                self.noted.setdefault(mark, peak())
        return self.source.inputs(rows)


def run(data: Path, engine: str, n: int, n_tokens: int | None) -> dict[str, Any]:
    """Attribute n pairs, and return the peak memory on the way."""
    source, model = prepared(data, n_tokens)
    pairs = pairs_of(model, n)
    watched = Watched(source, pairs, whole_blocks=engine not in COMPLETE)
    before, begun = peak(), time.monotonic()
    attribute_pairs(watched, pairs, 1, engine=engine)
    return {
        "bench": "attribution-memory",
        "version": kernomics.__version__,
        **describe(torch.device("cpu")),
        "load_average": round(os.getloadavg()[0], 1),
        "seconds": round(time.monotonic() - begun, 1),
        "engine": engine,
        "n_tokens": n_tokens,
        "pairs": len(pairs),
        "peak_before": before,
        "peak_after": {str(mark): noted for mark, noted in watched.noted.items()},
        "peak": peak(),
        "malloc": heap(),
    }


def main() -> None:
    """Measure, and append a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("KERNOMICS_DATA", str(ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--engine", default="deeplift")
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--n-tokens", type=int)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    line = run(args.data, args.engine, args.pairs, args.n_tokens)
    with args.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print({n: f"{size / 2**20:,.0f} MiB" for n, size in line["peak_after"].items()}, line["malloc"])


if __name__ == "__main__":
    main()
