"""A run directory belongs to one run and one process, and nothing else is ever deleted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_run

from kernomics.errors import CheckpointError, ConfigError
from kernomics.train import RunDirectory, TrainConfig, config_hash, fit, write_json
from kernomics.train.rundir import DirectoryLock

CONFIG = {"model": "yoto", "n_genes": 64, "train": {"batch_size": 128, "progress": True}}


def test_new_run_records_its_configuration(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "a" / "run", CONFIG) as run:
        content = json.loads((run.path / "config.json").read_text())
    assert content["config"] == CONFIG
    assert content["hash"] == config_hash(CONFIG)
    assert content["command"] == sys.argv
    assert set(content) == {"kind", "kernomics", "created", "command", "hash", "config"}
    assert RunDirectory.open(run.path).config == CONFIG


def test_places_in_a_run_directory(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path, {})
    names = {
        place.name
        for place in (
            run.metrics, run.checkpoints, run.model, run.plots, run.report, run.results,
            run.split, run.panel,
        )
    }  # fmt: skip
    assert names == {
        "metrics.jsonl", "checkpoints", "model", "plots", "report.html", "results.json",
        "split.json", "panel.csv",
    }  # fmt: skip


def test_existing_run_is_not_touched_and_told_what_it_holds(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, CONFIG).close()
    (tmp_path / "checkpoints" / "step-00000040").mkdir(parents=True)
    with pytest.raises(CheckpointError) as caught:
        RunDirectory.create(tmp_path, CONFIG)
    message = str(caught.value)
    for part in ("already holds a run", "1 checkpoints, the newest step-00000040",
                 "resume=True", "overwrite=True", "another directory"):  # fmt: skip
        assert part in message
    assert (tmp_path / "checkpoints" / "step-00000040").is_dir()


def test_resume_goes_on_with_the_same_configuration(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, CONFIG).close()
    before = (tmp_path / "config.json").read_bytes()
    quiet = {**CONFIG, "train": {"batch_size": 128, "progress": False}}
    with RunDirectory.create(tmp_path, quiet, resume=True) as run:
        assert run.config == CONFIG
    assert (tmp_path / "config.json").read_bytes() == before


def test_resume_names_each_differing_setting_with_both_values(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, CONFIG).close()
    other = {"model": "yoto", "n_genes": 32, "layer": "counts", "train": {"batch_size": 64}}
    with pytest.raises(ConfigError) as caught:
        RunDirectory.create(tmp_path, other, resume=True)
    assert (
        "3 settings differ: layer was not set and is now 'counts'; n_genes was 64 and is now 32; "
        "train.batch_size was 128 and is now 64;"
    ) in str(caught.value)
    # A refused attempt leaves the directory free.
    RunDirectory.create(tmp_path, CONFIG, resume=True).close()


def test_resume_where_there_is_no_run_names_the_nearest_one(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "panel-1", CONFIG).close()
    (tmp_path / "empty").mkdir()
    for name in ("panel1", "empty"):
        with pytest.raises(CheckpointError) as caught:
            RunDirectory.create(tmp_path / name, CONFIG, resume=True)
        assert f"there is no run in {tmp_path / name} to resume" in str(caught.value)
        assert "'panel-1'" in str(caught.value)
        assert "leave out resume=True (--resume)" in str(caught.value)
    assert not (tmp_path / "panel1").exists()


def test_settings_that_follow_from_another_one_are_not_named(tmp_path: Path) -> None:
    def config(batch_size: int, decay: float) -> dict[str, dict[str, float]]:
        return {"train": {"batch_size": batch_size, "weight_decay": decay}}

    RunDirectory.create(tmp_path, config(64, 0.1)).close()
    with pytest.raises(ConfigError) as caught:
        RunDirectory.create(tmp_path, config(128, 0.2), resume=True)
    assert "1 settings differ: train.batch_size was 64 and is now 128;" in str(caught.value)
    with pytest.raises(ConfigError, match=r"train\.weight_decay was 0\.1 and is now 0\.2"):
        RunDirectory.create(tmp_path, config(64, 0.2), resume=True)


def test_overwrite_deletes_the_run_and_begins_anew(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, CONFIG).close()
    (tmp_path / "checkpoints" / "step-00000040").mkdir(parents=True)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    outside = tmp_path.parent / "outside"
    outside.mkdir()
    (outside / "precious").write_text("")
    (tmp_path / "link").symlink_to(outside)
    with RunDirectory.create(tmp_path, {"n_genes": 1}, overwrite=True) as run:
        assert run.config == {"n_genes": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "config.json"]
    assert (outside / "precious").exists()


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize("name", ["thesis.tex", "config.json"])
def test_directory_of_something_else_is_never_touched(
    tmp_path: Path, how: dict[str, bool], name: str
) -> None:
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(CheckpointError, match="is not a kernomics run"):
        RunDirectory.create(tmp_path, CONFIG, **how)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == '{"mine": 1}'


def test_resume_and_overwrite_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose one"):
        RunDirectory.create(tmp_path, CONFIG, resume=True, overwrite=True)


def test_damaged_config_and_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        RunDirectory.create(tmp_path / "file", CONFIG)
    with pytest.raises(CheckpointError, match=r"config.json cannot be read \(No such file"):
        RunDirectory.open(tmp_path / "missing")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"kind": "kernomics ru')
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        RunDirectory.create(tmp_path / "run", CONFIG, overwrite=True)


HOLD = """
import sys
from kernomics.train import RunDirectory
run = RunDirectory.create(sys.argv[1], {})
print("locked", flush=True)
sys.stdin.read()
"""


def test_second_process_is_kept_out_until_the_first_ends(tmp_path: Path) -> None:
    source = Path(sys.modules["kernomics.train"].__file__ or "").parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(source)},
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        for overwrite in (False, True):
            with pytest.raises(
                CheckpointError, match=rf"in use by another process \(process {holder.pid} on"
            ):
                RunDirectory.create(tmp_path, {}, resume=not overwrite, overwrite=overwrite)
        holder.kill()
    RunDirectory.create(tmp_path, {}, resume=True).close()


def test_lock_may_be_shared_within_a_process(tmp_path: Path) -> None:
    first, second = DirectoryLock(tmp_path), DirectoryLock(tmp_path)
    first.close()
    first.close()  # closing twice releases once
    assert DirectoryLock._held
    second.close()
    assert not DirectoryLock._held


def test_training_may_use_the_directory_its_caller_holds(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, CONFIG) as run:
        fit(
            tiny_run.Linear(),
            tiny_run.Reading(tiny_run.FakeSampler(), tiny_run.cells_of()),
            TrainConfig(max_epochs=1, progress=False),
            run_dir=run.path,
        )
    assert (run.checkpoints / "latest").exists()
    assert run.metrics.exists()
    assert not DirectoryLock._held


def test_json_is_replaced_whole_and_strict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    write_json(path, {"f1": np.float32(0.5), "nan": float("nan"), "n": np.arange(2), "p": path})
    expected = {"f1": 0.5, "nan": None, "n": [0, 1], "p": str(path)}
    assert json.loads(path.read_text()) == expected
    with pytest.raises(TypeError, match="cannot store a object"):
        write_json(path, {"x": object()})
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        write_json(path, {"f1": 1.0})
    assert json.loads(path.read_text()) == expected
    assert list(tmp_path.iterdir()) == [path]
