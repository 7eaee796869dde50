"""Steps that are passed over; what the others draw stays as it was."""

import itertools
import json
import os
import signal

import pytest
import tiny_run
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernomics.data import Sampler
from kernomics.errors import ConfigError
from kernomics.train import fit
from kernomics.train.skipping import holds, joined, more_skipped, ranges_of

RANGES = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 5)), max_size=6)


@given(RANGES)
def test_joined_ranges_hold_the_same_steps_and_do_not_meet(pairs):
    ranges = [[first, first + more] for first, more in pairs]
    wanted = {step for first, last in ranges for step in range(first, last + 1)}
    found = joined([list(one) for one in ranges])
    assert {step for step in range(1, 40) if holds(found, step)} == wanted
    assert all(before[1] + 1 < after[0] for before, after in itertools.pairwise(found))


@pytest.mark.parametrize("bad", [0, -1, (3, 2), (1, 2, 3), 1.5, "7", (0, 4), None])
def test_what_is_no_step_is_refused(bad):
    with pytest.raises(ConfigError, match="skip_steps holds"):
        ranges_of([bad])


def test_steps_that_are_done_or_never_come_are_refused():
    assert more_skipped([[3, 4]], ranges_of([(3, 4), 9]), done=6, total=10) == [[3, 4], [9, 9]]
    with pytest.raises(ConfigError, match=r"step 5, which is done: .* holds 6 steps"):
        more_skipped([[3, 4]], ranges_of([(3, 7)]), done=6, total=10)
    with pytest.raises(ConfigError, match="step 11, but this training has 10 steps"):
        more_skipped([], ranges_of([(9, 12)]), done=0, total=10)


class Seeing(tiny_run.Linear):
    """Notes the cells of each step that it learns from."""

    def __init__(self, stop=None):
        super().__init__()
        self.seen, self.begun, self.stop = {}, [], stop

    def on_step(self, step, total):
        self.begun.append(step)
        if step == self.stop:
            os.kill(os.getpid(), signal.SIGINT)

    def training_loss(self, batch):
        self.seen.setdefault(self.begun[-1] + 1, []).extend(batch.cell_ids.tolist())
        return super().training_loss(batch)


def run(directory=None, *, stop=None, **how):
    module = Seeing(stop)
    batches = tiny_run.Reading(Sampler(range(44), 8, 3, block_size=4), tiny_run.cells_of())
    config = tiny_run.quiet(accumulate=2, log_every_steps=1)  # three steps in an epoch
    history = fit(module, batches, config, run_dir=directory, **how)
    return module, history


def test_skipped_steps_leave_the_others_as_they_are_and_are_logged(tmp_path):
    whole, _ = run()
    found, history = run(tmp_path, skip_steps=[2, (5, 7)])
    assert sorted(found.seen) == [1, 3, 4, 8, 9]
    assert all(found.seen[step] == whole.seen[step] for step in found.seen)
    assert found.begun == whole.begun  # schedules go on
    assert [
        (record["epoch"], record["first_step"], record["last_step"], record["step"])
        for record in history.select("skipped")
    ] == [(0, 2, 2, 2), (1, 5, 6, 6), (2, 7, 7, 7)]
    rates = {record["step"]: record["learning_rate"] for record in history.select("step")}
    assert sorted(rates) == [1, 3, 4, 8, 9]
    assert [record["cells"] for record in history.select("train")] == [28, 16, 28]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(history)


def test_an_epoch_may_be_skipped_whole():
    found, history = run(skip_steps=[(4, 6)])
    assert sorted(found.seen) == [1, 2, 3, 7, 8, 9]
    assert "loss" not in history.select("train")[1]
    assert history.select("train")[1]["cells"] == 0


def test_a_resumed_run_skips_what_it_is_told_and_remembers_it(tmp_path):
    expected, history = run(None, skip_steps=[(5, 8)])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop=3)
    with pytest.raises(ConfigError, match=r"step 2, which is done: .* holds 4 steps"):
        run(tmp_path, resume=True, skip_steps=[2])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, resume=True, skip_steps=[(5, 8)], stop=5)
    found, resumed = run(tmp_path, resume=True)  # nobody says it again
    assert torch.equal(found.weight, expected.weight)
    assert resumed.without_timings() == history.without_timings()
    assert sorted(found.seen) == [9]
