"""Where the gene scores start: a gene that marks some class well starts higher.

A selection that starts with all genes alike spends its first steps on finding the genes that
anybody would find by comparing means. So the scores start from one-against-the-rest statistics, in
one pass over the training cells, and training decides from there. No gene is ruled out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from kernomics.data import CellCollection
from kernomics.data.expression import as_csr
from kernomics.data.row_numbers import parts
from kernomics.models.tasks import Task

CELLS_AT_A_TIME = 8192


def marker_scores(
    cells: CellCollection, rows: NDArray[np.int64], tasks: Sequence[Task], prior: float
) -> NDArray[np.float32]:
    r"""Return the scores that a selection starts from, float32 [G].

    .. math:: s_g = -p \log(1 + \min_c r_{gc}), \text{ less the mean over genes}

    where p is the prior and r_gc, from 0, the rank of gene g among all genes by Welch's t for class
    c against the other labelled cells, on log(1 + count): the best marker of every class starts at
    the top. A continuous label counts as one class, ranked by the absolute correlation.
    """
    if prior == 0:
        return np.zeros(cells.n_genes, np.float32)
    best = np.full(cells.n_genes, np.inf)
    for _, strengths in marker_strengths(cells, rows, tasks):
        for strength in strengths:
            rank = np.empty(cells.n_genes)
            rank[np.argsort(-strength, kind="stable")] = np.arange(cells.n_genes)
            np.minimum(best, rank, out=best)
    scores = -prior * np.log1p(np.where(np.isinf(best), cells.n_genes, best))
    return np.asarray(scores - scores.mean(), np.float32)


def marker_strengths(
    cells: CellCollection, rows: NDArray[np.int64], tasks: Sequence[Task]
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Measure how strongly each gene marks each class of a label, or follows its number.

    Per task the codes of its classes that have a statistic, int64 [C], and Welch's t of each,
    float64 [C, G]; for a number code 0 and the absolute correlation [1, G]. Classes of one cell, or
    with one other cell, have none.
    """
    weights = [_weights(task, cells.labels[task.name].values[rows]) for task in tasks]
    sums = [np.zeros((w.shape[0], cells.n_genes)) for w in weights]
    squares = [np.zeros((w.shape[0], cells.n_genes)) for w in weights]
    for part in parts(len(rows), CELLS_AT_A_TIME):
        batch = cells.batch(rows[part])
        x = as_csr(batch, np.log1p(batch.values.numpy().astype(np.float64)))
        for i, weight in enumerate(weights):
            sums[i] += (weight[:, part] @ x).toarray()
            x_squared = x.copy()
            x_squared.data **= 2
            squares[i] += (weight[:, part] @ x_squared).toarray()
    found = []
    for task, weight, total, square in zip(tasks, weights, sums, squares, strict=True):
        if task.classes:
            n_cells = np.asarray(weight.sum(axis=1)).ravel()
            usable = (n_cells >= 2) & (n_cells.sum() - n_cells >= 2)
            found.append((np.flatnonzero(usable), _welch(n_cells, total, square, usable)))
        else:
            n = float(weight[1].sum())
            spread = np.sqrt(np.maximum(square[1] / n - (total[1] / n) ** 2, 0))
            covariance = total[0] / n  # the label has mean 0
            found.append((np.zeros(1, np.int64), np.abs(_ratio(covariance, spread))[None]))
    return found


def _weights(task: Task, values: NDArray[Any]) -> sparse.csr_matrix:
    """Rows whose products with the cells are sums: per class; or label-weighted and plain."""
    n = len(values)
    if task.classes:
        labelled = np.flatnonzero(values >= 0)
        ones = np.ones(len(labelled))
        return sparse.csr_matrix((ones, (values[labelled], labelled)), shape=(len(task.classes), n))
    known = ~np.isnan(values)
    label = np.where(known, (values - task.mean) / task.sd, 0.0)
    return sparse.csr_matrix(np.stack([label, known.astype(np.float64)]))


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
    error = (square / n - (total / n) ** 2) / n + (rest_square / n_rest - (rest / n_rest) ** 2) / (
        n_rest
    )
    return _ratio(total / n - rest / n_rest, np.sqrt(np.maximum(error, 0)))


def _ratio(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a / b, and 0 where b is as good as 0: a constant gene marks nothing."""
    return np.divide(a, b, out=np.zeros_like(a), where=b > 1e-9)
