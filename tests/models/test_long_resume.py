"""10,000 steps of TxFM, killed again and again, end with the bits of a run left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import kernomics.train
from kernomics.train import Checkpoint, History, load_checkpoint

PROGRAM = Path(__file__).with_name("long_run.py")
STEPS = 10_000
EVERY = STEPS // 20  # steps a checkpoint


def go(directory: Path, steps: int, *orders: int) -> subprocess.CompletedProcess[str]:
    source = str(Path(kernomics.train.__file__).parents[2])
    path = os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(PROGRAM), str(directory), str(steps), *map(str, orders)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def newest(directory: Path) -> Checkpoint:
    checkpoint = load_checkpoint(directory / "checkpoints")
    assert checkpoint is not None
    return checkpoint


# A checkpoint is written in this order: module, optimizer, state and manifest, then latest. This
# model draws nothing but what Philox gives it, so there is no state of random numbers.
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_long_run_killed_several_times_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    left_alone = go(whole, STEPS, -1)
    assert left_alone.stdout == "finished\n", left_alone.stderr
    for orders, saved, half_written in (
        ((2 * EVERY - 3,), 1, None),
        ((5 * EVERY, 4), 5, ".latest.*"),
        ((8 * EVERY, 0), 8, f".step-{9 * EVERY:08d}.*/module.safetensors"),
        ((12 * EVERY + 1,), 12, None),
        ((16 * EVERY, 2), 16, f".step-{17 * EVERY:08d}.*/state.json"),
    ):
        killed = go(broken, STEPS, *orders)
        assert killed.returncode == -signal.SIGKILL, (orders, killed.stderr)
        assert newest(broken).step == saved * EVERY
        if half_written is not None:
            assert len(list((broken / "checkpoints").glob(half_written))) == 1
    last = go(broken, STEPS, -1)
    assert last.stdout == "finished\n", last.stderr

    found, expected = newest(broken), newest(whole)
    assert found.step == expected.step == STEPS
    files = {path.name: path.read_bytes() for path in expected.path.glob("*.safetensors")}
    assert set(files) == {f"{part}.safetensors" for part in ("module", "optimizer")}
    assert {path.name: path.read_bytes() for path in found.path.glob("*.safetensors")} == files
    first, second = (History.read(path / "metrics.jsonl") for path in (broken, whole))
    assert len(second) == STEPS // 40 + STEPS // 20
    assert first.without_timings() == second.without_timings()
