"""Rows of any kind, sound or broken, in memory and in files: the cells that they are, or an error.

No reader may end the process, and none may give other numbers than are there.
"""

import itertools
import shutil
import warnings

import h5py
import numpy as np
import pytest
from broken_csr import broken
from example_cells import make
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from kernomics.data import CellCollection, Cells
from kernomics.errors import KernomicsError

WAYS = st.sampled_from([{}, {"in_memory": True}, {"check": False}])
NUMBER = itertools.count()


def empty(shape, form="csr"):
    kind = sparse.csr_matrix if form == "csr" else sparse.csc_matrix
    return make(kind(shape, dtype=np.float32))


def cells_of(x):
    """Return the dense counts; None if there are none, and whether there is no doubt of them."""
    small = x.indices.dtype.kind == "f" and bool((np.abs(x.indices) < 2**31).all())
    if small and x.indices.ndim == 1:
        whole = x.indices.astype(np.int64)
        if (whole == x.indices).all():  # numbers of genes in a type of their own
            x.indices = whole
    dense = x.rows(ascending=False, spare=True)
    if dense is None or not np.isfinite(dense).all() or (dense < 0).any():
        return None, True
    if (dense > 2**24).any():  # not exact in float32, so refused where counts are checked
        return dense.astype(np.float32), False
    plain = x.indptr[0] == 0 and x.indptr[-1] == x.values.size == x.indices.size
    return dense, plain and x.indices.dtype.kind in "iu" and min(x.shape) > 0


def read(given, options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = CellCollection.from_anndata(given, empty_cells="keep", **options)
        return found.batch(np.arange(found.n_cells)).dense().numpy()


def assert_read_or_refused(given, x, options, transposed=False):
    dense, certain = cells_of(x)
    try:
        found = read(given, options)
    except KernomicsError:
        assert dense is None or not certain, "sound cells were refused"
        return
    assert dense is not None, "cells that are none were read"
    np.testing.assert_array_equal(found, dense.T if transposed else dense)


def put(group, x):
    """Replace the arrays of a matrix in an HDF5 file."""
    for name, values in (("indptr", x.indptr), ("indices", x.indices), ("data", x.values)):
        del group[name]
        group.create_dataset(name, data=values)


@settings(max_examples=400, deadline=None)
@given(broken(counts=True), WAYS, st.booleans())
def test_rows_in_memory(x, options, by_genes):
    shape = x.shape[::-1] if by_genes else x.shape
    try:
        adata = empty(shape, "csc" if by_genes else "csr")
    except ValueError:
        return
    matrix = adata.X
    matrix.indptr, matrix.indices, matrix.data = x.indptr, x.indices, x.values
    assert_read_or_refused(adata, x, options, by_genes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@settings(max_examples=150, deadline=None)
@given(broken(counts=True), WAYS, st.booleans())
def test_rows_in_an_h5ad_file(folder, x, options, by_genes):
    shape, form = (x.shape[::-1], "csc") if by_genes else (x.shape, "csr")
    kept = folder / f"{shape[0]}-{shape[1]}-{form}.h5ad"
    if not kept.exists():
        empty(shape, form).write_h5ad(kept)
    path = folder / f"{next(NUMBER)}.h5ad"
    shutil.copy(kept, path)
    with h5py.File(path, "a") as file:
        put(file["X"], x)
    assert_read_or_refused(path, x, options, by_genes)
    path.unlink()


@settings(max_examples=40, deadline=None)
@given(broken(counts=True), WAYS)
def test_rows_in_a_zarr_store(folder, x, options):
    zarr = pytest.importorskip("zarr")
    kept = folder / f"{x.shape[0]}-{x.shape[1]}.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not kept.exists():
            empty(x.shape).write_zarr(kept)
        path = folder / f"{next(NUMBER)}.zarr"
        shutil.copytree(kept, path)
        group = zarr.open_group(path, mode="a", use_consolidated=False)["X"]
        for name, values in (("indptr", x.indptr), ("indices", x.indices), ("data", x.values)):
            del group[name]
            group.create_array(
                name,
                data=np.ascontiguousarray(values),
                config={"write_empty_chunks": True},
            )
        zarr.consolidate_metadata(path)
    assert_read_or_refused(path, x, options)
    shutil.rmtree(path)


FORMS = ["csr", "csc", "coo", "bsr"]


@settings(max_examples=400, deadline=None)
@given(broken(counts=True), st.sampled_from(FORMS), st.data())
def test_matrices_that_were_changed_after_scipy_looked_at_them(x, form, data):
    dense = np.zeros(x.shape)
    matrix = sparse.csr_matrix(x.shape, dtype=np.float32)
    if form in ("csr", "csc"):
        if form == "csc":
            matrix = sparse.csc_matrix(x.shape[::-1], dtype=np.float32)
        matrix.indptr, matrix.indices, matrix.data = x.indptr, x.indices, x.values
        dense, _ = cells_of(x)
        dense = None if dense is None and not _negative(x) else x.rows(ascending=False, spare=True)
        dense = dense.T if form == "csc" and dense is not None else dense
    else:
        n, genes = max(x.shape[0], 1) * 2, max(x.shape[1], 1) * 2
        dense = np.random.default_rng(0).integers(0, 4, (n, genes)).astype(np.float32)
        matrix = sparse.coo_matrix(dense)
        if form == "bsr":
            matrix = sparse.bsr_matrix(dense, blocksize=(2, 2))
        name = data.draw(
            st.sampled_from(["row", "col"] if form == "coo" else ["indptr", "indices"])
        )
        array = getattr(matrix, name).copy()
        if array.size:
            place = data.draw(st.integers(0, array.size - 1))
            value = data.draw(st.sampled_from([-(2**31), -1, 2**20, 2**31 - 1]))
            array[place] = value
            setattr(matrix, name, array)
            dense = None
    try:
        found = Cells.from_scipy(matrix).dense().numpy()
    except KernomicsError:
        return
    assert dense is not None, "a matrix that is none was read"
    np.testing.assert_array_equal(found, dense)


def _negative(x):
    dense = x.rows(ascending=False, spare=True)
    return dense is not None and (dense < 0).any()
