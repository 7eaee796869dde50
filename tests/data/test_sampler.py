import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernomics.data import Sampler
from kernomics.errors import ConfigError, DataError


@st.composite
def arguments(draw):
    n = draw(st.integers(1, 60))
    return {
        "rows": sorted(draw(st.sets(st.integers(0, 500), min_size=n, max_size=n))),
        "batch_size": draw(st.integers(1, 20)),
        "seed": draw(st.integers(-(2**63), 2**64)),
        "block_size": draw(st.integers(1, 9)),
        "buffer_blocks": draw(st.integers(1, 4)),
        "version": draw(st.sampled_from([1, 2])),
    }


@settings(deadline=None)
@given(arguments(), st.integers(0, 10))
def test_an_epoch_holds_each_row_once(arguments, epoch):
    sampler = Sampler(**arguments)
    batches = list(sampler.batches(epoch))
    assert len(batches) == sampler.n_batches == len(sampler)
    assert sorted(np.concatenate(batches).tolist()) == arguments["rows"]
    assert all(batch.size == arguments["batch_size"] for batch in batches[:-1])


@settings(deadline=None)
@given(arguments(), st.integers(0, 5), st.data())
def test_a_batch_does_not_depend_on_what_was_asked_before(arguments, epoch, data):
    used, fresh = Sampler(**arguments), Sampler(**arguments)
    list(used.batches(epoch + 1))
    i = data.draw(st.integers(0, fresh.n_batches - 1))
    assert np.array_equal(used.batch(epoch, i), fresh.batch(epoch, i))
    assert np.array_equal(next(used.batches(epoch, start=i)), fresh.batch(epoch, i))


@settings(deadline=None)
@given(arguments(), st.integers(1, 5), st.booleans())
def test_the_ranks_together_see_what_one_rank_sees(arguments, world, drop_last):
    arguments["batch_size"] = max(arguments["batch_size"], world)
    drop_last = drop_last and len(arguments["rows"]) >= arguments["batch_size"]
    alone = Sampler(**arguments, drop_last=drop_last)
    ranks = [Sampler(**arguments, drop_last=drop_last, rank=r, world=world) for r in range(world)]
    for i in range(alone.n_batches):
        parts = [rank.batch(3, i) for rank in ranks]
        assert np.array_equal(np.concatenate(parts), alone.batch(3, i))
        sizes = [part.size for part in parts]
        assert max(sizes) - min(sizes) <= 1


def test_epochs_and_seeds_differ():
    order = Sampler(range(100), 10, 0).order(0).tolist()
    assert order != Sampler(range(100), 10, 0).order(1).tolist()
    assert order != Sampler(range(100), 10, 1).order(0).tolist()
    assert order != sorted(order)


def test_a_buffer_is_made_of_whole_blocks():
    rows = np.arange(120) * 3
    sampler = Sampler(rows, 30, 0, block_size=10, buffer_blocks=3)
    for i in range(4):
        batch = sampler.batch(0, i)
        blocks = {row // 30 for row in batch.tolist()}
        assert len(blocks) == 3
        assert sorted(batch.tolist()) == sorted(
            r for b in blocks for r in rows[b * 10 : b * 10 + 10]
        )
        assert batch.tolist() != sorted(batch.tolist())


def test_every_position_is_reached_about_equally_often():
    n, epochs = 20, 2000
    first = [
        Sampler(range(n), 4, 11, block_size=3, buffer_blocks=2).order(e)[0] for e in range(epochs)
    ]
    seen = np.bincount(first, minlength=n)
    # Whole blocks are alike; the last, of two rows, is as likely to lead as any of three.
    expected = np.where(np.arange(n) < 18, epochs / 7 / 3, epochs / 7 / 2)
    chi2 = float(((seen - expected) ** 2 / expected).sum())
    assert chi2 < 60  # 19 degrees of freedom: beyond 60 once in 250,000


def test_a_range_is_kept_and_gives_what_its_numbers_give():
    for rows in (range(50), range(7, 90, 3), range(80, 2, -2)):
        lazy, listed = Sampler(rows, 8, 2, block_size=4), Sampler(list(rows), 8, 2, block_size=4)
        assert isinstance(lazy.rows, range)
        assert np.array_equal(lazy.order(1), listed.order(1))
        assert lazy.batch(0, 1).dtype == np.int64


def test_a_sampler_takes_another_version_and_stays_as_it_was():
    new = Sampler(range(40), 8, 2, block_size=4, buffer_blocks=2)
    old = new.with_version(1)
    assert (new.version, old.version) == (2, 1)
    expected = Sampler(range(40), 8, 2, block_size=4, buffer_blocks=2, version=1)
    assert np.array_equal(old.order(5), expected.order(5))
    assert not np.array_equal(new.order(5), old.order(5))


def test_without_shuffling_rows_keep_their_order():
    sampler = Sampler([3, 5, 4], 2, shuffle=False)
    assert [batch.tolist() for batch in sampler.batches(0)] == [[3, 5], [4]]


def test_drop_last_leaves_out_the_rest():
    assert Sampler(range(10), 4, drop_last=True).n_batches == 2
    assert Sampler(range(10), 4).n_batches == 3
    assert Sampler(range(8), 4).n_batches == 2


def test_a_batch_can_be_changed_without_harm():
    sampler = Sampler(range(10), 4)
    before = sampler.batch(0, 0).copy()
    sampler.batch(0, 0)[:] = -1
    assert np.array_equal(sampler.batch(0, 0), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"block_size": 0}, "block_size must be at least 1"),
        ({"buffer_blocks": 0}, "buffer_blocks must be at least 1"),
        ({"rank": 2, "world": 2}, "rank must be from 0 to world - 1 = 1, not 2"),
        ({"world": 5}, "batch of 4 cells leaves some of 5 ranks without any"),
        ({"rows": []}, "no rows to draw from"),
        ({"batch_size": 20, "drop_last": True}, "10 rows do not fill a batch of 20"),
    ],
)
def test_senseless_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Sampler(**{"rows": range(10), "batch_size": 4, **arguments})


def test_a_batch_beyond_the_epoch_is_refused():
    for i in (-1, 3):
        with pytest.raises(ConfigError, match="an epoch has 3"):
            Sampler(range(10), 4).batch(0, i)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([True, False, True]), r"rows are a mask of shape \(3,\)"),
        ([0.5, 1.5], "rows are of type float64"),
        (["a", "b"], "rows are of type <U1"),
        ([[0, 1], [2, 3]], r"rows have shape \(2, 2\)"),
        ([3, -1], "1 of the 2 rows do not exist, first -1"),
        (range(-1, 3), "1 of the 4 rows do not exist, first -1"),
    ],
)
def test_rows_that_are_no_numbers_of_cells_are_refused(rows, message):
    with pytest.raises(DataError, match=message):
        Sampler(rows, 2)
