"""One set-up for every benchmark: equal outputs first, then time and memory, providers in turn.

A file of ``bench/ops`` lists its cases and ends with ``harness.main("op", cases)``.
docs/benchmarks.md shows the results, and ``NOTES.md`` what was learnt from them.

    python -m bench.ops.x              print figures
    python -m bench.ops.x --smoke      tiny sizes: every output compared, nothing recorded
    python -m bench.ops.x --record     also write bench/results/<device>.jsonl (quiet machine only)
    python -m bench.harness --record   all files, one after the other

All commands are run from the repository's root.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from bench import machine
from kernomics.benchmark import timing

Call = timing.Call
HERE = Path(__file__).resolve().parent
MAX_INPUT_SETS = 4096


@dataclass(frozen=True)
class Provider:
    """One way to compute a case.

    ``prepare(*inputs)`` returns the call that is timed; what that returns is compared with the
    first provider's result, unless ``check(*inputs)`` is given, which compares by itself (for
    providers whose randomness or relaxation differs) and raises ``AssertionError``.
    """

    name: str
    prepare: Callable[..., Call]
    check: Callable[..., None] | None = None
    target: float | None = None  # the first provider is to be so many times faster
    parts: int = 1  # the call does 1/parts of the case's work; its time is multiplied
    slow: bool = False  # three rounds in each process instead of seven
    graph: bool = True  # on CUDA: captured in a graph and replayed, else launched and timed


@dataclass(frozen=True)
class Case:
    """One set of sizes: inputs, who computes on them, and the least work it takes.

    ``inputs(device, generator)`` draws fresh random inputs. ``bytes_moved`` counts every input read
    once and every output written once, ``flops`` the operations of matrix products; the larger of
    the two times at the machine's measured rates is the floor.
    """

    name: str
    inputs: Callable[[torch.device, torch.Generator], tuple[Any, ...]]
    providers: Sequence[Provider]
    bytes_moved: int
    flops: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    rtol: float = 1e-4
    atol: float = 1e-6
    target_share: float | None = None  # of the floor, for the first provider
    target_seconds: float | None = None


Cases = Callable[[torch.device, bool], list[Case]]


def make_inputs(case: Case, device: torch.device, seed: int) -> tuple[Any, ...]:
    """Draw a case's inputs from a seed."""
    return case.inputs(device, torch.Generator(device).manual_seed(seed))


def input_bytes(inputs: Any) -> int:
    """Count the bytes of all tensors in a case's inputs."""
    tensors = [x for x in inputs if isinstance(x, torch.Tensor)]
    total = 0
    for tensor in tensors:
        if tensor.layout == torch.sparse_csr:
            parts = (tensor.crow_indices(), tensor.col_indices(), tensor.values())
            total += sum(part.numel() * part.element_size() for part in parts)
        else:
            total += tensor.numel() * tensor.element_size()
    return total


def assert_providers_agree(case: Case, inputs: tuple[Any, ...]) -> None:
    """Raise ``AssertionError``, naming the provider, unless all compute the same."""
    expected = case.providers[0].prepare(*inputs)()
    for provider in case.providers:
        try:
            if provider.check is not None:
                provider.check(*inputs)
            elif provider is not case.providers[0]:
                found = provider.prepare(*inputs)()
                torch.testing.assert_close(found, expected, rtol=case.rtol, atol=case.atol)
        except AssertionError as error:
            raise AssertionError(f"{case.name}, provider {provider.name}: {error}") from error


# ---- time ---------------------------------------------------------------------------------------


def time_case(
    case: Case, device: torch.device, seed: int, rounds: int, budget: float
) -> dict[str, list[float]]:
    """Time a case's providers in turn (A B A B …) after comparing their outputs.

    At least ``rounds`` samples each, more while the ``budget`` in seconds lasts. On CUDA the inputs
    rotate among sets that together exceed five times the L2 cache.
    """
    inputs = [make_inputs(case, device, seed)]
    assert_providers_agree(case, inputs[0])
    if device.type == "cuda":
        l2 = torch.cuda.get_device_properties(device).L2_cache_size
        sets = min(MAX_INPUT_SETS, math.ceil(5 * l2 / max(1, input_bytes(inputs[0]))))
        inputs += [make_inputs(case, device, seed + i) for i in range(1, sets)]
    samplers = {}
    for provider in case.providers:
        calls = [provider.prepare(*one) for one in inputs]
        calls[0]()  # compiles
        if device.type == "cuda":
            samplers[provider.name] = timing.device_sampler(calls, provider.graph)
        else:
            samplers[provider.name] = timing.host_sampler(calls[0])
    slow = {p.name for p in case.providers if p.slow}
    samples = timing.in_turn(samplers, rounds, budget, slow)
    return {p.name: [p.parts * seconds for seconds in samples[p.name]] for p in case.providers}


