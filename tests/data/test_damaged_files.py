"""Damaged sources are refused in a sentence: nothing is read past what is stored, or wrongly."""

import json
import pickle
import shutil
import warnings

import h5py
import numpy as np
import pytest
from example_cells import csr, make, random_counts
from scipy import sparse

from kernomics.data import CellCollection, convert
from kernomics.data.readers.flat import crc32c, flat_h5, flat_zarr
from kernomics.errors import DataError

COUNTS = random_counts(60, 20, 3)
COUNTS[:, 0] += 1
ALL = np.arange(60)
BY_GENES = pytest.mark.filterwarnings("ignore:.*is stored as CSC")


def write(path, form=csr):
    make(form(COUNTS)).write_h5ad(path)
    return path


def counts_of(cells):
    found = cells.batch(ALL)
    parts = found.values.numpy(), found.indices.numpy(), found.indptr.numpy()
    return sparse.csr_matrix(parts, COUNTS.shape).toarray()


# -- pointers --------------------------------------------------------------------------------------

POINTERS = {
    (3, 10**6): "1 of its pointers are below the one before, first number 4: ",
    (3, -5): "1 of its pointers are below the one before, first number 3: -5",
    (-1, 10**6): r"its rows end at entry 1,000,000, and [\d,]+ are stored",
    (0, 2): "its first row begins at entry 2 instead of 0",
}


@BY_GENES
@pytest.mark.parametrize("where", POINTERS)
@pytest.mark.parametrize("form", ["csr", "csc"])
def test_pointers_outside_what_is_stored_are_refused_in_memory_and_in_files(tmp_path, form, where):
    place, value = where
    adata = make(csr(COUNTS).asformat(form))
    adata.write_h5ad(tmp_path / "a.h5ad")
    adata.X.indptr[place] = value
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        at = place % len(file["X/indptr"])
        file["X/indptr"][at] = value
    for given in (adata, tmp_path / "a.h5ad"):
        with pytest.raises(DataError, match=f"is damaged: {POINTERS[where]}"):
            CellCollection.from_anndata(given)
    with pytest.raises(DataError, match=f"is damaged: {POINTERS[where]}"):
        convert(tmp_path / "a.h5ad", tmp_path / "b.h5ad", progress=False)


@BY_GENES
@pytest.mark.parametrize("row", [-7, 60, 10**6])
def test_rows_that_a_matrix_by_genes_does_not_have_are_refused(tmp_path, row):
    adata = make(csr(COUNTS).tocsc())
    adata.write_h5ad(tmp_path / "a.h5ad")
    adata.X.indices[5] = row
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        file["X/indices"][5] = row
    for given in (adata, tmp_path / "a.h5ad"):
        with pytest.raises(DataError, match=rf"1 of its \d+ entries name rows outside .* {row};"):
            CellCollection.from_anndata(given)


def test_fewer_entries_than_the_pointers_say_are_refused():
    adata = make(csr(COUNTS))
    adata.X.data = adata.X.data[:-5]
    with pytest.raises(DataError, match="is damaged: its rows end at entry"):
        CellCollection.from_anndata(adata)


# -- files -----------------------------------------------------------------------------------------


def replace(file, name, values):
    del file["X"][name]
    file["X"][name] = values


