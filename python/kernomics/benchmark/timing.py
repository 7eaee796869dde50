"""Time calls in turn, so that whatever slows the machine for a while slows all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

Call = Callable[[], Any]
SAMPLE_SECONDS = 0.002  # shorter calls are repeated until a sample lasts this long
FEW_ROUNDS = 3  # of calls that are slow
MOST_ROUNDS = 100


def host_sampler(call: Call) -> Callable[[], float]:
    """Return a function that times a call by the clock, repeated where it is short."""
    start = time.perf_counter()
    call()
    inner = max(1, math.ceil(SAMPLE_SECONDS / (time.perf_counter() - start)))

    def sample() -> float:
        start = time.perf_counter()
        for _ in range(inner):
            call()
        return (time.perf_counter() - start) / inner

    return sample


def device_sampler(calls: list[Call], graph: bool) -> Callable[[], float]:
    """Time all calls, one per input set, by events around a graph's replay (or their launches)."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls[:3]:
            call()
    torch.cuda.current_stream().wait_stream(stream)

    def launch() -> None:
        for call in calls:
            call()

    if graph:
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            launch()
        launch = captured.replay
    launch()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]

    def sample() -> float:
        start.record()
        launch()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3 / len(calls)

    return sample


def in_turn(
    samplers: Mapping[str, Callable[[], float]],
    rounds: int,
    budget: float,
    slow: Collection[str] = (),
) -> dict[str, list[float]]:
    """Take samples of each in turn (A B A B …).

    At least `rounds`, more while `budget` seconds last; three of those that are `slow`.
    """
    samples: dict[str, list[float]] = {name: [] for name in samplers}
    deadline = time.perf_counter() + budget
    done = 0
    while done < rounds or (time.perf_counter() < deadline and done < MOST_ROUNDS):
        for name, sampler in samplers.items():
            if not (name in slow and done >= FEW_ROUNDS):
                samples[name].append(sampler())
        done += 1
    return samples
