"""A file that is changed while it is read is told, or read as it was; and faults far into one."""

import os
import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest
from example_cells import csr, make, random_counts

from kernomics.data import CellCollection
from kernomics.errors import DataError

COUNTS = random_counts(60, 20, 3)
COUNTS[:, 0] += 1
ALL = np.arange(60)
STATES = {
    "read through": lambda cells: cells,
    "handed to a worker": lambda cells: pickle.loads(pickle.dumps(cells)),
}


def counts_of(cells):
    return cells.batch(ALL).dense().numpy()


@pytest.fixture(params=[None, "gzip"])
def path(request, tmp_path):
    """Read in place without compression, and by the library with it."""
    make(csr(COUNTS)).write_h5ad(tmp_path / "a.h5ad", compression=request.param)
    os.utime(tmp_path / "a.h5ad", (1, 1))  # written long ago, whatever the clock's steps
    return tmp_path / "a.h5ad"


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("check", [True, False])
def test_a_file_that_another_process_writes_to_is_told(path, state, check):
    cells = CellCollection.from_anndata(path, check=check)
    np.testing.assert_array_equal(counts_of(cells), COUNTS)
    cells = STATES[state](cells)
    change = f"import h5py\nwith h5py.File({str(path)!r}, 'a') as file: file['X/data'][:] = 9"
    unlocked = {**os.environ, "HDF5_USE_FILE_LOCKING": "FALSE"}
    subprocess.run([sys.executable, "-c", change], env=unlocked, check=True, timeout=60)
    with pytest.raises(DataError, match=r"a\.h5ad was replaced or changed"):
        counts_of(cells)


@pytest.mark.parametrize("state", STATES)
def test_a_file_in_whose_place_is_another_is_read_as_it_was_or_told(path, state):
    cells = STATES[state](CellCollection.from_anndata(path))
    other = path.with_name("b.h5ad")
    make(csr(np.where(COUNTS > 0, 9, 0).astype(np.float32))).write_h5ad(other)
    other.replace(path)
    if state == "read through":
        np.testing.assert_array_equal(counts_of(cells), COUNTS)
        return
    with pytest.raises(DataError, match=r"a\.h5ad was replaced or changed"):
        counts_of(cells)


def test_a_file_that_was_removed_is_read_as_it_was_or_told(path):
    cells = CellCollection.from_anndata(path)
    kept = pickle.dumps(cells)
    path.unlink()
    np.testing.assert_array_equal(counts_of(cells), COUNTS)
    with pytest.raises(DataError, match=r"a\.h5ad"):
        counts_of(pickle.loads(kept))


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -3.0])
def test_a_number_that_is_no_count_far_into_a_file_is_named_with_its_cell(
    tmp_path, monkeypatch, compression, value
):
    monkeypatch.setattr("kernomics.data.readers.stored.BLOCK_NONZEROS", 1000)
    counts = random_counts(3000, 20)
    counts[:, 0] += 1
    make(csr(counts)).write_h5ad(tmp_path / "a.h5ad", compression=compression)
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        place = int(file["X/indptr"][2711]) + 1  # its second non-zero
        gene = int(file["X/indices"][place])
        file["X/data"][place] = value
    for in_memory in (False, True):
        with pytest.raises(DataError, match=rf"at cell 'cell2711', gene 'gene{gene}'"):
            CellCollection.from_anndata(tmp_path / "a.h5ad", in_memory=in_memory)
    unchecked = CellCollection.from_anndata(tmp_path / "a.h5ad", check=False)
    unchecked.batch(np.arange(2711))
    with pytest.raises(DataError, match="at cell 'cell2711'"):
        unchecked.batch(np.arange(2600, 2800))
