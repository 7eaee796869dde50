"""How much of held-out counts a TxFM's representation explains, beside a PCA of the same cells."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernomics._arguments import checked, require_least
from kernomics._optional import require_extra
from kernomics.data import CellCollection, Split
from kernomics.data.expression import as_csr, log_expression
from kernomics.models import CellEncoder

MOST_CELLS, MOST_HELD_OUT, MOST_GENES = 2_000, 1_000, 200
FEWEST = 20
"""Cells to fit on, and held out, below which nothing is said."""
LEAST_DETECTED = 0.05
"""Share of the cells fitted on that must express a gene that is asked for."""
PENALTY = 1e-2
"""Of the squared slopes of the regressions, beside the mean deviance of a cell."""
ERRORS = 2.0


@dataclass(frozen=True)
class Explained:
    """Which share of the deviance of held-out counts two representations explain.

    Attributes
    ----------
    model, pca
        Of a TxFM, and of as many principal components; 1 is all of it.
    difference, error
        The first less the second, and its standard error over the cells.
    n_cells, n_genes
        How many cells were held out, and of how many genes the counts are.
    """

    model: float
    pca: float
    difference: float
    error: float
    n_cells: int
    n_genes: int

    @property
    def worse(self) -> bool:
        """Whether the PCA explains more, by twice the standard error or more."""
        return self.difference < -ERRORS * self.error

    def __str__(self) -> str:
        return (
            f"the representation explains {self.model:.1%} of the deviance of {self.n_genes:,} "
            f"genes' counts in {self.n_cells:,} cells that were held out, a PCA of as many "
            f"dimensions {self.pca:.1%}"
            + ("; what a TxFM adds does not show in these counts" if self.worse else "")
        )


@checked
def explained_counts(
    encoder: CellEncoder,
    cells: CellCollection,
    split: Split,
    *,
    n_tokens: int | None = None,
    seed: int = 0,
) -> Explained | None:
    r"""Compare a TxFM's representation with a PCA by what they say of the validation cells' counts.

    Each gene's counts c are regressed on each representation z, standardised, by a Poisson
    regression with the library size s as exposure, log E[c] = log s + a + bᵀz, fitted on the
    training cells. The share explained is

    .. math:: D = 1 - \frac{\sum_{c,g} d(c_{cg}, \hat\mu_{cg})}{\sum_{c,g} d(c_{cg}, s_c \bar r_g)}

    on the validation cells, with d the Poisson deviance and r̄ each gene's rate in the training
    cells. The PCA is of log(1 + 10⁴·c/s) over the model's genes, with as many components as the
    model has dimensions. Of more cells or genes, 2,000 training and 1,000 validation cells and 200
    genes are drawn, the latter from those that one in twenty of the training cells expresses.

    Parameters
    ----------
    encoder
        The model.
    cells
        The cells, over its genes or more.
    split
        Which cells the regressions and the PCA are fitted on, and which are held out (validation).
    n_tokens
        How many genes are revealed to the model (None: all).
    seed
        Of the draws and the PCA.

    Returns
    -------
    Explained or None
        None where there is nothing to compare: fewer than 20 cells on either side, no gene that
        enough of them express, or several data sets with different genes.
    """
    require_least(0, seed=seed)
    view = cells.with_genes(encoder.genes, 1.0)
    rng = np.random.default_rng(seed)
    train, held_out = (
        _some(rows, most, rng)
        for rows, most in ((split.train, MOST_CELLS), (split.validation, MOST_HELD_OUT))
    )
    if min(len(train), len(held_out)) < FEWEST or view.observed is not None:
        return None
    parts = [view.batch(rows) for rows in (train, held_out)]
    detected = as_csr(parts[0]).getnnz(axis=0)
    genes = _some(np.flatnonzero(detected >= LEAST_DETECTED * len(train)), MOST_GENES, rng)
    if not len(genes) or min(len(train), view.n_genes) < 3:
        return None
    require_extra("sklearn", purpose="PCA")
    from sklearn.decomposition import PCA

    x = [log_expression(part) for part in parts]
    n_components = min(encoder.config.d_model, min(x[0].shape) - 1)
    pca = PCA(n_components, svd_solver="arpack", random_state=seed % 2**32).fit(x[0])
    counts = [as_csr(part)[:, genes].toarray().astype(np.float64) for part in parts]
    sizes = [_library(part.library) for part in parts]
    rate = counts[0].sum(0) / sizes[0].sum()
    null = _deviance(counts[1], sizes[1][:, None] * rate).sum(1)
    of_model, of_pca = (
        _deviance_by(z, counts, sizes).sum(1)
        for z in (
            [
                encoder.get_latent_representation(
                    view, rows=rows, n_tokens=n_tokens, empty_cells="keep"
                )
                for rows in (train, held_out)
            ],
            [pca.transform(part) for part in x],
        )
    )
    gaps = (of_pca - of_model) / null.mean()
    return Explained(
        float(1 - of_model.sum() / null.sum()),
        float(1 - of_pca.sum() / null.sum()),
        float(gaps.mean()),
        float(gaps.std(ddof=1) / len(gaps) ** 0.5),
        len(held_out),
        len(genes),
    )


def _some(rows: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))


def _library(sizes: object) -> NDArray[np.float64]:
    return np.maximum(np.asarray(sizes, dtype=np.float64), 1.0)


def _deviance(counts: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return d(c, μ) = 2 (c log(c/μ) − c + μ), of counts that may be fractions."""
    logs = counts * np.log(np.where(counts > 0, counts, 1) / means)
    return 2 * (logs - counts + means)


def _deviance_by(
    z: list[NDArray[np.float32]],
    counts: list[NDArray[np.float64]],
    sizes: list[NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Return the deviance of the held-out counts, regressed on a representation."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import PoissonRegressor
    from threadpoolctl import threadpool_limits

    mean, spread = z[0].mean(0), z[0].std(0)
    spread[spread == 0] = 1
    train, held_out = ((part - mean).astype(np.float64) / spread for part in z)
    # Within what the training cells show: a count to come is not read off far beyond.
    held_out = held_out.clip(train.min(0), train.max(0))
    scale = sizes[0].mean()
    found = np.empty_like(counts[1])
    # A gene's regression has steps of microseconds, in which threads wait for each other.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for j in range(counts[0].shape[1]):
            fit = PoissonRegressor(alpha=PENALTY, solver="newton-cholesky", max_iter=30)
            fit.fit(train, counts[0][:, j] / sizes[0] * scale, sample_weight=sizes[0] / scale)
            means = fit.predict(held_out) * sizes[1] / scale
            found[:, j] = _deviance(counts[1][:, j], np.maximum(means, 1e-12))
    return found
