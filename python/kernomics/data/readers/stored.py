"""Matrices inside an HDF5 file or a zarr store, of which only the rows asked for are read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from scipy import sparse

from kernomics._optional import require_extra
from kernomics._warnings import quietly
from kernomics.data.csr import (
    Rows,
    blocks,
    dense_rows,
    gather,
    require_inside,
    require_places,
    require_pointers,
    take,
)
from kernomics.data.readers.flat import SPARE, FlatArray, Mark, flat, mark_of, require_mark
from kernomics.data.readers.room import (
    free_memory,
    require_bytes,
    require_chunk,
    require_files,
    require_room,
    require_written,
)
from kernomics.data.readers.sources import (
    BLOCK_NONZEROS,
    CsrSource,
    MappedSource,
    Source,
    memory_source,
    require_numeric,
    row_blocks,
    warn_converted,
)
from kernomics.data.readers.transpose import transpose
from kernomics.errors import DataError

GAP_NONZEROS = 1 << 14
"""Entries that are read and dropped rather than passed over: another read takes as long."""


class H5Source:
    """A matrix of an h5ad file, of which only the rows asked for are ever read.

    The file is opened on first use and again after pickling, so that the source can be handed to
    worker processes. A CSR matrix's `indptr` is held in memory (8 bytes per cell).
    """

    on_disk = True
    _mark: Mark | None = None
    _opened: tuple[int, int] = (0, 0)
    _flat: tuple[FlatArray, FlatArray] | None = None

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self._file: Any = None
        node = self._node()
        self.sparse = hasattr(node, "keys")
        if not self.sparse:
            if node.ndim != 2:
                raise DataError(
                    f"'{path}' at {key} is damaged: it has shape {node.shape}, not cells by genes; "
                    "copy or load it again"
                )
            self.shape = (int(node.shape[0]), int(node.shape[1]))
            self.dtype: np.dtype[Any] = node.dtype
            require_chunk(path, node, key)
            return
        n_cells, n_genes = (int(n) for n in _stored_shape(node))
        self.shape = (n_cells, n_genes)
        self.dtype = node["data"].dtype
        self._indptr = _pointers(node, n_cells, path, key)
        self.n_stored = int(self._indptr[-1])
        _require_entries(node, self._indptr, f"'{path}' at {key}")
        found = flat(path, node["indices"]), flat(path, node["data"])
        self._flat = None if found[0] is None or found[1] is None else (found[0], found[1])

    def _node(self) -> Any:
        if self._file is None:
            before = self.path.stat()
            self._file = h5py.File(self.path, "r")
            self._mark = mark_of(before) if self._mark is None else self._mark
            self._opened = before.st_dev, before.st_ino
            self._require_unchanged()
        return self._file[self.key]

    def _require_unchanged(self) -> None:
        """Refuse a file that was written to, or has another in its place when it is opened again.

        What takes its place while it is open is no matter: it is read as it was.
        """
        try:
            now = self.path.stat()
        except FileNotFoundError:
            return
        if self._mark is not None and self._opened == (now.st_dev, now.st_ino):
            require_mark(self._mark, mark_of(now), self.path)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        for array in self._flat or ():
            array.close()
        if self._file is not None:
            self._file.close()
            self._file = None

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Cut all rows into ranges of a bounded number of entries."""
        return blocks(self._indptr, BLOCK_NONZEROS) if self.sparse else row_blocks(self.shape)

    def read(self, rows: npt.NDArray[np.int64]) -> Rows:
        """Read the named rows as stored, in the order given, each at most once from the file."""
        try:
            return self._read(rows)
        except OSError as error:
            raise DataError(
                f"'{self.path}' cannot be read at {self.key}: {error}; it is damaged: copy "
                "or download it again"
            ) from error

    def _read(self, rows: npt.NDArray[np.int64]) -> Rows:
        wanted, place = np.unique(rows, return_inverse=True)
        if self._flat is not None and rows.size:
            return self._read_flat(*self._flat, wanted, place)
        if self._file is not None:
            self._require_unchanged()
        node = self._node()
        if self.sparse:
            near = _with_gaps(self._indptr, wanted)
            found = gather(self._indptr, node["indices"], node["data"], near)
            if near.size > wanted.size:
                place = np.searchsorted(near, wanted)[place]
                wanted = near
        else:
            runs = np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1)
            parts = [node[run[0] : run[-1] + 1] for run in runs if run.size]
            found = dense_rows(np.concatenate(parts) if parts else np.empty((0, self.shape[1])))
        if place.size == wanted.size and bool(np.all(np.diff(place) == 1)):
            return found
        return gather(found.indptr, found.indices, found.values, place)

    def _read_flat(
        self,
        indices: FlatArray,
        values: FlatArray,
        wanted: npt.NDArray[np.int64],
        place: npt.NDArray[np.intp],
    ) -> Rows:
        """Read runs of rows in place, then take the rows from them in one sweep."""
        breaks = np.flatnonzero(np.diff(wanted) != 1) + 1
        first, last = np.append(0, breaks), np.append(breaks, wanted.size) - 1
        runs = self._indptr[wanted[first]], self._indptr[wanted[last] + 1]
        lengths = self._indptr[wanted + 1] - self._indptr[wanted]
        starts = np.cumsum(lengths) - lengths
        n = int(lengths.sum())
        rooms = [SPARE.take(n * array.dtype.itemsize) for array in (indices, values)]
        stored = indices.read(*runs, rooms[0]), values.read(*runs, rooms[1])
        found = take(starts[place], lengths[place], *stored, self.shape[1])
        if found is None:
            found = gather(np.append(starts, n), *stored, place)
        for room in rooms:
            SPARE.give(room)
        return found