# ---- results ------------------------------------------------------------------------------------


def records_of(
    op: str, case: Case, runs: list[dict[str, Any]], memory: dict[str, int]
) -> list[dict[str, Any]]:
    """Summarise what the processes measured of a case, one record per provider."""
    copy = median(run["rates"]["copy"] for run in runs)
    matmul = median(run["rates"]["matmul"] for run in runs)
    floor = max(case.bytes_moved / copy, case.flops / matmul)
    medians: dict[str, float] = {}
    records = []
    for provider in case.providers:
        by_process = [run["samples"][case.name][provider.name] for run in runs]
        pooled = np.concatenate(by_process)
        seconds = medians[provider.name] = median(median(samples) for samples in by_process)
        records.append(
            {
                "op": op,
                "case": case.name,
                "provider": provider.name,
                "first_provider": case.providers[0].name,
                "sizes": case.sizes,
                "median_s": seconds,
                "p20_s": float(np.quantile(pooled, 0.2)),
                "p80_s": float(np.quantile(pooled, 0.8)),
                "samples": len(pooled),
                "processes": len(runs),
                "parts": provider.parts,
                "times_first": seconds / medians[case.providers[0].name],
                "target": provider.target,
                "bytes": case.bytes_moved,
                "gb_per_s": case.bytes_moved / seconds / 1e9,
                "flops": case.flops,
                "tflop_per_s": case.flops / seconds / 1e12,
                "floor_s": floor,
                "share_of_floor": floor / seconds,
                "target_share": case.target_share if provider is case.providers[0] else None,
                "target_s": case.target_seconds if provider is case.providers[0] else None,
                "copy_gb_per_s": copy / 1e9,
                "matmul_tflop_per_s": matmul / 1e12,
                "peak_extra_bytes": memory.get(provider.name),
            }
        )
    return records


def load_results(path: Path) -> list[dict[str, Any]]:
    """Read a results file."""
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def write_results(path: Path, records: list[dict[str, Any]]) -> None:
    """Add records to a results file, in place of older ones of the same case.

    A case on another instruction set is another case.
    """
    done = {(r["op"], r["case"], r["isa"]) for r in records}
    kept = load_results(path) if path.exists() else []
    kept = [r for r in kept if (r["op"], r["case"], r["isa"]) not in done]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in kept + records))


def _verdict(record: dict[str, Any]) -> str:
    checks = []
    if record["target"] is not None:
        checks.append((record["times_first"] >= record["target"], f">= {record['target']:g} x"))
    if record["target_share"] is not None:
        met = record["share_of_floor"] >= record["target_share"]
        checks.append((met, f">= {record['target_share']:.0%} of floor"))
    if record["target_s"] is not None:
        checks.append((record["median_s"] <= record["target_s"], f"<= {record['target_s']:.2g} s"))
    return ", ".join(f"{aim}: {'reached' if met else 'MISSED'}" for met, aim in checks)


def print_table(records: list[dict[str, Any]], verdicts: bool = True) -> None:
    """Print records as a short table, one block per case."""
    case = None
    for r in records:
        if r["case"] != case:
            case = r["case"]
            print(f"\n{r['op']}: {case}   (floor {1e3 * r['floor_s']:.4g} ms)")
        memory = r["peak_extra_bytes"]
        peak = "" if memory is None else f"{memory / 1e6:10.1f} MB"
        print(
            f"  {r['provider']:<28}{1e3 * r['median_s']:>11.4g} ms"
            f"  [{1e3 * r['p20_s']:.4g}, {1e3 * r['p80_s']:.4g}]"
            f"{r['times_first']:>10.2f} x{r['gb_per_s']:>9.1f} GB/s"
            f"{r['share_of_floor']:>8.1%}{peak}  {_verdict(r) if verdicts else ''}"
        )


