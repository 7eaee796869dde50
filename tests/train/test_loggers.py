"""Records reach TensorBoard and Lightning under one name per split and figure."""

from __future__ import annotations

import builtins
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from kernomics.errors import CheckpointError, ConfigError
from kernomics.train import History, JSONLines, Lightning, TensorBoard, opened

RECORD = {"step": 3, "epoch": 1, "split": "train", "loss": 0.5, "note": "text", "nan": None}


def test_tensorboard_gets_a_scalar_per_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    class SummaryWriter:
        def __init__(self, directory: str) -> None:
            calls.append(("open", directory))

        def add_scalar(self, *args: Any) -> None:
            calls.append(args)

        def add_text(self, name: str, text: str, step: int) -> None:
            calls.append((name, "max_epochs" in text, step))

        def close(self) -> None:
            calls.append(("close",))

    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    logger = TensorBoard("events")
    logger.config({"max_epochs": 3})
    logger.log(RECORD)
    logger.close()
    assert calls == [
        ("open", "events"), ("config", True, 0), ("train/epoch", 1.0, 3), ("train/loss", 0.5, 3),
        ("close",),
    ]  # fmt: skip


def test_missing_tensorboard_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if "tensorboard" in name:
            raise ImportError("No module named 'tensorboard'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'kernomics\[tensorboard\]'"):
        TensorBoard("events")


def test_lightning_logger_gets_metrics_and_hyperparameters() -> None:
    calls: list[tuple[Any, ...]] = []

    class LightningLogger:
        def log_metrics(self, metrics: dict[str, float], step: int) -> None:
            calls.append((metrics, step))

        def log_hyperparams(self, params: dict[str, Any]) -> None:
            calls.append((params,))

        def finalize(self, status: str) -> None:
            calls.append((status,))

    logger = Lightning(LightningLogger())
    logger.config({"seed": 0})
    logger.log(RECORD)
    logger.close()
    assert calls == [
        ({"seed": 0},), ({"train/epoch": 1.0, "train/loss": 0.5}, 3), ("success",),
    ]  # fmt: skip


def test_json_lines_keep_the_first_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": 3}\n{"a"')
    logger = JSONLines(path, keep=2)
    logger.log({"a": 4})
    logger.close()
    assert path.read_text() == '{"a": 1}\n{"a": 2}\n{"a": 4}\n'
    path.write_text('{"a": 1}\n{"a"')
    JSONLines(path, keep=2).close()
    assert path.read_text() == '{"a": 1}\n'
    JSONLines(path).close()
    assert path.read_text() == ""


def test_damaged_history_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n{"a"\n{"a": 3}\n')
    with pytest.raises(CheckpointError, match="line 2, is damaged"):
        History.read(path)
    path.write_text('{"a": 1}\n{"a"')
    assert History.read(path) == [{"a": 1}]


class OfLightning:
    """What Lightning's loggers have."""

    def log_metrics(self, metrics: Any, step: int) -> None:
        """Take figures."""

    def log_hyperparams(self, params: Any) -> None:
        """Take settings."""

    def finalize(self, status: str) -> None:
        """End."""


def test_loggers_of_lightning_are_wrapped_and_other_things_refused(tmp_path: Path) -> None:
    own = JSONLines(tmp_path / "x.jsonl")
    found = opened([own, OfLightning()], None)
    assert found[0] is own
    assert isinstance(found[1], Lightning)
    with pytest.raises(ConfigError, match="loggers holds a int"):
        opened([1], None)
    with pytest.raises(ConfigError, match="give a list of loggers; log_dir is a directory"):
        opened("runs/log", None)
    own.close()
