"""A disk that takes no more, by the system's own refusal: what was there stays, and is told so.

The child may write files of a few kilobytes alone, so that writes fail half-way as on a full disk.
"""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from kernomics.errors import CheckpointError, KernomicsError
from kernomics.train import atomic as storage
from kernomics.train import load_checkpoint, load_model_dir, save_checkpoint, save_model_dir

ROOM = 8_192


def numbers(value: float, n: int) -> dict[str, torch.Tensor]:
    return {"w": torch.full((n,), value)}


def save_large_checkpoint(root: Path) -> None:
    save_checkpoint(root / "checkpoints", 2, {"module": numbers(2.0, 100_000)})


def save_large_model(root: Path) -> None:
    save_model_dir(root / "model", numbers(2.0, 100_000), {"step": 2})


def save_large_json(root: Path) -> None:
    try:
        storage.write_json(root / "results.json", ["x"] * 100_000)
    except OSError as error:
        raise CheckpointError(str(error)) from error


def limited(save: Callable[[Path], None], root: Path, said: Connection) -> None:
    torch.set_num_threads(1)  # a fork has none of its parent's threads, and would wait for them
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, ROOM))
    try:
        save(root)
    except KernomicsError as error:
        said.send(str(error))
    else:
        said.send("")


@pytest.mark.parametrize("save", [save_large_checkpoint, save_large_model, save_large_json])
def test_what_was_there_stays_when_a_write_is_refused_half_way(
    tmp_path: Path, save: Callable[[Path], None]
) -> None:
    save_checkpoint(tmp_path / "checkpoints", 1, {"module": numbers(1.0, 10)})
    save_model_dir(tmp_path / "model", numbers(1.0, 10), {"step": 1})
    storage.write_json(tmp_path / "results.json", 1)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))

    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)
    child = fork.Process(target=limited, args=(save, tmp_path, there))
    child.start()
    assert here.poll(60), "the child hangs"
    said = here.recv()
    child.join(60)

    assert child.exitcode == 0
    assert "File too large" in said
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    found = load_checkpoint(tmp_path / "checkpoints")
    assert found is not None
    assert torch.equal(found.parts["module"]["w"], torch.ones(10))
    assert torch.equal(load_model_dir(tmp_path / "model")[0]["w"], torch.ones(10))
    assert (tmp_path / "results.json").read_text() == "1\n"
