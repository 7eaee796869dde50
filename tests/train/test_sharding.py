"""Weights shared out over ranks: the same losses, checkpoints that load anywhere, plain after."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch
from started_ranks import cell_digests, finish, losses, run, start
from torch import nn

from kernomics.errors import ConfigError
from kernomics.train import RowAdamW, config_hash, fit, load_checkpoint
from kernomics.train.cost import bytes_sent
from kernomics.train.distributed.sharding import require_shardable

BUFFERS = ("gene_weights", "linear.mean", "linear.scale")


def orders(**settings: Any) -> dict[str, Any]:
    return {"job": "losses", "systems": ["txfm"], "settings": {"steps": 24, **settings}}


def same(found: list[dict[str, Any]], expected: dict[str, Any], tolerance: float) -> None:
    """Check that all ranks hold one model, with the losses of another training."""
    assert len({one["txfm"]["digest"] for one in found}) == 1
    assert losses(found[1], "txfm") == losses(found[0], "txfm")
    for one in found:
        digests = cell_digests(one["txfm"]["history"])
        assert digests == cell_digests(expected["txfm"]["history"])
    for record, one in zip(losses(found[0], "txfm"), losses(expected, "txfm"), strict=True):
        assert record == pytest.approx(one, rel=tolerance, abs=tolerance)


@pytest.mark.timeout(900)
def test_shared_weights_have_the_losses_of_one_process_and_go_on_anywhere(tmp_path: Path) -> None:
    """Batches are accumulated, gradients clipped, the initial weights validated, the best kept.

    A run of two ranks with parts is stopped, and goes on with parts to the bit; from the same
    checkpoint one process, with all weights, goes on to the same losses.
    """
    more = {
        "accumulate": 2, "max_grad_norm": 0.5, "patience": 50, "validate_start": True,
        "checkpoint_every_epochs": 1,
    }  # fmt: skip
    alone = start(1, tmp_path / "1", **orders(**more))
    whole = run(2, tmp_path / "2", **orders(**more, shard=True, run_dir=str(tmp_path / "whole")))
    (expected,) = finish(alone, tmp_path / "1")
    assert expected is not None
    same(whole, expected, 1e-5)
    for one in whole:
        assert one["txfm"]["plain"]

    folder = tmp_path / "whole" / "checkpoints"
    kept = load_checkpoint(folder)
    assert kept is not None
    shapes = {name: tuple(item.shape) for name, item in kept.parts["module"].items()}
    assert all(type(item) is torch.Tensor for item in kept.parts["module"].values())
    for name in ("best", "module"):
        assert {n: tuple(t.shape) for n, t in kept.parts[name].items()} == shapes
    moments = kept.parts["optimizer"]["state"].values()
    assert sorted(tuple(one["exp_avg"].shape) for one in moments) == sorted(
        shape for name, shape in shapes.items() if name not in BUFFERS
    )


@pytest.mark.timeout(900)
def test_a_run_goes_on_with_parts_or_without_on_any_number_of_ranks(tmp_path: Path) -> None:
    whole = run(2, tmp_path / "whole", **orders(shard=True))
    folders = [str(tmp_path / f"run-{i}") for i in range(2)]
    for folder in folders:
        stopped = {"shard": True, "run_dir": folder, "stop_after_epochs": 2}
        for one in run(2, tmp_path / "stopped", **orders(**stopped)):
            assert one["txfm"]["plain"]
        assert one["txfm"]["digest"] != whole[0]["txfm"]["digest"]
    again = run(2, tmp_path / "again", **orders(shard=True, run_dir=folders[0], resume=True))
    assert {one["txfm"]["digest"] for one in again} == {whole[0]["txfm"]["digest"]}
    assert losses(again[0], "txfm") == losses(whole[0], "txfm")
    (alone,) = run(1, tmp_path / "alone", **orders(run_dir=folders[1], resume=True))
    same(whole, alone, 1e-5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("double", "tolerance"), [(False, 1e-5), (True, 1e-9)])
def test_a_hundred_steps_with_parts_are_those_of_one_process(
    tmp_path: Path, double: bool, tolerance: float
) -> None:
    alone = {**orders(steps=100), "double": double}
    (expected,) = run(1, tmp_path / "1", **alone)
    for world in (2, 4):
        shared = {**orders(steps=100, shard=True), "double": double}
        same(run(world, tmp_path / str(world), **shared), expected, tolerance)


@pytest.mark.timeout(900)
def test_each_rank_holds_its_part_of_weights_and_moments(tmp_path: Path) -> None:
    """And sends the bytes that the cost model says, with blocks gathered once more.

    gloo adds gradients up for all ranks, where each needs its part alone: it sends as much again.
    """
    found = run(2, tmp_path, job="parts", steps=12)
    (total,) = {one["numbers"] for one in found}
    for kind in ("own", "moments"):
        assert sum(one[kind] for one in found) == total
        assert max(one[kind] for one in found) < 0.55 * total
    for one in found:
        predicted = bytes_sent(total, 2, n_gathered_again=one["of_blocks"])
        of_gloo = bytes_sent(total, 2) / 2
        assert one["sent"] == pytest.approx(predicted + of_gloo, rel=0.2)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("network", [{"n_layers": 1}, {"recompute": "blocks"}, {"loss": "zinb"}])
def test_other_networks_are_shared_out_too(tmp_path: Path, network: dict[str, Any]) -> None:
    (expected,) = run(1, tmp_path / "1", **orders(network=network))
    same(run(2, tmp_path / "2", **orders(network=network, shard=True)), expected, 1e-5)


@pytest.mark.timeout(900)
def test_a_rank_that_is_killed_is_named_by_one_that_waits_for_its_part(tmp_path: Path) -> None:
    how = {"job": "ending", "how": signal.SIGKILL, "at_step": 5, "rank": 1, "shard": True}
    first, second = run(2, tmp_path, **how)
    assert second is None
    assert first["error"] == "TrainingError"
    assert first["message"].startswith("rank 1 (process ")
    assert "died without a word" in first["message"]


# -- what cannot be shared out ---------------------------------------------------------------------


class Parts(nn.Linear):
    def shards(self) -> list[nn.Module]:
        return []


def test_what_cannot_be_shared_out_is_refused() -> None:
    one = Parts(2, 3)
    require_shardable(one, RowAdamW(one.parameters()))
    require_shardable(one, torch.optim.AdamW(one.parameters()))
    plain = nn.Linear(2, 3)
    with pytest.raises(ConfigError, match="a Linear is not made to be shared out over ranks"):
        require_shardable(plain, RowAdamW(plain.parameters()))
    with pytest.raises(ConfigError, match="Adafactor may need whole tensors"):
        require_shardable(one, torch.optim.Adafactor(one.parameters()))
    for given in ({"rows": lambda: None}, {"one_scale": True}):
        with pytest.raises(ConfigError, match="'rows' or 'one_scale', which need whole tensors"):
            require_shardable(one, RowAdamW([{"params": list(one.parameters()), **given}]))
    one.extra = nn.Parameter(torch.zeros(()))
    with pytest.raises(ConfigError, match="1 parameters are single numbers, first 'extra'"):
        require_shardable(one, RowAdamW(one.parameters()))


def test_one_process_and_a_compiled_step_are_refused() -> None:
    module = tiny_run.Linear()
    batches = tiny_run.Reading(tiny_run.FakeSampler(), tiny_run.cells_of())
    with pytest.raises(ConfigError, match="shard is set, but there is one process"):
        fit(module, batches, tiny_run.quiet(shard=True))
    module.compile_step = lambda: None  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="compile and shard are both set"):
        fit(module, batches, tiny_run.quiet(shard=True, compile=True))


def test_a_run_may_go_on_without_what_it_was_begun_with() -> None:
    assert config_hash({"shard": True, "seed": 0}) == config_hash({"shard": False, "seed": 0})
