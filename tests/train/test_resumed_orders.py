"""A run goes on under the version of the order that it was begun with."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch

from kernomics.data import Sampler
from kernomics.errors import ConfigError
from kernomics.train import config_hash, differences, fit
from kernomics.train.checkpoint import load_checkpoint


class Ordered(tiny_run.Reading):
    """As `kernomics.data.Loader`."""

    @property
    def order(self) -> int:
        return self.sampler.version

    def use_order(self, version: int) -> None:
        self.sampler = self.sampler.with_version(version)


def sampler(version: int) -> Sampler:
    return Sampler(range(44), 8, 3, block_size=4, buffer_blocks=3, version=version)


def run(kind: type, version: int, directory: Path | None, **how: Any) -> tuple[torch.Tensor, Any]:
    module, stop = tiny_run.Linear(), how.pop("stop", None)

    def on_step(step: int, total: int) -> None:
        if step == stop:
            os.kill(os.getpid(), signal.SIGINT)

    module.on_step = on_step
    batches = kind(sampler(version), tiny_run.cells_of())
    history = fit(module, batches, tiny_run.quiet(), run_dir=directory, **how)
    return module.weight.detach(), (batches, history)


@pytest.mark.parametrize("version", [1, 2])
def test_a_run_resumes_under_its_own_version(tmp_path: Path, version: int) -> None:
    expected, (_, history) = run(Ordered, version, None)
    with pytest.raises(KeyboardInterrupt):
        run(Ordered, version, tmp_path, stop=9)  # in the middle of the second epoch
    found, (batches, resumed) = run(Ordered, 3 - version, tmp_path, resume=True)
    assert batches.order == version
    assert torch.equal(found, expected)
    assert resumed.without_timings() == history.without_timings()


def test_a_run_that_names_no_version_was_begun_under_the_first(tmp_path: Path) -> None:
    expected, _ = run(tiny_run.Reading, 1, None)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_run.Reading, 1, tmp_path, stop=9)
    assert "order" not in load_checkpoint(tmp_path / "checkpoints").parts["setup"]
    found, (batches, _) = run(Ordered, 2, tmp_path, resume=True)
    assert batches.order == 1
    assert torch.equal(found, expected)


def test_new_runs_take_the_new_version_and_say_so(tmp_path: Path) -> None:
    run(Ordered, 2, tmp_path)
    assert load_checkpoint(tmp_path / "checkpoints").parts["setup"]["order"] == 2
    old, new = (run(Ordered, version, None)[0] for version in (1, 2))
    assert not torch.equal(old, new)


def test_a_run_of_a_later_version_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    with monkeypatch.context() as later:
        later.setattr(Ordered, "order", 3)
        with pytest.raises(KeyboardInterrupt):
            run(Ordered, 2, tmp_path, stop=9)
    with pytest.raises(ConfigError, match=r"version is 3: .* begun with a later kernomics"):
        run(Ordered, 2, tmp_path, resume=True)


def test_a_setting_that_came_later_is_not_missed_in_an_earlier_run() -> None:
    saved, now = {"train": {"seed": 0}}, {"train": {"seed": 0, "balance": None}}
    assert not differences(saved, now)
    assert config_hash(saved) == config_hash(now)
    now["train"]["balance"] = "cell_type"
    assert differences(saved, now) == ["train.balance was not set and is now 'cell_type'"]
    assert config_hash(saved) != config_hash(now)
