"""What one pass over the cells finds: counts of each gene, and a fingerprint of everything."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kernomics.data.cells import Cells
from kernomics.data.csr import require_inside, require_pointers
from kernomics.ops._native import cpu

if TYPE_CHECKING:
    from kernomics.data.collection import CellCollection


@dataclass(frozen=True, eq=False)
class GeneSummary:
    """Per gene, over some cells; with classes, one row per class.

    Attributes
    ----------
    n_cells
        int64 [] or [C]: cells looked at.
    n_expressing
        int64 [G] or [C, G]: cells with at least one count of the gene.
    mean
        float64 [G] or [C, G]: mean count; NaN for a class without cells.
    """

    n_cells: npt.NDArray[np.int64]
    n_expressing: npt.NDArray[np.int64]
    mean: npt.NDArray[np.float64]


class ClassSums:
    """What adds up over cells, for each gene of each class, in float64.

    Cells come in batches, and batches in any number; each is added row by row, in its order.

    Attributes
    ----------
    n_cells
        int64 [C]: cells added.
    """

    def __init__(self, n_classes: int, n_genes: int) -> None:
        self.n_cells = np.zeros(n_classes, np.int64)
        self._sums = np.zeros((n_classes, n_genes, 3))

    @property
    def n_expressing(self) -> npt.NDArray[np.int64]:
        """Cells that have a count of the gene, int64 [C, G]."""
        return self._sums[..., 0].astype(np.int64)

    @property
    def total(self) -> npt.NDArray[np.float64]:
        """Σ w x, float64 [C, G]."""
        return self._sums[..., 1].copy()

    @property
    def squares(self) -> npt.NDArray[np.float64]:
        """Σ w x², float64 [C, G]."""
        return self._sums[..., 2].copy()

    def add(
        self,
        cells: Cells,
        classes: npt.NDArray[np.int64],
        *,
        log: bool = False,
        weights: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """Add cells.

        Parameters
        ----------
        cells
            B cells; x is their counts.
        classes
            Class of each cell, int [B]; cells of a negative one are left out.
        log
            x is log(1 + count) instead.
        weights
            A number w for each cell, float64 [B]; 1 by default.

        Raises
        ------
        DataError
            If the cells, made by hand, name genes or entries that they do not have: the sweep
            would write outside of the sums.
        """
        n_classes, n_genes, _ = self._sums.shape
        classes = np.ascontiguousarray(classes, np.int64)
        fits = cells.n_genes == n_genes and classes.shape == (len(cells),)
        if not fits or classes.max(initial=-1) >= n_classes:
            raise ValueError("the classes do not fit the cells, or the cells the sums")
        indptr, indices = cells.indptr.numpy(), cells.indices.numpy()
        require_pointers(indptr, indices.size, cells.values.numel(), len(cells), "the batch")
        require_inside(indices, n_genes, "the batch", "genes")
        parts = [
            np.ascontiguousarray(part, dtype)
            for part, dtype in (
                (indptr, np.int64), (indices, np.int32), (cells.values.numpy(), np.float32)
            )
        ]  # fmt: skip
        if weights is not None:
            weights = np.ascontiguousarray(np.broadcast_to(weights, classes.shape), np.float64)
        self.n_cells += np.bincount(classes[classes >= 0], minlength=n_classes)
        cpu().gene_sums(
            len(classes), n_genes, *(part.ctypes.data for part in parts), classes.ctypes.data,
            0 if weights is None else weights.ctypes.data, log, self._sums.ctypes.data,
        )  # fmt: skip


def summarise(
    batches: Iterable[Cells], n_genes: int, classes: npt.NDArray[np.int64], n_classes: int
) -> GeneSummary:
    """Summarise each gene by class, [C, G]."""
    sums = ClassSums(n_classes, n_genes)
    for cells in batches:
        sums.add(cells, classes[cells.cell_ids.numpy()])
    with np.errstate(invalid="ignore"):
        mean = sums.total / sums.n_cells[:, None]
    return GeneSummary(sums.n_cells, sums.n_expressing, mean)


def fingerprint_of(collection: CellCollection, batches: Iterable[Cells]) -> str:
    """Return the SHA-256 over shape, names, counts, library sizes, panels and labels."""
    parts = {name: hashlib.sha256() for name in ("lengths", "genes", "counts", "library")}
    for cells in batches:
        parts["lengths"].update(cells.indptr.diff().numpy().astype("<i8").tobytes())
        parts["genes"].update(cells.indices.numpy().astype("<i4").tobytes())
        parts["counts"].update(cells.values.numpy().astype("<f4").tobytes())
        if cells.library is not None:
            parts["library"].update(cells.library.numpy().astype("<f4").tobytes())
    whole = hashlib.sha256(f"{collection.n_cells} {collection.n_genes}".encode())
    for names in (collection.genes, collection.cell_names):
        whole.update("\0".join(names.tolist()).encode() + b"\1")
    for part in parts.values():
        whole.update(part.digest())
    if collection.observed is not None and collection.panel_of_cell is not None:
        whole.update(collection.observed.mask.numpy().tobytes())
        whole.update(collection.panel_of_cell.tobytes())
    for label in collection.labels.values():
        whole.update("\0".join((label.name, label.kind, *label.categories)).encode())
        whole.update(label.values.tobytes())
    return whole.hexdigest()
