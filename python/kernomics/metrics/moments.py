"""How much of a component of the genes is only their mean and variance."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kernomics._arguments import checked, numbers_of
from kernomics.errors import DataError


@checked
def moments_explained(
    components: ArrayLike, mean: ArrayLike, variance: ArrayLike
) -> dict[Literal["mean", "variance", "both"], NDArray[np.float64]]:
    """Return how much of each component of the genes their mean and variance explain.

    Parameters
    ----------
    components
        float [G, m], such as loadings or principal components of gene parameters.
    mean, variance
        float [G], of each gene's expression over the cells, above 0.

    Returns
    -------
    dict
        ``"mean"``, ``"variance"`` and ``"both"``: float64 [m], R² of the least-squares fit of a
        component by an intercept and the logarithm of the mean, of the variance, and of both.

    Raises
    ------
    DataError
        When the lengths differ or a mean or variance is not above 0.
    """
    values = numbers_of("components", components)
    moments = [numbers_of("mean", mean), numbers_of("variance", variance)]
    for name, part in zip(("mean", "variance"), moments, strict=True):
        if values.ndim != 2 or part.shape != values.shape[:1]:
            raise DataError(
                f"{name} has shape {part.shape} for components of shape {values.shape}; "
                "[genes] and [genes, components] are needed"
            )
        wrong = ~((part > 0) & np.isfinite(part))
        if wrong.any():
            raise DataError(
                f"{int(wrong.sum()):,} of {len(part):,} genes have a {name} that is not above 0 "
                "and finite, "
                f"first number {int(np.flatnonzero(wrong)[0]):,}; leave them out"
            )
    if not np.isfinite(values).all():
        rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
        raise DataError(
            f"components of {rows.size:,} of {len(values):,} genes are not finite, first number "
            f"{int(rows[0]):,}; leave them out"
        )
    log_mean, log_variance = (np.log(part) for part in moments)
    centred = values - values.mean(axis=0)
    total = (centred**2).sum(axis=0)

    def explained(*features: NDArray[np.float64]) -> NDArray[np.float64]:
        x = np.stack([feature - feature.mean() for feature in features], axis=1)
        left = centred - x @ np.linalg.lstsq(x, centred, rcond=None)[0]
        share = np.full(values.shape[1], np.nan)
        np.divide((left**2).sum(axis=0), total, out=share, where=total > 0)
        return 1 - share

    return {
        "mean": explained(log_mean),
        "variance": explained(log_variance),
        "both": explained(log_mean, log_variance),
    }
