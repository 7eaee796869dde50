"""Plain CSR rows in numpy: gathering, canonical form, totals. All sources end in these."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kernomics.errors import DataError
from kernomics.ops._native import cpu

ORDER, ZERO, AMOUNT, COUNT = 1, 2, 4, 8
"""What `take_rows` of csrc/cpu/read_rows.h may find that rows lack."""

KINDS = {
    f"{kind}{size}": 2 * i + j for i, size in enumerate((1, 2, 4, 8)) for j, kind in enumerate("iu")
}
KINDS |= {"f4": 8, "f8": 9}
"""Its names of the types of stored numbers."""


@dataclass(frozen=True, eq=False)
class Rows:
    """CSR rows; `canonical` says what holds for them beyond that.

    `is_canonical` and `are_counts` say that it was looked at, and holds: the latter that all values
    are integers from 0 to 2²⁴. `sums` are the rows' totals, where they are known.
    """

    indptr: npt.NDArray[Any]
    indices: npt.NDArray[Any]
    values: npt.NDArray[Any]
    is_canonical: bool = False
    are_counts: bool = False
    sums: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return int(self.indptr.shape[0]) - 1

    def row_of_nonzero(self) -> npt.NDArray[np.int64]:
        """Return the row of each non-zero, int64 [nnz]."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.indptr))

    def totals(self) -> npt.NDArray[np.float32]:
        """Return the sum of each row, float32 [n], added up in float64 (as `bincount` does)."""
        if self.sums is not None:
            return self.sums
        sums = np.bincount(self.row_of_nonzero(), weights=self.values, minlength=len(self))
        return sums.astype(np.float32)


def dense_rows(block: npt.NDArray[Any]) -> Rows:
    """Return the non-zeros (NaN included) of a dense block [n, G]."""
    row, column = np.nonzero(block)
    indptr = np.zeros(block.shape[0] + 1, dtype=np.int64)
    np.cumsum(np.bincount(row, minlength=block.shape[0]), out=indptr[1:])
    return Rows(indptr, column, block[row, column])


FLAT = ("coo", "csc", "csr")
"""Formats of scipy whose arrays all have one dimension."""


