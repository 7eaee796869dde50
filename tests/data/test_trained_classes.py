"""What a division leaves of each label to learn from, and what is said or refused."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest

from kernomics.data import Labels, Split, make_split
from kernomics.data.trained_classes import trained_classes
from kernomics.errors import ConfigError, DataError

NONE = np.empty(0, np.int64)


def labels(values, name="kind") -> Labels:
    return Labels.from_series(pd.Series(values, dtype=object), name)


def divided(train, test, validation=NONE, by=None) -> Split:
    rows = [np.asarray(part, np.int64) for part in (train, validation, test)]
    return Split(*rows, "random" if by is None else "group", by, 0)


def test_a_class_without_training_cells_is_left_out_and_named_with_its_test_cells():
    values = ["a", "b"] * 6 + ["rare", "b", "rare", "odd", None]
    split = divided(range(12), range(12, 17))
    found, weak = trained_classes({"kind": labels(values)}, split)
    assert found["kind"].categories == ("a", "b")
    assert found["kind"].values[12:].tolist() == [-1, 1, -1, -1, -1]
    assert weak[0] == (
        "label 'kind': 2 of 4 classes have no training cells and cannot be predicted: 'odd' (1 "
        "test cell), 'rare' (2); these cells are left out of the scores"
    )
    # What is left to score is of one class.
    assert "all test cells that can be scored are of class 'b', so AUPRC is undefined" in weak[1]
    assert len(weak) == 2


def test_classes_of_few_training_cells_are_named():
    values = ["a"] * 9 + ["b"] * 4 + ["a", "b"]
    found, weak = trained_classes({"kind": labels(values)}, divided(range(13), [13, 14]))
    assert found["kind"].values.tolist() == [0] * 9 + [1] * 4 + [0, 1]
    assert weak == [
        "label 'kind': 1 of 2 classes has fewer than 5 training cells: 'b' (4 training cells); "
        "little can be learnt about them: merge them, or add cells"
    ]


def test_nothing_is_said_of_labels_that_are_well_divided():
    values = ["a", "b"] * 10
    numbers = Labels.from_series(pd.Series(np.linspace(0, 1, 20)), "age")
    given = {"kind": labels(values), "age": numbers}
    found, weak = trained_classes(given, divided(range(10), range(10, 20)))
    assert weak == []
    assert found == given


@pytest.mark.parametrize(
    ("values", "split", "message"),
    [
        (
            ["a", "b"] * 5 + ["c", "d"],
            divided(range(10), [10, 11]),
            r"none of its 2 test cells belongs to a class with training cells "
            r"\('c' \(1 test cell\), 'd' \(1\)\): the split puts each class in one part",
        ),
        (
            ["a", "b"] * 5 + ["c", "d"],
            divided(range(10), NONE, [10, 11], by="donor"),
            "none of its 2 validation cells .* the split by 'donor' puts",
        ),
        (["a"] * 10 + ["b"], divided(range(10), [10]), "among the training cells, .* one value"),
        (
            [None] * 10 + ["b", "a"],
            divided(range(10), [10, 11]),
            "among the training cells, .* all",
        ),
        (["a", "b"] * 6, divided(range(10), [10, 11], by="kind"), "'kind' is also the split key"),
    ],
)
def test_what_cannot_be_learnt_is_refused(values, split, message):
    with pytest.raises(DataError, match=message):
        trained_classes({"kind": labels(values)}, split)


# -- divisions by group that keep every class ------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_a_group_that_alone_has_a_class_is_never_held_out(seed):
    donors = np.repeat(np.arange(6), 50)
    kind = np.where(np.arange(300) % 2, "a", "b").astype(object)
    kind[[260, 270, 280]] = "rare"  # of donor 5 alone
    plain = make_split(300, how="group", groups=donors, seed=seed)
    if 260 in plain.train:
        split = make_split(300, how="group", groups=donors, keep=[labels(kind)], seed=seed)
        assert np.array_equal(split.test, plain.test)  # as drawn, where nothing is lost
        assert split.note == ""
        return
    with pytest.warns(UserWarning, match=r"would leave 1 class without .* \('rare' of 'kind'\)"):
        split = make_split(300, how="group", groups=donors, keep=[labels(kind)], seed=seed)
    assert set(kind[split.train]) == {"a", "b", "rare"}
    assert [len(split.train), len(split.validation), len(split.test)] == [200, 50, 50]
    assert "leaves every class some" in split.note
    assert Split.from_dict(split.to_dict()).note == split.note


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("fractions", [(0.7, 0.1, 0.2), (0.8, 0.0, 0.2)])
def test_every_class_stays_in_training_exactly_where_some_division_allows_it(fractions):
    held_out, random = (2 if fractions[1] else 1), np.random.default_rng(0)
    outcomes = []
    for seed in range(60):
        n_groups = int(random.integers(held_out + 1, 8))
        groups = np.concatenate([np.arange(n_groups), random.integers(0, n_groups, 25)])
        kinds = random.integers(0, 4, (n_groups, 2))[groups, random.integers(0, 2, groups.size)]
        split = make_split(
            groups.size, how="group", groups=groups, keep=[labels(kinds.astype(str))],
            fractions=fractions, seed=seed,
        )  # fmt: skip
        possible = any(
            set(kinds[~np.isin(groups, some)]) == set(kinds)
            for some in itertools.combinations(range(n_groups), held_out)
        )
        assert (set(kinds[split.train]) == set(kinds)) == possible
        assert len(split.test)
        assert bool(len(split.validation)) == bool(fractions[1])
        outcomes.append(possible)
    assert 0 < sum(outcomes) < len(outcomes)


def test_where_no_division_keeps_a_class_it_is_named():
    groups = np.repeat(["x", "y", "z"], 10)
    with pytest.warns(UserWarning, match="every split by 'groups' leaves some class") as caught:
        split = make_split(30, how="group", groups=groups, keep=[labels(groups)])
    assert "2 classes: " in str(caught[0].message)
    assert len(split.train) == 10


def test_keep_is_for_groups_alone():
    with pytest.raises(ConfigError, match="keep given, but how='random'"):
        make_split(10, how="random", keep=[labels(["a"] * 10)])


# -- divisions by group that hold out two classes ------------------------------------------------


@pytest.mark.parametrize("fractions", [(2 / 3, 0.0, 1 / 3), (0.7, 0.1, 0.2)])
@pytest.mark.parametrize("seed", range(12))
def test_donors_of_one_class_each_are_divided_with_both_classes_on_each_side(fractions, seed):
    donors = np.repeat(np.arange(6), 30)
    disease = np.where(donors < 3, "ill", "well")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        split = make_split(
            180, how="group", groups=donors, keep=[labels(disease)], fractions=fractions, seed=seed
        )
    assert set(disease[split.train]) == set(disease[split.test]) == {"ill", "well"}
    assert len(split.test) == 60
    assert bool(len(split.validation)) == bool(fractions[1])
    assert [str(warning.message) for warning in caught] == [split.note] * bool(split.note)
    plain = make_split(180, how="group", groups=donors, fractions=fractions, seed=seed)
    if len(set(disease[plain.test])) == 2 and len(set(disease[plain.train])) == 2:
        assert np.array_equal(split.test, plain.test)  # as drawn, where nothing is amiss
        assert split.note == ""
    else:
        assert "one class alone of 'kind', so other groups" in split.note


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_two_classes_are_held_out_wherever_some_division_allows_it():
    random, outcomes = np.random.default_rng(1), []
    for seed in range(60):
        n_groups = int(random.integers(3, 8))
        of_group = random.integers(0, 3, n_groups)
        if len(set(of_group)) == 1:
            continue
        groups = np.repeat(np.arange(n_groups), random.integers(1, 9, n_groups))
        kinds = of_group[groups]
        split = make_split(
            groups.size, how="group", groups=groups, keep=[labels(kinds.astype(str))],
            fractions=(0.8, 0.0, 0.2), seed=seed,
        )  # fmt: skip
        possible = any(
            set(of_group) == set(np.delete(of_group, some)) and len(set(of_group[list(some)])) > 1
            for n in range(2, n_groups)
            for some in itertools.combinations(range(n_groups), n)
        )
        assert (len(set(kinds[split.test])) > 1 and set(kinds[split.train]) == set(kinds)) == (
            possible
        )
        outcomes.append(possible)
    assert 0 < sum(outcomes) < len(outcomes)


def test_where_no_division_holds_out_two_classes_that_is_told():
    donors = np.repeat(np.arange(5), 10)
    disease = np.where(donors == 4, "well", "ill")  # one donor, who must stay in training
    with pytest.warns(UserWarning, match="no split by 'groups' was found that holds out two"):
        split = make_split(
            50, how="group", groups=donors, keep=[labels(disease)], fractions=(0.8, 0, 0.2)
        )
    assert set(disease[split.train]) == {"ill", "well"}
    assert "balanced accuracy and AUPRC" in split.note
