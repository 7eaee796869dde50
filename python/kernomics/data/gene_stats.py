"""What one pass over the cells finds: counts of each gene, and a fingerprint of everything."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kernomics.data.cells import Cells

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


def summarise(
    batches: Iterable[Cells], n_genes: int, classes: npt.NDArray[np.int64], n_classes: int
) -> GeneSummary:
    """Summarise each gene by class, [C, G]."""
    n_cells, size = np.zeros(n_classes, np.int64), n_classes * n_genes
    expressing, sums = np.zeros(size, np.int64), np.zeros(size)
    for cells in batches:
        group = classes[cells.cell_ids.numpy()]
        n_cells += np.bincount(group, minlength=n_classes)
        slot = np.repeat(group, cells.indptr.diff().numpy()) * n_genes + cells.indices.numpy()
        expressing += np.bincount(slot, minlength=size)
        sums += np.bincount(slot, weights=cells.values.numpy(), minlength=size)
    with np.errstate(invalid="ignore"):
        mean = sums.reshape(n_classes, -1) / n_cells[:, None]
    return GeneSummary(n_cells, expressing.reshape(n_classes, -1), mean)


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
