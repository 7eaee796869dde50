"""Pairs: alike in what is controlled, used evenly, seeded; and what cannot be paired."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kernomics.attribution import make_pairs
from kernomics.data import Labels
from kernomics.errors import ConfigError, DataError


def labels(values, name):
    return Labels.from_series(pd.Series(values, dtype=object), name, kind="categorical")


def data(n=400, seed=0, missing=0):
    draw = np.random.default_rng(seed)
    disease = draw.choice(["ill", "well"], n, p=[0.3, 0.7])
    types = draw.choice(["B", "T", "NK"], n, p=[0.5, 0.4, 0.1]).astype(object)
    types[:missing] = None
    return labels(disease, "disease"), labels(types, "cell_type"), np.arange(n)


def test_pairs_share_the_controlled_values_and_differ_in_the_target():
    disease, types, rows = data()
    pairs = make_pairs(disease, "ill", "well", rows, controlled=[types])
    assert set(disease.values[pairs.case]) == {disease.categories.index("ill")}
    assert set(disease.values[pairs.baseline]) == {disease.categories.index("well")}
    np.testing.assert_array_equal(types.values[pairs.case], types.values[pairs.baseline])
    assert [pairs.groups[g] for g in pairs.group] == [
        types.categories[c] for c in types.values[pairs.case]
    ]
    n_case = int((disease.values == 0).sum())
    assert len(pairs) == n_case == len(set(pairs.case.tolist()))


@pytest.mark.parametrize("n_pairs", [1, 17, 130, 290, 560, 870])
def test_every_cell_is_used_as_often_as_any_other_up_to_one_a_round(n_pairs):
    disease, _, rows = data()
    ill, well = (np.flatnonzero(disease.values == code) for code in (0, 1))
    pairs = make_pairs(disease, "ill", "well", rows, n_pairs=n_pairs)
    assert len(pairs) == n_pairs
    assert len(set(zip(pairs.case.tolist(), pairs.baseline.tolist(), strict=True))) == n_pairs
    for side, own in ((pairs.case, ill), (pairs.baseline, well)):
        used = np.bincount(side, minlength=len(rows))[own]
        assert used.max() - used.min() <= -(-n_pairs // max(len(ill), len(well)))


def test_blocks_hold_few_cells():
    disease, _, rows = data(1000)
    pairs = make_pairs(disease, "ill", "well", rows, n_baselines=10)
    seen = 0
    for block in pairs.blocks():
        assert len(np.unique(pairs.case[block])) <= 127
        assert len(np.unique(pairs.baseline[block])) <= 127
        seen += block.stop - block.start
    assert seen == len(pairs)


def test_the_seed_decides():
    disease, types, rows = data()
    one, two, other = (
        make_pairs(disease, "ill", "well", rows, controlled=[types], seed=seed)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.baseline, two.baseline)
    assert not np.array_equal(one.baseline, other.baseline)


def test_cells_without_a_controlled_value_or_a_partner_are_counted():
    disease, types, rows = data(missing=30)
    with pytest.warns(UserWarning, match=r"30 \(cell_type is missing\)"):
        pairs = make_pairs(disease, "ill", "well", rows, controlled=[types])
    assert pairs.left_out == {"cell_type is missing": 30}
    assert not set(pairs.case.tolist() + pairs.baseline.tolist()) & set(range(30))
    tissue = labels(["skin"] * 6 + ["gut"] * 4, "tissue")
    disease = labels(["ill", "well"] * 3 + ["ill"] * 4, "disease")
    with pytest.warns(UserWarning, match=r"4 \(case cells without a partner\)"):
        pairs = make_pairs(disease, "ill", "well", np.arange(10), controlled=[tissue])
    assert len(pairs) == 3


def test_fewer_pairs_than_asked_for_are_told():
    disease = labels(["ill", "ill", "well", "well", "well"], "disease")
    with pytest.warns(UserWarning, match="100 pairs were asked for, but only 6 different"):
        pairs = make_pairs(disease, "ill", "well", np.arange(5), n_pairs=100)
    assert len(pairs) == 6


def test_what_cannot_be_paired_is_named():
    disease, _, rows = data()
    with pytest.raises(ConfigError, match="case and baseline are both 'ill'"):
        make_pairs(disease, "ill", "ill", rows)
    with pytest.raises(ConfigError, match=r"baseline is 'wel'.*closest: 'well'"):
        make_pairs(disease, "ill", "wel", rows)
    with pytest.raises(DataError, match="none of the 3 cells has 'disease' = 'ill'"):
        make_pairs(disease, "ill", "well", np.flatnonzero(disease.values == 1)[:3])
    with pytest.raises(ConfigError, match="n_pairs is 0"):
        make_pairs(disease, "ill", "well", rows, n_pairs=0)
    with pytest.raises(ConfigError, match="give only one"):
        make_pairs(disease, "ill", "well", rows, n_pairs=1, n_baselines=1)
    with pytest.raises(ConfigError, match="cannot be controlled for too"):
        make_pairs(disease, "ill", "well", rows, controlled=[disease])
    site = labels(np.where(disease.values == 0, "hospital", "home"), "site")
    message = r"home: 0 case and \d+ baseline cells; hospital: \d+ case and 0 baseline cells"
    with pytest.raises(DataError, match=message):
        make_pairs(disease, "ill", "well", rows, controlled=[site])


@pytest.mark.parametrize(("n_each", "n_baselines"), [(65, 5), (70, 60), (130, 65), (40, 40)])
def test_every_case_cell_has_as_many_baselines_as_asked_for(n_each, n_baselines):
    disease = labels(["ill"] * n_each + ["well"] * n_each, "disease")
    pairs = make_pairs(disease, "ill", "well", np.arange(2 * n_each), n_baselines=n_baselines)
    assert np.bincount(pairs.case).tolist() == [n_baselines] * n_each
    assert np.bincount(pairs.baseline)[n_each:].tolist() == [n_baselines] * n_each
    assert len(set(zip(pairs.case.tolist(), pairs.baseline.tolist(), strict=True))) == len(pairs)


def test_combinations_without_a_pair_are_told_and_left_out():
    disease, types, rows = data()
    with pytest.warns(UserWarning, match="2 pairs are divided among .* 1 of these get none"):
        pairs = make_pairs(disease, "ill", "well", rows, controlled=[types], n_pairs=2)
    assert sorted(pairs.groups) == ["B", "T"]
    assert set(pairs.group.tolist()) == {0, 1}


def test_combinations_that_would_have_one_name_are_told_apart():
    disease = labels(["ill", "well"] * 8, "disease")
    one = labels(["a, b"] * 8 + ["a"] * 8, "one")
    two = labels(["c"] * 8 + ["b, c"] * 8, "two")
    pairs = make_pairs(disease, "ill", "well", np.arange(16), controlled=[one, two])
    assert sorted(pairs.groups) == ["one='a', two='b, c'", "one='a, b', two='c'"]


@pytest.mark.parametrize(("rows", "message"), [([0, 999], "999"), ([-1, 2], "-1"), ([0.5], "0.5")])
def test_rows_that_are_no_cells_are_told(rows, message):
    disease, _, _ = data()
    with pytest.raises(DataError, match=message):
        make_pairs(disease, "ill", "well", np.array(rows))
