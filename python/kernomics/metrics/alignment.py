"""Alignment of representations across batches, fitted on control cells alone.

What an experiment does to all of its cells shows in the controls. Each way here estimates it from
the controls of each batch and takes it out of every cell of that batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from kernomics._arguments import checked, numbers_of
from kernomics.errors import DataError

How = Literal["none", "centre", "standardise", "tvn"]

RIDGE = 0.5
"""Added to the diagonal of a batch's covariance in TVN, where the controls have variance 1."""

NUMBERS_AT_A_TIME = 2**22
"""Entries of a block of a large array: 32 MB."""


@dataclass(frozen=True)
class ControlPCA:
    """Principal components of control cells, the largest variance first.

    Rows of `components` are orthonormal, their entry of largest magnitude positive.
    """

    mean: NDArray[np.float64]  # float64 [d], of the controls
    components: NDArray[np.float64]  # float64 [k, d]
    variances: NDArray[np.float64]  # float64 [k], divisor n − 1

    @classmethod
    def fit(cls, controls: NDArray[np.float64], n_components: int | None = None) -> ControlPCA:
        """Fit to control cells [n, d] by the eigenvectors of their covariance.

        Directions in which the controls do not vary, up to the rounding of the covariance
        (λ ≤ max(n, d)·ε·λ₁), are left out, so that dividing by what remains is safe.
        """
        n, d = controls.shape
        mean = controls.mean(axis=0)
        centred = controls - mean
        variances, vectors = np.linalg.eigh(centred.T @ centred / (n - 1))
        variances, vectors = variances[::-1], vectors[:, ::-1]
        kept = variances > max(n, d) * np.finfo(np.float64).eps * max(variances[0], 0.0)
        if not kept.any():
            raise DataError(
                f"the {n:,} controls are identical in all {d:,} dimensions, so they show no "
                "typical variation; is this the right representation?"
            )
        k = min(int(kept.sum()), n - 1, d if n_components is None else n_components)
        components = vectors[:, :k].T
        largest = np.abs(components).argmax(axis=1)
        signs = np.sign(components[np.arange(k), largest])
        return cls(mean, components * signs[:, None], variances[:k].copy())

    def transform(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the components' scores of cells [n, d], float64 [n, k]."""
        return (x - self.mean) @ self.components.T


@checked
def align(
    representation: ArrayLike,
    controls: ArrayLike,
    batches: ArrayLike | None = None,
    how: How = "standardise",
) -> NDArray[np.float64]:
    """Take the differences between batches out of a representation.

    With μ_b and σ_b the mean and standard deviation (divisor n_b) of batch b's controls:

    - ``"none"``: x as it is.
    - ``"centre"``: x − μ_b.
    - ``"standardise"``: (x − μ_b)/σ_b; a dimension that does not vary among those controls is
      centred alone.
    - ``"tvn"``, typical variation normalisation (Ando, McLean, Berndl, bioRxiv 161422, in the form
      of the benchmark of arXiv 2410.13956): over the controls of all batches, standardise, rotate
      to their principal components and divide each by its standard deviation, so that what varies
      among controls counts no more than what does not; then in each batch
      (z − μ_b)·(Σ_b + I/2)^(−1/2), Σ_b the covariance of its controls (divisor n_b − 1). Directions
      in which the controls do not vary at all are dropped, so the result may have fewer dimensions.

    Parameters
    ----------
    representation
        Float [n, d], any representation of cells.
    controls
        Bool [n], which cells are controls.
    batches
        [n], the batch of each cell, of any type; one batch by default.
    how
        Which of the four.

    Returns
    -------
    numpy.ndarray
        float64 [n, d], or [n, k] with k ≤ d for ``"tvn"``; a copy.

    Raises
    ------
    ConfigError
        If `how` is none of the four.
    DataError
        If shapes disagree, values are not finite, or a batch has too few controls: one is needed
        to centre, two to standardise and for TVN.

    Notes
    -----
    The benchmark's code does not subtract μ_b from z, which leaves each batch's shift in place.
    Aligning covariances presumes means of zero, so it is subtracted here; with one batch both are
    the same.
    """
    x = as_matrix(representation)
    is_control, codes, names = groups(x.shape[0], controls, batches)
    if how == "none":
        return x.copy()
    require_controls(is_control, codes, names, least=1 if how == "centre" else 2, to=how)
    if how == "tvn":
        typical = _standardised(x, x[is_control])
        pca = ControlPCA.fit(typical[is_control])
        x = pca.transform(typical) / np.sqrt(pca.variances)
    out = np.empty_like(x)
    for rows in batch_rows(codes, len(names)):
        own = x[rows[is_control[rows]]]
        if how == "standardise":
            out[rows] = _standardised(x[rows], own)
        elif how == "centre":
            out[rows] = x[rows] - own.mean(axis=0)
        else:
            out[rows] = (x[rows] - own.mean(axis=0)) @ _inverse_root(own)
    return out


def _standardised(x: NDArray[np.float64], controls: NDArray[np.float64]) -> NDArray[np.float64]:
    mean, deviation = controls.mean(axis=0), controls.std(axis=0)
    # A constant's mean is off by its rounding, which leaves a deviation of that size, not zero.
    rounding = len(controls) * np.finfo(np.float64).eps * np.abs(controls).max(axis=0)
    deviation = np.where(deviation > rounding, deviation, 1.0)
    return np.asarray((x - mean) / deviation)


def _inverse_root(controls: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (Σ + I/2)^(−1/2) of control cells [n, k]."""
    centred = controls - controls.mean(axis=0)
    variances, vectors = np.linalg.eigh(centred.T @ centred / (len(controls) - 1))
    return np.asarray((vectors / np.sqrt(np.maximum(variances, 0.0) + RIDGE)) @ vectors.T)


# -- what the metrics of perturbations share -------------------------------------------------------


def as_numbers(values: ArrayLike, what: str = "the representation") -> NDArray[np.float64]:
    """Return values as float64 [n, d], finite or not, or say what they are instead."""
    x = numbers_of(what, values)
    if x.ndim != 2:
        raise DataError(f"{what} must have shape [cells, dimensions], found {x.shape}")
    return x


def as_matrix(values: ArrayLike, what: str = "the representation") -> NDArray[np.float64]:
    """Return values as finite float64 [n, d], or say what is wrong with them."""
    x = as_numbers(values, what)
    if x.shape[1] == 0 or not len(x):
        raise DataError(f"{what} must have shape [cells, dimensions], found {x.shape}")
    wrong = ~np.isfinite(x).all(axis=1)
    if wrong.any():
        raise DataError(
            f"{what} is not finite in {int(wrong.sum()):,} of {len(x):,} cells, first in row "
            f"{int(np.flatnonzero(wrong)[0]):,}; leave these cells out"
        )
    return x


def groups(
    n: int, controls: ArrayLike, batches: ArrayLike | None
) -> tuple[NDArray[np.bool_], NDArray[np.int64], list[str]]:
    """Return which cells are controls, each cell's batch by number, and the batches' names."""
    is_control = np.asarray(controls)
    if is_control.shape != (n,) or is_control.dtype != bool:
        raise DataError(
            f"controls must be bool [{n:,}], one for each cell, found {is_control.dtype} "
            f"{list(is_control.shape)}"
        )
    if batches is None:
        return is_control, np.zeros(n, np.int64), ["all cells"]
    codes, names = pd.factorize(_one_column(batches, n, "batches"), sort=False)
    if (codes < 0).any():
        raise DataError(
            f"{int((codes < 0).sum()):,} of {n:,} cells have no batch, first in row "
            f"{int(np.flatnonzero(codes < 0)[0]):,}; assign them a batch, or leave them out"
        )
    return is_control, codes.astype(np.int64), [str(name) for name in names]


def _one_column(values: Any, n: int, what: str) -> NDArray[Any]:
    column = np.asarray(values)
    if column.shape != (n,):
        raise DataError(f"{what} must have one entry for each of {n:,} cells, found {column.shape}")
    return column


def require_controls(
    controls: NDArray[np.bool_],
    codes: NDArray[np.int64],
    names: list[str],
    *,
    least: int,
    to: str,
) -> None:
    """Refuse batches with fewer than `least` controls, naming them and their counts."""
    having = np.bincount(codes[controls], minlength=len(names))
    short = np.flatnonzero(having < least)
    if not short.size:
        return
    cells = np.bincount(codes, minlength=len(names))
    told = ", ".join(
        f"{names[b]!r} ({int(having[b])} of {int(cells[b]):,} cells)" for b in short[:5]
    )
    more = f" and {short.size - 5} more" if short.size > 5 else ""
    what = {"centre": "centring", "standardise": "standardising", "tvn": "TVN"}.get(to, to)
    raise DataError(
        f"{what} is fitted on controls and needs {least} in each batch; {short.size} of "
        f"{len(names)} batches have fewer: {told}{more}; leave out the cells of these batches, "
        "use coarser batches, or check the name of the control"
    )


def batch_rows(codes: NDArray[np.int64], n_batches: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each batch in turn, sorted."""
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=n_batches))
    yield from np.split(order, ends[:-1])


def row_blocks(n: int, width: int) -> Iterator[slice]:
    """Cut n rows of some width into slices of bounded size."""
    step = max(1, NUMBERS_AT_A_TIME // max(width, 1))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))
