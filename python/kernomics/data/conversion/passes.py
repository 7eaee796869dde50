"""The passes of a conversion: read and scatter, gather and write, read back.

A shuffle of more cells than memory holds takes two passes. The first reads the cells in their order
and appends each to one of many files, its bucket, by its place in the new order. The second reads a
bucket, which fits in memory, puts its cells in order and lays them into the output. After every few
hundred megabytes a note is taken of how far this is, from which a killed conversion goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kernomics.data.cell_digest import CellDigest
from kernomics.data.collection import CellCollection
from kernomics.data.conversion import targets
from kernomics.data.conversion.work import Work
from kernomics.data.csr import Rows, canonical, gather
from kernomics.data.readers.inputs import open_input
from kernomics.errors import DataError

Places = npt.NDArray[np.int64]

BYTES_PER_ENTRY = targets.INDEX.itemsize + targets.VALUE.itemsize


@dataclass
class Layout:
    """Which cells go where.

    Attributes
    ----------
    order
        int64 [n], the row of the source at each place; None where it stays.
    parts
        Where the output's files begin and end, [P + 1].
    buckets
        Where the buckets begin and end, [B + 1]; each lies within a file.
    """

    order: Places | None
    parts: Places
    buckets: Places
    place: Places | None = field(init=False)

    def __post_init__(self) -> None:
        self.place = None
        if self.order is not None:
            self.place = np.empty_like(self.order)
            self.place[self.order] = np.arange(self.order.size)

    def rows(self, first: int, last: int) -> Places:
        """Return the rows of the source at places first … last − 1."""
        return np.arange(first, last) if self.order is None else self.order[first:last]


def layout(n_cells: int, n_parts: int, n_buckets: int, order: Places | None) -> Layout:
    """Cut the places of all cells into files, and each into buckets."""
    parts = np.linspace(0, n_cells, n_parts + 1).round().astype(np.int64)
    in_each = -(-n_buckets // n_parts)
    edges = [
        np.linspace(first, last, in_each + 1).round().astype(np.int64)[:-1]
        for first, last in zip(parts[:-1].tolist(), parts[1:].tolist(), strict=True)
    ]
    return Layout(order, parts, np.unique(np.concatenate([*edges, parts[-1:]])))


def rows_of(cells: CellCollection, wanted: Places) -> Rows:
    """Read some cells as canonical rows."""
    found = cells.batch(wanted)
    return Rows(found.indptr.numpy(), found.indices.numpy(), found.values.numpy())


# -- the first pass --------------------------------------------------------------------------------


class Scatter:
    """Reads all cells once: their lengths, totals and digest; and into buckets, if shuffled."""

    def __init__(self, work: Work, cells: CellCollection, where: Layout, room: int) -> None:
        self.work, self.cells, self.where, self.room = work, cells, where, room
        self.lengths = work.path / "lengths.bin"
        self.totals = work.path / "totals.bin"
        self.pending: dict[int, list[bytes]] = {}
        self.held = 0

    def bucket(self, i: int) -> Path:
        """Return the file of a bucket."""
        return self.work.path / f"bucket-{i:06d}.bin"

    def run(self, bar: Any) -> tuple[Places, npt.NDArray[np.float32], str]:
        """Return the lengths and totals of all rows in the source's order, and the digest."""
        noted = self.work.read("scatter")
        done = int(noted.get("cells", 0))
        digest = CellDigest(self.cells.genes)
        digest.n_cells, digest.total = done, int(noted.get("total", "0"))
        sizes: list[int] = noted.get("sizes", [0] * (self.where.buckets.size - 1))
        if done < self.cells.n_cells:
            self._cut(sizes)
            bar.update(done)
            for start, stop in self._blocks(done):
                rows = rows_of(self.cells, np.arange(start, stop))
                digest.add(rows, self.cells.cell_names[start:stop])
                with self.lengths.open("r+b") as file:
                    file.seek(8 * start)
                    file.write(np.diff(rows.indptr).astype("<i8").tobytes())
                with self.totals.open("r+b") as file:
                    file.seek(4 * start)
                    file.write(rows.totals().astype("<f4").tobytes())
                if self.where.place is not None:
                    self._keep(rows, self.where.place[start:stop])
                self.held += BYTES_PER_ENTRY * rows.values.size
                bar.update(stop - start)
                if self.held >= self.room or stop == self.cells.n_cells:
                    self._flush(sizes)
                    note = {"cells": stop, "total": str(digest.total), "sizes": sizes}
                    self.work.write("scatter", note)
        lengths = np.fromfile(self.lengths, "<i8").astype(np.int64)
        return lengths, np.fromfile(self.totals, "<f4").astype(np.float32), str(digest)

    def _blocks(self, done: int) -> Iterator[tuple[int, int]]:
        """Cut the rows from `done` on as the source is best read."""
        for start, stop in self.cells.blocks():
            if stop > done:
                yield max(start, done), stop

    def _cut(self, sizes: list[int]) -> None:
        """Forget what was appended after the last note."""
        for path, size in ((self.lengths, 8), (self.totals, 4)):
            path.touch()
            os.truncate(path, size * self.cells.n_cells)
        if self.where.place is not None:
            for i, size in enumerate(sizes):
                self.bucket(i).touch()
                os.truncate(self.bucket(i), size)

    def _keep(self, rows: Rows, places: Places) -> None:
        order = np.argsort(places)
        sorted_rows, places = gather(rows.indptr, rows.indices, rows.values, order), places[order]
        bucket = np.searchsorted(self.where.buckets, places, side="right") - 1
        for i in np.unique(bucket).tolist():
            first, last = np.searchsorted(bucket, [i, i + 1]).tolist()
            a, b = sorted_rows.indptr[first], sorted_rows.indptr[last]
            arrays = (
                np.array([last - first, b - a], "<i8"),
                places[first:last].astype("<i8"),
                np.diff(sorted_rows.indptr[first : last + 1]).astype("<i8"),
                sorted_rows.indices[a:b].astype(targets.INDEX, copy=False),
                sorted_rows.values[a:b].astype(targets.VALUE, copy=False),
            )
            self.pending.setdefault(i, []).extend(array.tobytes() for array in arrays)

    def _flush(self, sizes: list[int]) -> None:
        for i, pieces in sorted(self.pending.items()):
            with self.bucket(i).open("ab") as file:
                file.writelines(pieces)
                file.flush()
                os.fdatasync(file.fileno())
            sizes[i] += sum(map(len, pieces))
        for path in (self.lengths, self.totals):
            with path.open("rb") as file:
                os.fdatasync(file.fileno())
        self.pending.clear()
        self.held = 0


