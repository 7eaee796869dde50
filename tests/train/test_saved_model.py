"""Saved models are whole or absent, and what is damaged is found and named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from full_disk import fail_after
from safetensors.torch import load_file

from kernomics.errors import CheckpointError
from kernomics.train import atomic as storage
from kernomics.train import load_model_dir, save_checkpoint, save_model_dir


def test_saved_model_comes_back_and_is_readable_without_kernomics(tmp_path: Path) -> None:
    meta = {"genes": ["CD3D", "LYZ"], "score": float("nan"), "hidden": (2, 3)}
    save_model_dir(tmp_path / "model", {"w": torch.ones(2)}, meta)

    tensors, found = load_model_dir(tmp_path / "model")

    assert torch.equal(tensors["w"], torch.ones(2))
    assert found == {"genes": ["CD3D", "LYZ"], "score": None, "hidden": [2, 3]}
    assert json.loads((tmp_path / "model" / "model.json").read_text()) == found
    assert torch.equal(load_file(tmp_path / "model" / "model.safetensors")["w"], torch.ones(2))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("writes", range(3))
def test_disk_full_after_any_write_keeps_the_model_saved_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int, half: bool
) -> None:
    path = tmp_path / "model"
    save_model_dir(path, {"w": torch.ones(2)}, {"version": 1})
    with monkeypatch.context() as patch:
        fail_after(writes, patch, half=half)
        with pytest.raises(CheckpointError, match="saved there before is untouched"):
            save_model_dir(path, {"w": torch.zeros(2)}, {"version": 2})
    assert load_model_dir(path)[1] == {"version": 1}
    assert list(tmp_path.iterdir()) == [path]
    save_model_dir(path, {"w": torch.zeros(2)}, {"version": 2})
    assert load_model_dir(path)[1] == {"version": 2}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("writes", range(3))
def test_failed_first_save_leaves_no_model_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    fail_after(writes, monkeypatch)
    with pytest.raises(CheckpointError):
        save_model_dir(tmp_path / "model", {"w": torch.ones(2)}, {})
    assert list(tmp_path.iterdir()) == []


def test_model_set_aside_by_a_killed_process_is_found(tmp_path: Path) -> None:
    path = tmp_path / "model"
    save_model_dir(path, {"w": torch.ones(2)}, {"version": 1})
    path.rename(tmp_path / f".model{storage.ASIDE}")
    assert load_model_dir(path)[1] == {"version": 1}
    save_model_dir(path, {"w": torch.ones(2)}, {"version": 2})
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_a_killed_save_are_removed_and_neighbours_stay(tmp_path: Path) -> None:
    for name in ("model", "model2"):
        (tmp_path / f".{name}{storage.TEMPORARY}1").mkdir()
    save_model_dir(tmp_path / "model", {"w": torch.ones(2)}, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f".model2{storage.TEMPORARY}1",
        "model",
    ]


def test_directory_that_is_no_model_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "thesis"
    path.mkdir()
    (path / "chapter1.txt").write_text("words")
    with pytest.raises(CheckpointError, match=r"holds 1 entries .* 'chapter1.txt'"):
        save_model_dir(path, {"w": torch.ones(2)}, {})
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="a file of that name"):
        save_model_dir(tmp_path / "file", {"w": torch.ones(2)}, {})
    assert (path / "chapter1.txt").read_text() == "words"


def test_model_with_a_note_added_is_not_replaced(tmp_path: Path) -> None:
    save_model_dir(tmp_path / "m", {"w": torch.ones(2)}, {})
    (tmp_path / "m" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"'notes.txt'"):
        save_model_dir(tmp_path / "m", {"w": torch.zeros(2)}, {})
    assert load_model_dir(tmp_path / "m")[0]["w"].sum() == 2


def test_link_to_a_model_directory_stays_a_link(tmp_path: Path) -> None:
    save_model_dir(tmp_path / "real", {"w": torch.ones(2)}, {"version": 1})
    (tmp_path / "link").symlink_to(tmp_path / "real")
    save_model_dir(tmp_path / "link", {"w": torch.ones(2)}, {"version": 2})
    assert (tmp_path / "link").is_symlink()
    assert load_model_dir(tmp_path / "real")[1] == {"version": 2}


@pytest.mark.parametrize("file", ["model.safetensors", "model.json", "manifest.json"])
def test_damaged_model_is_refused_and_the_file_named(tmp_path: Path, file: str) -> None:
    save_model_dir(tmp_path / "m", {"w": torch.ones(2)}, {})
    path = tmp_path / "m" / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=file):
        load_model_dir(tmp_path / "m")


def test_missing_model_and_other_directories_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no saved model at"):
        load_model_dir(tmp_path / "missing")
    with pytest.raises(CheckpointError, match=r"no readable manifest.json"):
        load_model_dir(tmp_path)
    path = save_checkpoint(tmp_path, 1, {"state": {"step": 1}})
    with pytest.raises(
        CheckpointError, match="holds a kernomics checkpoint, not a kernomics model"
    ):
        load_model_dir(path)


def test_weights_must_be_tensors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'w' is a list, not a tensor"):
        save_model_dir(tmp_path / "m", {"w": [1.0]}, {})  # type: ignore[dict-item]
