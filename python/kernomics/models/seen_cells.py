"""Which cells a model was trained on: a sketch of their counts, so that a later score can tell."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kernomics._warnings import quietly
from kernomics.data import CellCollection, Cells
from kernomics.data.row_numbers import parts, row_numbers

KEPT = 4096
"""Digests that a model keeps, 32 KB."""
LEAST_GENES = 20
"""Cells that express fewer genes may be alike by chance, and are left aside."""
CELLS_AT_A_TIME = 1024


def digests(cells: Cells) -> NDArray[np.uint64]:
    """Return a digest of each cell's counts over all its genes, [B]: 64 bits.

    The sum over its genes of a mixed word of gene and count, mixed again; so neither the order of
    genes in memory nor counts of 0 that are stored matter. Cells with fewer than 20 genes are 0.
    """
    genes, counts = cells.indices.numpy().astype(np.uint64), cells.values.float().numpy()
    words = (genes << np.uint64(32)) | counts.view(np.uint32).astype(np.uint64)
    shown = counts != 0
    sums = np.r_[np.uint64(0), np.where(shown, _mixed(words), np.uint64(0)).cumsum(dtype=np.uint64)]
    number = np.r_[0, shown.cumsum()]
    ends = cells.indptr.numpy()
    found = _mixed(sums[ends[1:]] - sums[ends[:-1]])
    found[number[ends[1:]] - number[ends[:-1]] < LEAST_GENES] = 0
    return found


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix the bits of words: the finaliser of SplitMix64 (Steele et al., OOPSLA 2014)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


@dataclass(frozen=True, eq=False)
class SeenCells:
    """The smallest digests of the cells that a model was trained on.

    A cell whose digest is no larger than the largest kept is told exactly. Digests are as good as
    random, so that these cells are a fair sample of any others (a bottom-k sketch; Broder, 1997).

    Attributes
    ----------
    smallest
        uint64, ascending, at most 4,096.
    n_cells, n_genes
        How many cells there were, and over how many genes.
    """

    smallest: NDArray[np.uint64]
    n_cells: int
    n_genes: int

    @classmethod
    def of(cls, cells: CellCollection, rows: NDArray[np.int64]) -> SeenCells:
        """Sketch some cells, over all genes of a collection, in one pass."""
        smallest = np.empty(0, np.uint64)
        for some in parts(len(rows), CELLS_AT_A_TIME):
            found = digests(cells.batch(rows[some]))
            smallest = np.unique(np.r_[smallest, found[found > 0]])[:KEPT]
        return cls(smallest, len(rows), cells.n_genes)

    def to_info(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        raw = self.smallest.astype("<u8").tobytes()
        digests = base64.b64encode(raw).decode()
        return {"cells": self.n_cells, "genes": self.n_genes, "digests": digests}

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> SeenCells | None:
        """Return what a model keeps; None where it keeps nothing, or nothing that can be read."""
        kept = info.get("seen_cells")
        if not isinstance(kept, dict) or not isinstance(kept.get("digests"), str):
            return None
        try:
            raw = base64.b64decode(kept["digests"], validate=True)
            n_cells, n_genes = int(kept["cells"]), int(kept["genes"])
        except (KeyError, ValueError, TypeError, OverflowError):
            return None
        if len(raw) % 8:
            return None
        return cls(np.frombuffer(raw, "<u8").astype(np.uint64), n_cells, n_genes)

    def among(self, cells: CellCollection, rows: NDArray[np.int64]) -> tuple[int, int]:
        """Return how many of some cells were trained on, and of how many that can be told.

        Parameters
        ----------
        cells
            Over the genes that the model had in training, in its order. Where some were not
            measured, only cells that had no counts of them are found.
        rows
            int [n], which cells.
        """
        found = compared = 0
        if not len(self.smallest):
            return 0, 0
        # With fewer than the sketch holds, all cells that it was made of are in it.
        limit = self.smallest[-1] if len(self.smallest) == KEPT else np.uint64(2**64 - 1)
        for some in parts(len(rows), CELLS_AT_A_TIME):
            these = digests(cells.batch(rows[some]))
            these = these[(these > 0) & (these <= limit)]
            compared += len(these)
            found += int(np.isin(these, self.smallest).sum())
        return found, compared


def seen_among(
    info: Mapping[str, Any],
    genes: Sequence[str] | NDArray[Any],
    cells: CellCollection,
    rows: ArrayLike | None = None,
) -> tuple[int, int]:
    """Return what `SeenCells.among` says of some cells, by what a model keeps; 0 of 0 for nothing.

    Parameters
    ----------
    info
        What the model keeps of its training.
    genes
        Those that the sketch was made over, in its order, and after them any that were added.
    cells, rows
        The cells, and which of them (None: all).
    """
    kept = SeenCells.from_info(info)
    known = genes if kept is None else genes[: kept.n_genes]  # without those added
    if kept is None or not np.isin(known, cells.genes).any():
        return 0, 0
    wanted = np.arange(cells.n_cells) if rows is None else row_numbers(rows, cells.n_cells)
    with quietly(UserWarning):  # what is missing is no count here either
        view = cells.with_genes(known, 0.0)
    return kept.among(view, wanted)


def without_digests(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model keeps of its training, without what only a machine reads."""
    return {name: value for name, value in info.items() if name != "seen_cells"}


def told(found: int, compared: int, what: str) -> str | None:
    """Return a sentence on cells that a model was trained on; None where there are none."""
    if not found:
        return None
    return (
        f"{found:,} of the {compared:,} {what} that can be told have the very counts of cells that "
        "the model was trained on: what it says of them is no measure of what it says of new cells"
    )
