"""Some cells of a collection, as a collection; nothing is copied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from kernomics._arguments import checked
from kernomics.data.collection import CellCollection
from kernomics.data.csr import Rows
from kernomics.data.row_numbers import row_numbers
from kernomics.errors import DataError


class RowsSource:
    """Some rows of a collection, in the order given."""

    def __init__(self, cells: CellCollection, rows: npt.NDArray[np.int64]) -> None:
        self.cells, self.rows = cells, rows
        self.shape = (rows.size, cells.n_genes)
        self.dtype: np.dtype[Any] = np.dtype(np.float32)

    @property
    def on_disk(self) -> bool:
        """Whether the collection is read from a file."""
        return self.cells.on_disk

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Cut all rows into ranges of at most as many cells as the collection's own blocks."""
        step = max((stop - start for start, stop in self.cells.blocks()), default=1)
        for start in range(0, len(self.rows), step):
            yield start, min(start + step, len(self.rows))

    def read(self, rows: npt.NDArray[np.int64]) -> Rows:
        """Copy the named rows, in the order given."""
        found = self.cells.batch(self.rows[rows])
        return Rows(found.indptr.numpy(), found.indices.numpy(), found.values.numpy())


@checked
def select_cells(cells: CellCollection, rows: npt.ArrayLike) -> CellCollection:
    """Return some cells of a collection, in the order given.

    Parameters
    ----------
    cells
        All cells.
    rows
        int [n], by number, or bool [n_cells].

    Returns
    -------
    CellCollection
        Over the same genes, with their own names, obs, labels, batches and library sizes. Counts
        are read from `cells` when asked for.

    Raises
    ------
    DataError
        For no cells, a cell twice, or one that there is not.
    """
    wanted = row_numbers(rows, cells.n_cells)
    if not wanted.size:
        raise DataError(f"none of the {cells.n_cells:,} cells is selected")
    found, times = np.unique(wanted, return_counts=True)
    if len(found) < wanted.size:
        raise DataError(
            f"rows repeats {wanted.size - len(found):,} of its {wanted.size:,} cells, first cell "
            f"{found[times > 1][0]:,}; list each once"
        )
    batches = cells.batch_labels
    selected = CellCollection(
        RowsSource(cells, wanted),
        genes=cells.genes,
        cell_names=cells.cell_names[wanted],
        obs=cells.obs.iloc[wanted],
        labels={name: label.subset(wanted) for name, label in cells.labels.items()},
        batch_labels=None if batches is None else batches.subset(wanted),
        library=cells.library[wanted],
        library_rule=cells.library_rule,
        empty_cells=cells.empty_cells,
        fractional=cells.fractional,
        var=cells.var,
        reading=cells.reading,
    )
    if cells.observed is None or cells.panel_of_cell is None:
        return selected
    return selected.with_observed(cells.observed, cells.panel_of_cell[wanted])
