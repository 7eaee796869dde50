"""`kill -9` at any moment of a write leaves what was finished, whole and to the bit.

A child writes in a tight loop and says after each save that it is done; it is killed at a random
moment, and the next child goes on from what is read.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kernomics.train import atomic as storage
from kernomics.train import load_checkpoint, load_model_dir, save_checkpoint, save_model_dir

SEED = int(os.environ.get("KERNOMICS_TEST_SEED", random.SystemRandom().randrange(10**6)))
LONGEST = 0.03
"""Seconds until a kill, at most, from the first save on: some ten saves."""


def parts(step: int) -> dict[str, Any]:
    numbers = torch.arange(20_000, dtype=torch.float32) * 0.1 + step
    return {
        "module": {"weight": numbers, "bias": torch.tensor(step / 3, dtype=torch.float64)},
        "optimizer": {"state": {0: {"step": step, "moment": numbers[::3].clone() ** 2}}},
        "state": {"step": step, "means": {"loss": step / 7}},
    }


def assert_is_of(found: Any, step: int) -> None:
    def same(a: Any, b: Any) -> bool:
        if isinstance(a, torch.Tensor):
            return bool(a.dtype == b.dtype and torch.equal(a, b))
        if isinstance(a, dict):
            return list(a) == list(b) and all(same(a[name], b[name]) for name in a)
        return bool(a == b)

    assert same(found, parts(step)), f"what was read is not what was written at step {step}"


def save_as_checkpoint(root: Path, step: int) -> None:
    save_checkpoint(root, step, parts(step))


def load_from_checkpoint(root: Path) -> int:
    found = load_checkpoint(root)
    if found is None:
        return 0
    assert_is_of(found.parts, found.step)
    return found.step


def save_as_model(root: Path, step: int) -> None:
    save_model_dir(root / "model", parts(step)["module"], {"step": step})


def load_from_model(root: Path) -> int:
    if not storage.existing(root / "model").exists():
        return 0
    tensors, meta = load_model_dir(root / "model")
    wanted = parts(meta["step"])["module"]
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    step: int = meta["step"]
    return step


WAYS: dict[str, tuple[Callable[[Path, int], None], Callable[[Path], int]]] = {
    "checkpoint": (save_as_checkpoint, load_from_checkpoint),
    "model": (save_as_model, load_from_model),
}


def write_on(save: Callable[[Path, int], None], root: Path, step: int, told: int) -> None:
    torch.set_num_threads(1)
    os.write(told, b"begun\n")
    while True:
        step += 1
        save(root, step)
        os.write(told, b"%d\n" % step)


def kill_a_writer(save: Callable[[Path, int], None], root: Path, step: int, after: float) -> int:
    """Let a child write from a step on, kill it, and return the last step that it finished."""
    reads, writes = os.pipe()
    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=write_on, args=(save, root, step, writes), daemon=True)
    child.start()
    os.close(writes)
    with os.fdopen(reads, "rb") as said:
        assert said.readline() == b"begun\n"
        time.sleep(after)
        child.kill()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL, "the writer ended by itself"
        finished = said.read().split()
    return int(finished[-1]) if finished else step


def kill_often(way: str, root: Path, kills: int) -> None:
    save, load = WAYS[way]
    dice = random.Random(SEED)
    print(f"seed {SEED}")
    step, in_a_save = 0, 0
    for _ in range(kills):
        finished = kill_a_writer(save, root, step, dice.uniform(0, LONGEST))
        in_a_save += any(storage.TEMPORARY in path.name for path in root.iterdir())
        step = load(root)
        assert finished <= step <= finished + 1, "a finished save was lost"
    assert in_a_save >= kills // 10, "too few kills fell into a save to tell"
    save(root, step + 1)
    assert load(root) == step + 1
    assert not list(root.glob(".*")), "leftovers of killed writers were not removed"


@pytest.mark.parametrize("way", WAYS)
def test_twenty_kills_lose_nothing_that_was_finished(tmp_path: Path, way: str) -> None:
    kill_often(way, tmp_path, 20)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_two_hundred_kills_lose_nothing_that_was_finished(tmp_path: Path, way: str) -> None:
    kill_often(way, tmp_path, 200)
