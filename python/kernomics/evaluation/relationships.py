"""How a TxFM's gene parameters recall known relationships beside PCA on the same cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from kernomics._arguments import checked
from kernomics._optional import require_extra
from kernomics._warnings import quietly
from kernomics.data import CellCollection
from kernomics.data.expression import log_expression, measured_everywhere
from kernomics.errors import ConfigError, DataError
from kernomics.metrics.gene_pairs import KnownPairs, match_pairs
from kernomics.metrics.moments import moments_explained
from kernomics.metrics.relationships import (
    N_NULL_PAIRS,
    OWN_SCALE,
    RelationshipRecall,
    correlation_recall,
    principal_components,
    recall_of_components,
)
from kernomics.models import CellEncoder

__all__ = ["RelationshipScores", "compare_relationships"]

N_COMPONENTS = (32, 256)
"""The paper's numbers for encoder tokens and for decoder weights."""

ENCODER, DECODER, LOADINGS, PROFILES = (
    "TxFM encoder tokens",
    "TxFM decoder weights",
    "PCA loadings",
    "expression profiles",
)


@dataclass(frozen=True, eq=False)
class RelationshipScores:
    """Recall of known relationships by several gene vectors.

    Attributes
    ----------
    table : pandas.DataFrame
        One row per ``representation``, ``n_components`` and ``database``, with ``recall``,
        ``spread``, ``n_pairs`` and ``n_given`` as in `RelationshipRecall`. For expression profiles
        `n_components` is the number of cells.
    moments : pandas.DataFrame
        One row per ``representation`` and ``component``, from 1: its ``share`` of the components'
        variance, and how much of it the genes' ``mean``, ``variance`` and ``both`` explain
        (`moments_explained`).
    n_genes, n_cells : int
        Genes with a vector in each representation, and cells used for PCA and profiles.
    """

    table: pd.DataFrame
    moments: pd.DataFrame
    n_genes: int
    n_cells: int

    @property
    def summary(self) -> pd.DataFrame:
        """Recall by representation and number of components, a column per database, ``mean``."""
        keys = ["representation", "n_components"]
        rows = self.table[keys].drop_duplicates()
        wide = self.table.pivot_table(
            index=keys, columns="database", values="recall", sort=False, observed=True
        )
        wide = wide.loc[[tuple(row) for row in rows.to_numpy()]]
        wide.columns.name = None
        return wide.assign(mean=wide.mean(axis=1))

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON-able values."""
        return {
            "n_genes": self.n_genes,
            "n_cells": self.n_cells,
            "recall": self.table.to_dict("records"),
            "mean": self.summary["mean"].reset_index().to_dict("records"),
            "moments": self.moments.to_dict("records"),
        }


@checked
def compare_relationships(
    model: CellEncoder,
    cells: CellCollection,
    rows: NDArray[np.int64] | None,
    relations: Mapping[str, Any],
    *,
    n_components: Sequence[int] = N_COMPONENTS,
    min_gene_overlap: float = 0.8,
    seed: int = 0,
    n_null_draws: int = 3,
    n_null_pairs: int = N_NULL_PAIRS,
) -> RelationshipScores:
    """Score a model's gene parameters by known relationships, beside PCA on some cells.

    The genes are those of the vocabulary that are detected in some of these cells and measured in
    all, the same for all:

    - the encoder's tokens and the decoder's weights: standardised, principal components, cosine;
    - the loadings of a PCA of the cells' log-normalised counts (centred, not scaled), its first
      components each, treated likewise;
    - each of these on its own scale, centred and not standardised, so that a dimension counts by
      its variance; the loadings times the roots of their singular values, V·√S, which is where
      TxFM's genes start with ``gene_start="components"``;
    - the genes' own log-normalised expression over the cells, by Pearson's correlation.

    All are scored against the same random pairs; see `kernomics.metrics.relationship_recall`.

    Parameters
    ----------
    model
        A TxFM.
    cells
        Where the counts are.
    rows
        int [n], which cells (None: all); for a fair comparison, those the model was trained on.
    relations
        For each database, pairs of names [n, 2], as from `kernomics.metrics.read_relations`.
    n_components
        Numbers of components to score; larger numbers mean all components.
    min_gene_overlap
        Fraction of the model's genes that the cells must have.
    seed
        Seed of the random pairs and the PCA.
    n_null_draws, n_null_pairs
        As in `kernomics.metrics.relationship_recall`.

    Raises
    ------
    DataError
        If a database has no pair with both genes present.
    """
    if rows is None:
        rows = np.arange(cells.n_cells)
    if not n_components:
        raise ConfigError("n_components is empty: name at least one number")
    expression, seen = _expression(model, cells, rows, min_gene_overlap)
    known = match_pairs(model.genes[seen], relations)
    options = {"seed": seed, "n_null_draws": n_null_draws, "n_null_pairs": n_null_pairs}
    mean, variance = _moments_of_genes(expression)
    scored: list[tuple[str, RelationshipRecall]] = []
    moments = []

    def score(name: str, vectors: NDArray[Any], *, standardise: bool) -> NDArray[np.float64]:
        found = principal_components(vectors, len(seen), standardise=standardise)
        recalls = recall_of_components(found, known, n_components, **options)
        scored.extend((name + ("" if standardise else OWN_SCALE), recall) for recall in recalls)
        return found

    for name, part in ((ENCODER, "encoder"), (DECODER, "decoder")):
        vectors = model.get_gene_embeddings(part)[seen]  # type: ignore[arg-type]
        components = score(name, vectors, standardise=True)
        power = np.square(components).sum(axis=0)
        moments.append(_explained(name, components, power / power.sum(), mean, variance))
        score(name, vectors, standardise=False)
    loadings, share = pca_loadings(expression, max(n_components), seed)
    scored += [
        (LOADINGS, recall) for recall in _loadings_recall(loadings, known, n_components, options)
    ]
    moments.append(_explained(LOADINGS, loadings, share, mean, variance))
    score(LOADINGS, loadings * share**0.25, standardise=False)  # shares go with S²
    profiles = sparse.csr_matrix(expression.T)
    scored.append((PROFILES, correlation_recall(profiles, known, **options)))
    parts = [
        recall.table.reset_index().assign(representation=name, n_components=recall.n_components)
        for name, recall in scored
    ]
    columns = ["representation", "n_components", "database", "recall", "spread"]
    return RelationshipScores(
        pd.concat(parts, ignore_index=True)[[*columns, "n_pairs", "n_given"]],
        pd.concat(moments, ignore_index=True),
        len(seen),
        len(rows),
    )


def pca_loadings(
    expression: sparse.csr_matrix, n_components: int, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the loadings of cells' first principal components, and their share of the variance."""
    require_extra("sklearn", purpose="PCA")
    from sklearn.decomposition import PCA

    n = min(n_components, min(expression.shape) - 1)
    if n < 2:
        raise DataError(
            f"{expression.shape[0]:,} cells and {expression.shape[1]:,} genes are too few for a PCA"
        )
    pca = PCA(n, svd_solver="arpack", random_state=seed % 2**32).fit(expression)
    return pca.components_.T, pca.explained_variance_ratio_


