"""Cells that are kept, and how they come again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from staged_example import staged
from torch.utils._python_dispatch import TorchDispatchMode

from kernomics.data import Sampler
from kernomics.errors import ConfigError
from kernomics.models.gil.memory import ReplayLoader, reservoir, with_rounds
from kernomics.models.gil.methods import Replay


def test_every_cell_of_a_stage_is_as_likely_to_be_kept():
    found = staged()
    rows = found.rows(0)
    times, n_draws, size = np.zeros(found.cells.n_cells), 1500, 10
    for seed in range(n_draws):
        kept = reservoir(found, 0, size, seed)
        assert len(np.unique(kept)) == size
        times[kept] += 1
    assert times.sum() == times[rows].sum()
    n, expected = len(rows), n_draws * size / len(rows)
    statistic = ((times[rows] - expected) ** 2 / expected).sum() * (n - 1) / (n - size)
    assert chi2.ppf(1e-6, n - 1) < statistic < chi2.ppf(1 - 1e-6, n - 1)


def test_a_larger_memory_holds_what_the_smaller_one_does():
    found = staged()
    assert set(reservoir(found, 0, 5, 1)) < set(reservoir(found, 0, 9, 1))


def loader(share=0.5, batch_size=10, kept=(7, 5)):
    found = staged()
    sampler = Sampler(found.rows(2), batch_size, 0, block_size=64)
    memory = [reservoir(found, i, n, 0) for i, n in enumerate(kept)]
    return found, sampler, memory, ReplayLoader(found.cells, sampler, memory, share, 0)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_batches_are_the_new_stage_s_and_the_share_asked_for_on_top(share):
    _, sampler, memory, replayed = loader(share)
    n_new = n_old = 0
    for epoch in range(3):
        for i, batch in enumerate(replayed.epoch(epoch)):
            rows = batch.cell_ids % 2**32
            new = sampler.batch(epoch, i)
            assert rows[: len(new)].tolist() == new.tolist()
            assert (batch.cell_ids[: len(new)] < 2**32).all()
            assert np.isin(rows[len(new) :], np.concatenate(memory)).all()
            n_new, n_old = n_new + len(new), n_old + len(rows) - len(new)
    assert abs(n_old / (n_old + n_new) - share) < 0.05


def test_earlier_stages_share_the_memory_s_part_equally_and_every_cell_comes_as_often():
    found, _, memory, replayed = loader(batch_size=7)
    times = np.zeros(found.cells.n_cells, int)
    for epoch in range(20):
        for batch in replayed.epoch(epoch):
            rows = batch.cell_ids.numpy()
            np.add.at(times, rows[rows >= 2**32] % 2**32, 1)
    first, second = times[memory[0]], times[memory[1]]
    assert abs(first.sum() - second.sum()) <= 20
    for each in (first, second):
        assert each.min() > 0
        assert each.max() - each.min() <= 4


def test_a_cell_that_comes_again_is_drawn_for_anew():
    _, _, _, replayed = loader(kept=(2, 2))
    (batch, *_) = replayed.epoch(0)
    assert len(np.unique(batch.cell_ids)) == len(batch)


def test_an_epoch_can_begin_in_its_middle():
    _, _, _, replayed = loader(batch_size=6)
    whole = [batch.cell_ids.tolist() for batch in replayed.epoch(1)]
    assert [batch.cell_ids.tolist() for batch in replayed.epoch(1, 2)] == whole[2:]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"memory": 22}, r"memory is 22 cells of each stage, more than 1 of the 2 stages before "
         r"the last have to train on, first 'one' with 21: at most 21 are possible"),
        ({"memory": 0}, "memory is 0"),
        ({"memory": 5, "share": 1.0}, "share is 1.0"),
    ],
)  # fmt: skip
def test_a_memory_larger_than_the_data_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        Replay(**given).check(staged())


class OneDevice(TorchDispatchMode):
    """Refuse operations between tensors on two devices, as CUDA does and meta does not."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [a for a in args if isinstance(a, torch.Tensor) and a.dim()]
        assert len({a.device.type for a in tensors}) <= 1, func
        return func(*args, **(kwargs or {}))


def test_cells_on_a_device_get_other_ids_each_round_too():
    """As DER shows them: what is added must be where the ids are."""
    cells = staged().cells.batch(np.arange(4)).to("meta")
    with OneDevice():
        found = with_rounds(cells, np.array([0, 1]))
    assert found.cell_ids.device.type == "meta"
