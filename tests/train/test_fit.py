"""The loop does what its configuration says, and stops with a message one can act on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch
from tiny_run import FakeCells, FakeSampler, Linear, Reading, cells_of, quiet, sgd
from torch import Tensor, nn

from kernomics.errors import ConfigError
from kernomics.train import (
    History,
    Logger,
    TrainConfig,
    fit,
    override,
    schedules,
)

# -- the steps -------------------------------------------------------------------------------------


def test_training_is_the_loop_one_would_write_by_hand() -> None:
    module, fetch = Linear(), cells_of()
    history = fit(
        module, Reading(FakeSampler(), fetch), quiet(learning_rate=0.01, weight_decay=0.1)
    )

    by_hand = Linear()
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=0.01, weight_decay=0.1)
    means = []
    for epoch in range(3):
        total = 0.0
        for i in range(6):
            batch = fetch(FakeSampler().batch(epoch, i))
            loss = by_hand.training_loss(batch)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        means.append(total / tiny_run.N_CELLS)

    assert torch.equal(module.weight, by_hand.weight)
    assert torch.equal(module.bias, by_hand.bias)
    assert history.column("loss") == pytest.approx(means, rel=1e-12)
    assert history.column("cells") == [44, 44, 44]
    assert history.column("step") == [6, 12, 18]
    assert history.column("epoch") == [0, 1, 2]
    assert all(record["absolute"] > 0 for record in history)
    assert not module.training


@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 2), (2, 4), (8, 1), (5, 9), (44, 1)])
def test_accumulated_batches_step_like_one_large_batch(batch_size: int, accumulate: int) -> None:
    fetch = cells_of()
    small, large = Linear(), Linear()
    fit(small, Reading(FakeSampler(44, batch_size), fetch), quiet(accumulate=accumulate),
        optimizer_factory=sgd)  # fmt: skip
    # The same cells, in the same order: a large batch is the small ones put together.
    fit(
        large,
        Reading(FakeSampler(44, batch_size * accumulate), fetch),
        quiet(),
        optimizer_factory=sgd,
    )
    torch.testing.assert_close(small.weight, large.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(small.bias, large.bias, rtol=1e-5, atol=1e-6)
    assert not torch.equal(small.weight, Linear().weight)


def test_steps_counted_with_accumulation_reach_the_hook() -> None:
    seen: list[tuple[int, int]] = []

    class Counting(Linear):
        def on_step(self, step: int, total_steps: int) -> None:
            seen.append((step, total_steps))

    fit(Counting(), Reading(FakeSampler(), cells_of()), quiet(accumulate=4))
    assert seen == [(step, 6) for step in range(6)]


def test_one_cycle_sets_the_rate_of_every_group_before_each_step() -> None:
    rates: list[tuple[float, float]] = []

    def two_groups(module: nn.Module) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(
            [{"params": [module.weight]}, {"params": [module.bias], "lr": 0.5}], lr=0.1
        )
        optimizer.register_step_pre_hook(
            lambda opt, *_: rates.append(tuple(g["lr"] for g in opt.param_groups))
        )
        return optimizer

    config = quiet(schedule="one_cycle", warmup=0.2)
    fit(Linear(), Reading(FakeSampler(), cells_of()), config, optimizer_factory=two_groups)
    expected = [schedules.one_cycle(step, 18, warmup=0.2) for step in range(18)]
    assert rates == [(0.1 * e, 0.5 * e) for e in expected]


def test_one_cycle_begins_anew_after_the_first_part() -> None:
    rates: list[float] = []

    def watched(module: nn.Module) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        optimizer.register_step_pre_hook(lambda opt, *_: rates.append(opt.param_groups[0]["lr"]))
        return optimizer

    config = quiet(schedule="one_cycle", warmup=0.2, restart_at=0.5)
    fit(Linear(), Reading(FakeSampler(), cells_of()), config, optimizer_factory=watched)
    cycle = [0.1 * schedules.one_cycle(step, 9, warmup=0.2) for step in range(9)]
    assert rates == cycle + cycle


def test_module_may_say_itself_where_in_a_cycle_a_step_is() -> None:
    rates: list[float] = []

    class Told(Linear):
        def cycle(self, step: int, total_steps: int) -> tuple[int, int] | None:
            return (step % 3, 7) if step < 6 else None

    def watched(module: nn.Module) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
        optimizer.register_step_pre_hook(lambda opt, *_: rates.append(opt.param_groups[0]["lr"]))
        return optimizer

    config = quiet(schedule="one_cycle", warmup=0.2)
    fit(Told(), Reading(FakeSampler(), cells_of()), config, optimizer_factory=watched)
    places = [*[(step, 7) for step in (0, 1, 2)] * 2, *[(step, 18) for step in range(6, 18)]]
    assert rates == [schedules.one_cycle(*place, warmup=0.2) for place in places]


def test_gradient_above_the_norm_is_scaled_to_it_and_logged() -> None:
    norms: list[float] = []

    def watching(module: nn.Module) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
        optimizer.register_step_pre_hook(
            lambda *_: norms.append(
                float(torch.cat([p.grad.reshape(-1) for p in module.parameters()]).norm())
            )
        )
        return optimizer

    history = fit(
        Linear(),
        Reading(FakeSampler(), cells_of()),
        quiet(max_grad_norm=0.5),
        optimizer_factory=watching,
    )
    assert norms == pytest.approx([0.5] * 18, rel=1e-4)
    assert all(norm > 0.5 for norm in history.column("grad_norm"))


def test_bf16_computes_in_bfloat16_and_keeps_float32_weights() -> None:
    seen: set[torch.dtype] = set()

    class Watching(Linear):
        def training_loss(self, batch: FakeCells) -> dict[str, Tensor]:
            hidden = batch.values @ self.weight[:, None]
            seen.add(hidden.dtype)
            return {"loss": (hidden[:, 0].float() - batch.target).square().mean()}

    module = Watching()
    fit(module, Reading(FakeSampler(), cells_of()), quiet(precision="bf16", max_epochs=1))
    assert seen == {torch.bfloat16}
    assert module.weight.dtype == torch.float32
    assert torch.isfinite(module.weight).all()


def test_frozen_parameters_stay() -> None:
    module = Linear()
    module.bias.requires_grad_(False)
    fit(module, Reading(FakeSampler(), cells_of()), quiet())
    assert module.bias.item() == 0
    assert not torch.equal(module.weight, Linear().weight)


def test_seed_rules_the_random_numbers_and_the_callers_are_given_back() -> None:
    first = tiny_run.Selecting()
    torch.manual_seed(99)
    expected = torch.rand(3)
    torch.manual_seed(99)
    config = TrainConfig(**{**tiny_run.SETTINGS, "patience": None, "seed": 1})
    fit(first, Reading(FakeSampler(), cells_of()), config, optimizer_factory=tiny_run.optimizer_of)
    assert torch.equal(torch.rand(3), expected)
    runs = [tiny_run.Selecting() for _ in range(2)]
    for module, seed in zip(runs, (1, 2), strict=True):
        fit(
            module,
            Reading(FakeSampler(), cells_of()),
            override(config, seed=seed),
            optimizer_factory=tiny_run.optimizer_of,
        )
    assert torch.equal(first.table, runs[0].table)
    assert not torch.equal(first.table, runs[1].table)


# -- validation and early stopping -----------------------------------------------------------------


class Scripted:
    """A validation that returns given values, and notes the weights it saw."""

    def __init__(self, module: nn.Module, values: list[float], name: str = "loss") -> None:
        self.module, self.values, self.name = module, iter(values), name
        self.seen: list[Tensor] = []

    def __call__(self) -> dict[str, float]:
        assert not self.module.training
        assert not torch.is_grad_enabled()
        self.seen.append(self.module.weight.detach().clone())
        return {self.name: next(self.values)}


@pytest.mark.parametrize(
    ("values", "mode", "min_delta", "epochs", "best"),
    [
        ([3.0, 2.0, 2.5, 2.1, 0.0], "min", 0.0, 4, 1),
        ([3.0, 2.0, 2.5, 1.0, 1.0, 1.0], "min", 0.0, 6, 3),
        ([0.1, 0.5, 0.4, 0.5, 0.9], "max", 0.0, 4, 1),
        ([3.0, 2.95, 2.92, 2.0, 2.0], "min", 0.1, 3, 0),
        ([float("nan"), 2.0, float("nan"), float("inf"), 0.0], "min", 0.0, 4, 1),
    ],
)
def test_early_stopping_ends_and_restores_the_best_weights(
    values: list[float], mode: Any, min_delta: float, epochs: int, best: int
) -> None:
    module = Linear()
    validate = Scripted(module, values)
    config = quiet(max_epochs=20, patience=2, mode=mode, min_delta=min_delta)
    history = fit(module, Reading(FakeSampler(), cells_of()), config, validate=validate)
    assert len(history.select("train")) == epochs
    assert history.best_epoch == best
    assert history.best_value == values[best]
    assert history.stopped_early
    assert torch.equal(module.weight, validate.seen[best])
    assert not torch.equal(module.weight, validate.seen[-1])


def test_without_patience_all_epochs_run_and_the_last_weights_stay() -> None:
    module = Linear()
    validate = Scripted(module, [1.0, 2.0, 3.0])
    history = fit(module, Reading(FakeSampler(), cells_of()), quiet(), validate=validate)
    assert torch.equal(module.weight, validate.seen[-1])
    assert history.best_epoch is None
    assert not history.stopped_early
    assert [r["loss"] for r in history.select("validation")] == [1.0, 2.0, 3.0]


def test_best_weights_survive_when_training_ends_by_itself() -> None:
    module = Linear()
    validate = Scripted(module, [1.0, 2.0, 3.0])
    history = fit(module, Reading(FakeSampler(), cells_of()), quiet(patience=3), validate=validate)
    assert torch.equal(module.weight, validate.seen[0])
    assert not history.stopped_early


def test_validation_comes_every_so_many_epochs_and_at_the_end() -> None:
    module = Linear()
    config = quiet(max_epochs=5, validate_every=2)
    history = fit(
        module,
        Reading(FakeSampler(), cells_of()),
        config,
        validate=Scripted(module, [1.0, 2.0, 3.0]),
    )
    assert history.column("epoch", "validation") == [1, 3, 4]


@pytest.mark.parametrize("monitor", ["validation_loss", "loss"])
def test_monitor_may_be_named_with_or_without_its_split(monitor: str) -> None:
    module = Linear()
    validate = Scripted(module, [1.0, 2.0])
    fit(
        module,
        Reading(FakeSampler(), cells_of()),
        quiet(patience=1, monitor=monitor),
        validate=validate,
    )
    assert torch.equal(module.weight, validate.seen[0])


def test_monitor_that_validation_does_not_return_is_named_with_the_nearest() -> None:
    module = Linear()
    validate = Scripted(module, [1.0], name="macro_f1")
    with pytest.raises(ConfigError, match=r"monitor is 'macro_F1'.* closest: 'macro_f1'"):
        fit(module, Reading(FakeSampler(), cells_of()), quiet(patience=1, monitor="macro_F1"),
            validate=validate)  # fmt: skip


def test_batches_may_come_in_a_list_and_too_few_are_told() -> None:
    class Listed(Reading):
        def epoch(self, epoch: int, start: int = 0) -> list[FakeCells]:  # type: ignore[override]
            return list(super().epoch(epoch, start))

    modules = Linear(), Linear()
    for kind, module in zip((Reading, Listed), modules, strict=True):
        fit(module, kind(FakeSampler(), cells_of()), quiet())
    assert torch.equal(modules[0].weight, modules[1].weight)

    class Short(Reading):
        def epoch(self, epoch: int, start: int = 0) -> list[FakeCells]:  # type: ignore[override]
            return list(super().epoch(epoch, start))[:-1]

    batches = Short(FakeSampler(), cells_of())
    n = batches.n_batches
    for accumulate in (1, 2):
        with pytest.raises(ConfigError, match=f"gave {n - 1} batches, and n_batches is {n}"):
            fit(Linear(), batches, quiet(accumulate=accumulate))


def test_what_a_callback_returns_ends_the_training_only_if_it_is_true() -> None:
    history = fit(
        Linear(),
        Reading(FakeSampler(), cells_of()),
        quiet(max_epochs=3),
        callbacks=[lambda epoch, module: module.eval(), lambda epoch, module: epoch],
    )
    assert history.column("epoch", "train") == [0, 1, 2]


def test_callback_sees_each_epoch_and_may_end_the_training() -> None:
    seen: list[int] = []

    def stop_after_two(epoch: int, module: nn.Module) -> bool:
        seen.append(epoch)
        return epoch == 1

    history = fit(Linear(), Reading(FakeSampler(), cells_of()), quiet(), callbacks=[stop_after_two])
    assert seen == [0, 1]
    assert history.stopped_early


# -- what is kept ----------------------------------------------------------------------------------


def test_history_is_mirrored_line_by_line(tmp_path: Path) -> None:
    _, history = tiny_run.run(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == history
    assert {r["split"] for r in history} == {"train", "validation", "step"}
    assert [r["step"] for r in history.select("step")] == list(range(2, tiny_run.STEPS + 1, 2))
    assert all(r["cells_per_second"] > 0 for r in history.select("train"))
    assert len(history.to_frame()) == len(history)
    with pytest.raises(ConfigError, match="no 'train' record has 'los'; closest: 'loss'"):
        history.column("los")


def test_values_that_json_cannot_hold_are_the_same_in_history_and_file(tmp_path: Path) -> None:
    module = Linear()
    validate = Scripted(module, [float("nan"), float("inf"), 1.0])
    history = fit(
        module, Reading(FakeSampler(), cells_of()), quiet(), run_dir=tmp_path, validate=validate
    )
    assert history.column("loss", "validation") == [None, None, 1.0]
    assert History.read(tmp_path / "metrics.jsonl") == history


def test_checkpoints_come_every_so_many_epochs_and_at_the_end(tmp_path: Path) -> None:
    config = quiet(max_epochs=5, checkpoint_every_epochs=2, keep_checkpoints=9)
    fit(Linear(), Reading(FakeSampler(), cells_of()), config, run_dir=tmp_path)
    names = sorted(p.name for p in (tmp_path / "checkpoints").glob("step-*"))
    assert names == [f"step-{6 * epoch:08d}" for epoch in (2, 4, 5)]


def test_loggers_receive_configuration_records_and_end(tmp_path: Path) -> None:
    class Recorder:
        def __init__(self) -> None:
            self.calls: list[tuple[str, Any]] = []

        def log(self, record: Any) -> None:
            self.calls.append(("log", record))

        def config(self, config: Any) -> None:
            self.calls.append(("config", config))

        def close(self) -> None:
            self.calls.append(("close", None))

    recorder = Recorder()
    assert isinstance(recorder, Logger)
    config = quiet()
    history = fit(
        Linear(), Reading(FakeSampler(), cells_of()), config, run_dir=tmp_path, loggers=[recorder]
    )
    assert recorder.calls == [
        ("config", dataclasses.asdict(config)), *(("log", r) for r in history), ("close", None),
    ]  # fmt: skip


def test_progress_bar_shows_loss_speed_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    fit(Linear(), Reading(FakeSampler(), cells_of()), TrainConfig(max_epochs=2))
    shown = capsys.readouterr().err.split("\r")[-1]
    for part in ("training: 100%", "12/12", "epoch 2/2", "loss ", "cells/s"):
        assert part in shown
    fit(Linear(), Reading(FakeSampler(), cells_of()), quiet())
    assert capsys.readouterr().err == ""
