"""Checkpoints are whole or absent, and what is damaged is found and named."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from full_disk import fail_after
from safetensors.torch import load_file

from kernomics.errors import CheckpointError
from kernomics.train import atomic as storage
from kernomics.train import load_checkpoint, save_checkpoint
from kernomics.train.checkpoint import list_checkpoints


def parts(value: float) -> dict[str, Any]:
    return {
        "module": {"weight": torch.full((2, 3), value), "bias": torch.tensor(value)},
        "state": {"step": 7, "value": value},
    }


FILES = ["module.safetensors", "state.json", "manifest.json"]
WRITES = len(FILES) + 1  # and the pointer


def value_of(root: Path) -> float:
    checkpoint = load_checkpoint(root)
    assert checkpoint is not None
    value: float = checkpoint.parts["state"]["value"]
    assert torch.equal(checkpoint.parts["module"]["weight"], torch.full((2, 3), value))
    return value


# -- what goes in comes out ------------------------------------------------------------------------


def test_every_kind_of_value_comes_back_as_it_was(tmp_path: Path) -> None:
    tensors = {
        "float": torch.tensor([0.1, float("nan"), -0.0, float("inf")]),
        "half": torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
        "double": torch.tensor(1 / 3, dtype=torch.float64),
        "long": torch.tensor([2**62, -1]),
        "byte": torch.arange(5, dtype=torch.uint8),
        "bool": torch.tensor([[True], [False]]),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(3),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
    }
    plain = {
        "state": {0: {"a": 1, "b": 0.1 + 0.2}, 1: {}},
        "betas": (0.9, 0.999),
        "list": [1, [2, None], {"x": True}, "text ä"],
        "big": 2**70,
        "infinite": float("inf"),
    }
    save_checkpoint(tmp_path, 12, {"tensors": tensors, "plain": plain, "none": None})

    checkpoint = load_checkpoint(tmp_path)

    assert checkpoint is not None
    assert checkpoint.step == 12
    assert checkpoint.path == tmp_path / "step-00000012"
    assert checkpoint.parts["plain"] == plain
    assert checkpoint.parts["none"] is None
    assert list(checkpoint.parts["tensors"]) == list(tensors)
    for name, tensor in tensors.items():
        back = checkpoint.parts["tensors"][name]
        assert back.dtype == tensor.dtype
        torch.testing.assert_close(back, tensor, rtol=0, atol=0, equal_nan=True)


def test_tied_weights_and_views_come_back_under_each_name(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    tied = {"a": base, "b": base, "part": base[2:4], "part/of": base[3:]}
    save_checkpoint(tmp_path, 1, {"module": tied})
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    for name, tensor in tied.items():
        assert torch.equal(checkpoint.parts["module"][name], tensor), name


def test_names_that_collide_when_joined_stay_apart(tmp_path: Path) -> None:
    nested = {"a": {"b": torch.tensor(1)}, "a/b": torch.tensor(2)}
    save_checkpoint(tmp_path, 1, {"module": nested})
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.parts["module"]["a"]["b"].item() == 1
    assert checkpoint.parts["module"]["a/b"].item() == 2


def test_weights_can_be_read_without_kernomics(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 3, parts(2.5))
    assert torch.equal(load_file(path / "module.safetensors")["bias"], torch.tensor(2.5))
    assert json.loads((path / "state.json").read_text())["step"] == 3
    assert (tmp_path / "latest").read_text() == "step-00000003\n"


def test_value_of_unknown_type_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, parts(1.0))
    with pytest.raises(CheckpointError, match="cannot save 'state/0/when', a object"):
        save_checkpoint(tmp_path, 2, {"optimizer": {"state": {0: {"when": object()}}}})
    with pytest.raises(CheckpointError, match=r"the key \(1, 2\)"):
        save_checkpoint(tmp_path, 2, {"optimizer": {(1, 2): 3}})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-00000001"]


# -- how many are kept -----------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [2, 3])
def test_only_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    for step in range(1, 7):
        save_checkpoint(tmp_path, step, parts(step), keep=keep)
        names = [p.name for p in list_checkpoints(tmp_path)]
        assert names == [f"step-{s:08d}" for s in range(max(1, step - keep + 1), step + 1)]
    assert len(list(tmp_path.iterdir())) == keep + 1


def test_fewer_than_two_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="keep is 1: at least 2"):
        save_checkpoint(tmp_path, 1, parts(1.0), keep=1)


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        save_checkpoint(tmp_path, step, parts(step))
    (tmp_path / "latest").unlink()
    assert value_of(tmp_path) == 100_000_000


def test_checkpoints_of_a_course_given_up_are_removed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 10, parts(10))
    save_checkpoint(tmp_path, 20, parts(20))
    (tmp_path / "step-00000020" / "state.json").write_text("{}")
    with pytest.warns(UserWarning, match="step-00000020 is damaged"):
        assert value_of(tmp_path) == 10
    save_checkpoint(tmp_path, 15, parts(15))
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000010", "step-00000015"]
    assert value_of(tmp_path) == 15


def test_same_step_saved_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, parts(1))
    save_checkpoint(tmp_path, 1, parts(2))
    assert value_of(tmp_path) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-00000001"]


# -- a save that fails -----------------------------------------------------------------------------


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("writes", range(WRITES))
def test_disk_full_after_any_write_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int, half: bool
) -> None:
    save_checkpoint(tmp_path, 1, parts(1))
    save_checkpoint(tmp_path, 2, parts(2))
    with monkeypatch.context() as patch:
        fail_after(writes, patch, half=half)
        with pytest.raises(CheckpointError, match=r"of step 3 .*No space left.* untouched"):
            save_checkpoint(tmp_path, 3, parts(3))
    assert value_of(tmp_path) == 2

    save_checkpoint(tmp_path, 3, parts(4))
    assert value_of(tmp_path) == 4
    assert len(list(tmp_path.iterdir())) == 3, "leftovers"


@pytest.mark.parametrize("writes", range(WRITES))
def test_disk_full_while_replacing_the_only_checkpoint_keeps_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    save_checkpoint(tmp_path, 1, parts(1))
    with monkeypatch.context() as patch:
        fail_after(writes, patch)
        with pytest.raises(CheckpointError):
            save_checkpoint(tmp_path, 1, parts(2))
    # Only the pointer is written after the new one took its place under the same name.
    assert value_of(tmp_path) == (2 if writes == WRITES - 1 else 1)


def test_all_writes_were_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_after(WRITES, monkeypatch)
    save_checkpoint(tmp_path, 1, parts(1))
    assert value_of(tmp_path) == 1


@pytest.mark.parametrize("operation", ["rename", "mkdir", "replace"])
def test_refused_file_operation_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    save_checkpoint(tmp_path, 1, parts(1))
    original = getattr(Path, operation)

    def refuse(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name.startswith("."):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, operation, refuse)
        with pytest.raises(CheckpointError, match="Permission denied"):
            save_checkpoint(tmp_path, 2, parts(2))
    assert value_of(tmp_path) == 1


def test_everything_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []
    fsync = os.fsync

    def noting_fsync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        done.append(("fsync", re.sub(r"-tmp-\d+$", "-tmp", name)))
        fsync(descriptor)

    def noting(operation: str) -> Callable[[Path, Path], Path]:
        original = getattr(Path, operation)

        def noted(path: Path, target: Path) -> Path:
            done.append(("name", target.name))
            return Path(original(path, target))

        return noted

    monkeypatch.setattr(os, "fsync", noting_fsync)
    for operation in ("rename", "replace"):
        monkeypatch.setattr(Path, operation, noting(operation))
    save_checkpoint(tmp_path, 1, parts(1))
    assert done == [
        *(("fsync", name) for name in FILES),
        ("fsync", ".step-00000001.kernomics-tmp"),
        ("name", "step-00000001"),
        ("fsync", tmp_path.name),
        ("fsync", ".latest.kernomics-tmp"),
        ("name", "latest"),
        ("fsync", tmp_path.name),
    ]


def test_previous_checkpoint_is_found_between_the_two_renames(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, parts(1))
    path.rename(tmp_path / f".{path.name}{storage.ASIDE}")
    assert value_of(tmp_path) == 1
    save_checkpoint(tmp_path, 2, parts(2))
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000001", "step-00000002"]


def test_leftovers_of_killed_processes_are_removed_by_the_next_save(tmp_path: Path) -> None:
    for name in (".step-00000001", ".step-00000009"):
        (tmp_path / f"{name}{storage.TEMPORARY}1").mkdir()
        (tmp_path / f"{name}{storage.TEMPORARY}1" / "module.safetensors").write_bytes(b"half")
    (tmp_path / f".latest{storage.TEMPORARY}1").write_text("step-")
    assert load_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, 1, parts(1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-00000001"]


# -- damage ----------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def remove(path: Path) -> None:
    path.unlink()


def become_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [truncate, empty, lengthen, remove, become_directory])
@pytest.mark.parametrize("file", FILES)
def test_damaged_file_is_named_and_the_previous_checkpoint_used(
    tmp_path: Path, file: str, damage: Callable[[Path], None]
) -> None:
    save_checkpoint(tmp_path, 1, parts(1))
    path = save_checkpoint(tmp_path, 2, parts(2))
    damage(path / file)
    with pytest.warns(UserWarning, match=rf"resuming from .*step-00000001, .*{path}.*{file}"):
        assert value_of(tmp_path) == 1


def test_any_flipped_bit_is_found(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, parts(1))
    path = save_checkpoint(tmp_path, 2, parts(2))
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for file in FILES:
        whole = (path / file).read_bytes()
        for _ in range(60):
            place, bit = dice.randrange(len(whole)), dice.randrange(8)
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            (path / file).write_bytes(flipped)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                value = value_of(tmp_path)
            # White space in the manifest carries nothing: one kind of it may become another.
            harmless = file == "manifest.json" and json.loads(whole) == loads_or_none(flipped)
            assert value == (2 if harmless else 1), (file, place, bit)
            assert len(caught) == (0 if harmless else 1)
        (path / file).write_bytes(whole)


def loads_or_none(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def test_when_all_are_damaged_the_error_lists_the_fault_of_each(tmp_path: Path) -> None:
    truncate(save_checkpoint(tmp_path, 1, parts(1)) / "module.safetensors")
    remove(save_checkpoint(tmp_path, 2, parts(2)) / "state.json")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path)
    message = str(caught.value)
    assert "none of the 2 checkpoints" in message
    assert "step-00000001 is damaged: module.safetensors has " in message
    assert "step-00000002 is damaged: state.json cannot be read (No such file" in message


@pytest.mark.parametrize("text", [b"step-0000", b"step-00000077\n", b"../elsewhere", b"\xff"])
def test_damaged_pointer_leads_to_the_newest_checkpoint(tmp_path: Path, text: bytes) -> None:
    save_checkpoint(tmp_path, 1, parts(1))
    save_checkpoint(tmp_path, 2, parts(2))
    (tmp_path / "latest").write_bytes(text)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert value_of(tmp_path) == 2
    assert [str(w.message).split(",")[0] for w in caught] == (
        [] if text == b"\xff" else [f"{tmp_path / 'latest'} names {text.decode().strip()!r}"]
    )


def test_pointer_without_any_checkpoint_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "latest").write_text("step-00000002\n")
    with pytest.raises(CheckpointError, match="names 'step-00000002', but there is no checkpoint"):
        load_checkpoint(tmp_path)


def test_nothing_saved_yet_is_no_error(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "missing") is None


def test_pickle_is_neither_written_nor_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    for module, name in [(pickle, "dumps"), (pickle, "loads"), (torch, "save"), (torch, "load")]:
        monkeypatch.setattr(module, name, lambda *_, name=name: pytest.fail(f"{name} was called"))
    save_checkpoint(tmp_path, 1, {"optimizer": optimizer.state_dict()})
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    optimizer.load_state_dict(checkpoint.parts["optimizer"])
