"""Files of cells made to do harm are refused in a sentence that names the file, and take nothing.

Every case is read whole, into memory, and without checks; a size that is believed fails at once,
as little memory is left, and what would not end is stopped.
"""

import json
import resource
import warnings
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from example_cells import csr, make, random_counts

from kernomics.data import CellCollection, Stages, convert
from kernomics.errors import DataError, KernomicsError

COUNTS = random_counts(60, 20, 3)
COUNTS[:, 0] += 1
WAYS = ({}, {"in_memory": True}, {"check": False})
pytestmark = pytest.mark.timeout(60)


@contextmanager
def little_memory(more=1 << 30):
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def assert_refused(path, match):
    for options in WAYS:
        with little_memory(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(KernomicsError, match=match) as caught:
                CellCollection.from_anndata(path, **options).batch(np.arange(60))
        said = str(caught.value)
        assert path.name in said, said
        assert any(word in said for word in ("again", "must be", "another", "store it")), said


# -- HDF5 ------------------------------------------------------------------------------------------


def _unwritten(name, n, dtype="f4"):
    """Claim n numbers of which none is stored."""

    def do(file):
        del file[name]
        file.create_dataset(name, shape=(n,), dtype=dtype, chunks=(min(n, 1024),))

    return do


def _stored(name, change):
    def do(file):
        values = file[name][:]
        del file[name]
        file[name] = change(values)

    return do


def _attribute(name, key, value):
    return lambda file: file[name].attrs.__setitem__(key, value)


def _dense(shape):
    def do(file):
        del file["X"]
        chunks = tuple(min(n, 64) for n in shape) if shape else None
        file.create_dataset("X", shape=shape, dtype="f4", chunks=chunks)
        file["X"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})

    return do


def _link(name, link):
    def do(file):
        del file[name]
        file[name] = link

    return do


def _all(*steps):
    return lambda file: [step(file) for step in steps]


def _last(value, dtype):
    return lambda values: np.append(values[:-1].astype(dtype), np.array([value], dtype))


