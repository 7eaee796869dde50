"""Draws by weight: with replacement, as often as the weights say, a function of the place alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernomics.data import Labels, Sampler, balanced_weights
from kernomics.data.rng import Stream, uniforms
from kernomics.errors import ConfigError, DataError


def test_rows_come_as_often_as_their_weights_say():
    weights = np.array([0.0, 1.0, 3.0, 0.0, 6.0, 0.0])
    rows = np.array([10, 20, 30, 40, 50, 60])
    sampler = Sampler(rows, 2, 4, weights=weights)
    drawn = np.concatenate([sampler.order(epoch) for epoch in range(5000)])
    seen = np.array([np.count_nonzero(drawn == row) for row in rows])
    expected = weights / weights.sum() * len(drawn)
    assert not seen[weights == 0].any()
    kept = weights > 0
    assert float(((seen - expected)[kept] ** 2 / expected[kept]).sum()) < 28  # once in a million


def test_a_draw_is_the_first_row_whose_sum_of_weights_is_beyond_a_uniform():
    weights = np.array([0.5, 0.0, 2.0, 1.5])
    wanted = uniforms(9, Stream.SAMPLER_DRAWS, 3, 0, 4) * 4.0
    expected = [int(np.flatnonzero(weights.cumsum() > one)[0]) for one in wanted]
    assert Sampler(range(4), 4, 9, weights=weights).order(3).tolist() == expected


@settings(deadline=None)
@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=40).filter(lambda w: sum(w) > 0),
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(0, 9),
)
def test_ranks_and_steps_are_parts_of_one_epoch(weights, batch_size, world, epoch):
    batch_size = max(batch_size, world)
    n = len(weights)
    whole = Sampler(range(n), batch_size, 1, weights=weights, block_size=64)
    order = whole.order(epoch)
    assert len(order) == n
    assert (np.asarray(weights)[order] > 0).all()
    ranks = [
        Sampler(range(n), batch_size, 1, weights=weights, rank=rank, world=world)
        for rank in range(world)
    ]
    for i in reversed(range(whole.n_batches)):
        expected = order[i * batch_size : (i + 1) * batch_size]
        assert np.array_equal(whole.batch(epoch, i), expected)
        assert np.array_equal(np.concatenate([r.batch(epoch, i) for r in ranks]), expected)


def test_draws_of_another_epoch_or_seed_are_others():
    weights = np.linspace(1, 2, 50)
    one = Sampler(range(50), 10, 0, weights=weights)
    assert not np.array_equal(one.order(0), one.order(1))
    assert not np.array_equal(one.order(0), Sampler(range(50), 10, 1, weights=weights).order(0))


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([1, 2, 3], DataError, r"weights have shape \(3,\), but there are 4 rows"),
        ([1, -1, 2, -3], DataError, r"2 of the 4 weights are .* first -1.0 of row 1"),
        ([1, 2, np.nan, 1], DataError, "1 of the 4 weights are .* first nan of row 2"),
        ([1, 2, 3, np.inf], DataError, "first inf of row 3"),
        ([0, 0, 0, 0], ConfigError, r"the weights sum to 0.0: at least one must be above 0"),
        ([1e308] * 4, ConfigError, "the weights sum to inf"),
        (list("abcd"), DataError, "does not contain numbers"),
    ],
)
def test_weights_by_which_nothing_can_be_drawn_are_refused(weights, error, message):
    with pytest.raises(error, match=message):
        Sampler(range(4), 2, weights=weights)


def test_weights_without_shuffling_are_refused():
    with pytest.raises(ConfigError, match="weights are given, but shuffle is False"):
        Sampler(range(4), 2, weights=[1, 1, 1, 1], shuffle=False)


def test_balanced_weights_give_each_class_the_same_share_and_the_unlabelled_theirs():
    labels = ["a"] * 6 + ["b"] * 2 + ["c"] + [None] * 3
    weights = balanced_weights(labels)
    assert weights.tolist() == [3 / 6] * 6 + [3 / 2] * 2 + [3.0] + [1.0] * 3
    assert weights.mean() == 1.0
    column = Labels("type", "categorical", np.array([0, 0, 0, 2]), ("x", "y", "z"))
    assert balanced_weights(column).tolist() == [2 / 3] * 3 + [2.0]  # y does not occur


def test_drawing_by_balanced_weights_balances():
    labels = np.repeat(["rare", "common"], [20, 980])
    sampler = Sampler(range(1000), 100, 0, weights=balanced_weights(labels), block_size=64)
    drawn = np.concatenate([sampler.order(epoch) for epoch in range(20)])
    assert abs(np.mean(drawn < 20) - 0.5) < 6 * 0.5 / np.sqrt(20_000)


def test_labels_that_cannot_be_balanced_are_refused():
    number = Labels("age", "continuous", np.linspace(0, 1, 4, dtype=np.float32))
    with pytest.raises(ConfigError, match="balance is by 'age', a continuous label"):
        balanced_weights(number)
    with pytest.raises(ConfigError, match=r"all 3 labelled cells .* are of the class 'a'"):
        balanced_weights(["a", "a", None, "a"])
    for bad in (np.ones((2, 2)), [["a"], ["b", "c"]], 3, {"a": 1}):
        with pytest.raises(DataError, match=r"labels is .*: one name or number for each cell"):
            balanced_weights(bad)
    with pytest.raises(DataError, match="none of the 2 cells to draw from has such a label"):
        balanced_weights([None, None])
