"""A sparse matrix stored by columns, written by rows into flat files, in bounded memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kernomics.errors import DataError

ENTRIES = 1 << 22
"""Entries handled at a time: some 50 MB of arrays, a few of them at once."""


def transpose(indptr: Any, indices: Any, values: Any, n_rows: int, folder: Path) -> None:
    """Write a CSC matrix of `n_rows` as CSR: ``indptr.npy``, ``indices.npy`` and ``values.npy``.

    The entries are read twice, in their order: once to count each row's, once to append each to the
    file of its band of rows. A band fits in memory, where its entries are sorted by row. A
    directory that is there and whole is kept.
    """
    if (folder / "done").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lengths = np.zeros(n_rows, np.int64)
    for first, last in _pieces(int(indices.shape[0])):
        found = np.asarray(indices[first:last])
        if found.size and (found.min() < 0 or found.max() >= n_rows):
            raise DataError(
                f"the matrix is damaged: it names row {int(found.max())} (and {int(found.min())}), "
                f"and has {n_rows:,}; load it again"
            )
        lengths += np.bincount(found, minlength=n_rows)
    rows = np.concatenate(([0], np.cumsum(lengths)))
    np.save(folder / "indptr.npy", rows)
    bands = _bands(rows)
    kind = np.dtype([("row", "<i8"), ("column", "<i4"), ("value", values.dtype)])
    columns = np.asarray(indptr[:]).astype(np.int64)
    for first, last in _pieces(int(indices.shape[0])):
        entries = np.empty(last - first, kind)
        entries["row"] = indices[first:last]
        entries["value"] = values[first:last]
        entries["column"] = np.searchsorted(columns, np.arange(first, last), side="right") - 1
        band = np.searchsorted(bands, entries["row"], side="right") - 1
        order = np.argsort(band, kind="stable")
        edges = np.searchsorted(band[order], np.arange(bands.size))
        entries = entries[order]
        for i in np.flatnonzero(np.diff(edges)).tolist():
            with _band(folder, i).open("ab") as file:
                file.write(entries[edges[i] : edges[i + 1]].tobytes())
    _sort_bands(folder, kind, bands, rows)
    (folder / "done").touch()


def _sort_bands(
    folder: Path, kind: np.dtype[Any], bands: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> None:
    """Put the entries of each band in order, into the arrays of the whole."""
    size = (max(int(rows[-1]), 0),)
    if not size[0]:
        np.save(folder / "indices.npy", np.empty(0, np.int32))
        np.save(folder / "values.npy", np.empty(0, kind["value"]))
        return
    out = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, size)
        for name, dtype in (("indices", np.dtype("<i4")), ("values", kind["value"]))
    }
    for i, (first, last) in enumerate(zip(bands[:-1].tolist(), bands[1:].tolist(), strict=True)):
        if rows[last] > rows[first]:
            entries = np.fromfile(_band(folder, i), kind)
            order = np.argsort(entries["row"], kind="stable")
            out["indices"][rows[first] : rows[last]] = entries["column"][order]
            out["values"][rows[first] : rows[last]] = entries["value"][order]
            _band(folder, i).unlink()
    for array in out.values():
        array.flush()


def _pieces(n: int) -> Iterator[tuple[int, int]]:
    for first in range(0, n, ENTRIES):
        yield first, min(first + ENTRIES, n)


def _bands(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Cut the rows into bands of about `ENTRIES` entries, at least a row each."""
    goals = np.arange(0, int(rows[-1]) + 1, ENTRIES)
    return np.unique(np.append(np.searchsorted(rows, goals[1:]), [0, rows.size - 1]))


def _band(folder: Path, i: int) -> Path:
    return folder / f"band-{i:06d}"
