"""Which cells are meant by what a caller gives as rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kernomics.errors import DataError


def row_numbers(rows: npt.ArrayLike, n_cells: int) -> npt.NDArray[np.int64]:
    """Return the numbers of the cells that rows mean."""
    given = np.asarray(rows)
    if given.dtype == bool:
        if given.shape != (n_cells,):
            raise DataError(
                f"rows are a mask of shape {given.shape} for {n_cells:,} cells: give one value for "
                "each cell, or the cells' numbers"
            )
        return np.flatnonzero(given).astype(np.int64, copy=False)
    if given.ndim > 1:
        raise DataError(f"rows have shape {given.shape}: give one list of numbers, or a mask")
    given = given.reshape(-1)
    if given.size and given.dtype.kind not in "iu":
        raise DataError(
            f"rows are of type {given.dtype}, first {given[0]!r}: give the cells' numbers as "
            "integers, or a mask of bool"
        )
    wrong = np.flatnonzero((given < 0) | (given >= n_cells)) if given.size else given
    if wrong.size:
        raise DataError(
            f"rows {given.min():,} … {given.max():,} were asked for, but there are {n_cells:,} "
            f"cells, counted from 0: {wrong.size:,} of the {given.size:,} rows do not exist, "
            f"first {given[wrong[0]]:,}"
        )
    return given.astype(np.int64, copy=True)