def _expression(
    model: CellEncoder, cells: CellCollection, rows: NDArray[np.int64], min_gene_overlap: float
) -> tuple[sparse.csr_matrix, NDArray[np.int64]]:
    """Return log-normalised counts of the vocabulary's genes that the cells have, and which.

    A gene that some cells have not measured is left out: there a 0 would be no count.
    """
    with quietly(UserWarning):  # genes that the data lack are left out, not taken as 0
        view = cells.with_genes(model.genes, min_gene_overlap)
    expression = log_expression(view.batch(rows), dtype=np.float64)
    seen = np.flatnonzero((expression.getnnz(axis=0) > 0) & measured_everywhere(view))
    if not seen.size:
        raise DataError(
            f"the {len(rows):,} cells have none of the model's genes, or none that all of them "
            "have measured"
        )
    return sparse.csr_matrix(expression[:, seen]), seen


def _loadings_recall(
    loadings: NDArray[np.float64],
    known: KnownPairs,
    n_components: Sequence[int],
    options: Mapping[str, int],
) -> list[RelationshipRecall]:
    """Score the loadings of the first components, for several numbers of them."""
    found = []
    for size in dict.fromkeys(min(n, loadings.shape[1]) for n in n_components):
        components = principal_components(loadings[:, :size], known.n_genes)
        found += recall_of_components(components, known, [size], **options)
    return found


def _moments_of_genes(
    expression: sparse.csr_matrix,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean = np.asarray(expression.mean(axis=0)).ravel()
    square = np.asarray(expression.multiply(expression).mean(axis=0)).ravel()
    return mean, square - mean**2


def _explained(
    name: str,
    components: NDArray[np.float64],
    share: NDArray[np.float64],
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
) -> pd.DataFrame:
    varies = variance > 0  # the logarithm needs it
    found = moments_explained(components[varies], mean[varies], variance[varies])
    order = np.arange(1, components.shape[1] + 1)
    return pd.DataFrame({"representation": name, "component": order, "share": share}).assign(
        mean=found["mean"], variance=found["variance"], both=found["both"]
    )
