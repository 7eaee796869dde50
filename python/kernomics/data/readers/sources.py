"""Where counts come from: what a source is, and matrices in memory or mapped into it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from kernomics._warnings import warn
from kernomics.data.csr import (
    Rows,
    blocks,
    dense_rows,
    gather,
    rows_of_sparse,
    take,
)
from kernomics.errors import DataError

BLOCK_NONZEROS = 1 << 22
"""Non-zeros, or entries of a dense matrix, read in one go: some 50 MB."""


class Source(Protocol):
    """Counts [n_cells, n_genes] that can be read by rows."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n_cells, n_genes)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the stored values."""

    @property
    def on_disk(self) -> bool:
        """Whether rows are read from a file, as they are stored there."""

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Cut all rows into ranges that fit in memory with ease."""

    def read(self, rows: npt.NDArray[np.int64]) -> Rows:
        """Copy the named rows as stored, in the order given."""


class CsrSource:
    """A CSR matrix in memory, which is read, never written to."""

    on_disk = False

    def __init__(self, rows: Rows, n_genes: int) -> None:
        self.rows = Rows(rows.indptr.astype(np.int64, copy=False), rows.indices, rows.values)
        self.shape = (len(rows), n_genes)
        self.dtype: np.dtype[Any] = rows.values.dtype

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Cut all rows into ranges of a bounded number of non-zeros."""
        return blocks(self.rows.indptr, BLOCK_NONZEROS)

    def read(self, rows: npt.NDArray[np.int64]) -> Rows:
        """Copy the named rows as stored, in the order given."""
        indptr, indices, values = self.rows.indptr, self.rows.indices, self.rows.values
        found = take(indptr[rows], indptr[rows + 1] - indptr[rows], indices, values, self.shape[1])
        return gather(indptr, indices, values, rows) if found is None else found


class DenseSource:
    """A dense matrix in memory, of any numeric type; it is read, never written to."""

    on_disk = False

    def __init__(self, matrix: npt.NDArray[Any]) -> None:
        self.matrix = matrix
        self.shape = (matrix.shape[0], matrix.shape[1])
        self.dtype: np.dtype[Any] = matrix.dtype

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Cut all rows into ranges of a bounded number of entries."""
        return row_blocks(self.shape)

    def read(self, rows: npt.NDArray[np.int64]) -> Rows:
        """Copy the non-zeros of the named rows, in the order given."""
        return dense_rows(self.matrix[rows])


class MappedSource(CsrSource):
    """A CSR matrix in flat files, mapped into memory."""

    on_disk = True

    def __init__(self, folder: Path, n_genes: int) -> None:
        indptr, indices, values = (
            np.load(folder / f"{name}.npy", mmap_mode=None if name == "indptr" else "r")
            for name in ("indptr", "indices", "values")
        )
        super().__init__(Rows(indptr, indices, values), n_genes)


class StackedSource:
    """Sources of the same genes, one after the other."""

    on_disk = True

    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts = list(parts)
        self.starts = np.cumsum([0, *(part.shape[0] for part in parts)])
        self.shape = (int(self.starts[-1]), parts[0].shape[1])
        self.dtype: np.dtype[Any] = np.result_type(*(part.dtype for part in parts))

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Cut all rows into ranges of a bounded number of entries, none over two parts."""
        for part, start in zip(self.parts, self.starts[:-1].tolist(), strict=True):
            for first, last in part.blocks():
                yield start + first, start + last

    def read(self, rows: npt.NDArray[np.int64]) -> Rows:
        """Copy the named rows as stored, in the order given."""
        part_of = np.searchsorted(self.starts, rows, side="right") - 1
        used = np.unique(part_of)
        if used.size == 1:
            only: Source = self.parts[used[0]]
            return only.read(rows - self.starts[used[0]])
        order = np.argsort(part_of, kind="stable")
        found = [self.parts[i].read(rows[part_of == i] - self.starts[i]) for i in used]
        lengths = [np.diff(part.indptr) for part in found]
        if not found:
            return self.parts[0].read(rows)
        indptr = np.concatenate(([0], np.cumsum(np.concatenate(lengths))))
        indices = np.concatenate([part.indices for part in found])
        values = np.concatenate([part.values for part in found])
        return gather(indptr, indices, values, np.argsort(order))


