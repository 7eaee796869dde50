"""Files whose tables are written by anndata, and whose counts are then laid into them in place.

The size of every array is known before the first count is written. So a file is made whole, with
room for its counts, and closed; the counts go to their places with plain writes, which may be
repeated: a file that a kill left half filled is still a valid file, and is filled from where the
notes say. Nothing in it depends on how often that happened.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from kernomics._optional import require_extra
from kernomics._warnings import quietly
from kernomics.data.readers.flat import crc32c
from kernomics.errors import DataError

Format: TypeAlias = Literal["h5ad", "zarr"]

INDEX, VALUE = np.dtype("<i4"), np.dtype("<f4")
CHUNK = 1 << 16
"""Entries in a chunk of a zarr array, the least that is read at once: about 64 cells."""
CHUNKS_IN_SHARD = 1 << 8
"""Chunks in a file of a zarr array: 64 MB."""


@dataclass(frozen=True)
class Part:
    """What one file is to hold beside its counts."""

    obs: pd.DataFrame
    var: pd.DataFrame
    uns: dict[str, Any]
    indptr: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Extent:
    """Where entries `first` … `last` − 1 of an array lie."""

    path: Path
    offset: int
    first: int
    last: int


class Array:
    """An array of numbers of one kind in one or several files, written in place."""

    def __init__(self, extents: list[Extent], dtype: np.dtype[Any]) -> None:
        self.extents, self.dtype = extents, dtype
        self.firsts = np.array([extent.first for extent in extents], np.int64)

    def write(self, first: int, values: npt.NDArray[Any]) -> None:
        """Put values at entry `first` and after, and flush them."""
        data = np.ascontiguousarray(values, dtype=self.dtype)
        i, last = int(np.searchsorted(self.firsts, first, side="right")) - 1, first + data.size
        while first < last:
            extent = self.extents[i]
            n = min(last, extent.last) - first
            place = extent.offset + (first - extent.first) * self.dtype.itemsize
            write_at(extent.path, place, data[data.size - (last - first) :][:n])
            first, i = first + n, i + 1


def write_at(path: Path, place: int, values: npt.NDArray[Any]) -> None:
    """Write an array into a file at a place, and flush it."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        left = values.data.cast("B") if values.size else memoryview(b"")
        while left:
            n = os.pwrite(descriptor, left[: 1 << 30], place)
            left, place = left[n:], place + n
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def reserve(path: Path, size: int) -> None:
    """Take the room of a file on the disk, so that it is missed before it is needed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if size:
            os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


def create(path: Path, form: Format, part: Part) -> None:
    """Make a file with all but its counts."""
    if form == "h5ad":
        _create_h5ad(path, part)
    else:
        _create_zarr(path, part)


def arrays(path: Path, form: Format) -> tuple[Array, Array]:
    """Return the genes and the values of a file that `create` made."""
    return _arrays_h5ad(path) if form == "h5ad" else _arrays_zarr(path)


def _write_tables(root: Any, part: Part) -> None:
    from anndata.io import write_elem

    root.attrs["encoding-type"], root.attrs["encoding-version"] = "anndata", "0.1.0"
    for name in ("obs", "var"):
        table = getattr(part, name)
        try:
            write_elem(root, name, table)
        except (TypeError, ValueError, NotImplementedError, RuntimeError) as error:
            raise DataError(
                f"the table {name} cannot be written: {error}; drop the column, or convert it "
                "with .astype(str)"
            ) from error
    write_elem(root, "uns", part.uns)
    for name in ("layers", "obsm", "varm", "obsp", "varp"):
        write_elem(root, name, {})
    matrix = root.create_group("X")
    matrix.attrs["encoding-type"], matrix.attrs["encoding-version"] = "csr_matrix", "0.1.0"
    matrix.attrs["shape"] = (
        np.array([len(part.obs), len(part.var)], np.int64)
        if not hasattr(root, "metadata")
        else [len(part.obs), len(part.var)]
    )


# -- HDF5 ------------------------------------------------------------------------------------------


def _create_h5ad(path: Path, part: Part) -> None:
    import h5py

    n = int(part.indptr[-1])
    with h5py.File(path, "w") as file:
        _write_tables(file, part)
        file["X"].create_dataset("indptr", data=part.indptr)
        for name, dtype in (("indices", INDEX), ("data", VALUE)):
            room = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            room.set_layout(h5py.h5d.CONTIGUOUS)
            room.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            room.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            room.set_obj_track_times(False)
            kind = h5py.h5t.py_create(dtype)
            space = h5py.h5s.create_simple((n,))
            h5py.h5d.create(file["X"].id, name.encode(), kind, space, dcpl=room)
    reserve(path, path.stat().st_size)


def _arrays_h5ad(path: Path) -> tuple[Array, Array]:
    import h5py

    with h5py.File(path, "r") as file:
        found = []
        for name, dtype in (("indices", INDEX), ("data", VALUE)):
            stored = file["X"][name]
            found.append(Array([Extent(path, stored.id.get_offset() or 0, 0, len(stored))], dtype))
    return found[0], found[1]


# -- zarr ------------------------------------------------------------------------------------------


def _create_zarr(path: Path, part: Part) -> None:
    zarr = require_extra("zarr", purpose="writing a zarr store", extra="zarr")
    n = int(part.indptr[-1])
    with quietly(UserWarning):
        root = zarr.open_group(path, mode="w", zarr_format=3)
        _write_tables(root, part)
        matrix = root["X"]
        matrix.create_array("indptr", data=part.indptr)
        for name, dtype in (("indices", INDEX), ("data", VALUE)):
            matrix.create_array(
                name,
                shape=(n,),
                dtype=dtype,
                chunks=(CHUNK,),
                shards=(CHUNK * CHUNKS_IN_SHARD,),
                compressors=None,
                filters=None,
            )
            for extent in _extents(path / "X" / name, n, dtype):
                extent.path.parent.mkdir(parents=True, exist_ok=True)
                _create_shard(extent.path, dtype)


def _create_shard(path: Path, dtype: np.dtype[Any]) -> None:
    """Make a shard of chunks that lie in their order, uncompressed, with its index behind them."""
    size = CHUNK * dtype.itemsize
    places = np.arange(CHUNKS_IN_SHARD, dtype="<u8") * size
    index = np.stack((places, np.full_like(places, size)), axis=1).tobytes()
    check = np.frombuffer(index + crc32c(index).to_bytes(4, "little"), np.uint8)
    reserve(path, CHUNKS_IN_SHARD * size + check.size)
    write_at(path, CHUNKS_IN_SHARD * size, check)


def _extents(path: Path, n: int, dtype: np.dtype[Any]) -> list[Extent]:
    step = CHUNK * CHUNKS_IN_SHARD
    return [
        Extent(path / "c" / str(i), 0, first, min(first + step, n))
        for i, first in enumerate(range(0, n, step))
    ]


def _arrays_zarr(path: Path) -> tuple[Array, Array]:
    zarr = require_extra("zarr", purpose="writing a zarr store", extra="zarr")
    matrix = zarr.open_group(path, mode="r")["X"]
    n = int(matrix["data"].shape[0])
    indices, values = (
        Array(_extents(path / "X" / name, n, dtype), dtype)
        for name, dtype in (("indices", INDEX), ("data", VALUE))
    )
    return indices, values


def remove(path: Path) -> None:
    """Remove a file or a store that was not finished."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