HUGE = 2**50
H5AD = {
    "rows without end": (_attribute("X", "shape", [HUGE, 20]), "pointers do not fit"),
    "columns without end": (_attribute("X", "shape", [60, HUGE]), "its tables name 60 cells"),
    "one gene more": (_attribute("X", "shape", [60, 21]), "21 genes, and its tables name"),
    "one gene less": (_attribute("X", "shape", [60, 19]), "19 genes, and its tables name"),
    "a negative shape": (_attribute("X", "shape", [-60, 20]), "pointers do not fit"),
    "three dimensions": (_attribute("X", "shape", [60, 20, 1]), "cannot be read at X"),
    "a shape of words": (_attribute("X", "shape", "60 × 20"), "cannot be read at X"),
    "pointers without end": (_unwritten("X/indptr", HUGE, "i8"), "pointers do not fit"),
    "rows and pointers without end": (
        _all(_unwritten("X/indptr", HUGE + 1, "i8"), _attribute("X", "shape", [HUGE, 20])),
        "GB of memory are free",
    ),
    "no pointers": (_stored("X/indptr", lambda x: x[:0]), "its 0 pointers"),
    "values without end": (_unwritten("X/data", HUGE), "lacks .* chunks of X/data"),
    "entries without end": (
        _all(_unwritten("X/data", HUGE), _unwritten("X/indices", HUGE, "i4")),
        "lacks .* chunks of X/indices",
    ),
    "a chunk of 2 TB": (
        lambda file: (
            file["X"].pop("data"),
            file["X"].create_dataset("data", (2**40,), "f8", chunks=(2**28,), maxshape=(None,)),
        ),
        "chunks of X/data|in chunks of",
    ),
    "pointers not written": (_unwritten("X/indptr", 61, "i4"), "lacks 1 of 1 chunks of X/indptr"),
    "fewer values": (_stored("X/data", lambda x: x[:-1]), "its rows end at entry"),
    "a gene without a value": (
        _stored("X/indices", lambda x: np.append(x, 0)),
        "values and .* ind",
    ),
    "pointers of fractions": (_stored("X/indptr", lambda x: x + 0.5), "are float64 and not int"),
    "a pointer beyond 63 bits": (
        _stored("X/indptr", _last(2**63 + 5, np.uint64)),
        "are below the one before",
    ),
    "a gene beyond 63 bits": (_stored("X/indices", _last(2**63 + 5, np.uint64)), "lie outside"),
    "genes that wrap in 32 bits": (
        _stored("X/indices", lambda x: x.astype(np.int64) + 2**32),
        "lie outside",
    ),
    "genes that are NaN": (_stored("X/indices", lambda x: x * np.nan), "are no integers"),
    "complex values": (_stored("X/data", lambda x: x * 1j), "holds complex64 values"),
    "words for values": (_stored("X/data", lambda x: ["1"] * len(x)), "holds object values"),
    "dense, without end": (_dense((HUGE, 20)), "its tables name 60 cells"),
    "dense and wide": (_dense((60, HUGE)), "its tables name 60 cells"),
    "dense, three dimensions": (_dense((60, 20, 2)), "not cells by genes"),
    "dense, a number": (_dense(()), "not cells by genes|cannot be read at X"),
    "by genes, rows without end": (
        _all(_attribute("X", "encoding-type", "csc_matrix"), _attribute("X", "shape", [HUGE, 60])),
        "its tables name|GB of memory|rows outside",
    ),
    "by genes, in truth by cells": (
        _attribute("X", "encoding-type", "csc_matrix"),
        "pointers do not fit",
    ),
    "an encoding of its own": (_attribute("X", "encoding-type", "pickle"), "stored as 'pickle'"),
    "a table of its own encoding": (
        _attribute("obs", "encoding-type", "pickle"),
        "cannot be read at its tables",
    ),
    "cells without end": (
        _unwritten("obs/_index", 2**40, h5py.string_dtype()),
        "GB of memory are free",
    ),
    "a column without end": (_unwritten("obs/n", HUGE, "f8"), "GB of memory are free"),
    "more genes than columns": (
        _unwritten("var/_index", 40, h5py.string_dtype()),
        "tables name 60 cells and 40 genes|missing",
    ),
    "a link to itself": (_link("X", h5py.SoftLink("/X")), "cannot be read at X"),
    "a table within itself": (
        lambda file: file["obs"].__setitem__("n2", h5py.SoftLink("/obs")),
        "cannot be read at its tables: it holds groups in groups without end",
    ),
    "counts for a table": (_link("obs", h5py.SoftLink("/X")), "cannot be read at its tables"),
}


