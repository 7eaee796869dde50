"""Detection rate and mean expression of genes, over all cells and by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from kernomics._arguments import checked, codes_of, matrix_of
from kernomics.errors import DataError

LEAST_CELLS = 10
"""Cells of a class below which nothing is concluded from it."""
EVERYWHERE = 0.95
"""Detected in at least this share of the cells of every class, a gene is in nearly every cell."""


@dataclass(frozen=True, kw_only=True)
class ClassExpression:
    """How each gene of a panel is expressed in each class of one task.

    Attributes
    ----------
    task
        Name of the label column.
    classes
        Class names, length C.
    n_cells
        Labelled cells per class, int64 [C].
    detection
        Share of the class's cells with a count above zero, float64 [genes, C]; NaN for a class
        without cells.
    mean_log1p
        Mean over the class's cells of log(1 + count), float64 [genes, C]; NaN likewise.
    """

    task: str
    classes: tuple[str, ...]
    n_cells: NDArray[np.int64]
    detection: NDArray[np.float64]
    mean_log1p: NDArray[np.float64]

    def __post_init__(self) -> None:
        c = len(self.classes)
        if self.n_cells.shape != (c,):
            raise DataError(
                f"n_cells of task {self.task!r} has shape {self.n_cells.shape}, expected ({c},)"
            )
        for name in ("detection", "mean_log1p"):
            found = getattr(self, name)
            if found.ndim != 2 or found.shape[1] != c:
                raise DataError(
                    f"{name} of task {self.task!r} has shape {found.shape}, expected "
                    f"[genes, {c} classes]"
                )
        if self.detection.shape != self.mean_log1p.shape:
            raise DataError(
                f"detection of task {self.task!r} has shape {self.detection.shape} and "
                f"mean_log1p {self.mean_log1p.shape}"
            )

    @property
    def top_class(self) -> tuple[str, ...]:
        """Per gene, the class with the highest mean; an empty string where none has any count."""
        if not self.classes:
            return ("",) * int(self.mean_log1p.shape[0])
        means = np.nan_to_num(self.mean_log1p, nan=0.0)
        best: list[int] = means.argmax(axis=1).tolist()
        return tuple(self.classes[c] if means[g, c] > 0 else "" for g, c in enumerate(best))


@checked
def class_expression(
    counts: Any, labels: ArrayLike, classes: Sequence[str], *, task: str
) -> ClassExpression:
    """Summarise counts by class.

    Parameters
    ----------
    counts
        Counts of the panel's genes, [cells, genes], scipy sparse or an array.
    labels
        Class codes, integer [cells]; −1 marks an unlabelled cell, which is skipped.
    classes
        Class names, in the order of the codes.
    task
        Name of the label column.

    Returns
    -------
    ClassExpression
        Detection rates and means of log(1 + count).

    Raises
    ------
    DataError
        If the number of labels differs from the number of cells, or a code has no class.
    """
    matrix = matrix_of("counts", counts)
    codes = codes_of("labels", labels)
    if codes.shape != (matrix.shape[0],):
        raise DataError(f"{codes.size:,} labels were given for {matrix.shape[0]:,} cells")
    wrong = (codes < -1) | (codes >= len(classes))
    if wrong.any():
        raise DataError(
            f"task {task!r}: {int(wrong.sum()):,} of {codes.size:,} codes lie outside the "
            f"{len(classes)} classes, first {codes[wrong][0]} at cell {np.flatnonzero(wrong)[0]}"
        )
    labelled = np.flatnonzero(codes >= 0)
    member = sparse.csr_matrix(
        (np.ones(labelled.size), (codes[labelled], labelled)),
        shape=(len(classes), codes.size),
    )
    n_cells = np.bincount(codes[labelled], minlength=len(classes)).astype(np.int64)
    matrix.eliminate_zeros()
    detected = matrix.copy()
    detected.data = np.ones_like(detected.data)
    per_class = np.where(n_cells > 0, n_cells, np.nan)[None, :]
    return ClassExpression(
        task=task,
        classes=tuple(map(str, classes)),
        n_cells=n_cells,
        detection=(member @ detected).toarray().T / per_class,
        mean_log1p=(member @ matrix.log1p()).toarray().T / per_class,
    )


def detected_everywhere(tables: Sequence[ClassExpression]) -> NDArray[np.bool_]:
    """Tell which genes at least 95 % of the cells of every class have, bool [genes].

    Over tables of one or several labels; classes with fewer than ten cells do not count, and where
    none has ten no gene is.
    """
    shares = [table.detection[:, table.n_cells >= LEAST_CELLS] for table in tables]
    counted = np.concatenate(shares, axis=1)
    if not counted.shape[1]:
        return np.zeros(len(counted), dtype=np.bool_)
    return np.asarray((counted >= EVERYWHERE).all(axis=1), dtype=np.bool_)