def _with_gaps(indptr: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Add to ascending rows those between them that are fewer entries than a read is worth."""
    if rows.size < 2:
        return rows
    gaps = indptr[rows[1:]] - indptr[rows[:-1] + 1]
    parts = np.split(rows, np.flatnonzero(gaps > GAP_NONZEROS) + 1)
    return np.concatenate([np.arange(part[0], part[-1] + 1) for part in parts])


class ZarrSource(H5Source):
    """A matrix of a zarr store, of which only the chunks of the rows asked for are ever read."""

    def _require_unchanged(self) -> None:
        """Look at nothing: a store is many files; those read in place are looked at one by one."""

    def _node(self) -> Any:
        if self._file is None:
            self._file = open_zarr(self.path)
        return self._file[self.key]

    def close(self) -> None:
        """Let go of the store; the next read opens it again."""
        for array in self._flat or ():
            array.close()
        self._file = None

    def read(self, rows: npt.NDArray[np.int64]) -> Rows:
        """Read the named rows as stored, in the order given, each at most once from the store."""
        try:
            return self._read(rows)
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(
                f"the zarr store '{self.path}' cannot be read at {self.key}: {error}; it is "
                "damaged: copy or download it again"
            ) from error


def h5_source(path: Path, key: str, where: str, scratch: Path | None = None) -> Source:
    """Open a matrix of an h5ad file for reading by rows.

    A matrix stored by columns (CSC) cannot be read by rows: it is read whole and converted, and a
    warning says so; or it is written by rows into the directory `scratch`.
    """
    with h5py.File(path, "r") as file:
        found = _by_rows(file[key], where, scratch, path, key)
    return H5Source(path, key) if found is None else found


def zarr_source(path: Path, key: str, where: str, scratch: Path | None = None) -> Source:
    """Open a matrix of a zarr store for reading by rows, as `h5_source` does."""
    node = open_zarr(path)[key]
    _require_whole(node, path, key)
    found = _by_rows(node, where, scratch, path, key)
    return ZarrSource(path, key) if found is None else found


def open_zarr(path: Path) -> Any:
    """Open a zarr store for reading."""
    zarr = require_extra("zarr", purpose="reading a zarr store", extra="zarr")
    with quietly(UserWarning):
        return zarr.open_group(path, mode="r")


def _require_whole(node: Any, path: Path, key: str) -> None:
    """Refuse a matrix of which chunks are missing, which zarr takes for zeros."""
    if not hasattr(node, "keys"):  # a dense matrix: chunks of zeros may be left out
        return
    for name in ("data", "indices"):
        stored = node[name]
        require_files(path, stored, f"{key}/{name}")
        if not hasattr(stored, "nchunks_initialized"):
            continue
        if name == "indices" and min(_stored_shape(node)) == 1:  # all are 0
            continue
        lacking = stored.nchunks - stored.nchunks_initialized
        if lacking > 0:
            raise DataError(
                f"the zarr store '{path}' lacks {lacking:,} of {stored.nchunks:,} chunks of "
                f"{key}/{name}: copy or download it again"
            )


def _by_rows(node: Any, where: str, scratch: Path | None, path: Path, key: str) -> Source | None:
    """Return a source of what is stored by columns; None for what is read as it is."""
    encoding = node.attrs.get("encoding-type", node.attrs.get("h5sparse_format", "array"))
    if isinstance(encoding, bytes):
        encoding = encoding.decode()
    stored = node["data"] if hasattr(node, "keys") else node
    require_numeric(stored.dtype, where)
    if hasattr(node, "keys") and not ("csr" in encoding or "csc" in encoding):
        raise DataError(
            f"{where} is stored as {encoding!r}, which is no matrix that is known: store it as CSR"
        )
    if "csc" not in encoding:
        return None
    shape = tuple(int(n) for n in _stored_shape(node))
    columns = _pointers(node, shape[1], path, key)
    require_pointers(columns, int(node["indices"].shape[0]), int(stored.shape[0]), shape[1], where)
    require_bytes(path, 8 * (shape[0] + 1), f"{key} by cells")
    if scratch is not None:
        transpose(node["indptr"], node["indices"], node["data"], shape[0], scratch)
        return MappedSource(scratch, shape[1])
    entries, room = int(stored.shape[0]), free_memory()
    if room is not None and entries * COPY_BYTES > room:
        raise DataError(
            f"{where} is stored by genes (CSC), which cannot be read cell by cell, and a copy by "
            f"cells takes {entries * COPY_BYTES / 1e9:,.1f} GB of memory, of which "
            f"{room / 1e9:,.1f} GB are free; convert the file once: "
            f"{convert_command(path, key)}"
        )
    warn_converted("csc", where, convert_command(path, key))
    parts = (node["data"][:], node["indices"][:], columns)
    require_inside(parts[1], shape[0], where)
    return memory_source(sparse.csc_matrix(parts, shape=shape).tocsr(), where)


COPY_BYTES = 24
"""Memory that converting an entry takes at its height: it is held twice."""


def convert_command(path: Path, key: str) -> str:
    """Return the command that converts a matrix of a file, such as that at ``layers/counts``."""
    of_modality = re.match(r"mod/([^/]*)/", key)
    options = "" if of_modality is None else f" --modality {shlex.quote(of_modality[1])}"
    inner = key if of_modality is None else key[of_modality.end() :]
    if inner.startswith("layers/"):
        options += f" --layer {shlex.quote(inner.removeprefix('layers/'))}"
    elif inner == "raw/X":
        options += " --use-raw"
    return f"kernomics convert '{path}'{options} --out FILE.h5ad"


def stored_entries(source: Any) -> int:
    """Return about how many entries a source holds."""
    if isinstance(source, CsrSource):
        return int(source.rows.values.size)
    if isinstance(source, H5Source) and source.sparse:
        return int(source.n_stored)
    inner = getattr(source, "source", None)
    if inner is not None:
        return stored_entries(inner)
    parts = getattr(source, "parts", None)
    if parts is not None:
        return sum(stored_entries(getattr(part, "_source", part)) for part in parts)
    return int(-(-source.shape[0] * source.shape[1] // DENSE_SHARE))


DENSE_SHARE = 8
"""Of the entries of a dense matrix, one in so many is taken to be no zero."""


def _pointers(node: Any, n: int, path: Path, key: str) -> npt.NDArray[np.int64]:
    """Return the pointers of a compressed matrix of n rows, or columns."""
    stored = node["indptr"]
    if stored.shape != (n + 1,):
        size = stored.shape[0] if stored.ndim == 1 else stored.shape
        raise DataError(
            f"'{path}' at {key} is damaged: its {size:,} pointers do not fit {n:,} cells or genes; "
            "copy or load it again"
        )
    if stored.dtype.kind not in "iu":
        raise DataError(
            f"'{path}' at {key} is damaged: its pointers are {stored.dtype} and not integers; copy "
            "or load it again"
        )
    require_places(node["indices"].dtype, f"'{path}' at {key}")
    require_room(path, stored, f"{key}/indptr")
    for name in ("indptr", "indices", "data"):
        require_chunk(path, node[name], f"{key}/{name}")
        require_written(path, node[name], f"{key}/{name}")
    found: npt.NDArray[np.int64] = stored[:].astype(np.int64, copy=False)
    return found


def _stored_shape(node: Any) -> Any:
    """Return the shape of a sparse matrix in a file; before anndata 0.7 by another name."""
    return node.attrs["shape"] if "shape" in node.attrs else node.attrs["h5sparse_shape"]


def _require_entries(node: Any, indptr: npt.NDArray[np.int64], where: str) -> None:
    """Refuse rows that lie outside what is stored."""
    for name in ("indices", "data"):
        if node[name].ndim != 1:
            raise DataError(
                f"{where} is damaged: its {name} have shape {node[name].shape} and not one "
                "dimension; copy or load it again"
            )
    n_indices, n_values = int(node["indices"].shape[0]), int(node["data"].shape[0])
    require_pointers(indptr, n_indices, n_values, int(_stored_shape(node)[0]), where)
    if n_indices != n_values:
        raise DataError(
            f"{where} is damaged: it has {n_values:,} values and {n_indices:,} indices; copy or "
            "load it again"
        )
