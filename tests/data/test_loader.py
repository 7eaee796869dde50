"""Batches of a training: in the sampler's order wherever they are read, ahead or not."""

import threading

import numpy as np
import pytest
from example_cells import csr, make, random_counts

from kernomics.data import CellCollection, Loader, Sampler
from kernomics.data.readers.stored import H5Source
from kernomics.errors import ConfigError


@pytest.fixture
def on_disk(tmp_path):
    make(csr(random_counts(64))).write_h5ad(tmp_path / "a.h5ad")
    return CellCollection.from_anndata(tmp_path / "a.h5ad", empty_cells="keep", check=False)


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "kernomics-reader"]


def test_an_error_of_the_reading_thread_is_raised_where_its_batch_is_due(on_disk, monkeypatch):
    read, calls = H5Source.read, []

    def failing(self, wanted):
        calls.append(len(wanted))
        if len(calls) == 3:
            raise OSError("the disk is gone")
        return read(self, wanted)

    monkeypatch.setattr(H5Source, "read", failing)
    batches = Loader(on_disk, Sampler(range(64), 8, block_size=4, buffer_blocks=4)).epoch(0)
    assert len([next(batches) for _ in range(4)]) == 4  # those of both buffers before
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert not readers()


def test_an_epoch_left_early_leaves_no_thread(on_disk):
    batches = Loader(on_disk, Sampler(range(64), 4, block_size=4, buffer_blocks=2)).epoch(0)
    next(batches)
    assert len(readers()) == 1
    batches.close()
    assert not readers()


def test_a_buffer_is_read_while_another_is_used(on_disk, monkeypatch):
    read, begun = H5Source.read, threading.Semaphore(0)

    def told(self, wanted):
        begun.release()
        return read(self, wanted)

    monkeypatch.setattr(H5Source, "read", told)
    batches = Loader(on_disk, Sampler(range(64), 8, block_size=8, buffer_blocks=2)).epoch(0)
    next(batches)
    # The second is read without being asked for, and the third once that is in the queue.
    for _ in range(3):
        assert begun.acquire(timeout=30)
    batches.close()


def test_cells_in_memory_are_read_without_a_thread(on_disk, tmp_path):
    cells = CellCollection.from_anndata(tmp_path / "a.h5ad", empty_cells="keep", in_memory=True)
    batches = Loader(cells, Sampler(range(64), 4, block_size=4)).epoch(0)
    next(batches)
    assert not readers()


def test_rows_that_are_not_there_and_negative_places_are_refused(on_disk):
    with pytest.raises(ConfigError, match="draws row 64, but there are 64 cells"):
        Loader(on_disk, Sampler(np.arange(65), 4))
    loader = Loader(on_disk, Sampler(np.arange(60), 7))
    assert len(loader) == loader.n_batches == 9
    assert sum(len(cells) for cells in loader.epoch(1)) == 60
    assert not list(loader.epoch(0, start=9))
    with pytest.raises(ConfigError, match="epoch is -1"):
        loader.epoch(-1)
    with pytest.raises(ConfigError, match="start is -2"):
        loader.epoch(0, -2)
    with pytest.raises(ConfigError, match="read_ahead is -1"):
        Loader(on_disk, Sampler(np.arange(60), 7), read_ahead=-1)
