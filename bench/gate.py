"""Fail when an op has lost half of its lead: a gate for CI, whose machine may be any, and busy.

    python -m bench.gate

One case of each op is timed beside plain torch in this process, and its ratio compared with the
least one that is committed for this instruction set, on any device. What two machines of one
instruction set differ by is well within a factor of two; an op that fell back to a slower path is
not. A case that is short of it is timed again, `TRIES` times in all. Where other jobs want more
cores than there are, ratios are printed and none fails: two threads that wait for each other lose
more than one. `bench/check.py` compares whole runs of one device, to a tenth.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys

import torch

from bench import machine
from bench.harness import HERE, Case, load_results, time_case

SHARE = 0.5
TRIES = 3
ROUNDS = 5
THREADS = 2
GATED = {
    "gumbel_topk": "forward + backward, softsort, R=1 G=60000 k=64",
    "sample_tokens": "expressed genes, B=256 G=20000 K=1024",
    "embed_tokens": "forward + backward, concat, float32, B=32 K=2048 V=20000 d=384",
    "masked_linear": "forward + backward, CSR, B=256 G=20000 H=128 k=64",
    "poisson_nll": "forward + backward, rectified tanh, CSR, B=1024 G=20000",
    "linear_poisson_nll": "forward + backward, CSR, B=1024 G=20000 H=768",
    "dropout": "forward + backward, ReLU + dropout, B=1024 H=128",
}


def committed(isa: str) -> dict[tuple[str, str, str], float]:
    """Return the least ratio by op, case and provider, of all CPUs with an instruction set."""
    least: dict[tuple[str, str, str], float] = {}
    for file in sorted((HERE / "results").glob("*.jsonl")):
        for record in load_results(file):
            if record["isa"] != isa:
                continue
            key = record["op"], record["case"], record["provider"]
            least[key] = min(least.get(key, float("inf")), float(record["times_first"]))
    return least


def beside_torch(op: str, name: str) -> Case:
    """Return a case with ours and the first other provider alone."""
    cases = importlib.import_module(f"bench.ops.{op}").cases(torch.device("cpu"), False)
    case: Case = next(case for case in cases if case.name == name)
    return dataclasses.replace(case, providers=case.providers[:2])


def ratio(case: Case) -> float:
    """Return how many times faster ours is, by the least times of both."""
    samples = time_case(case, torch.device("cpu"), 0, ROUNDS, 0.0)
    ours, other = (min(samples[provider.name]) for provider in case.providers)
    return other / ours


def busy() -> bool:
    """Whether more processes run than there are cores for, this one's threads counted."""
    return machine.load_average() > (os.cpu_count() or 1) + 0.5


def main() -> None:
    """Time each case, print its ratio beside the committed one, and fail if one fell."""
    torch.set_num_threads(THREADS)
    isa = machine.describe(torch.device("cpu"))["isa"]
    least = committed(isa)
    fallen = []
    for op, name in GATED.items():
        case = beside_torch(op, name)
        was = least.get((op, name, case.providers[1].name))
        if was is None:
            print(f"{op}: no committed ratio for {isa}, not gated")
            continue
        best = 0.0
        for _ in range(TRIES):
            best = max(best, ratio(case))
            if best >= SHARE * was:
                break
        print(f"{op}: {best:.3g} x {case.providers[1].name}, committed {was:.3g} ({isa})")
        if best < SHARE * was:
            fallen.append(f"{op}: {best:.3g} where at least {SHARE * was:.3g} is wanted ({name})")
    if fallen and busy():
        print("the machine is busy, so this is told and not gated:", *fallen, sep="\n")
    elif fallen:
        sys.exit("an op lost more than half of its lead:\n" + "\n".join(fallen))


if __name__ == "__main__":
    main()
