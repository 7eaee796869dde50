"""A reader of one's own: cells from a database or any other store, by three methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from kernomics.data.csr import Rows, dense_rows, rows_of_sparse
from kernomics.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

ROWS = 4096
"""Read in one go where nothing else decides."""


@runtime_checkable
class CellReader(Protocol):
    """Cells that are read by their numbers; given wherever an AnnData or a path is.

    The counts are checked as those of a file are, and are asked for in batches, in any order, from
    one thread at a time. `genes` and `obs` are asked for once.
    """

    def genes(self) -> Sequence[str]:
        """Return the names of the genes, each once."""

    def obs(self) -> pd.DataFrame:
        """Return the table of cells, a row for each; its index holds their names, each once."""

    def read(self, rows: npt.NDArray[np.int64]) -> Any:
        """Return the counts of some cells in the order asked for.

        Parameters
        ----------
        rows
            int64 [n], numbers of cells, by their rows in `obs`; one may be named twice.

        Returns
        -------
        scipy sparse or numpy array
            [n, G], a column for each of `genes`.
        """


class OwnContents:
    """The tables of a reader of one's own, and its counts as a source."""

    file_name: str | None = None
    raw_var: pd.DataFrame | None = None
    has_x = True
    says_subset = False

    def __init__(self, reader: CellReader) -> None:
        self.reader = reader
        self.obs = reader.obs()
        if not isinstance(self.obs, pd.DataFrame):
            raise DataError(
                f"obs() of the {type(reader).__name__} gave a {type(self.obs).__name__}: a "
                "pandas.DataFrame with a row for each cell is needed"
            )
        self.obs = self.obs.copy()
        try:
            genes = list(reader.genes())
        except TypeError as error:
            raise DataError(
                f"genes() of the {type(reader).__name__} gave no sequence of names: {error}"
            ) from error
        self.var = pd.DataFrame(index=pd.Index(genes, dtype=object))
        self.layers: list[str] = []
        self.said: Mapping[str, Any] = {}

    def load(self) -> AnnData:
        """Read everything."""
        import anndata

        counts = self.reader.read(np.arange(len(self.obs), dtype=np.int64))
        return anndata.AnnData(counts, obs=self.obs, var=self.var)

    def source(self, key: str, where: str) -> OwnSource:
        """Return the counts; there is one matrix alone."""
        return OwnSource(self.reader, (len(self.obs), len(self.var)))

    def first_values(self, key: str) -> npt.NDArray[Any]:
        """Return the first stored values."""
        return self.source(key, "").read(np.arange(min(10, len(self.obs)), dtype=np.int64)).values


class OwnSource:
    """Counts of a reader of one's own."""

    on_disk = True
    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(self, reader: CellReader, shape: tuple[int, int]) -> None:
        self.reader, self.shape = reader, shape

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Cut all rows into ranges that fit in memory with ease."""
        for start in range(0, self.shape[0], ROWS):
            yield start, min(start + ROWS, self.shape[0])

    def read(self, rows: npt.NDArray[np.int64]) -> Rows:
        """Read the named rows, in the order given."""
        found = self.reader.read(rows)
        shape = tuple(getattr(found, "shape", ()))
        if shape != (rows.size, self.shape[1]):
            raise DataError(
                f"read() of the {type(self.reader).__name__} gave a {type(found).__name__} of "
                f"shape {shape} for {rows.size:,} cells of {self.shape[1]:,} genes: "
                f"{(int(rows.size), self.shape[1])} is needed"
            )
        kind = np.dtype(found.dtype)
        if kind.kind not in "buif":
            raise DataError(
                f"read() of the {type(self.reader).__name__} gave {kind} values; counts must be "
                "integers or floats"
            )
        return rows_of_sparse(found) if sparse.issparse(found) else dense_rows(np.asarray(found))
