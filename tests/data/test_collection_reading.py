"""How collections on disk are read: in buffers, in long reads, never whole."""

from pathlib import Path

import anndata
import numpy as np
import pytest
from example_cells import assert_same, csr, make, random_counts

from kernomics.data import CellCollection, Loader, Sampler
from kernomics.data import csr as rows
from kernomics.data.readers import sources, stored


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_batches_read_in_buffers_are_the_samplers_batches(tmp_path, in_memory, start, ahead):
    counts = random_counts()
    make(csr(counts)).write_h5ad(tmp_path / "a.h5ad")
    collection = CellCollection.from_anndata(
        tmp_path / "a.h5ad", empty_cells="keep", in_memory=in_memory
    )
    sampler = Sampler(range(1, 40), 4, 5, block_size=3, buffer_blocks=4)
    got = list(Loader(collection, sampler, read_ahead=ahead).epoch(2, start))
    assert len(got) == sampler.n_batches - start
    for i, cells in enumerate(got, start):
        assert_same(cells, collection.batch(sampler.batch(2, i)))


def test_reading_a_buffer_takes_few_reads(tmp_path, monkeypatch):
    make(csr(random_counts(64))).write_h5ad(tmp_path / "a.h5ad")
    collection = CellCollection.from_anndata(tmp_path / "a.h5ad", empty_cells="keep", check=False)
    asked = []
    read = stored.H5Source.read
    monkeypatch.setattr(
        stored.H5Source,
        "read",
        lambda self, wanted: asked.append(len(wanted)) or read(self, wanted),
    )
    sampler = Sampler(range(64), 4, 0, block_size=8, buffer_blocks=2)
    assert len(list(Loader(collection, sampler).epoch(0))) == 16
    assert asked == [16] * 4
    asked.clear()
    assert len(list(Loader(collection, sampler).epoch(0, start=5))) == 11
    assert asked == [12, 16, 16]  # from within a buffer, its rest first


@pytest.mark.parametrize("form", [np.asarray, csr])
@pytest.mark.parametrize("in_memory", [False, True])
def test_a_file_is_never_read_whole(tmp_path, monkeypatch, form, in_memory):
    counts = random_counts()
    make(form(counts)).write_h5ad(tmp_path / "a.h5ad")
    for module in (sources, stored):
        monkeypatch.setattr(module, "BLOCK_NONZEROS", 100)
    sizes = []
    read = stored.H5Source.read

    def watch(self, wanted):
        found = read(self, wanted)
        sizes.append(found.values.size)
        return found

    monkeypatch.setattr(stored.H5Source, "read", watch)
    collection = CellCollection.from_anndata(
        tmp_path / "a.h5ad", empty_cells="keep", in_memory=in_memory
    )
    assert sum(sizes) == np.count_nonzero(counts)
    collection.summary()
    assert collection.fingerprint
    assert max(sizes) <= 100


def test_consecutive_rows_are_one_read():
    class Counting:
        def __init__(self, array):
            self.array, self.slices = array, []

        def __getitem__(self, wanted):
            self.slices.append((wanted.start, wanted.stop))
            return self.array[wanted]

    matrix = csr(np.ones((10, 2)))
    values = Counting(matrix.data)
    rows.gather(matrix.indptr.astype(np.int64), matrix.indices, values, np.array([2, 3, 4, 7, 8]))
    assert values.slices == [(4, 10), (14, 18)]


def test_check_false_reads_nothing_through(tmp_path, monkeypatch):
    make(csr(random_counts())).write_h5ad(tmp_path / "a.h5ad")

    def refuse(self, wanted):
        raise AssertionError("the file was read")

    monkeypatch.setattr(stored.H5Source, "read", refuse)
    collection = CellCollection.from_anndata(tmp_path / "a.h5ad", check=False)
    assert collection.n_cells == 40


def test_real_cells_are_the_same_from_disk_and_memory(data_dir: Path):
    path = data_dir / "pbmc3k.h5ad"
    disk = CellCollection.from_anndata(
        path, labels_key="cell_type", unlabelled_category="unassigned"
    )
    memory = CellCollection.from_anndata(
        anndata.read_h5ad(path), labels_key="cell_type", unlabelled_category="unassigned"
    )
    assert disk.labels["cell_type"].n_classes == 9
    assert disk.n_cells == 2700
    assert disk.fingerprint == memory.fingerprint
    wanted = np.random.default_rng(0).integers(0, 2700, 50)
    assert_same(disk.batch(wanted), memory.batch(wanted))