def read_bucket(path: Path) -> tuple[Rows, Places]:
    """Return the rows of a bucket and their places, in the order of these."""
    data, at = np.fromfile(path, np.uint8), 0

    def take(n: int, dtype: Any) -> npt.NDArray[Any]:
        nonlocal at
        size = n * np.dtype(dtype).itemsize
        at += size
        return data[at - size : at].view(dtype)

    places, lengths, indices, values = [], [], [], []
    while at < data.size:
        n, nnz = take(2, "<i8").tolist()
        places.append(take(n, "<i8"))
        lengths.append(take(n, "<i8"))
        indices.append(take(nnz, targets.INDEX))
        values.append(take(nnz, targets.VALUE))
    if not places:
        return no_rows(), np.empty(0, np.int64)
    indptr = np.concatenate(([0], np.cumsum(np.concatenate(lengths))))
    place = np.concatenate(places)
    order = np.argsort(place)
    rows = gather(indptr, np.concatenate(indices), np.concatenate(values), order)
    return rows, place[order]


def no_rows() -> Rows:
    """Return no cells."""
    return Rows(np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))


# -- the second pass -------------------------------------------------------------------------------


class Gather:
    """Writes the files of the output, a bucket at a time."""

    def __init__(
        self, work: Work, cells: CellCollection, scatter: Scatter, form: targets.Format
    ) -> None:
        self.work, self.cells, self.scatter, self.form = work, cells, scatter, form
        self.where = scatter.where

    def run(self, files: list[Path], part_of: Any, bar: Any) -> None:
        """Write the files; `part_of(first, last)` gives what each holds beside its counts."""
        noted = self.work.read("gather")
        created, done = int(noted.get("created", 0)), int(noted.get("buckets", 0))
        edges = self.where.buckets.tolist()
        bar.update(edges[done])
        for i, file in enumerate(files):
            first, last = self.where.parts[i : i + 2].tolist()
            if edges[done] >= last > first:
                continue
            part: targets.Part = part_of(first, last)
            if i >= created:
                targets.remove(file)
                targets.create(file, self.form, part)
                created = i + 1
                self.work.write("gather", {"created": created, "buckets": done})
            indices, values = targets.arrays(file, self.form)
            while done < len(edges) - 1 and edges[done] < last:
                start, stop = edges[done : done + 2]
                rows, places = self._bucket(done, start, stop)
                if not np.array_equal(places, np.arange(start, stop)):
                    raise DataError(
                        f"{self.scatter.bucket(done)} holds other cells than it should: something "
                        "else wrote to it; begin anew with overwrite=True"
                    )
                entry = int(part.indptr[start - first])
                indices.write(entry, rows.indices)
                values.write(entry, rows.values)
                done += 1
                self.work.write("gather", {"created": created, "buckets": done})
                bar.update(stop - start)

    def _bucket(self, i: int, start: int, stop: int) -> tuple[Rows, Places]:
        if self.where.order is None:
            return rows_of(self.cells, np.arange(start, stop)), np.arange(start, stop)
        return read_bucket(self.scatter.bucket(i))


# -- the third pass --------------------------------------------------------------------------------


def read_back(files: list[Path], digest: str, work: Work, bar: Any) -> None:
    """Read what was written, and refuse it if a cell is not there exactly once as it was."""
    noted: dict[str, Any] = work.read("check")
    found: CellDigest | None = None
    for i, file in enumerate(files):
        given = open_input(file, all_features=True)
        if found is None:
            found = CellDigest(given.genes)
            found.n_cells, found.total = int(noted.get("cells", 0)), int(noted.get("total", "0"))
            bar.update(found.n_cells)
        if i < int(noted.get("files", 0)):
            continue
        for start, stop in given.source.blocks():
            raw = given.source.read(np.arange(start, stop, dtype=np.int64))
            rows = canonical(raw, len(given.genes), start, file.name)
            found.add(rows, given.cell_names[start:stop])
            bar.update(stop - start)
        work.write("check", {"files": i + 1, "cells": found.n_cells, "total": str(found.total)})
    if str(found) != digest:
        raise DataError(
            f"what was written is not what was read: the digest of the cells is {found} instead "
            f"of {digest}; the disk or the memory is at fault, or the source changed meanwhile: "
            "begin anew with overwrite=True"
        )