@pytest.mark.parametrize("case", H5AD)
def test_an_h5ad_file_that_lies_of_its_sizes_is_refused(tmp_path, case):
    do, match = H5AD[case]
    path = tmp_path / "hostile.h5ad"
    make(csr(COUNTS), n=np.arange(60.0)).write_h5ad(path)
    with h5py.File(path, "a") as file:
        do(file)
    assert_refused(path, match)
    with little_memory(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(KernomicsError):
            convert(path, tmp_path / "out.h5ad", progress=False)
    assert not (tmp_path / "out.h5ad").exists()


def test_pointers_whose_differences_pass_64_bits_are_refused_in_memory():
    adata = make(csr(COUNTS, np.int64))
    adata.X.indptr[-1] = -(2**63) + 5
    with pytest.raises(DataError, match="are below the one before"):
        CellCollection.from_anndata(adata)


# -- zarr ------------------------------------------------------------------------------------------


def _meta(name, change):
    def do(store):
        file = store / name / "zarr.json"
        said = json.loads(file.read_text())
        change(said)
        file.write_text(json.dumps(said))

    return do


def _shape(name, n):
    return _meta(name, lambda said: said.update(shape=[n]))


def _chunk(name, n):
    return _meta(name, lambda said: said["chunk_grid"]["configuration"].update(chunk_shape=[n]))


ZARR = {
    "no end of nesting": (
        lambda store: (store / "zarr.json").write_text("[" * 10**6),
        "cannot be read",
    ),
    "no JSON": (lambda store: (store / "zarr.json").write_text("{"), "cannot be read"),
    "no end of nesting below": (
        lambda store: (store / "X/data/zarr.json").write_text('{"a":' * 10**6),
        "cannot be read",
    ),
    "values without end": (_shape("X/data", HUGE), "lacks .* chunks|values and"),
    "entries without end": (
        _all(_shape("X/data", HUGE), _shape("X/indices", HUGE)),
        "lacks .* chunks",
    ),
    "pointers without end": (_shape("X/indptr", HUGE), "pointers do not fit"),
    "a chunk without end": (_chunk("X/data", HUGE), "in chunks of|cannot be read"),
    "cells without end": (_shape("obs/_index", HUGE), "GB of memory are free"),
    "a column without end": (_shape("obs/n", HUGE), "GB of memory are free"),
    "genes without end": (
        _meta("X", lambda said: said["attributes"].update(shape=[60, HUGE])),
        "its tables name",
    ),
    "rows without end": (
        _meta("X", lambda said: said["attributes"].update(shape=[HUGE, 20])),
        "pointers do not fit",
    ),
    "another type of chunk": (
        _meta("X/data", lambda said: said.update(codecs=[{"name": "pickle"}])),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("case", ZARR)
def test_a_zarr_store_that_lies_of_its_sizes_is_refused(tmp_path, case):
    pytest.importorskip("zarr")
    import anndata

    do, match = ZARR[case]
    path = tmp_path / "hostile.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with anndata.settings.override(zarr_write_format=3):
            make(csr(COUNTS), n=np.arange(60.0)).write_zarr(path)
    whole = path / "zarr.json"  # as it is without a copy of what stands below
    said = json.loads(whole.read_text())
    said.pop("consolidated_metadata", None)
    whole.write_text(json.dumps(said))
    assert CellCollection.from_anndata(path).n_cells == 60
    do(path)
    assert_refused(path, match)


# -- stages ----------------------------------------------------------------------------------------

BASE = {"name": "base", "genes": [], "train": ["c0"], "validation": [], "test": []}
ONE = {"name": "one", "genes": ["g9"], "train": ["c1"], "validation": [], "test": []}
STAGES = {
    "no end of nesting": (b"[" * 10**6, "not valid JSON: .*nested too deeply"),
    "no text": (b"\xff\xfe\xfd", "not valid JSON"),
    "a number": (b"7", "holds 'int', not"),
    "no stages": ({"stages": None}, "lacks part of the stages"),
    "a word for stages": ({"stages": "base"}, "lacks part of the stages"),
    "a word for cells": ({"stages": [{**BASE, "train": "c0"}, ONE]}, "where a list of names is"),
    "numbers for cells": ({"stages": [{**BASE, "train": [0]}, ONE]}, "where a name is needed"),
    "a list for a name": ({"stages": [{**BASE, "name": []}, ONE]}, "where a name is needed"),
    "no end of seeds": ({"seed": 1e999}, "lacks part of the stages"),
    "no seed": ({"seed": None}, "lacks part of the stages"),
    "a list to go by": ({"by": ["x"]}, "where a name is needed"),
    "another print": ({"fingerprint": "00"}, "was changed after it was saved"),
}


@pytest.mark.parametrize("case", STAGES)
def test_a_file_of_stages_that_are_none_is_refused(tmp_path, case):
    content, match = STAGES[case]
    if isinstance(content, dict):
        good = {"format": "kernomics stages 1", "base": ["g0"], "seed": 0, "by": None}
        content = json.dumps({**good, "stages": [BASE, ONE], **content}).encode()
    path = tmp_path / "stages.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=match) as caught:
        Stages.load(path)
    assert str(path) in str(caught.value)
