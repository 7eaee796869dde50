"""The order of an epoch: every row once, a true shuffle of few, a bijection of many."""

import tracemalloc
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernomics.data import Sampler, order
from kernomics.data.order import ROUNDS, Bijection, Buffered, Permuted, Shuffled
from kernomics.data.rng import Stream, philox, uniforms
from kernomics.errors import ConfigError


def bijection(n: int, seed: int) -> Bijection:
    return Bijection(n, np.random.default_rng(seed).integers(0, 2**64, ROUNDS, dtype=np.uint64))


def by_bijection():
    """Permute as many as there are as so many are that no table is made of them."""
    return mock.patch.multiple(order, SHUFFLED=0, TABLED=0)


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**32))
def test_a_bijection_gives_each_number_once_and_knows_the_way_back(n, seed):
    there = bijection(n, seed)
    found = there(np.arange(n))
    assert np.array_equal(np.sort(found), np.arange(n))
    assert np.array_equal(there.inverse(found), np.arange(n))


@settings(deadline=None)
@given(st.integers(2**16, 2**40), st.integers(0, 2**32), st.data())
def test_a_part_of_a_bijection_is_that_part_of_the_whole(n, seed, data):
    there = bijection(n, seed)
    some = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=2, max_size=20)))
    found = there(some)
    assert np.array_equal(found, [there(some[i : i + 1])[0] for i in range(len(some))])
    assert 0 <= found.min() <= found.max() < n
    assert np.array_equal(there.inverse(found), some)


def test_a_bijection_takes_each_number_anywhere_and_neighbours_apart():
    n, keys = 40, 4000
    found = np.stack([bijection(n, seed)(np.arange(n)) for seed in range(keys)])
    seen = np.stack([np.bincount(column, minlength=n) for column in found.T])
    chi2 = float(((seen - keys / n) ** 2 / (keys / n)).sum())
    assert abs(chi2 - 39 * 39) < 6 * np.sqrt(2 * 39 * 39)  # a deviate of six
    steps = np.bincount((found[:, 1] - found[:, 0]) % n, minlength=n)[1:]
    chi2 = float(((steps - keys / 39) ** 2 / (keys / 39)).sum())
    assert chi2 < 38 + 6 * np.sqrt(2 * 38)


def test_a_large_bijection_scatters_neighbours():
    n = 10**8
    found = bijection(n, 0)(np.arange(200_000))
    assert len(np.unique(found)) == 200_000
    seen = np.bincount(found * 100 // n, minlength=100)
    assert float(((seen - 2000) ** 2 / 2000).sum()) < 99 + 6 * np.sqrt(2 * 99)
    assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 6 / np.sqrt(200_000)


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(0, 20), st.booleans())
def test_permuted_tells_the_place_of_each(n, epoch, table):
    with by_bijection():
        found = Permuted(n, 3, Stream.SAMPLER_BLOCKS, epoch, n if table else 0)
        assert (found.table is not None) == table
    every = found.at(0, n)
    assert np.array_equal(np.sort(every), np.arange(n))
    assert [found.place_of(int(one)) for one in every[:5]] == list(range(min(n, 5)))