def rows_of_sparse(matrix: Any) -> Rows:
    """Return the rows of any scipy sparse matrix; entries named twice in COO are added exactly.

    scipy adds them in the matrix's own dtype, where 200 + 100 is 44 in uint8.
    """
    if matrix.dtype.kind not in "buif":
        raise DataError(
            f"the matrix holds {matrix.dtype} values; counts must be integers or floats"
        )
    for name in ("row", "col", "indptr", "indices", "data"):
        part = getattr(matrix, name, None)
        if name in ("row", "col", "indices") and isinstance(part, np.ndarray):
            require_places(part.dtype)
        if isinstance(part, np.ndarray) and part.ndim != 1 and matrix.format in FLAT:
            raise DataError(
                f"the matrix is damaged: its {name} has shape {part.shape} and not one dimension; "
                "copy or load it again"
            )
    if matrix.format == "coo":
        if not matrix.row.size == matrix.col.size == matrix.data.size:
            raise DataError(
                f"the matrix is damaged: it has {matrix.row.size:,} rows, {matrix.col.size:,} "
                f"columns and {matrix.data.size:,} values; load it again"
            )
        require_inside(matrix.row, matrix.shape[0])
        require_inside(matrix.col, matrix.shape[1], what="columns")
        wide = {"b": np.uint64, "u": np.uint64, "i": np.int64}.get(matrix.dtype.kind, np.float64)
        matrix = matrix.astype(wide)
    if matrix.format == "csc":  # scipy would convert what is damaged to memory that is not its own
        require_pointers(matrix.indptr, matrix.indices.size, matrix.data.size, matrix.shape[1])
        require_inside(matrix.indices, matrix.shape[0])
    if matrix.format == "bsr":
        height, width = matrix.blocksize
        stored = matrix.indices.size, matrix.data.shape[0]
        require_pointers(matrix.indptr, *stored, matrix.shape[0] // height)
        require_inside(matrix.indices, matrix.shape[1] // width, what="blocks of columns")
    csr = matrix.tocsr()
    require_pointers(csr.indptr, csr.indices.size, csr.data.size, csr.shape[0])
    n = int(csr.indptr[-1])  # scipy allows room beyond the last entry
    return Rows(csr.indptr, csr.indices[:n], csr.data[:n])


def require_places(dtype: np.dtype[Any], where: str = "the matrix") -> None:
    """Refuse places of entries that are no numbers; fractions are looked for one by one."""
    if dtype.kind not in "iuf":
        raise DataError(
            f"{where} is damaged: the places of its entries are {dtype} and not integers; copy or "
            "load it again"
        )


def require_pointers(
    indptr: npt.NDArray[Any], n_indices: int, n_values: int, n: int, where: str = "the matrix"
) -> None:
    """Refuse a compressed matrix whose n rows, or columns, lie outside what is stored."""
    stored, remedy = min(n_indices, n_values), "copy or load it again"
    if np.asarray(indptr).dtype.kind not in "iu":
        raise DataError(
            f"{where} is damaged: its pointers are {np.asarray(indptr).dtype} and not integers; "
            f"{remedy}"
        )
    indptr = np.asarray(indptr).astype(np.int64, copy=False)
    if indptr.size != n + 1:
        raise DataError(
            f"{where} is damaged: its {indptr.size:,} pointers do not fit {n:,} cells or genes; "
            f"{remedy}"
        )
    wrong = np.flatnonzero(indptr[1:] < indptr[:-1])  # a difference may pass 64 bits
    if indptr[0] == 0 and not wrong.size and indptr[-1] <= stored:
        return
    if indptr[0] != 0:
        fault = f"its first row begins at entry {indptr[0]:,} instead of 0"
    elif wrong.size:
        i = int(wrong[0])
        fault = (
            f"{wrong.size:,} of its pointers are below the one before, first number {i + 1:,}: "
            f"{indptr[i + 1]:,} after {indptr[i]:,}"
        )
    else:
        fault = f"its rows end at entry {indptr[-1]:,}, and {stored:,} are stored"
    raise DataError(f"{where} is damaged: {fault}; {remedy}")


def require_inside(
    rows: npt.NDArray[Any], n_rows: int, where: str = "the matrix", what: str = "rows"
) -> None:
    """Refuse a matrix whose entries name rows, or columns, that it does not have."""
    if rows.size and (rows.min() < 0 or rows.max() >= n_rows):
        wrong = np.flatnonzero((rows < 0) | (rows >= n_rows))
        raise DataError(
            f"{where} is damaged: {wrong.size:,} of its {rows.size:,} entries name {what} outside "
            f"0 … {n_rows - 1:,}, first {int(rows[wrong[0]])}; copy or load it again"
        )


def canonical(rows: Rows, n_genes: int, first_row: int = 0, where: str = "the matrix") -> Rows:
    """Return rows sorted by gene and without stored zeros.

    `indptr` becomes int64, `indices` int32 and `values` float32. The input is never changed;
    arrays that need no change are shared with it.
    """
    if rows.is_canonical:
        return rows
    indptr = np.asarray(rows.indptr, dtype=np.int64)
    indices, values = np.asarray(rows.indices), np.asarray(rows.values)
    if indices.size and (indices.min() < 0 or indices.max() >= n_genes):
        outside = np.flatnonzero((indices < 0) | (indices >= n_genes))
        first = first_row + int(np.searchsorted(indptr, outside[0], side="right")) - 1
        raise DataError(
            f"{where} is damaged: {outside.size:,} stored gene indices lie outside 0 … "
            f"{n_genes - 1:,}, first {int(indices[outside[0]])} in row {first:,}; load it again"
        )
    if indices.dtype.kind == "f" and (indices != np.floor(indices)).any():
        part = np.flatnonzero(indices != np.floor(indices))
        raise DataError(
            f"{where} is damaged: {part.size:,} stored gene indices are no integers, first "
            f"{indices[part[0]]}; load it again"
        )
    indices = indices.astype(np.int32, copy=False)
    inside = np.ones(indices.size, dtype=bool)  # is this entry in the row of the one before it?
    inside[indptr[:-1][indptr[:-1] < indices.size]] = False
    if not _ascending(indices, inside):
        row = np.repeat(np.arange(len(indptr) - 1, dtype=np.int64), np.diff(indptr))
        order = np.lexsort((indices, row))
        indices, values = indices[order], values[order]
        twice = np.flatnonzero((indices[1:] == indices[:-1]) & inside[1:])
        if twice.size:
            raise DataError(
                f"{twice.size:,} of {indices.size:,} entries of {where} name a gene that their "
                f"row already holds, first gene {int(indices[twice[0]]):,} in row "
                f"{first_row + int(row[twice[0]]):,} (counting from 0); call sum_duplicates() on "
                "the matrix if they should be summed"
            )
    zero = values == 0
    if zero.any():
        before = np.concatenate(([0], np.cumsum(zero)))
        indptr = indptr - before[indptr]
        indices, values = indices[~zero], values[~zero]
    return Rows(indptr, indices, values.astype(np.float32, copy=False))


def _ascending(indices: npt.NDArray[np.int32], inside: npt.NDArray[np.bool_]) -> bool:
    return not bool(np.any((indices[1:] <= indices[:-1]) & inside[1:]))


def take(
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    indices: npt.NDArray[Any],
    values: npt.NDArray[Any],
    n_genes: int,
) -> Rows | None:
    """Copy rows that lie anywhere in arrays, converted and checked in one compiled sweep.

    Returns
    -------
    Rows or None
        Canonical; None for rows that must be looked at as they are stored: they are not canonical,
        or their numbers are no counts and would be rounded, or of a type that is not known.
    """
    kinds = [KINDS.get(array.dtype.str[1:].replace("b1", "u1"), -1) for array in (indices, values)]
    out = np.zeros(starts.size + 1, np.int64)
    np.cumsum(lengths, out=out[1:])
    n = int(out[-1])
    taken = np.empty(n, np.int32), np.empty(n, np.float32), np.empty(starts.size, np.float32)
    first = np.ascontiguousarray(starts, np.int64)
    if -1 in kinds or not all(a.flags.c_contiguous and a.dtype.isnative for a in (indices, values)):
        return None
    faults = cpu().take_rows(
        indices.ctypes.data, kinds[0], values.ctypes.data, kinds[1], starts.size, n_genes,
        first.ctypes.data, out.ctypes.data, *(array.ctypes.data for array in taken),
    )  # fmt: skip
    if faults & ~(AMOUNT | COUNT) or (faults and values.dtype != np.float32):
        return None
    return Rows(
        out,
        taken[0],
        taken[1],
        is_canonical=True,
        are_counts=not faults,
        sums=None if faults else taken[2],
    )


def gather(
    indptr: npt.NDArray[np.int64], indices: Any, values: Any, rows: npt.NDArray[np.int64]
) -> Rows:
    """Copy the named rows, in their order, each run of consecutive rows in one read."""
    out = np.zeros(rows.size + 1, dtype=np.int64)
    np.cumsum(indptr[rows + 1] - indptr[rows], out=out[1:])
    if rows.size == 0:
        return Rows(out, np.asarray(indices[:0]), np.asarray(values[:0]))
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    first = np.concatenate(([0], breaks))
    last = np.concatenate((breaks, [rows.size])) - 1
    spans = list(zip(indptr[rows[first]].tolist(), indptr[rows[last] + 1].tolist(), strict=True))
    if len(spans) == 1:
        a, b = spans[0]
        return Rows(out, np.array(indices[a:b]), np.array(values[a:b]))
    return Rows(
        out,
        np.concatenate([indices[a:b] for a, b in spans]),
        np.concatenate([values[a:b] for a, b in spans]),
    )


def blocks(indptr: npt.NDArray[np.int64], limit: int) -> Iterator[tuple[int, int]]:
    """Cut all rows into consecutive ranges of at most `limit` non-zeros, at least one row each."""
    start, n = 0, indptr.size - 1
    while start < n:
        stop = int(np.searchsorted(indptr, indptr[start] + limit, side="right")) - 1
        stop = min(max(stop, start + 1), n)
        yield start, stop
        start = stop
