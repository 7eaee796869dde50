"""Exact checks of counts and names; every error says what, where, how many and the remedy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from kernomics._warnings import warn
from kernomics.data.csr import Rows
from kernomics.data.readers.sources import Source
from kernomics.errors import DataError

MAX_COUNT = 1 << 24
"""The largest count: above it float32 no longer holds every integer."""

LOG_LIKE = 16.0
"""Fractions below this are taken for logarithms: log(1 + 10⁶), of counts per million, is 13.8."""

NAMED = 5
"""Cells named in a message, of those that have a fault."""

FAULTS = {
    "nan": "are NaN",
    "infinite": "are infinite",
    "negative": "are negative",
    "fraction": "are not integers",
    "too_large": "exceed 2^24 = 16,777,216 and are not exact in float32",
}
"""What can be wrong with a count, in the order in which it is reported."""


def first_bad_count(values: npt.NDArray[Any]) -> dict[str, tuple[int, int]]:
    """Find stored values that are no counts.

    A count is an integer from 0 to 2²⁴. A value has one fault, the first that applies in the order
    of `FAULTS`.
    """
    if values.dtype.kind == "b":
        return {}
    if values.dtype.kind in "ui":
        if values.size == 0 or (values.min() >= 0 and values.max() <= MAX_COUNT):
            return {}
        masks = {"negative": values < 0, "too_large": values > MAX_COUNT}
    else:
        if values.dtype.itemsize < 4:  # float16 ends at 65,504, and has no 2^24
            values = values.astype(np.float32)
        good = (values >= 0) & (values <= MAX_COUNT) & (np.floor(values) == values)
        if good.all():
            return {}
        nan, infinite, negative = np.isnan(values), np.isinf(values), values < 0
        whole = np.floor(values) == values
        masks = {
            "nan": nan,
            "infinite": infinite,
            "negative": negative & ~infinite,
            "fraction": ~whole & ~nan & ~negative,
            "too_large": whole & (values > MAX_COUNT) & ~infinite,
        }
    return {
        fault: (int(np.count_nonzero(mask)), int(np.argmax(mask)))
        for fault, mask in masks.items()
        if mask.any()
    }


def named_cells(rows: Sequence[int], cell_names: npt.NDArray[Any], total: int) -> str:
    """Name the first cells of `total` that have a fault, such as ``"'AAC-1' (row 3), …"``."""
    shown = [f"{str(cell_names[row])!r} (row {row:,})" for row in rows[:NAMED]]
    return ", ".join(shown) + (", …" if total > len(shown) else "")


class CountCheck:
    """Collects the faults of a matrix block by block, then reports them all at once."""

    def __init__(self, where: str, allow_fractions: bool = False) -> None:
        self.where = where
        self.allow_fractions = allow_fractions
        self.fractional = False
        self.n_nonzeros = 0
        self.largest = 0.0
        self.n_cells = 0
        self.n_empty = 0
        self.first_empty: list[int] = []
        self.faults: dict[str, tuple[int, float, int, int]] = {}  # number, value, row, column

    def add(self, rows: Rows) -> None:
        """Look at the next rows, as stored."""
        self.n_nonzeros += rows.values.size
        if rows.values.size:
            self.largest = max(self.largest, float(rows.values.max()))
        faults = {} if rows.are_counts else first_bad_count(rows.values)
        for fault, (number, first) in faults.items():
            if fault == "fraction" and self.allow_fractions:
                self.fractional = True
            elif fault in self.faults:
                before, *where_first = self.faults[fault]
                self.faults[fault] = (before + number, *where_first)  # type: ignore[assignment]
            else:
                row = int(np.searchsorted(rows.indptr, first, side="right")) - 1
                self.faults[fault] = (
                    number,
                    float(rows.values[first]),
                    self.n_cells + row,
                    int(rows.indices[first]),
                )
        ends = rows.indptr
        if not rows.is_canonical:  # stored zeros are no counts
            nonzero = rows.values != 0
            if not nonzero.all():
                ends = np.concatenate(([0], np.cumsum(nonzero)))[ends]
        empty = np.flatnonzero(np.diff(ends) == 0)
        wanted = NAMED - len(self.first_empty)
        self.first_empty += (self.n_cells + empty[:wanted]).tolist()
        self.n_empty += empty.size
        self.n_cells += len(rows)

    def report(
        self,
        cell_names: npt.NDArray[Any],
        genes: npt.NDArray[Any],
        *,
        empty_cells: str,
        hint: Callable[[], str],
    ) -> None:
        """Raise what was found."""
        found = [
            f"{number:,} of {self.n_nonzeros:,} non-zeros {FAULTS[fault]}, first {value:.6g} at "
            f"cell {str(cell_names[row])!r}, {_gene(genes, column)}"
            for fault in FAULTS
            if fault in self.faults
            for number, value, row, column in [self.faults[fault]]
        ]
        if found:
            remedy = hint()
            if set(self.faults) == {"fraction"}:
                if self.largest < LOG_LIKE:
                    found.append(f"the largest is {self.largest:.3g}, so they look log-normalised")
                else:
                    remedy += "; for counts corrected for ambient RNA, pass allow_fractions=True"
            raise DataError(f"{self.where} does not hold counts: {'; '.join(found)}; {remedy}")
        if self.n_empty and empty_cells == "error":
            raise DataError(
                f"{self.n_empty:,} of {self.n_cells:,} cells have no counts in {self.where}, "
                f"first {named_cells(self.first_empty, cell_names, self.n_empty)}; remove them "
                "(sc.pp.filter_cells(adata, min_counts=1)), or keep them with "
                "empty_cells='keep' (a TxFM is never trained on them)"
            )
        if self.fractional and self.largest < LOG_LIKE:
            warn(
                f"{self.where} holds fractions of at most {self.largest:.3g}, which look "
                "log-normalised; allow_fractions=True is meant for corrected counts, not for "
                "logarithms"
            )


def _gene(genes: npt.NDArray[Any], column: int) -> str:
    """Name a gene; where a damaged matrix names none, its number."""
    if 0 <= column < len(genes):
        return f"gene {str(genes[column])!r}"
    return f"gene number {column}, outside 0 … {len(genes) - 1:,}: the matrix is damaged"


def require_amounts(rows: Rows, cell_names: npt.NDArray[Any]) -> None:
    """Refuse NaN, infinite and negative numbers in rows that were read without a check."""
    values = rows.values
    if (
        rows.are_counts or not values.size or (values.min() >= 0 and values.max() < np.inf)
    ):  # false for NaN
        return
    wrong = np.flatnonzero(~((values >= 0) & (values < np.inf)))
    row = int(np.searchsorted(rows.indptr, wrong[0], side="right")) - 1
    raise DataError(
        f"{wrong.size:,} of {values.size:,} counts read are NaN, infinite or negative, first "
        f"{values[wrong[0]]:.6g} at cell {str(cell_names[row])!r}; the cells were read without "
        "checks: read them with checks, which find all such counts, and fix them"
    )


def scan(
    source: Source,
    where: str,
    visit: Callable[[int, Rows], None],
    *,
    allow_fractions: bool = False,
) -> CountCheck:
    """Read a whole source once, in blocks; check every value and hand each block on."""
    check = CountCheck(where, allow_fractions)
    for start, stop in source.blocks():
        rows = source.read(np.arange(start, stop, dtype=np.int64))
        check.add(rows)
        if not check.faults:
            visit(start, rows)
    return check


def require_cells_and_genes(shape: tuple[int, int]) -> None:
    """Refuse an AnnData without cells or without genes."""
    n_cells, n_genes = shape
    if n_cells == 0 or n_genes == 0:
        lacking = "cells" if n_cells == 0 else "genes"
        raise DataError(
            f"the AnnData has no {lacking} ({n_cells:,} cells × {n_genes:,} genes); was a filter "
            "too strict?"
        )


def require_unique(names: npt.NDArray[Any], what: str, remedy: str) -> None:
    """Refuse names that occur more than once."""
    repeats = np.flatnonzero(pd.Index(names).duplicated())
    if repeats.size:
        name = names[repeats[0]]
        raise DataError(
            f"{repeats.size:,} of {len(names):,} {what} repeat an earlier one, first {name!r} at "
            f"positions {int(np.argmax(names == name)):,} and {repeats[0]:,}; {remedy}"
        )


def lowest_library(totals: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the smallest library sizes that fit row totals, rounding considered."""
    return totals.astype(np.float64) * (1 - 1e-5) - 0.5


def require_library(
    library: npt.NDArray[np.float64],
    totals: npt.NDArray[np.float32],
    key: str,
    cell_names: npt.NDArray[Any],
) -> None:
    """Refuse library sizes that cannot be totals over all genes measured."""
    wrong: Sequence[tuple[str, npt.NDArray[np.bool_]]] = (
        ("is NaN or infinite", ~np.isfinite(library)),
        ("is negative", library < 0),
        ("is smaller than the cell's own counts", library < lowest_library(totals)),
    )
    for fault, mask in wrong:
        if mask.any():
            first = int(np.argmax(mask))
            raise DataError(
                f"obs[{key!r}] {fault} for {np.count_nonzero(mask):,} of {library.size:,} cells, "
                f"first {library[first]:.6g} at cell {str(cell_names[first])!r} (counts "
                f"{totals[first]:,.0f}); library_key must hold each cell's total over all "
                "measured genes"
            )
