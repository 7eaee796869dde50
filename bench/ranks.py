"""One rank on one thread against two ranks on one thread each, at the same global batch.

    python -m bench.ranks                 cells per second, and the ratio
    python -m bench.ranks --record        also record them in bench/results (quiet machine)
    python -m bench.ranks --smoke         tiny sizes: losses compared, nothing recorded

The cases are those of which two ranks are to be 1.6 times as fast: a TxFM of size XS that reveals
2,048 tokens, and a YOTO with batches of 1,024. Runs of one and two ranks take turns; a speed is
that of all epochs but the first together, of a YOTO those that select genes and those that train
the panel's network. The losses of a step must be equal to 1e-5 before anything
is timed. ``network_bytes`` is what each rank sends in a step by docs/scale.md's cost model, and
``sent_bytes`` what its connections sent in the middle step of another training, by the network,
which ranks of one machine do not use otherwise; they must agree within 20 %.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import warnings
from contextlib import ExitStack
from pathlib import Path
from statistics import harmonic_mean, median
from typing import Any

import torch

from bench import machine, network

AIM = 1.6
RESULTS = Path(__file__).resolve().parent / "results" / "systems" / "ranks.jsonl"
CASES: dict[str, dict[str, Any]] = {
    "txfm XS, 2,048 tokens": {
        "system": "txfm", "cells": 512, "genes": 5000, "batch_size": 32, "epochs": 3,
        "n_tokens": 2048,
    },
    "yoto, batches of 1,024": {
        "system": "yoto", "cells": 16_384, "genes": 5000, "batch_size": 1024, "epochs": 6,
        "n_genes": 64,
    },
}  # fmt: skip
SMOKE = {"cells": 96, "genes": 80, "batch_size": 32, "epochs": 2, "n_tokens": 40, "n_genes": 8}


def train(case: dict[str, Any]) -> dict[str, Any]:
    """Train as one of the ranks, or alone; return losses, speed, and parameters sent."""
    from kernomics import datasets
    from kernomics.models import YOTO, TxFM

    adata = datasets.simulate(case["cells"], case["genes"], 6, 10, seed=0)
    how: dict[str, Any] = {
        "max_epochs": case["epochs"], "batch_size": case["batch_size"], "progress": False,
        "validate_every": case["epochs"], "log_every_steps": 1,
    }  # fmt: skip
    model: Any
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")
        if case["system"] == "txfm":
            model = TxFM(adata, "XS", n_tokens=case["n_tokens"], min_cells=1)
        else:
            model = YOTO(adata, "cell_type", case["n_genes"])
        if case.get("watched"):  # which takes time
            steps = stack.enter_context(network.steps_watched())
        model.train(**how)
    if case.get("watched"):
        predicted, sent = (median(column) for column in zip(*steps, strict=True))
        return {"network_bytes": predicted, "sent_bytes": sent}
    return {
        "losses": model.history.column("loss", "step"),
        # Of epochs of equal size, all together.
        "cells_per_second": harmonic_mean(model.history.column("cells_per_second")[1:]),
    }


def run(world: int, case: dict[str, Any]) -> dict[str, Any]:
    """Train on some ranks of one thread each; return what the first says."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, "-m", "bench.ranks", "--rank-of", json.dumps(case)]
    common = {**os.environ, "OMP_NUM_THREADS": "1"}
    if case.get("watched"):
        common["KERNOMICS_SHARED_MEMORY"] = "0"
    processes = []
    for rank in range(world):
        own = {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_PORT": str(port)}
        own["MASTER_ADDR"] = "127.0.0.1"
        processes.append(
            subprocess.Popen(
                command, env={**common, **own}, stdout=subprocess.PIPE, text=True, cwd=machine.ROOT
            )
        )
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(f"{world} ranks failed")
    found: dict[str, Any] = json.loads(outputs[0].splitlines()[-1])
    return found


def measure(name: str, case: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Compare one rank with two; the losses must agree."""
    speeds: dict[int, list[float]] = {1: [], 2: []}
    losses: dict[int, list[float]] = {}
    for _ in range(rounds):
        for world, found in speeds.items():
            one = run(world, case)
            found.append(one["cells_per_second"])
            losses[world] = one["losses"]
    worst = max(abs(a - b) / max(1.0, abs(a)) for a, b in zip(losses[1], losses[2], strict=True))
    if worst > 1e-5:
        raise AssertionError(f"{name}: a loss differs by {worst:.2g} between one rank and two")
    sent = run(2, {**case, "epochs": 2, "watched": True})
    if not 0.8 < sent["sent_bytes"] / sent["network_bytes"] < 1.2:
        raise AssertionError(f"{name}: the cost model is wrong: {sent}")
    alone, two = median(speeds[1]), median(speeds[2])
    return {
        "case": name, "sizes": case, "cells_per_second": {"1": alone, "2": two},
        "ratio": two / alone, "aim": AIM, "rounds": rounds, "worst_loss": worst,
        **sent,
    }  # fmt: skip


def main() -> None:
    """Run the cases."""
    parser = argparse.ArgumentParser(description="One rank against two.")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=[*CASES], help="one case alone")
    parser.add_argument("--rank-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank_of is not None:
        torch.set_num_threads(1)
        print(json.dumps(train(json.loads(args.rank_of))))
        return
    if args.record and machine.load_average() > machine.QUIET_LOAD:
        sys.exit(f"the load is {machine.load_average():.1f}: record on a quiet machine")
    for name, case in CASES.items():
        if args.case not in (None, name):
            continue
        sizes = {**case, **{k: v for k, v in SMOKE.items() if k in case}} if args.smoke else case
        found = measure(name, sizes, 1 if args.smoke else args.rounds)
        speed = found["cells_per_second"]
        sent, predicted = found["sent_bytes"] / 1e6, found["network_bytes"] / 1e6
        print(
            f"{name}: {speed['1']:,.0f} and {speed['2']:,.0f} cells/s, {found['ratio']:.2f} x (aim "
            f"{AIM}), {sent:.3f} MB a step, {predicted:.3f} predicted"
        )
        if args.record and not args.smoke:
            line = {**found, **machine.describe(torch.device("cpu"))}
            with RESULTS.open("a") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