DAMAGE = {
    "no shape": (lambda file: file["X"].attrs.pop("shape"), "cannot be read at X"),
    "no values": (lambda file: file["X"].pop("data"), "cannot be read at X"),
    "no pointers": (lambda file: file["X"].pop("indptr"), "cannot be read at X"),
    "two dimensions": (
        lambda file: replace(file, "data", np.ones((len(file["X/data"]), 1))),
        r"its data have shape \(\d+, 1\)",
    ),
    "half genes": (
        lambda file: replace(file, "indices", file["X/indices"][:] + 0.5),
        r"stored gene indices are no integers, first \d+\.5",
    ),
    "a link to nothing": (
        lambda file: (file.pop("X"), file.update({"X": h5py.SoftLink("/nothing")})),
        "cannot be read at X",
    ),
    "fewer names": (
        lambda file: (file["obs"].pop("_index"), file["obs"].update({"_index": ["a"] * 3})),
        "cannot be read at its tables",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_file_whose_parts_do_not_fit_is_refused_in_a_sentence(tmp_path, name):
    do, message = DAMAGE[name]
    adata = make(csr(COUNTS), kind=["a", "b"] * 30)
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        do(file)
    with pytest.raises(DataError, match=message):
        CellCollection.from_anndata(tmp_path / "a.h5ad")


def test_a_file_that_was_replaced_is_told_or_read_as_it_was(tmp_path):
    path = write(tmp_path / "a.h5ad")
    opened = CellCollection.from_anndata(path)
    unread = CellCollection.from_anndata(path, check=False)
    make(csr(np.where(COUNTS > 0, 9, 0))).write_h5ad(tmp_path / "b.h5ad")
    (tmp_path / "b.h5ad").replace(path)
    np.testing.assert_array_equal(counts_of(opened), COUNTS)
    for other in (unread, pickle.loads(pickle.dumps(opened))):
        with pytest.raises(DataError, match=r"a\.h5ad was replaced or changed"):
            other.batch(ALL)


def test_a_relative_path_holds_when_the_process_goes_elsewhere(tmp_path, monkeypatch):
    write(tmp_path / "a.h5ad")
    monkeypatch.chdir(tmp_path)
    cells = CellCollection.from_anndata("a.h5ad", check=False)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    np.testing.assert_array_equal(counts_of(cells), COUNTS)


def test_numbers_of_fewer_bits_than_bytes_are_left_to_the_library(tmp_path):
    kind = h5py.h5t.STD_I32LE.copy()
    kind.set_precision(12)
    kind.set_offset(8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        stored = h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple((5,)))
        stored.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(5, dtype=np.int32))
        assert flat_h5(file["x"]) is None


# -- zarr ------------------------------------------------------------------------------------------


def test_a_checksum_is_that_of_the_standard():
    assert crc32c(b"123456789") == 0xE306_9283


def test_a_shard_whose_index_is_damaged_is_left_to_the_library(tmp_path):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(tmp_path / "a", mode="w", zarr_format=3)
    more = {"chunks": (8,), "shards": (32,), "compressors": None}
    array = group.create_array("x", shape=(32,), dtype="f4", **more)
    array[:] = np.arange(1, 33, dtype=np.float32)
    assert flat_zarr(tmp_path / "a", group["x"]) is not None
    file = tmp_path / "a/x/c/0"
    whole = bytearray(file.read_bytes())
    whole[128] ^= 32  # where its first chunk begins
    file.write_bytes(whole)
    assert flat_zarr(tmp_path / "a", group["x"]) is None
    file.write_bytes(whole[-20:])
    assert flat_zarr(tmp_path / "a", group["x"]) is None


def test_a_store_that_lacks_a_chunk_of_genes_is_refused(tmp_path):
    zarr = pytest.importorskip("zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anndata and zarr, on formats
        make(csr(COUNTS)).write_zarr(tmp_path / "a.zarr")
    group = zarr.open_group(tmp_path / "a.zarr", mode="a", use_consolidated=False)
    genes = group["X/indices"][:]
    del group["X/indices"]
    stored = group["X"].create_array("indices", shape=genes.shape, dtype="i4", chunks=(50,))
    stored[:] = genes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(tmp_path / "a.zarr")
    np.testing.assert_array_equal(
        counts_of(CellCollection.from_anndata(tmp_path / "a.zarr")), COUNTS
    )
    chunks = [path for path in (tmp_path / "a.zarr/X/indices").rglob("2") if path.is_file()]
    chunks[0].unlink()
    with pytest.raises(DataError, match=r"lacks 1 of \d+ chunks of X/indices"):
        CellCollection.from_anndata(tmp_path / "a.zarr")


# -- directories of files --------------------------------------------------------------------------

MANIFESTS = {
    "no files": (lambda said: said.pop("files"), "it names no files"),
    "none": (lambda said: said.update(files=[]), "it names no files"),
    "half an entry": (lambda said: said["files"][0].pop("n_cells"), "its file 0 is {'name'"),
    "outside": (
        lambda said: said["files"][0].update(name="../a.h5ad"),
        r"called '../a.h5ad', which is no file of the directory",
    ),
    "fewer": (lambda said: said["files"].pop(), "its 1 files have 30 cells, and it says 60"),
    "no digest": (lambda said: said.pop("digest"), "its digest is None"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_was_changed_is_refused(tmp_path, name):
    do, message = MANIFESTS[name]
    write(tmp_path / "a.h5ad")
    convert(tmp_path / "a.h5ad", tmp_path / "b", shards=2, progress=False)
    path = tmp_path / "b/kernomics.json"
    said = json.loads(path.read_text())
    do(said)
    path.write_text(json.dumps(said))
    with pytest.raises(DataError, match=f"kernomics.json' is damaged: .*{message}"):
        CellCollection.from_anndata(tmp_path / "b")


def test_a_file_of_another_conversion_is_refused(tmp_path):
    convert(make(csr(COUNTS)), tmp_path / "a", shards=2, progress=False)
    convert(make(csr(COUNTS + 1)), tmp_path / "b", shards=2, progress=False)
    shutil.copy(tmp_path / "b/part-00001.h5ad", tmp_path / "a/part-00001.h5ad")
    with pytest.raises(DataError, match=r"part-00001.h5ad' is of another conversion than"):
        CellCollection.from_anndata(tmp_path / "a")


def test_a_bad_count_of_a_gene_that_there_is_none_of_is_told(tmp_path):
    path = tmp_path / "cells.h5ad"
    make(sparse.csr_matrix(np.array([[1.0, 2.0]], np.float32))).write_h5ad(path)
    with h5py.File(path, "a") as file:
        file["X/indices"][0] = -(2**31)
        file["X/data"][0] = -1.0
    with pytest.raises(DataError, match="gene number -2147483648, outside 0 … 1"):
        CellCollection.from_anndata(path)
