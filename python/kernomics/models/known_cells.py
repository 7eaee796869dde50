"""What a trained model takes cells from: over its genes, in the order asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from kernomics.data import CellCollection, Cells, Split
from kernomics.data.checks import named_cells
from kernomics.data.collection import EmptyCells
from kernomics.data.rng import keys_of_names
from kernomics.data.row_numbers import parts, row_numbers
from kernomics.errors import DataError


@dataclass(frozen=True)
class KnownCells:
    """Cells over a model's genes.

    Attributes
    ----------
    view
        The cells over these.
    rows
        int64 [n], those to read.
    apart
        The cells over genes whose counts are no part of a cell's library size, or None.
    """

    view: CellCollection
    rows: NDArray[np.int64]
    apart: CellCollection | None = None

    @classmethod
    def of(
        cls,
        cells: CellCollection,
        genes: NDArray[Any],
        *,
        rows: ArrayLike | None,
        min_gene_overlap: float,
        empty_cells: EmptyCells,
        apart: Sequence[str] = (),
    ) -> KnownCells:
        """Take cells, for parameters as of `CellEncoder.get_latent_representation`."""
        wanted = np.arange(cells.n_cells) if rows is None else row_numbers(rows, cells.n_cells)
        view = cells.with_genes(genes, min_gene_overlap, absent="unobserved")
        if "keep" not in (empty_cells, cells.empty_cells):
            _require_counts(view, wanted)
        here = np.isin(np.array(apart, dtype=object), cells.genes)
        others = [gene for gene, there in zip(apart, here, strict=True) if there]
        return cls(view, wanted, cells.with_genes(others, 1.0) if others else None)

    @property
    def most_genes(self) -> int:
        """How many of the genes a cell has observed at most."""
        observed = self.view.observed
        return self.view.n_genes if observed is None else observed.largest

    def batches(self, size: int) -> Iterator[Cells]:
        """Read the cells in their order; `cell_ids` are the keys of their names."""
        for some in parts(len(self.rows), size):
            part = self.rows[some]
            keys = keys_of_names(self.view.cell_names[part])
            cells = self.view.batch(part)
            if self.apart is not None and cells.library is not None:
                rest = cells.library - _totals(self.apart.batch(part))
                cells = replace(cells, library=torch.maximum(rest, _totals(cells)))
            yield replace(cells, cell_ids=torch.from_numpy(keys))


def _totals(cells: Cells) -> Tensor:
    """Return each cell's counts over its genes, float32 [B]."""
    rows = torch.repeat_interleave(torch.arange(len(cells)), cells.indptr.diff().long())
    sums = torch.zeros(len(cells), dtype=torch.float64)
    return sums.index_add_(0, rows, cells.values.double()).float()


def require_counts(cells: CellCollection, split: Split) -> None:
    """Refuse cells without counts: they say nothing, and no library divides them."""
    rows = np.concatenate([split.train, split.validation])
    empty = np.sort(rows[cells.library[rows] <= 0])
    if len(empty):
        raise DataError(
            f"{len(empty):,} of the {len(rows):,} cells to train and validate on have no counts, "
            f"first {named_cells(empty.tolist(), cells.cell_names, len(empty))}; remove them "
            "(sc.pp.filter_cells(adata, min_counts=1)), or leave them out of the split"
        )


def _require_counts(view: CellCollection, rows: NDArray[np.int64]) -> None:
    """Refuse cells of which the model sees zeros alone, before anything takes time."""
    found, wanted = [], np.unique(rows)
    for start, stop in view.blocks():
        some = wanted[slice(*np.searchsorted(wanted, [start, stop]))]
        if some.size:
            found.append(some[(view.batch(some).indptr.diff() == 0).numpy()])
    empty = np.concatenate([*found, np.empty(0, np.int64)])
    if empty.size:
        raise DataError(
            f"{empty.size:,} of {wanted.size:,} cells have no counts in the model's "
            f"{view.n_genes:,} genes, first "
            f"{named_cells(empty.tolist(), view.cell_names, empty.size)}: they cannot be "
            "distinguished; remove them (those whose counts over model.genes sum to 0), or give "
            "them all the same representation with empty_cells='keep', here or in "
            "CellCollection.from_anndata"
        )
