"""The digests of the cells that an epoch drew."""

import dataclasses
import json

import numpy as np
import pytest
import tiny_run
from hypothesis import given
from hypothesis import strategies as st

from kernomics.data import Sampler
from kernomics.train import fit
from kernomics.train.digest import CellDigest
from kernomics.train.state import State

ALL = 2**64 - 1
IDS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30)


def splitmix(word: int) -> int:
    """SplitMix64's finaliser, as published."""
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & ALL
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & ALL
    return word ^ (word >> 31)


def digest(*batches: list[int]) -> CellDigest:
    made = CellDigest()
    for batch in batches:
        made.add(np.array(batch, np.int64))
    return made


@given(IDS)
def test_a_digest_is_the_sum_of_mixed_words(ids):
    golden, found = 0x9E3779B97F4A7C15, digest(ids)
    words = [splitmix((one + golden) & ALL) for one in ids]
    assert found.any_order == sum(words) & ALL
    placed = [splitmix((word + i * golden) & ALL) for i, word in enumerate(words)]
    assert found.in_order == sum(placed) & ALL
    assert found.cells == len(ids)


@given(IDS, IDS)
def test_a_digest_does_not_depend_on_how_cells_are_cut_into_batches(first, second):
    assert digest(first, second) == digest(first + second)
    assert digest(first, second).any_order == digest(second, first).any_order


@given(IDS, IDS, IDS)
def test_digests_of_parts_of_a_batch_add_up_to_its_own(before, first, second):
    whole, ids = digest(before), np.array(first + second, np.int64)
    parts = [CellDigest(whole.cells), CellDigest(whole.cells)]
    parts[0].add(ids[: len(first)], 0, len(ids))
    parts[1].add(ids[len(first) :], len(first), len(ids))
    in_order, any_order = (sum(getattr(p, n) for p in parts) for n in ("in_order", "any_order"))
    whole.join(len(ids), in_order, any_order)
    assert whole == digest(before + first + second)
    assert {part.cells for part in parts} == {whole.cells}


def test_cells_in_another_order_or_other_cells_have_another_digest():
    one = digest([1, 2, 3])
    assert digest([1, 3, 2]).in_order != one.in_order
    assert digest([1, 3, 2]).any_order == one.any_order
    assert digest([1, 2, 4]).any_order != one.any_order
    assert digest([1, 2, 2]).any_order != digest([1, 1, 2]).any_order


def digests(history) -> list[tuple[str, str]]:
    records = history.select("train")
    return [(record["cells_in_order"], record["cells_any_order"]) for record in records]


@pytest.mark.parametrize("batch_size", [8, 11])
def test_each_epoch_s_digests_are_in_its_record(tmp_path, batch_size):
    sampler = Sampler(range(44), batch_size, 5)
    batches = tiny_run.Reading(sampler, tiny_run.cells_of())
    history = fit(tiny_run.Linear(), batches, tiny_run.quiet(), run_dir=tmp_path)
    expected = [digest(sampler.order(epoch).tolist()) for epoch in range(3)]
    assert digests(history) == [tuple(one.figures().values()) for one in expected]
    assert len({any_order for _, any_order in digests(history)}) == 1
    assert len({in_order for in_order, _ in digests(history)}) == 3
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["cells_in_order"] for line in lines] == [one for one, _ in digests(history)]


def test_a_state_keeps_the_digest_and_one_of_an_earlier_version_has_none():
    state = State(step=3, batch=3, digest=digest([1, 2, 3]))
    saved = json.loads(json.dumps(dataclasses.asdict(state)))
    assert State.from_dict(saved) == state
    del saved["digest"]
    assert State.from_dict(saved).digest is None  # the first cells of the epoch are not known
    saved["batch"] = 0
    assert State.from_dict(saved).digest == CellDigest()