class DaskSource:
    """A dask array of dense or scipy sparse blocks, computed block by block."""

    on_disk = False

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix
        self.shape = (int(matrix.shape[0]), int(matrix.shape[1]))
        self.dtype: np.dtype[Any] = np.dtype(matrix.dtype)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Cut all rows where the array's own blocks end."""
        start = 0
        for n in self.matrix.chunks[0]:
            if n:
                yield start, start + int(n)
            start += int(n)

    def read(self, rows: npt.NDArray[np.int64]) -> Rows:
        """Compute the named rows, in the order given."""
        straight = rows.size > 0 and bool(np.all(np.diff(rows) == 1))
        wanted = slice(int(rows[0]), int(rows[-1]) + 1) if straight else rows
        block = self.matrix[wanted].compute()
        if sparse.issparse(block):
            return rows_of_sparse(block)
        return dense_rows(np.asarray(block))


class SubsetSource:
    """Some rows and columns of another source, all for None: a view of a backed AnnData."""

    def __init__(
        self,
        source: Source,
        rows: npt.NDArray[np.int64] | None,
        columns: npt.NDArray[np.int64] | None,
    ) -> None:
        self.source, self._rows = source, rows
        columns = np.arange(source.shape[1]) if columns is None else columns
        self.shape = (source.shape[0] if rows is None else rows.size, columns.size)
        self.dtype = source.dtype
        self.on_disk = source.on_disk
        self._place = np.full(source.shape[1], -1, dtype=np.int64)
        self._place[columns] = np.arange(columns.size)
        self._ascending = bool((np.diff(columns) > 0).all())

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Cut all rows into ranges of a bounded number of entries."""
        if self._rows is None:
            return self.source.blocks()
        return row_blocks((self.shape[0], self.source.shape[1]))

    def read(self, rows: npt.NDArray[np.int64]) -> Rows:
        """Read the named rows, in the order given, and keep the columns."""
        found = self.source.read(rows if self._rows is None else self._rows[rows])
        column = self._place[found.indices]
        kept = column >= 0
        before = np.concatenate(([0], np.cumsum(kept)))
        return Rows(
            before[found.indptr],
            column[kept].astype(np.int32),
            found.values[kept],
            is_canonical=found.is_canonical and self._ascending,
            are_counts=found.are_counts,
        )


def row_blocks(shape: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Cut the rows of a dense matrix into ranges of a bounded number of entries."""
    step = max(1, BLOCK_NONZEROS // max(shape[1], 1))
    for start in range(0, shape[0], step):
        yield start, min(start + step, shape[0])


def memory_source(matrix: Any, where: str) -> Source:
    """Wrap a matrix in memory, converting what cannot be read by rows."""
    if hasattr(matrix, "__dask_graph__"):
        require_numeric(np.dtype(matrix.dtype), where)
        return DaskSource(matrix)
    if hasattr(matrix, "to_memory"):  # a sparse matrix of a file or zarr store, opened by anndata
        matrix = matrix.to_memory()
    if sparse.issparse(matrix):
        if matrix.format != "csr":
            warn_converted(matrix.format, where)
        require_numeric(matrix.dtype, where)
        return CsrSource(rows_of_sparse(matrix), matrix.shape[1])
    dense = np.asarray(matrix)
    if dense.ndim != 2:
        raise DataError(f"{where} is a {type(matrix).__name__}, not a matrix of cells by genes")
    require_numeric(dense.dtype, where)
    return DenseSource(dense)


def require_numeric(dtype: np.dtype[Any], where: str) -> None:
    """Refuse a matrix of anything but numbers."""
    if dtype.kind not in "buif":
        raise DataError(f"{where} holds {dtype} values; counts must be integers or floats")


def warn_converted(form: str, where: str, remedy: str = "store it with .tocsr()") -> None:
    """Say that a matrix was converted to CSR, and what would save that."""
    warn(
        f"{where} is stored as {form.upper()}, which cannot be read cell by cell; a copy is "
        f"converted to CSR (to save time and memory: {remedy})"
    )
