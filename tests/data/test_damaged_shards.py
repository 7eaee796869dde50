"""A directory of converted cells that was damaged is refused, whichever of its bytes it was."""

import os
import random
import shutil
import warnings

import h5py
import numpy as np
import pytest
from example_cells import csr, make, random_counts

from kernomics.data import CellCollection, convert
from kernomics.errors import DataError

COUNTS = random_counts(60, 20, 3)
COUNTS[:, 0] += 1
ALL = np.arange(60)
SEED = int(os.environ.get("KERNOMICS_TEST_SEED", random.SystemRandom().randrange(10**6)))


@pytest.fixture(scope="module", params=["h5ad", "zarr"])
def whole(request, tmp_path_factory):
    if request.param == "zarr":
        pytest.importorskip("zarr")
    path = tmp_path_factory.mktemp("whole") / "cells"
    adata = make(csr(COUNTS), kind=["a", "b"] * 30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        convert(adata, path, shards=2, format=request.param, progress=False)
    return path


@pytest.fixture
def cells(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "cells")


def read(path):
    found = CellCollection.from_anndata(path)
    return found.cell_names.tolist(), found.batch(ALL).dense().numpy()


def files_of(path):
    return sorted(file for file in path.rglob("*") if file.is_file())


def assert_refused_or_unharmed(path, whole):
    """Whatever was damaged: a `DataError`, or the cells as they were."""
    try:
        names, counts = read(path)
    except DataError as error:
        said = str(error)
    else:
        said = ""
    if said:
        named = str(path) in said or path.name in said
        assert named or "repeat an earlier one" in said, said  # a part that is listed twice
        return True
    expected = read(whole)
    assert names == expected[0]
    np.testing.assert_array_equal(counts, expected[1])
    return False


@pytest.mark.parametrize("value", [3.0, 0.0])
def test_one_count_that_was_changed_is_found_by_the_digest(cells, value):
    part = cells / "part-00001.h5ad"
    if part.exists():
        with h5py.File(part, "a") as file:
            assert file["X/data"][5] != value
            file["X/data"][5] = value
    else:
        import zarr

        group = zarr.open_group(cells / "part-00001.zarr", mode="a")
        values = group["X/data"][:]
        values[5] = value
        group["X/data"][:] = values
    with pytest.raises(DataError, match=r"is damaged: its cells have the digest 60-"):
        CellCollection.from_anndata(cells)


def test_two_cells_whose_names_were_exchanged_are_found(cells):
    part = cells / "part-00000.h5ad"
    if not part.exists():
        pytest.skip("of HDF5")
    with h5py.File(part, "a") as file:
        names = file["obs/_index"][:]
        file["obs/_index"][:] = names[[1, 0, *range(2, len(names))]]
    with pytest.raises(DataError, match="is damaged: its cells have the digest"):
        CellCollection.from_anndata(cells)


def test_a_file_that_is_missing_or_cut_is_refused_or_not_needed(cells, whole):
    refused = 0
    for file in files_of(cells):
        data = file.read_bytes()
        file.unlink()
        refused += assert_refused_or_unharmed(cells, whole)
        if len(data) > 1:
            file.write_bytes(data[: len(data) // 2])
            refused += assert_refused_or_unharmed(cells, whole)
        file.write_bytes(data)
    assert refused >= 4
    assert not assert_refused_or_unharmed(cells, whole)


def places_of(file):
    """Where bits are flipped: HDF5's own tables are left out, damage to which the library may
    answer with a loop that never ends, out of the reach of any signal."""
    if file.suffix != ".h5ad":
        return range(file.stat().st_size)
    with h5py.File(file) as stored:
        arrays = [stored["X"][name] for name in ("data", "indices", "indptr")]
        starts = [(array.id.get_offset(), array.id.get_storage_size()) for array in arrays]
    return [place for start, size in starts for place in range(start, start + size)]


def test_any_flipped_bit_is_refused_or_harmless(cells, whole):
    dice = random.Random(SEED)
    print(f"seed {SEED}")
    files = {file: places_of(file) for file in files_of(cells) if file.stat().st_size}
    refused = 0
    for _ in range(60):
        file = dice.choice(list(files))
        data = bytearray(file.read_bytes())
        place, bit = dice.choice(files[file]), dice.randrange(8)
        print(file.name, place, bit)
        flipped = bytearray(data)
        flipped[place] ^= 1 << bit
        file.write_bytes(flipped)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            refused += assert_refused_or_unharmed(cells, whole)
        file.write_bytes(data)
    assert refused
