"""Starts that are ended early: who goes on, from where, and what a resumed run has."""

import dataclasses

import numpy as np
import pytest
import torch
from starts_example import TRAINING, K, assert_same, few_cells, stopped_and_resumed, trained

from kernomics.errors import ConfigError
from kernomics.models import YOTO
from kernomics.models.yoto.schedule import Schedule, legs_of
from kernomics.models.yoto.start_records import StartRecords

pytestmark = pytest.mark.filterwarnings(
    "ignore::kernomics.models.yoto.diagnostics.TrainingWarning"  # few steps
)


@pytest.fixture(scope="module")
def adata():
    return few_cells()


@pytest.mark.parametrize(
    ("n", "counts"), [(1, [1]), (2, [2, 1]), (3, [3, 2, 1]), (5, [5, 3, 2, 1]), (8, [8, 4, 2, 1])]
)
def test_half_of_the_starts_go_on_at_each_doubling_of_the_steps(n, counts):
    legs = legs_of(n, 64, halving=True)
    found = [[leg for leg in legs if leg.level == level] for level in range(len(counts))]
    assert [len(of) for of in found] == counts
    ends = [64 // 2 ** (len(counts) - 1 - level) for level in range(len(counts))]
    for of, begin, end in zip(found, [0, *ends[:-1]], ends, strict=True):
        assert {(leg.begin, leg.end) for leg in of} == {(begin, end)}
        assert [leg.turn for leg in of] == list(range(len(of)))
    assert [leg.first for leg in legs] == [0, *(leg.last for leg in legs[:-1])]
    assert all(leg.last - leg.first == leg.end - leg.begin for leg in legs)


def test_starts_of_a_power_of_two_cost_half_a_selection_for_each_doubling():
    for power in range(6):
        assert legs_of(2**power, 640, halving=True)[-1].last == 640 * (1 + power / 2)


def test_schedules_and_rate_of_a_start_go_on_where_it_was_left():
    once = Schedule(4, 64, 0.5, (1.0, 0.1), (1.0, 0.0), 0.7, fix_at=0.5)
    legs = tuple(legs_of(4, 8, halving=True))  # 2 + 2 + 2 + 2, 2 + 2, 4
    halved = dataclasses.replace(once, fix_at=16 / 24, each=8, legs=legs)
    within = [0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 6, 7]
    for step, of_start in enumerate(within):
        assert halved.at(step, 24) == once.at(of_start, 16)
        assert halved.cycle(step, 24) == (of_start, 8)
    assert halved.cycle(17, 24) == (1, 8)
    ended = [halved.leg_ended(step) for step in range(18)]
    assert [step for step, leg in enumerate(ended) if leg is not None] == [2, 4, 6, 8, 10, 12, 16]


@pytest.fixture(scope="module")
def halved(adata):
    return trained(adata, n_starts=4, halving=True, judge="both")


def test_better_half_goes_on_and_the_last_one_left_is_the_panel(halved):
    records = halved.history.select("start")
    shares = [r.get("after", 1.0) for r in records]
    assert shares == [0.25] * 4 + [0.5] * 2 + [1.0]
    first, second, last = records[:4], records[4:6], records[6]
    assert [r["start"] for r in first] == [0, 1, 2, 3]
    best = sorted(sorted(range(4), key=lambda i: -first[i]["score"])[:2])
    assert [r["start"] for r in second] == best
    assert last["start"] == max(second, key=lambda r: (r["score"], -r["start"]))["start"]
    assert last["best"] == last["start"] == halved.starts.chosen
    assert set(halved.genes) == set(halved.starts.panels[halved.starts.chosen])
    assert halved.module.starts.waiting.numel() == 0


def test_starts_say_after_how_much_each_was_judged(halved):
    found, records = halved.starts, halved.history.select("start")
    latest = {r["start"]: r for r in records}
    assert found.after == [latest[i].get("after", 1.0) for i in range(4)]
    assert found.scores == [latest[i]["score"] for i in range(4)]
    assert sorted(found.after) == [0.25, 0.25, 0.5, 1.0]
    assert str(found).count("(after 25%)") == 2
    rivals = halved.module.starts.resampled[1].numpy()
    chosen, other = found.chosen, found.after.index(0.5)
    won = np.mean(rivals[chosen] > rivals[other])
    won += np.mean(rivals[chosen] == rivals[other]) / 2
    assert found.certainty == pytest.approx(won)


def test_start_that_goes_on_has_all_that_its_steps_left(adata, monkeypatch):
    left, found = {}, {}

    def state(records, module):
        return [tensor.clone() for tensor in records._state(module)]

    end, begin = StartRecords.end, StartRecords.begin

    def ended(records, number, module, *rest):
        leg = records.legs[number]
        left[records.entrants(leg.level)[leg.turn], leg.level] = state(records, module)
        end(records, number, module, *rest)

    def begun(records, number, module):
        begin(records, number, module)
        leg = records.legs[number]
        if leg.level:
            found[records.entrants(leg.level)[leg.turn], leg.level] = state(records, module)

    monkeypatch.setattr(StartRecords, "end", ended)
    monkeypatch.setattr(StartRecords, "begin", begun)
    trained(adata, n_starts=4, halving=True)
    assert [level for _, level in found] == [1, 1, 2]
    for (start, level), tensors in found.items():
        before = left[start, level - 1]
        assert len(tensors) == len(before) > 20
        assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
        assert any((a != b).any() for a, b in zip(tensors, left[start, level], strict=True))


@pytest.mark.parametrize("step", [2, 3, 4, 7, 12, 13, 17, 18, 24, 25, 40])
def test_resumed_among_halved_starts_has_the_same_bits(adata, halved, tmp_path, step):
    options = {"n_starts": 4, "halving": True, "judge": "both"}
    resumed = stopped_and_resumed(adata, tmp_path, step, options)
    assert_same(resumed, halved)
    assert resumed.starts == halved.starts


def test_halving_costs_the_steps_it_says(adata, halved):
    four = trained(adata, n_starts=4, halving=False)
    assert halved._legs[-1].last == 24  # 12 for each: 4 · 3 + 2 · 3 + 6
    assert four._legs[-1].last == 48


def test_halving_with_too_few_steps_to_halve_is_refused(adata):
    training = {**TRAINING, "max_epochs": 1}  # 6 steps, 2 select
    with pytest.raises(ConfigError, match="leaves too few to one of its parts; give more"):
        YOTO(adata, "cell_type", K, n_starts=8, halving=True).train(**training)


def test_one_start_has_nothing_to_halve():
    with pytest.raises(
        ConfigError, match="halving ends half of several starts early, and n_starts"
    ):
        YOTO(few_cells(), "cell_type", K, halving=True)
