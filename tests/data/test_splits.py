import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernomics.data import Labels, Split, make_split
from kernomics.errors import ConfigError, DataError

PARTS = ("train", "validation", "test")


def labels(values, name="kind") -> Labels:
    return Labels.from_series(pd.Series(values, dtype=object), name)


def assert_partition(split: Split, n: int) -> None:
    rows = [getattr(split, part) for part in PARTS]
    assert sorted(np.concatenate(rows).tolist()) == list(range(n))
    for part in rows:
        assert part.dtype == np.int64
        assert bool((np.diff(part) > 0).all())


@settings(deadline=None)
@given(st.integers(10, 300), st.integers(0, 2**40))
def test_random_parts_have_the_sizes_asked_for(n, seed):
    split = make_split(n, how="random", fractions=(0.5, 0.2, 0.3), seed=seed)
    assert_partition(split, n)
    for part, fraction in zip(PARTS, (0.5, 0.2, 0.3), strict=True):
        assert abs(len(getattr(split, part)) - n * fraction) < 1


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["a", "a", "a", "b", "b", "c", None]), min_size=30, max_size=120),
    st.integers(0, 1000),
)
def test_stratified_parts_hold_each_class_in_proportion(values, seed):
    column = labels(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        split = make_split(len(values), how="stratified", labels=column, seed=seed)
    assert_partition(split, len(values))
    for code, number in enumerate(column.counts().values()):
        assert code in column.values[split.train]
        for part, fraction in zip(PARTS, (0.7, 0.1, 0.2), strict=True):
            found = np.count_nonzero(column.values[getattr(split, part)] == code)
            assert abs(found - number * fraction) < 1


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=20, max_size=200), st.integers(0, 1000))
def test_no_group_is_in_two_parts_and_no_part_is_empty(donors, seed):
    donors = np.array([0, 1, 2, *donors])
    split = make_split(len(donors), how="group", groups=donors, seed=seed)
    assert_partition(split, len(donors))
    found = [set(donors[getattr(split, part)].tolist()) for part in PARTS]
    assert all(found)
    assert sum(map(len, found)) == len(set.union(*found))


def test_group_sizes_come_near_the_fractions():
    donors = np.repeat(np.arange(40), np.arange(20, 60))
    split = make_split(len(donors), how="group", groups=donors)
    for part, fraction in zip(PARTS, (0.7, 0.1, 0.2), strict=True):
        assert abs(len(getattr(split, part)) / len(donors) - fraction) < 0.03


@pytest.mark.parametrize("seed", range(10))
def test_a_large_group_does_not_spoil_the_sizes(seed):
    donors = np.repeat(np.arange(7), [40, 10, 10, 10, 10, 10, 10])
    split = make_split(100, how="group", groups=donors, seed=seed)
    assert [len(getattr(split, part)) for part in PARTS] == [70, 10, 20]


def test_each_class_is_in_train_even_when_train_is_the_smallest_part():
    column = labels(["a"] * 40 + ["b"] + ["c"] * 2)
    with pytest.warns(UserWarning, match="2 of 3 classes"):
        split = make_split(43, how="stratified", labels=column, fractions=(0.1, 0.3, 0.6))
    assert set(column.values[split.train].tolist()) == {0, 1, 2}


def test_group_splits_differ_by_seed():
    donors = np.repeat(np.arange(12), 10)
    tests = {
        tuple(make_split(120, how="group", groups=donors, seed=seed).test) for seed in range(8)
    }
    assert len(tests) > 4


@pytest.mark.parametrize("how", ["random", "stratified", "group"])
def test_the_same_seed_gives_the_same_split_and_another_seed_another(how):
    keys = {"stratified": {"labels": labels(list("ab") * 50)}, "group": {"groups": np.arange(100)}}
    first, again, other = (
        make_split(100, how=how, seed=seed, **keys.get(how, {})) for seed in (3, 3, 4)
    )
    assert all(np.array_equal(getattr(first, part), getattr(again, part)) for part in PARTS)
    assert not np.array_equal(first.test, other.test)
    assert (first.how, first.seed) == (how, 3)
    assert first.by == ("kind" if how == "stratified" else None)


