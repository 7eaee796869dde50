"""Invertibility: how much of the expression a model's reconstruction keeps."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.stats import rankdata

from kernomics._arguments import checked
from kernomics.errors import DataError
from kernomics.metrics.alignment import batch_rows, groups, require_controls, row_blocks

Of = Literal["genes", "cells"]
Bound = Literal["observed", "triangle"]


@checked
def rank_correlations(predicted: ArrayLike, observed: Any, of: Of = "genes") -> NDArray[np.float64]:
    """Return Spearman's rank correlation of observed and reconstructed expression.

    Spearman's ρ is Pearson's correlation of ranks, ties sharing their mean rank.

    Parameters
    ----------
    predicted
        Float [cells, genes], reconstructed expression.
    observed
        [cells, genes], dense or scipy sparse; any increasing function of it gives the same.
    of
        ``"genes"``: of each gene over the cells, as the benchmark of arXiv 2410.13956 does;
        ``"cells"``: of each cell over the genes, which is high for any model that knows which
        genes are expressed at all.

    Returns
    -------
    numpy.ndarray
        float64 [genes] or [cells]. NaN where the observed values are all equal, of which there is
        nothing to reconstruct; 0 where the reconstruction is constant and the observed is not.

    Raises
    ------
    DataError
        If shapes disagree or a reconstruction is not finite.
    ConfigError
        If `of` is neither.
    """
    p, y = _pair(predicted, observed)
    if of == "cells":
        p, y = p.T, y.T
    if sparse.issparse(y):
        y = y.tocsc()
    found = np.empty(p.shape[1])
    for columns in row_blocks(p.shape[1], p.shape[0]):
        found[columns] = _spearman(p[:, columns], _dense(y[:, columns]))
    return found


@checked
def spearman_inversion(predicted: ArrayLike, observed: Any, of: Of = "genes") -> float:
    """Return the mean of `rank_correlations` over genes, or over cells, whose observed values vary.

    Parameters
    ----------
    predicted, observed, of
        As in `rank_correlations`.

    Returns
    -------
    float
        Between −1 and 1; NaN if nothing varies.
    """
    found = rank_correlations(predicted, observed, of)
    found = found[~np.isnan(found)]
    return float(found.mean()) if found.size else float("nan")


@checked
def structural_integrity(
    predicted: ArrayLike,
    observed: Any,
    batches: ArrayLike | None,
    controls: ArrayLike,
    *,
    bound: Bound = "observed",
) -> float:
    """Return how well differences from the controls survive the reconstruction: 1 − D/D_max.

    With Y_b and Ŷ_b the observed and reconstructed expression of the n_b cells of batch b, each
    less its own mean over the batch's controls,

        D = mean_b(‖Ŷ_b − Y_b‖_F / n_b),

    and D_max is ``"observed"``: 2·mean_b(‖Y_b‖_F / n_b), as the code of the benchmark has it
    (arXiv 2410.13956), or ``"triangle"``: mean_b((‖Ŷ_b‖_F + ‖Y_b‖_F) / n_b), a bound that holds
    whatever the reconstruction, by the triangle inequality.

    Parameters
    ----------
    predicted
        Float [n, genes], reconstructed expression.
    observed
        [n, genes], dense or scipy sparse, on the scale of `predicted`.
    batches
        [n], the batch of each cell; None for one batch.
    controls
        Bool [n], which cells are controls.
    bound
        Which D_max.

    Returns
    -------
    float
        At most 1, for a reconstruction that is right up to one constant per gene and batch. With
        ``"observed"`` a reconstruction of zeros scores 0.5 and one that overshoots may score below
        0: the value is not clipped. With ``"triangle"`` zeros score 0, and nothing is below 0. NaN
        if D_max is 0.

    Raises
    ------
    DataError
        If shapes disagree, a reconstruction is not finite, or a batch has no control.
    ConfigError
        If `bound` is neither.
    """
    p, y = _pair(predicted, observed)
    is_control, codes, names = groups(len(p), controls, batches)
    require_controls(is_control, codes, names, least=1, to="structural integrity")
    distance = largest = 0.0
    for rows in batch_rows(codes, len(names)):
        own = rows[is_control[rows]]
        p_mean = p[own].mean(axis=0, dtype=np.float64)
        y_mean = np.asarray(y[own].mean(axis=0, dtype=np.float64)).ravel()
        squares = np.zeros(3)  # of Ŷ − Y, of Y and of Ŷ
        for part in row_blocks(len(rows), p.shape[1]):
            y_part = _dense(y[rows[part]]) - y_mean
            p_part = p[rows[part]] - p_mean
            squares += [np.sum(z * z) for z in (p_part - y_part, y_part, p_part)]
        error, of_observed, of_predicted = np.sqrt(squares) / len(rows)
        distance += error
        largest += 2 * of_observed if bound == "observed" else of_observed + of_predicted
    return float(1 - distance / largest) if largest > 0 else float("nan")


def _pair(predicted: ArrayLike, observed: Any) -> tuple[NDArray[Any], Any]:
    p = np.asarray(predicted)
    y = observed.tocsr() if sparse.issparse(observed) else np.asarray(observed)
    if p.ndim != 2 or p.shape != y.shape or 0 in p.shape:
        raise DataError(
            f"predicted and observed must both have shape [cells, genes], found {p.shape} and "
            f"{y.shape}"
        )
    for name, values in (("predicted", p), ("observed", y)):
        if values.dtype.kind not in "biuf":
            raise DataError(f"{name} holds {values.dtype}, which are not numbers")
    wrong = ~np.isfinite(p).all(axis=1)
    if wrong.any():
        raise DataError(
            f"predicted is not finite in {int(wrong.sum()):,} of {len(p):,} cells, first in row "
            f"{int(np.flatnonzero(wrong)[0]):,}"
        )
    return p, y


def _spearman(p: NDArray[Any], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ρ of each pair of columns."""
    ranks = [rankdata(values, axis=0) for values in (p, y)]
    a, b = (r - (len(r) + 1) / 2 for r in ranks)  # ranks are multiples of ½: exact
    squares = np.einsum("nd,nd->d", a, a), np.einsum("nd,nd->d", b, b)
    norms = np.sqrt(squares[0] * squares[1])
    rho = np.divide(np.einsum("nd,nd->d", a, b), norms, out=np.zeros_like(norms), where=norms > 0)
    return np.where(squares[1] > 0, np.clip(rho, -1, 1), np.nan)


def _dense(block: Any) -> NDArray[np.float64]:
    return np.asarray(block.toarray() if sparse.issparse(block) else block, dtype=np.float64)
