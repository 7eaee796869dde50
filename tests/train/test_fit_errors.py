"""What stops a training says where and why; settings that make no sense are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run
import torch
from tiny_run import FakeCells, FakeSampler, Linear, Reading, cells_of, quiet
from torch import Tensor, nn

from kernomics.errors import CheckpointError, ConfigError, TrainingError
from kernomics.train import RunDirectory, TrainConfig, fit, load_checkpoint, override
from kernomics.train import atomic as storage


class Poisoned(Linear):
    """Has a loss of NaN or infinity for one cell."""

    def __init__(self, cell: int, value: float) -> None:
        super().__init__()
        self.cell, self.value = cell, value

    def training_loss(self, batch: FakeCells) -> dict[str, Tensor]:
        losses = super().training_loss(batch)
        if (batch.cell_ids == self.cell).any() and self.training:
            losses["loss"] = losses["loss"] * self.value
        return losses


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_loss_that_is_not_finite_stops_and_names_step_epoch_and_cells(
    tmp_path: Path, value: float, accumulate: int
) -> None:
    sampler = FakeSampler()
    place = next(i for i in range(6) if 17 in sampler.batch(2, i))
    fetch = cells_of()

    class FromThirdEpoch(Poisoned):
        def on_step(self, step: int, total_steps: int) -> None:
            self.cell = 17 if step >= 2 * total_steps // 3 else -1

    module = FromThirdEpoch(17, value)
    config = quiet(accumulate=accumulate, checkpoint_every_epochs=1)
    with pytest.raises(TrainingError) as caught:
        fit(module, Reading(sampler, fetch), config, run_dir=tmp_path)

    cells = sampler.batch(2, place)
    step = (2 * 6 + place) // accumulate + 1
    assert (
        f"the loss is {value} in step {step} (epoch 2), over {len(cells)} cells with cell_ids "
        + ", ".join(str(c) for c in cells[:5])
        + (", …" if len(cells) > 5 else "")
    ) in str(caught.value)
    saved = load_checkpoint(tmp_path / "checkpoints")
    assert saved is not None
    assert saved.step == 12 // accumulate
    assert str(saved.path) in str(caught.value)
    # The step that failed changed nothing.
    assert torch.isfinite(module.weight).all()


class BadGradient(Linear):
    """Has a finite loss whose gradient is not."""

    def training_loss(self, batch: FakeCells) -> dict[str, Tensor]:
        losses = super().training_loss(batch)
        return {"loss": losses["loss"] + (self.bias - self.bias.detach()).abs().sqrt()}


def test_gradient_that_is_not_finite_stops_before_the_weights_are_spoilt() -> None:
    module = BadGradient()
    with pytest.raises(TrainingError, match="the norm of the gradient is nan in step 1 "):
        fit(module, Reading(FakeSampler(), cells_of()), quiet(max_grad_norm=1.0))
    assert torch.equal(module.weight, Linear().weight)


def test_weights_spoilt_by_an_unchecked_gradient_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"'bias' already held NaN before this step.*max_grad_norm"
    ):
        fit(BadGradient(), Reading(FakeSampler(), cells_of()), quiet())
    # The epoch is over before another loss is seen: the save refuses.
    with pytest.raises(TrainingError, match=r"'bias' holds NaN after step 1.* no checkpoint"):
        fit(
            BadGradient(),
            Reading(FakeSampler(44, 44), cells_of()),
            quiet(checkpoint_every_epochs=1),
            run_dir=tmp_path,
        )
    assert load_checkpoint(tmp_path / "checkpoints") is None


def test_full_disk_stops_training_and_the_run_can_go_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, history = tiny_run.run(None)
    write, writes = storage.write_bytes, [0]

    def full(path: Path, data: bytes) -> None:
        writes[0] += 1
        if writes[0] > 20:
            raise OSError(28, "No space left on device")
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_bytes", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            tiny_run.run(tmp_path)
    module, resumed = tiny_run.run(tmp_path, resume=True)
    assert resumed.without_timings() == history.without_timings()
    assert torch.equal(module.table, expected.table)


def test_wrong_losses_are_told() -> None:
    class Wrong(Linear):
        answer: Any = None

        def training_loss(self, batch: FakeCells) -> Any:
            return self.answer

    for answer, message in [
        (torch.tensor(1.0), "must return a dict with the key 'loss', not Tensor"),
        ({"Loss": torch.tensor(1.0)}, r"not \['Loss'\]"),
        ({"loss": torch.ones(3)}, r"a Tensor of shape \(3,\) as 'loss'"),
        ({"loss": torch.tensor(1.0), "other": 1.0}, "a float as 'other'"),
        ({"loss": torch.tensor(1.0)}, "does not depend on any trainable parameter"),
    ]:
        module = Wrong()
        module.answer = answer
        with pytest.raises(ConfigError, match=message):
            fit(module, Reading(FakeSampler(), cells_of()), quiet())


def test_calls_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no batches to train on"):
        fit(Linear(), Reading(FakeSampler(0), cells_of()), quiet())
    with pytest.raises(ConfigError, match="there is no validation to monitor"):
        fit(Linear(), Reading(FakeSampler(), cells_of()), quiet(patience=2))
    with pytest.raises(ConfigError, match="needs the run_dir"):
        fit(Linear(), Reading(FakeSampler(), cells_of()), quiet(), resume=True)
    with pytest.raises(ConfigError, match="ReLU has no parameters"):
        fit(nn.ReLU(), Reading(FakeSampler(), cells_of()), quiet())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_epochs", 0), ("batch_size", 1.5), ("learning_rate", 0.0), ("keep_checkpoints", 1),
        ("warmup", 1.5), ("restart_at", -0.1), ("schedule", "onecycle"), ("precision", "fp16"),
        ("patience", 0),
        ("learning_rate", float("nan")), ("weight_decay", -1), ("optimizer", "adam"),
        ("mode", "less"), ("max_grad_norm", 0), ("checkpoint_every_seconds", -1.0),
    ],
)  # fmt: skip
def test_setting_that_makes_no_sense_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} is {value!r}"):
        TrainConfig(**{name: value})


def test_override_replaces_settings_and_names_the_nearest_of_an_unknown_one() -> None:
    config = TrainConfig()
    assert override(config, max_epochs=3) == TrainConfig(max_epochs=3)
    assert config.max_epochs == 100
    with pytest.raises(ConfigError, match=r"TrainConfig has no setting 'epochs'; .*'max_epochs'"):
        override(config, epochs=3)
    with pytest.raises(ConfigError, match="expected a dataclass"):
        override({"max_epochs": 1}, max_epochs=3)


def test_run_directory_and_training_resume_together(tmp_path: Path) -> None:
    config = quiet(max_epochs=2)
    for resume in (False, True):
        with RunDirectory.create(tmp_path / "run", {"train": config}, resume=resume) as run:
            history = fit(Linear(), Reading(FakeSampler(), cells_of()), config, run_dir=run.path,
                          resume=resume)  # fmt: skip
    assert len(history) == 2
    rows = np.concatenate([FakeSampler().batch(0, i) for i in range(6)])
    assert sorted(rows) == list(range(44))