def test_a_kept_table_is_what_the_bijection_gives():
    n = 2**16 + 5
    kept, made = Shuffled(n, 4), Shuffled(n, 4)
    kept.at(2, 0, 1)
    with mock.patch.object(order, "TABLED", 0):
        parts = [made.at(2, start, min(start + 9000, n)) for start in range(0, n, 9000)]
    assert kept._kept[1].table is not None
    assert made._kept[1].table is None
    assert np.array_equal(kept.at(2, 0, n), np.concatenate(parts))


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(2, 9), st.integers(1, 6), st.integers(0, 9), st.booleans())
def test_a_buffer_holds_whole_blocks_and_each_row_comes_once(n, size, blocks, epoch, many):
    made = Buffered(n, 5, size, blocks)
    with by_bijection() if many else mock.patch.object(order, "SHUFFLED", 2**16):
        rows = made.at(epoch, 0, n)
        for start in range(0, n, 7):
            assert np.array_equal(made.at(epoch, start, min(start + 7, n)), rows[start : start + 7])
    assert np.array_equal(np.sort(rows), np.arange(n))
    while len(rows):  # a buffer is as many rows as its blocks have, wherever the short one is
        block = np.unique([r // size for r in rows[: size * blocks]])
        if len(block) > blocks:  # the short block is among them, and a row of the next one
            block = np.unique([r // size for r in rows[: size * (blocks - 1) + (n - 1) % size + 1]])
            assert (n - 1) // size in block
        held = np.concatenate([np.arange(b * size, min((b + 1) * size, n)) for b in block])
        assert np.array_equal(np.sort(rows[: len(held)]), held)
        rows = rows[len(held) :]


def test_one_buffer_is_shuffled_as_under_the_first_version():
    for n in (10, 700, 4096):
        first, second = (Sampler(range(n), 64, 9, block_size=64, version=v) for v in (1, 2))
        assert np.array_equal(first.order(3), second.order(3))
    first, second = (Sampler(range(4097), 64, 9, block_size=64, version=v) for v in (1, 2))
    assert not np.array_equal(first.order(3), second.order(3))


def test_the_orders_are_pinned():
    # A resumed run relies on them: these must never change, not even with numpy.
    def order_of(version, **blocks):
        return Sampler(range(10), 10, 7, version=version, **blocks).order(3).tolist()

    assert order_of(1) == order_of(2) == [8, 3, 1, 4, 9, 6, 2, 0, 5, 7]
    assert order_of(1, block_size=2, buffer_blocks=2) == PINNED_FIRST
    assert order_of(2, block_size=2, buffer_blocks=2) == PINNED_SECOND
    large = Sampler(range(10**9), 4, 7).batch(3, 10**8)
    assert large.tolist() == PINNED_LARGE


PINNED_FIRST = [1, 6, 0, 7, 3, 4, 2, 5, 8, 9]
PINNED_SECOND = [7, 1, 6, 0, 4, 3, 5, 2, 8, 9]
PINNED_LARGE = [307918404, 50574459, 448261918, 740897321]


@pytest.mark.parametrize("block_size", [1, 64])
def test_any_step_of_a_hundred_million_cells_is_made_in_a_buffer_s_memory(block_size):
    tracemalloc.start()
    try:
        sampler = Sampler(range(10**8), 128, 1, block_size=block_size)
        batches = [sampler.batch(epoch, i) for epoch, i in ((0, 0), (3, 400_000), (9, 781_249))]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [len(batch) for batch in batches] == [128] * 3
    assert all((batch >= 0).all() and (batch < 10**8).all() for batch in batches)
    assert peak < 2_000_000  # the permutation alone would take 800 million bytes


@pytest.mark.parametrize("block_size", [1, 64])
def test_ranks_of_a_hundred_million_cells_see_what_one_does(block_size):
    def made(**rank):
        return Sampler(range(10**8), 1024, 1, block_size=block_size, **rank).batch(2, 12_345)

    parts = [made(rank=rank, world=3) for rank in range(3)]
    assert np.array_equal(np.concatenate(parts), made())
    assert len(np.unique(made())) == 1024


def test_uniforms_are_the_same_from_wherever_they_are_asked():
    every = uniforms(3, Stream.SAMPLER_DRAWS, 5, 0, 100)
    assert ((every >= 0) & (every < 1)).all()
    for start, stop in ((0, 3), (5, 9), (7, 7), (96, 100), (33, 90)):
        assert np.array_equal(uniforms(3, Stream.SAMPLER_DRAWS, 5, start, stop), every[start:stop])
    words = philox(3, Stream.SAMPLER_DRAWS, 5).random_raw(8)
    assert np.array_equal(every[:8], (words >> np.uint64(11)) / 2.0**53)


def test_versions_that_do_not_exist_are_refused():
    for version in (0, 3):
        with pytest.raises(ConfigError, match=f"version is {version}: the versions .* 1 to 2"):
            Sampler(range(10), 4, version=version)
