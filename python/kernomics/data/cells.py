"""`Cells`: one batch of cells as CSR tensors, the form in which models receive their data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernomics._arguments import checked, columns_of, numbers_of, shown
from kernomics.data.csr import Rows
from kernomics.data.whole import Whole
from kernomics.errors import DataError
from kernomics.ops import ObservedGenes
from kernomics.ops._kinds import device_of


@dataclass(frozen=True, eq=False)
class Cells:
    """B cells of G genes as compressed sparse rows, on any device.

    Rows are sorted by gene and hold neither duplicates nor stored zeros.

    Attributes
    ----------
    indptr
        int64 [B + 1]: cell b's non-zeros are ``indptr[b]:indptr[b + 1]``.
    indices
        int32 or int64 [nnz]: the gene of each non-zero.
    values
        float32 [nnz]: the counts (exact: below 2²⁴).
    n_genes
        G.
    cell_ids
        int64 [B]: each cell's index in its collection; noise and masks are keyed by it.
    library
        float32 [B]: total counts over all genes measured in the cell's source, taken before any
        gene was dropped. None when unknown.
    labels
        Per label column int64 [B] (categorical, −1 unlabelled) or float32 [B] (continuous, NaN
        unlabelled).
    observed
        Which genes each cell's data set has measured; None where all cells have all genes.
    whole
        The batch of which these cells are one rank's part; None where nobody else has a part.
    """

    indptr: Tensor
    indices: Tensor
    values: Tensor
    n_genes: int
    cell_ids: Tensor
    library: Tensor | None = None
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    observed: ObservedGenes | None = None
    whole: Whole | None = None

    def __len__(self) -> int:
        return self.cell_ids.shape[0]

    @classmethod
    def from_rows(
        cls,
        rows: Rows,
        n_genes: int,
        cell_ids: npt.NDArray[np.int64],
        library: npt.NDArray[np.float32] | None = None,
        labels: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> Cells:
        """Wrap canonical rows (see `kernomics.data.csr.canonical`) without copying them."""
        return cls(
            indptr=torch.from_numpy(rows.indptr),
            indices=torch.from_numpy(rows.indices),
            values=torch.from_numpy(rows.values),
            n_genes=n_genes,
            cell_ids=torch.from_numpy(cell_ids),
            library=None if library is None else torch.from_numpy(library),
            labels={name: torch.from_numpy(codes) for name, codes in (labels or {}).items()},
        )

    @classmethod
    @checked
    def from_scipy(
        cls,
        matrix: Any,
        *,
        cell_ids: npt.ArrayLike | None = None,
        library: npt.ArrayLike | None = None,
        labels: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> Cells:
        """Copy a scipy sparse or dense matrix [B, G] of counts.

        The values are taken as they are: `CellCollection.from_anndata` is what checks counts.

        Parameters
        ----------
        matrix
            Any scipy sparse matrix or array, or a dense 2-D numpy array.
        cell_ids
            [B], 0 … B−1 by default.
        library
            [B], the row totals by default.
        labels
            Per column int64 [B] or float32 [B].

        Raises
        ------
        DataError
            When a row holds a gene twice, or a length differs from B.
        """
        from scipy import sparse

        from kernomics.data.csr import canonical, dense_rows, rows_of_sparse

        if sparse.issparse(matrix):
            raw = rows_of_sparse(matrix)
        else:
            matrix = numbers_of("matrix", matrix)
            if matrix.ndim != 2:
                raise DataError(
                    f"matrix is {shown(matrix)}: counts of shape [cells, genes] are needed"
                )
            raw = dense_rows(matrix)
        n_cells, n_genes = matrix.shape
        rows = canonical(raw, n_genes)
        rows = replace(
            rows,
            indptr=rows.indptr.copy(), indices=rows.indices.copy(), values=rows.values.copy(),
        )  # fmt: skip
        ids = np.arange(n_cells) if cell_ids is None else columns_of("cell_ids", cell_ids)
        totals = rows.totals() if library is None else numbers_of("library", library)
        columns = {"cell_ids": ids, "library": totals, **(labels or {})}
        for name, column in columns.items():
            if np.shape(column)[:1] != (n_cells,):
                raise DataError(
                    f"{name!r} has shape {np.shape(column)} for {n_cells:,} cells: one entry for "
                    "each is needed"
                )
        return cls.from_rows(
            rows,
            n_genes,
            ids.astype(np.int64, copy=True),
            totals.astype(np.float32, copy=True),
            {name: np.array(column) for name, column in (labels or {}).items()},
        )

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.values.device

    @property
    def shape(self) -> tuple[int, int]:
        """(B, G)."""
        return len(self), self.n_genes

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Cells:
        """Return the same cells with every tensor on `device`."""
        device = device_of(device)
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Cells:
        """Return a copy in page-locked memory, from which copies to a GPU can overlap work."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, move: Any) -> Cells:
        return replace(
            self,
            indptr=move(self.indptr),
            indices=move(self.indices),
            values=move(self.values),
            cell_ids=move(self.cell_ids),
            library=None if self.library is None else move(self.library),
            labels={name: move(column) for name, column in self.labels.items()},
            observed=None if self.observed is None else self.observed.map(move),
        )

    def dense(self) -> Tensor:
        """Return the counts as a dense tensor [B, G], float32: for small batches only."""
        out = self.values.new_zeros(self.shape)
        out[self._row_of_nonzero(), self.indices.long()] = self.values
        return out

    @checked
    def slice(self, start: int, stop: int) -> Cells:
        """Return cells start … stop − 1, sharing memory."""
        if not 0 <= start <= stop <= len(self):
            raise DataError(f"start = {start}, stop = {stop}: there are {len(self):,} cells")
        if (start, stop) == (0, len(self)):
            return self  # where the non-zeros begin and end is on the device, and would be asked
        first, last = int(self.indptr[start]), int(self.indptr[stop])
        return replace(
            self,
            indptr=self.indptr[start : stop + 1] - first,
            indices=self.indices[first:last],
            values=self.values[first:last],
            cell_ids=self.cell_ids[start:stop],
            library=None if self.library is None else self.library[start:stop],
            labels={name: column[start:stop] for name, column in self.labels.items()},
            observed=None
            if self.observed is None
            else self.observed.with_panel_id(self.observed.panel_id[start:stop]),
            whole=None,
        )

    @checked
    def with_values(self, values: Tensor) -> Cells:
        """Return the same cells with other values [nnz] at the same non-zeros."""
        if values.shape != self.values.shape:
            raise DataError(
                f"values of shape {tuple(values.shape)} given for {self.values.numel():,} non-zeros"
            )
        return replace(self, values=values)

    def select_genes(self, columns: Tensor | npt.ArrayLike) -> Cells:
        """Return the cells over other genes: new gene i is old gene ``columns[i]``.

        `library` stays what it was: the total over all genes measured.

        Parameters
        ----------
        columns
            int64 [k], in any order, each gene at most once; −1 stands for a gene that these data
            lack, which becomes zero in every cell.

        Raises
        ------
        DataError
            When a column is out of range or named twice.
        """
        if not isinstance(columns, Tensor):
            columns = torch.from_numpy(columns_of("columns", columns))
        elif columns.dim() != 1 or columns.is_floating_point() or columns.dtype == torch.bool:
            raise DataError(
                f"columns is {columns.dtype} of shape {tuple(columns.shape)}: integers [k] are "
                "needed"
            )
        columns = columns.to(self.device, torch.int64)
        k = columns.shape[0]
        wanted = columns[columns >= 0]
        if k and (int(columns.max()) >= self.n_genes or int(columns.min()) < -1):
            raise DataError(f"gene columns must be −1 … {self.n_genes - 1} (n_genes − 1)")
        n_repeats = int((wanted.sort().values.diff() == 0).sum())
        if n_repeats:
            raise DataError(f"{n_repeats} of {k} gene columns repeat an earlier one")
        place = torch.full((self.n_genes,), -1, dtype=torch.int32, device=self.device)
        place[wanted] = torch.nonzero(columns >= 0).flatten().int()
        new = place.index_select(0, self.indices)
        at = torch.nonzero(new >= 0).flatten()  # few of many, mostly: only these are worked on
        new, values = new[at], self.values[at]
        indptr = torch.searchsorted(at, self.indptr.to(at.dtype)).to(self.indptr.dtype)
        if not bool((wanted.diff() > 0).all()):
            row = torch.searchsorted(self.indptr.to(at.dtype), at, right=True) - 1
            order = torch.argsort(row * max(k, 1) + new)
            new, values = new[order], values[order]
        observed = None if self.observed is None else self.observed.select_genes(columns)
        return replace(
            self,
            indptr=indptr,
            indices=new.to(self.indices.dtype),
            values=values,
            n_genes=k,
            observed=observed,
        )

    def _row_of_nonzero(self) -> Tensor:
        rows = torch.arange(len(self), device=self.device)
        # With its size given, repeat_interleave need not ask the device for it.
        return torch.repeat_interleave(rows, self.indptr.diff(), output_size=len(self.values))
