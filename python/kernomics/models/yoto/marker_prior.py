"""Where the gene scores start: a gene that marks some class well starts higher.

A selection that starts with all genes alike spends its first steps on finding the genes that
anybody would find by comparing means. So the scores start from one-against-the-rest statistics, in
one pass over the training cells, and training decides from there. No gene is ruled out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernomics.data import CellCollection, Cells
from kernomics.data.gene_stats import ClassSums
from kernomics.data.row_numbers import parts
from kernomics.models.tasks import Task

CELLS_AT_A_TIME = 8192
ROUNDING = 1e-12
"""Share of a mean square below which a variance, their difference, is rounding error."""


def marker_scores(
    cells: CellCollection,
    rows: NDArray[np.int64],
    tasks: Sequence[Task],
    prior: float,
    also: Callable[[Cells], None] | None = None,
) -> NDArray[np.float32]:
    r"""Return the scores that a selection starts from, float32 [G].

    .. math:: s_g = -p \log(1 + \min_c r_{gc}), \text{ less the mean over genes}

    where p is the prior and r_gc, from 0, the rank of gene g among all genes by Welch's t for class
    c against the other labelled cells, on log(1 + count): the best marker of every class starts at
    the top. A continuous label counts as one class, ranked by the absolute correlation.

    The cells are read once, in parts; `also` is called with each.
    """
    best = np.full(cells.n_genes, np.inf)
    for _, strengths in marker_strengths(cells, rows, tasks if prior else (), also):
        for strength in strengths:
            rank = np.empty(cells.n_genes)
            rank[np.argsort(-strength, kind="stable")] = np.arange(cells.n_genes)
            np.minimum(best, rank, out=best)
    if not prior:
        return np.zeros(cells.n_genes, np.float32)
    scores = -prior * np.log1p(np.where(np.isinf(best), cells.n_genes, best))
    return np.asarray(scores - scores.mean(), np.float32)


def marker_strengths(
    cells: CellCollection,
    rows: NDArray[np.int64],
    tasks: Sequence[Task],
    also: Callable[[Cells], None] | None = None,
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Measure how strongly each gene marks each class of a label, or follows its number.

    Per task the codes of its classes that have a statistic, int64 [C], and Welch's t of each,
    float64 [C, G]; for a number code 0 and the absolute correlation [1, G]. Classes of one cell, or
    with one other cell, have none. A gene that all cells of a class have alike, and no other cell
    has, has a very large t; one that all cells have alike marks nothing.
    """
    truths: list[NDArray[Any]] = []
    for task in tasks:
        values = cells.labels[task.name].values[rows]
        truths.append(values if task.classes else _standardised(values))
    found = [ClassSums(len(task.classes) or 2, cells.n_genes) for task in tasks]
    for part in parts(len(rows), CELLS_AT_A_TIME):
        batch = cells.batch(rows[part])
        if also is not None:
            also(batch)
        for task, truth, sums in zip(tasks, truths, found, strict=True):
            if task.classes:
                sums.add(batch, truth[part], log=True)
            else:
                known = ~np.isnan(truth[part])
                sums.add(batch, np.where(known, 0, -1), log=True)
                sums.add(batch, np.where(known, 1, -1), log=True, weights=truth[part])
    return [
        _of_classes(sums) if task.classes else _of_number(sums)
        for task, sums in zip(tasks, found, strict=True)
    ]


def _of_classes(sums: ClassSums) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    n_cells = sums.n_cells.astype(np.float64)
    usable = (n_cells >= 2) & (n_cells.sum() - n_cells >= 2)
    return np.flatnonzero(usable), _welch(n_cells, sums.total, sums.squares, usable)


def _standardised(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return numbers less their mean, in standard deviations; 0 where all are alike."""
    wide = values.astype(np.float64)
    known = wide[~np.isnan(wide)]
    if not known.size or np.ptp(known) == 0:
        return wide * 0
    return np.asarray((wide - known.mean()) / known.std())


def _of_number(sums: ClassSums) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    n = max(1, int(sums.n_cells[0]))
    total, covariance = sums.total / n  # the label has mean 0
    square = sums.squares[0] / n
    variance = square - total**2
    spread = np.sqrt(np.where(variance > ROUNDING * square, variance, 0))
    return np.zeros(1, np.int64), np.abs(_ratio(covariance, spread))[None]


def _welch(
    n: NDArray[np.float64],
    total: NDArray[np.float64],
    square: NDArray[np.float64],
    usable: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Welch's t of each usable class against the rest, [C, G]."""
    n_rest = n.sum() - n
    n, n_rest = n[usable, None], n_rest[usable, None]
    rest, rest_square = total.sum(axis=0) - total[usable], square.sum(axis=0) - square[usable]
    total, square = total[usable], square[usable]
    error = _error(n, total, square) + _error(n_rest, rest, rest_square)
    return _ratio(total / n - rest / n_rest, np.sqrt(error))


def _error(
    n: NDArray[np.float64], total: NDArray[np.float64], square: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the squared standard error of a mean; above 0 for a gene that any of the cells has.

    Else the last bit would decide whether a gene of one count in all cells of a class, and in no
    other, is its best marker or none.
    """
    mean_square = np.maximum(square, 0) / n
    return np.maximum(mean_square - (total / n) ** 2, ROUNDING * mean_square) / n


def _ratio(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a / b, and 0 where b is 0: a gene that no cell has marks nothing."""
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)
