"""A hundred million cells: the next batch after a resumption takes a buffer's work, no more."""

import tracemalloc

import numpy as np
import pytest
from scipy import sparse

from kernomics.data import CellCollection, Cells, Loader, Sampler, balanced_weights

N = 10**8


class Simulated(CellCollection):
    """Cells whose counts are made of their numbers when they are asked for."""

    n_cells = N

    def __init__(self, on_disk: bool) -> None:
        self.disk, self.read = on_disk, 0

    @property
    def on_disk(self) -> bool:
        return self.disk

    def batch(self, rows: np.ndarray) -> Cells:
        self.read += len(rows)
        counts = sparse.csr_matrix((rows % 7 + 1.0)[:, None].astype(np.float32))
        return Cells.from_scipy(counts, cell_ids=rows)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("block_size", [1, 64])
def test_a_resumed_epoch_reads_and_holds_no_more_than_a_buffer(on_disk, block_size):
    start = 400_003  # in the middle of an epoch and of a buffer
    tracemalloc.start()
    try:
        cells = Simulated(on_disk)
        sampler = Sampler(range(N), 128, 5, block_size=block_size)
        batches = Loader(cells, sampler, read_ahead=0).epoch(3, start)
        first, second = next(batches), next(batches)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    batches.close()
    assert peak < 4_000_000
    assert cells.read <= 64 * 64
    expected = Sampler(range(N), 128, 5, block_size=block_size)
    assert np.array_equal(first.cell_ids.numpy(), expected.batch(3, start))
    assert np.array_equal(second.cell_ids.numpy(), expected.batch(3, start + 1))


def test_the_batches_after_a_resumption_are_those_of_an_epoch_from_its_begin():
    sampler = Sampler(range(N), 2048, 5, block_size=64)
    whole = Loader(Simulated(True), sampler, read_ahead=0).epoch(1)
    seen = [next(whole).cell_ids for _ in range(9)]
    for start in range(9):
        again = Loader(Simulated(True), Sampler(range(N), 2048, 5, block_size=64), read_ahead=0)
        assert np.array_equal(next(again.epoch(1, start)).cell_ids, seen[start])


def test_balanced_draws_are_made_for_the_batch_alone():
    labels = np.arange(10**6) % 1000 // 999  # one in a thousand
    sampler = Sampler(range(10**6), 256, 1, weights=balanced_weights(labels))
    tracemalloc.start()
    try:
        batch = sampler.batch(7, 3000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000
    assert 80 < labels[batch].sum() < 176  # a half, six deviates about
