"""A run is continued for more epochs where nothing was laid out for fewer, else refused by name."""

from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch

from kernomics.errors import CheckpointError, ConfigError
from kernomics.train import TrainConfig, fit


class Plain(tiny_run.Linear):
    """Without schedules of its own."""


def trained(directory: Path, epochs: int, *, resume: bool = False, **settings: Any) -> Plain:
    torch.manual_seed(0)
    module = Plain()
    config = TrainConfig(max_epochs=epochs, progress=False, **settings)
    batches = tiny_run.Reading(tiny_run.FakeSampler(), tiny_run.cells_of())
    fit(module, batches, config, run_dir=directory, resume=resume)
    return module


def test_more_epochs_at_a_constant_rate_are_those_of_a_longer_run(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", 5)
    trained(tmp_path / "parts", 2)
    longer = trained(tmp_path / "parts", 5, resume=True)
    for one, other in zip(whole.parameters(), longer.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("settings", "epochs", "said"),
    [
        ({"schedule": "one_cycle"}, 5, "planned for 2 epochs: the learning rate goes through"),
        ({"schedule": "one_cycle"}, 5, "Finish it with max_epochs=2"),
        ({}, 1, "max_epochs was 2 and is now 1, which is fewer"),
    ],
)
def test_epochs_that_cannot_be_added_are_refused_by_what_was_given(
    tmp_path: Path, settings: dict[str, Any], epochs: int, said: str
) -> None:
    trained(tmp_path, 2, **settings)
    with pytest.raises(ConfigError) as caught:
        trained(tmp_path, epochs, resume=True, **settings)
    assert said in str(caught.value)
    assert "weight_decay" not in str(caught.value)


def test_derived_weight_decay_stands_behind_the_epochs_that_were_given(tmp_path: Path) -> None:
    trained(tmp_path, 2, weight_decay=0.1)
    with pytest.raises(ConfigError) as caught:
        trained(tmp_path, 4, resume=True, weight_decay=0.05)
    assert "max_epochs was 2 and is now 4" in str(caught.value)
    assert "the weight decay follows from the number of steps" in str(caught.value)


def test_resuming_where_nothing_was_begun_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no run in .*mistyped to resume"):
        trained(tmp_path / "mistyped", 1, resume=True)
    assert not (tmp_path / "mistyped").exists()