def test_the_split_is_pinned():
    # A saved model's split can be drawn again from its seed: this must never change.
    assert make_split(10, how="random", seed=1).test.tolist() == [1, 2]


def test_a_split_goes_through_json_unchanged():
    split = make_split(50, how="random", seed=2)
    back = Split.from_dict(json.loads(json.dumps(split.to_dict())))
    assert all(np.array_equal(getattr(split, part), getattr(back, part)) for part in PARTS)
    assert (back.how, back.by, back.seed) == ("random", None, 2)
    assert back.validation.dtype == np.int64


def test_a_saved_split_that_makes_no_sense_is_refused():
    saved = make_split(50, how="random").to_dict()
    with pytest.raises(DataError, match=r"lacks \['test'\]"):
        Split.from_dict({key: value for key, value in saved.items() if key != "test"})
    saved["test"].append(saved["train"][0])
    with pytest.raises(DataError, match=f"1 rows .* two parts, first row {saved['train'][0]}"):
        Split.from_dict(saved)


def test_small_classes_go_to_train_first_and_are_named():
    column = labels(["big"] * 50 + ["two"] * 2 + ["one"])
    with pytest.warns(UserWarning, match="2 of 3 classes of 'kind' have too few") as caught:
        split = make_split(53, how="stratified", labels=column)
    said = str(caught[0].message)
    assert "'one' (1 cell: none in validation and test)" in said
    assert "'two' (2 cells: none in validation and test)" in said
    assert {50, 51, 52} <= set(split.train.tolist())
    assert caught[0].filename == __file__


def test_a_part_without_fraction_stays_empty_without_a_warning():
    column = labels(["a"] * 10 + ["b"] * 5)
    split = make_split(15, how="stratified", labels=column, fractions=(0.8, 0, 0.2))
    assert split.validation.size == 0
    assert split.test.size == 3
    groups = make_split(15, how="group", groups=column, fractions=(0.5, 0, 0.5))
    assert groups.validation.size == 0
    assert groups.by == "kind"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"how": "random", "fractions": (0.7, 0.1, 0.1)}, r"which sum to 0.9"),
        ({"how": "random", "fractions": (1.2, -0.4, 0.2)}, "from 0 to 1"),
        ({"how": "random", "fractions": (0.5, 0.5)}, "three numbers"),
        ({"how": "random", "fractions": (0, 0.5, 0.5)}, "nothing to train on"),
        ({"how": "strat"}, "how is 'strat'; closest: 'stratified'"),
        ({"how": "stratified"}, "how='stratified' needs labels"),
        ({"how": "group"}, "how='group' needs groups"),
        ({"how": "random", "labels": list("ab") * 5}, "labels given, but how='random'"),
        ({"how": "group", "groups": list("abc")}, "groups has 3 entries for 10 cells"),
        (
            {"how": "stratified", "labels": Labels("age", "continuous", np.zeros(10, np.float32))},
            "labels 'age' is continuous",
        ),
    ],
)
def test_senseless_arguments_are_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        make_split(10, **keys)


@pytest.mark.parametrize(
    ("n", "keys", "message"),
    [
        (3, {"how": "random"}, "3 cells leave none for validation"),
        (
            4,
            {"how": "group", "groups": labels(list("aabb"))},
            r"2 groups in 'kind' \(a, b\) cannot fill 3 parts; use a column with more groups",
        ),
        (
            4,
            {"how": "group", "groups": labels(["a", None, "b", "c"])},
            "1 of 4 cells have no group in 'kind', first in row 1",
        ),
        (
            4,
            {"how": "stratified", "labels": labels(list("aabb"))},
            "no class has enough cells for validation",
        ),
    ],
)
def test_too_few_cells_or_groups_are_refused(n, keys, message):
    with pytest.raises(DataError, match=message):
        make_split(n, **keys)


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_missing_group_in_a_list_is_missing_and_no_group_of_its_own(missing):
    with pytest.raises(DataError, match="1 of 6 cells have no group in '', first in row 2"):
        make_split(6, how="group", groups=["a", "a", missing, "b", "c", "c"])
