"""Run the ops beside torch's usual chain and what `torch.compile` makes of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch

from kernomics._optional import keep_torch_threads
from kernomics.benchmark import machine, timing
from kernomics.benchmark.problems import PROBLEMS, Problem, sizes_of
from kernomics.errors import ConfigError, closest
from kernomics.train.device import usable_device

OURS, EAGER, COMPILED = WAYS = ("kernomics", "eager", "torch.compile")


def chosen_ops(ops: Iterable[str]) -> list[str]:
    """Return the ops asked for, all when none is, in the set's order."""
    asked = set(ops)
    for name in sorted(asked - set(PROBLEMS)):
        raise ConfigError(
            f"op {name!r} is none of the {len(PROBLEMS)} that are measured; "
            f"{closest(name, PROBLEMS)}"
        )
    return [name for name in PROBLEMS if not asked or name in asked]


def measure_ops(
    ops: Sequence[str] = (),
    *,
    device: str = "cpu",
    threads: int | None = None,
    quick: bool = False,
    compiled: bool = True,
    rounds: int = 7,
    budget: float = 1.0,
    each: Callable[[list[dict[str, Any]]], None] = lambda records: None,
) -> list[dict[str, Any]]:
    """Measure ops on this machine, forward and backward, in three ways taken in turn.

    A way's result is compared with `kernomics.ops.reference` before it is timed, and one that is
    wrong is not timed.

    Parameters
    ----------
    ops
        Names of ops; all seven when none is given.
    device
        ``"cpu"`` or ``"cuda"``.
    threads
        Threads of the CPU; torch's number when not given.
    quick
        Tiny sizes: a trial of the command, whose times say little.
    compiled
        Whether `torch.compile` is measured; compiling takes up to a minute an op.
    rounds, budget
        The least number of samples of each way, and the seconds for which more are taken.
    each
        Called with the records of each op when it is done.

    Returns
    -------
    list of dict
        A record of each op and way: the machine, its instruction set and versions, sizes, and
        either ``median_s`` with what follows from it or, in ``skipped``, why it was not timed.
    """
    names, where = chosen_ops(ops), usable_device(device)
    for option, number in (("threads", threads), ("rounds", rounds)):
        if number is not None and number < 1:
            raise ConfigError(f"{option} is {number}: at least 1 is needed")
    with keep_torch_threads(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse ")  # torch's, of its CSR layout
        torch.set_num_threads(threads or torch.get_num_threads())
        rates = machine.measured_rates(where, quick)
        about = machine.versions(where) | {
            "threads": torch.get_num_threads(),
            "copy_gb_per_s": rates["copy"] / 1e9,
            "matmul_tflop_per_s": rates["matmul"] / 1e12,
        }
        records = []
        for name in names:
            generator = torch.Generator(where).manual_seed(0)
            problem = PROBLEMS[name](where, generator, sizes_of(name, where, quick))
            found = _measure(problem, where, compiled, rounds, budget)
            done = [about | r for r in _records(name, problem, rates, *found)]
            each(done)
            records += done
    return records


def _measure(
    problem: Problem, device: torch.device, compiled: bool, rounds: int, budget: float
) -> tuple[dict[str, list[float]], dict[str, str], set[str]]:
    """Return the samples of the ways that are right, why others were not timed, and the wrong."""
    calls = {OURS: problem.ours, EAGER: problem.torch_call(problem.chain)}
    skipped: dict[str, str] = {}
    wrong: set[str] = set()
    results: dict[str, Any] = {way: call() for way, call in calls.items()}
    if compiled:
        try:
            call = problem.torch_call(torch.compile(problem.chain, fullgraph=True, dynamic=False))
            results[COMPILED] = call()
            calls[COMPILED] = call
        except Exception as error:  # whatever a missing compiler makes of itself
            lines = str(error).strip().splitlines()
            skipped[COMPILED] = (
                f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
            )
    else:
        skipped[COMPILED] = "left out"
    for way, result in results.items():
        fault = (problem.check_ours if way == OURS else problem.check_torch)(result)
        if fault:
            skipped[way] = f"wrong result: {fault}"
            wrong.add(way)
    results.clear()
    samplers = {
        way: timing.device_sampler([call], graph=False)
        if device.type == "cuda"
        else timing.host_sampler(call)
        for way, call in calls.items()
        if way not in wrong
    }
    return timing.in_turn(samplers, rounds, budget), skipped, wrong


def _records(
    op: str,
    problem: Problem,
    rates: dict[str, float],
    samples: dict[str, list[float]],
    skipped: dict[str, str],
    wrong: set[str],
) -> list[dict[str, Any]]:
    floor = max(problem.bytes_moved / rates["copy"], problem.flops / rates["matmul"])
    ours = median(samples[OURS]) if samples.get(OURS) else None
    records = []
    for way in WAYS:
        taken = samples.get(way)
        seconds = median(taken) if taken else None
        records.append(
            {
                "op": op,
                "case": problem.case,
                "way": way,
                "sizes": problem.sizes,
                "median_s": seconds,
                "p20_s": float(np.quantile(taken, 0.2)) if taken else None,
                "p80_s": float(np.quantile(taken, 0.8)) if taken else None,
                "samples": len(taken or ()),
                "bytes": problem.bytes_moved,
                "flops": problem.flops,
                "floor_s": floor,
                "share_of_floor": floor / seconds if seconds else None,
                "times_kernomics": seconds / ours if seconds and ours else None,
                "skipped": skipped.get(way),
                "wrong": way in wrong,
            }
        )
    return records