# ---- the command --------------------------------------------------------------------------------


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Benchmark kernomics' ops.")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--smoke", action="store_true", help="tiny sizes, nothing recorded")
    mode.add_argument("--record", action="store_true", help="write the results file")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--processes", type=int, help="3 on the CPU, 1 on CUDA")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--budget", type=float, default=1.0, help="seconds a case and process")
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--load-checked", action="store_true", help=argparse.SUPPRESS)
    return parser


def refuse_when_busy() -> None:
    """Leave with an error when other jobs keep the cores busy."""
    load = machine.load_average()
    if load > machine.QUIET_LOAD:
        sys.exit(
            f"not recording: the load average is {load:.2f}, above {machine.QUIET_LOAD}; "
            "wait until the machine is quiet, or leave out --record"
        )


def _measure(args: argparse.Namespace, cases: list[Case], device: torch.device) -> dict[str, Any]:
    torch.set_num_threads(args.threads)
    rounds, budget = (2, 0.0) if args.smoke else (args.rounds, args.budget)
    seed = MAX_INPUT_SETS * args.seed
    return {
        "rates": machine.measured_rates(device, args.smoke),
        "samples": {case.name: time_case(case, device, seed, rounds, budget) for case in cases},
    }


def _again(op: str, args: argparse.Namespace, *extra: str) -> str:
    command = [sys.executable, "-m", f"bench.ops.{op}", "--device", args.device]
    command += ["--threads", str(args.threads), "--rounds", str(args.rounds)]
    command += ["--budget", str(args.budget), "--case", args.case, *extra]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _memory(
    op: str, args: argparse.Namespace, cases: list[Case], device: torch.device
) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {case.name: {} for case in cases}
    if device.type == "cuda":  # the allocator's statistics need no fresh process
        for case in cases:
            inputs = make_inputs(case, device, 0)
            for p in case.providers:
                if p.parts == 1:
                    peak = machine.peak_extra_bytes(p.prepare(*inputs), device)
                    found[case.name][p.name] = peak
        return found
    pairs = [(case.name, p.name) for case in cases for p in case.providers if p.parts == 1]
    with ThreadPoolExecutor(2) as pool:
        peaks = pool.map(lambda pair: int(_again(op, args, "--memory", *pair)), pairs)
        for (case_name, provider), peak in zip(pairs, peaks, strict=True):
            found[case_name][provider] = peak
    return found


def main(op: str, cases: Cases) -> None:
    """Run an op's benchmark as the command line asks."""
    args = _arguments().parse_args()
    device = torch.device(args.device)
    chosen = [case for case in cases(device, args.smoke) if args.case in case.name]
    if args.memory:
        torch.set_num_threads(args.threads)
        case = next(c for c in chosen if c.name == args.memory[0])
        provider = next(p for p in case.providers if p.name == args.memory[1])
        print(machine.peak_extra_bytes(provider.prepare(*make_inputs(case, device, 0)), device))
        return
    if args.worker:
        args.worker.write_text(json.dumps(_measure(args, chosen, device)))
        return
    if args.record and device.type == "cpu" and not args.load_checked:
        refuse_when_busy()
    memory: dict[str, dict[str, int]] = {case.name: {} for case in chosen}
    if args.smoke:
        runs = [_measure(args, chosen, device)]
    else:
        processes = args.processes or (3 if device.type == "cpu" else 1)
        with tempfile.TemporaryDirectory() as folder:
            for i in range(processes):
                path = Path(folder) / f"{i}.json"
                _again(op, args, "--worker", str(path), "--seed", str(i))
            runs = [json.loads(p.read_text()) for p in sorted(Path(folder).iterdir())]
        memory = _memory(op, args, chosen, device)
    records = [r for case in chosen for r in records_of(op, case, runs, memory[case.name])]
    print_table(records, verdicts=not args.smoke)
    if args.record:
        about = machine.describe(device) | {
            "threads": args.threads,
            "time": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
        }
        path = args.out / f"{machine.slug(about['device'])}.jsonl"
        write_results(path, [about | record for record in records])
        print(f"\nrecorded {len(records)} results in {os.path.relpath(path)}")


def run_all() -> None:
    """Run every benchmark file with the given options; the load is looked at once, before."""
    args = _arguments().parse_args()
    if args.record and args.device == "cpu":
        refuse_when_busy()
    for file in sorted((HERE / "ops").glob("*.py")):
        module = f"bench.ops.{file.stem}"
        subprocess.run([sys.executable, "-m", module, *sys.argv[1:], "--load-checked"], check=True)


if __name__ == "__main__":
    run_all()
