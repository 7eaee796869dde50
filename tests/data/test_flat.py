"""Arrays are read in place as their libraries read them, and rows taken as numpy gathers them."""

import warnings
from itertools import pairwise

import h5py
import numpy as np
import pytest
from example_cells import assert_same, csr, make, random_counts

from kernomics.data import CellCollection
from kernomics.data.cell_digest import _ODD, CellDigest, _mixed
from kernomics.data.csr import KINDS, Rows, canonical, gather, take
from kernomics.data.readers.flat import flat, flat_h5, flat_zarr, mark_of
from kernomics.data.readers.stored import H5Source
from kernomics.data.rng import Stream, draws_of_names
from kernomics.errors import DataError

RANGES = np.array([0, 5, 5, 90, 17, 99]), np.array([5, 5, 40, 100, 18, 100])


def expected(values):
    return np.concatenate([values[a:b] for a, b in zip(*RANGES, strict=True)])


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8])
@pytest.mark.parametrize("chunks", [None, 7, 64, 100])
def test_a_dataset_is_read_where_it_lies(tmp_path, dtype, chunks):
    values = np.arange(100).astype(dtype)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=values, chunks=chunks and (chunks,))
        file.create_dataset("packed", data=values, chunks=(9,), compression="gzip")
        file.create_dataset("swapped", data=values.astype(values.dtype.newbyteorder(">")))
    with h5py.File(tmp_path / "a.h5") as file:
        found = flat_h5(file["x"])
        assert flat(tmp_path / "a.h5", file["packed"]) is None
        assert dtype == np.uint8 or flat(tmp_path / "a.h5", file["swapped"]) is None
    np.testing.assert_array_equal(found.read(*RANGES), expected(values))
    np.testing.assert_array_equal(found[3:50], values[3:50])
    assert found[8:8].size == 0


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("shards", [None, 28])
def test_an_array_of_a_store_is_read_where_it_lies(tmp_path, version, shards):
    zarr = pytest.importorskip("zarr")
    if version == 2 and shards:
        pytest.skip("shards are of version 3")
    values = np.arange(1, 101, dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = zarr.open_group(tmp_path / "a", mode="w", zarr_format=version)
        more = {"shards": (shards,)} if shards else {}
        for name, compressors in (("x", None), ("packed", "auto")):
            array = group.create_array(
                name, shape=(100,), dtype="f4", chunks=(7,), compressors=compressors, **more
            )
            array[:] = values
    found = flat_zarr(tmp_path / "a", group["x"])
    assert flat_zarr(tmp_path / "a", group["packed"]) is None
    np.testing.assert_array_equal(found.read(*RANGES), expected(values))


def test_a_file_that_became_shorter_is_told(tmp_path):
    make(csr(random_counts() + 1)).write_h5ad(tmp_path / "a.h5ad")
    source = H5Source(tmp_path / "a.h5ad", "X")
    source.read(np.arange(1))
    with (tmp_path / "a.h5ad").open("r+b") as file:
        file.truncate(3000)
    with pytest.raises(DataError, match=r"cannot be read at X: a.h5ad was replaced or changed"):
        source.read(np.arange(40))
    for array in source._flat:  # at the same moment, which no time tells
        array._marks = {0: mark_of((tmp_path / "a.h5ad").stat())}
    with pytest.raises(DataError, match=r"cannot be read at X: a.h5ad at byte [\d,]+: it is short"):
        source.read(np.arange(40))


def stored(dtype, index, seed=0):
    matrix = csr(random_counts(30, 40, seed) * 3)
    return matrix.indptr.astype(np.int64), matrix.indices.astype(index), matrix.data.astype(dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_rows_are_taken_as_numpy_gathers_them(kind, index):
    indptr, indices, values = stored(np.dtype(kind), index)
    rows = np.random.default_rng(1).integers(0, 30, 50)
    found = take(indptr[rows], np.diff(indptr)[rows], indices, values, 40)
    right = canonical(gather(indptr, indices, values, rows), 40)
    for name in ("indptr", "indices", "values"):
        np.testing.assert_array_equal(getattr(found, name), getattr(right, name))
        assert getattr(found, name).dtype == getattr(right, name).dtype
    np.testing.assert_array_equal(found.totals(), right.totals())
    assert found.are_counts


FAULTS = {
    "nan": (np.nan, "f4"), "infinite": (np.inf, "f8"), "negative": (-1, "i2"),
    "fraction": (0.5, "f8"), "large": (2**24 + 1, "i8"), "zero": (0, "u1"), "float": (0.5, "f4"),
}  # fmt: skip


@pytest.mark.parametrize("place", [0, 7, 8, -1])
@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_of_a_value_is_seen_wherever_it_is(fault, place):
    value, kind = FAULTS[fault]
    indptr, indices, values = stored(np.dtype(kind), np.int32)
    values[place] = value
    found = take(indptr[:-1], np.diff(indptr), indices, values, 40)
    if kind == "f4":
        assert found.is_canonical
        assert not found.are_counts
        assert found.sums is None
    else:
        assert found is None


@pytest.mark.parametrize("change", ["order", "twice", "beyond", "below"])
def test_rows_whose_genes_are_not_in_order_are_left_to_be_looked_at(change):
    indptr, indices, values = stored(np.float32, np.int32)
    first = int(indptr[3])
    if change == "order":
        indices[[first, first + 1]] = indices[[first + 1, first]]
    else:
        at = {"twice": first + 1, "beyond": int(indptr[4]) - 1, "below": first}[change]
        indices[at] = {"twice": indices[first], "beyond": 40, "below": -1}[change]
    assert take(indptr[:-1], np.diff(indptr), indices, values, 40) is None


def test_the_compiled_digest_is_the_one_of_its_definition():
    indptr, indices, values = stored(np.float32, np.int32)
    digest = CellDigest(range(40))
    found = digest.words(Rows(indptr, indices, values), ["a"] * 30)
    counts = values.view(np.uint32).astype(np.uint64)
    with np.errstate(over="ignore"):
        each = _mixed(digest.genes[indices] ^ (counts * _ODD))
        sums = np.array([each[a:b].sum() for a, b in pairwise(indptr)])
        name = draws_of_names(["a"], 0, Stream.DIGEST_CELLS) * _ODD
        np.testing.assert_array_equal(found, _mixed(sums + name))


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}])
def test_a_file_gives_the_same_read_in_place_or_through_its_library(tmp_path, options):
    counts = random_counts(60, 30, 5)
    make(csr(counts)).write_h5ad(tmp_path / "a.h5ad", **options)
    disk = CellCollection.from_anndata(tmp_path / "a.h5ad", empty_cells="keep")
    memory = CellCollection.from_anndata(make(csr(counts)), empty_cells="keep")
    rows = np.random.default_rng(0).integers(0, 60, 80)
    assert_same(disk.batch(rows), memory.batch(rows))
    assert (disk._source._flat is None) == bool(options)


def test_counts_behind_a_link_are_read_from_the_file_that_holds_them(tmp_path):
    adata = make(random_counts(30, 12))
    adata.write_h5ad(tmp_path / "whole.h5ad")
    adata.X = csr(np.zeros((30, 12)))
    adata.write_h5ad(tmp_path / "linked.h5ad")
    with h5py.File(tmp_path / "linked.h5ad", "a") as file:
        del file["X"]
        file["X"] = h5py.ExternalLink("whole.h5ad", "X")
    whole, linked = (
        CellCollection.from_anndata(tmp_path / f"{n}.h5ad") for n in ("whole", "linked")
    )
    assert_same(linked.batch(np.arange(30)), whole.batch(np.arange(30)))
