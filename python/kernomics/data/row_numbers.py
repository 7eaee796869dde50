"""Which cells are meant by what a caller gives as rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from kernomics._arguments import rows_of

CELLS_AT_A_TIME = 4096
"""Read in one go where nothing else decides."""


def parts(n: int, size: int | None = None) -> Iterator[slice]:
    """Cut n rows into slices of `size`, `CELLS_AT_A_TIME` by default."""
    step = size or CELLS_AT_A_TIME
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def spread(rows: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """Return some rows, or `most` of them, as far apart as can be."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]


def row_numbers(rows: npt.ArrayLike, n_cells: int) -> npt.NDArray[np.int64]:
    """Return the numbers of the cells that rows mean."""
    return rows_of("rows", rows, n_cells, least=0)
