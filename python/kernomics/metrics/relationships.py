"""How well vectors of genes recall known relationships between genes.

The score of gene parameters in TxFM's evaluation (arXiv 2605.31562): a known pair is recalled when
the cosine of its two vectors is more extreme than nine tenths of random pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from kernomics._arguments import checked, numbers_of
from kernomics.errors import ConfigError, DataError
from kernomics.metrics.gene_pairs import KnownPairs, match_pairs, random_pairs

PERCENTILES = (5.0, 95.0)
"""Of the random pairs' cosines; a known pair outside them is recalled, by chance one in ten."""

N_NULL_PAIRS = 100_000
"""Random pairs per draw (ours): the recall by chance is then 10 % with a deviation of 0.1 %."""

OWN_SCALE = ", own scale"
"""Ends the name of vectors that were centred and not standardised."""

NUMBERS_AT_A_TIME = 2**22
"""Entries of a block of gathered vectors: 32 MB."""

Cosines = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class RelationshipRecall:
    """Recall of known relationships, per database.

    Attributes
    ----------
    table : pandas.DataFrame
        One row per database: ``recall``, the mean over the draws of random pairs; ``spread``, their
        standard deviation; ``n_pairs``, pairs scored; ``n_given``, distinct pairs of two different
        genes in the database, those with an absent gene included.
    thresholds : numpy.ndarray
        float64 [draws, 2], the percentiles of the random pairs' cosines.
    n_genes, n_components : int
        Genes with a vector, and its length after the principal component analysis.
    """

    table: pd.DataFrame
    thresholds: NDArray[np.float64]
    n_genes: int
    n_components: int

    @property
    def mean(self) -> float:
        """The mean of the databases' recalls."""
        return float(self.table["recall"].mean())

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON-able values."""
        return {
            "mean": self.mean,
            "n_genes": self.n_genes,
            "n_components": self.n_components,
            "thresholds": self.thresholds.tolist(),
            "databases": self.table.reset_index().to_dict("records"),
        }


@checked
def relationship_recall(
    embeddings: ArrayLike,
    genes: Sequence[str] | NDArray[Any],
    relations: Mapping[str, Any],
    *,
    n_components: int | None = None,
    standardise: bool = True,
    seed: int = 0,
    n_null_draws: int = 3,
    n_null_pairs: int = N_NULL_PAIRS,
) -> RelationshipRecall:
    """Score vectors of genes by the known relationships that they recall.

    Each dimension is standardised over the genes, and principal components are taken. With c(i, j)
    the cosine of two genes' components, and q₅ and q₉₅ the percentiles of c over random pairs of
    different genes,

    recall = |{(i, j) known: c(i, j) < q₅ or c(i, j) > q₉₅}| / |{(i, j) known}|,

    averaged over draws of the random pairs (TxFM, arXiv 2605.31562, Evaluation). Vectors that say
    nothing recall 10 %.

    Parameters
    ----------
    embeddings
        float [G, d], a vector per gene.
    genes
        Their names [G], each once.
    relations
        Per database pairs of names [n, 2], as from `read_relations`. Pairs of a gene with itself,
        repeated pairs in either order, and pairs with a gene that is not there count nowhere.
    n_components
        How many principal components to keep; all by default, and never more than the rank. The
        paper keeps 32 for encoder tokens and 256 for decoder weights.
    standardise
        As in the paper. Where dimensions are of unequal scale because some matter more, as those
        of principal components, that is lost by it; without it vectors are centred alone.
    seed
        Of the random pairs.
    n_null_draws, n_null_pairs
        Draws of random pairs, and pairs in each.

    Returns
    -------
    RelationshipRecall
        Recall per database and its mean. A gene whose components are all 0 has cosine 0 with all.

    Raises
    ------
    DataError
        When names and vectors do not fit, a number is not finite, or a database has no pair of
        which both genes are there.
    ConfigError
        When a number makes no sense.
    """
    known = match_pairs(genes, relations)
    (found,) = recall_of_components(
        principal_components(embeddings, known.n_genes, standardise=standardise),
        known,
        [n_components],
        seed=seed,
        n_null_draws=n_null_draws,
        n_null_pairs=n_null_pairs,
    )
    return found


def principal_components(
    embeddings: ArrayLike, n_genes: int, *, standardise: bool = True
) -> NDArray[np.float64]:
    """Return all principal components of standardised or centred vectors, float64 [G, rank].

    Dimensions that are the same for all genes are left out. The largest entry of each component is
    positive, so that the signs do not depend on the machine.
    """
    values = numbers_of("embeddings", embeddings)
    if values.ndim != 2 or len(values) != n_genes:
        raise DataError(
            f"the vectors have shape {values.shape} for {n_genes:,} genes; [genes, d] is needed"
        )
    if n_genes < 3:
        raise DataError(f"{n_genes} genes are too few: at least 3 are needed")
    wrong = ~np.isfinite(values).all(axis=1)
    if wrong.any():
        raise DataError(
            f"{int(wrong.sum()):,} of {n_genes:,} genes have a vector that is not finite, first "
            f"number {int(np.flatnonzero(wrong)[0]):,}; leave them out"
        )
    centred = values - values.mean(axis=0)
    deviation = centred.std(axis=0)
    varies = deviation > 1e-12 * np.abs(values).max(axis=0, initial=0.0)
    if not varies.any():
        raise DataError(f"the vectors of all {n_genes:,} genes are the same")
    z = centred[:, varies] / deviation[varies] if standardise else centred[:, varies]
    power, axes = np.linalg.eigh(z.T @ z)
    power, axes = power[::-1], axes[:, ::-1]
    # Powers are squares of singular values, so their rounding is relative to the largest of them.
    rank = int(np.count_nonzero(power > power[0] * max(z.shape) * np.finfo(np.float64).eps))
    found = z @ axes[:, :rank]
    largest = np.abs(found).argmax(axis=0)
    return np.asarray(found * np.sign(found[largest, np.arange(rank)]))


def recall_of_components(
    components: NDArray[np.float64],
    known: KnownPairs,
    n_components: Sequence[int | None],
    *,
    seed: int = 0,
    n_null_draws: int = 3,
    n_null_pairs: int = N_NULL_PAIRS,
) -> list[RelationshipRecall]:
    """Score the first components, for several numbers of them; see `relationship_recall`.

    None is for all of them; numbers that the rank makes equal are scored once.
    """
    rank = components.shape[1]
    for number in n_components:
        if number is not None and number < 2:
            raise ConfigError(
                f"n_components is {number}: at least 2 are needed, with 1 each cosine is 1 or −1"
            )
    if rank < 2:
        raise DataError("the vectors differ in one direction alone: each cosine is 1 or −1")
    sizes = dict.fromkeys(rank if n is None else min(n, rank) for n in n_components)
    return [
        score_pairs(
            _cosines(components[:, :size]),
            known,
            size,
            seed=seed,
            n_null_draws=n_null_draws,
            n_null_pairs=n_null_pairs,
        )
        for size in sizes
    ]


def correlation_recall(
    profiles: sparse.csr_matrix, known: KnownPairs, **options: Any
) -> RelationshipRecall:
    """Score Pearson's correlation of the genes' own expression, CSR [G, n], without any reduction.

    A constant gene has correlation 0 with all. Options are those of `relationship_recall`.
    """
    n = profiles.shape[1]
    mean = np.asarray(profiles.mean(axis=1)).ravel()
    square = np.asarray(profiles.multiply(profiles).mean(axis=1)).ravel()
    variance = square - mean**2
    scale = np.zeros_like(variance)
    varies = variance > 1e-12 * square
    scale[varies] = 1 / np.sqrt(variance[varies])

    def correlations(i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.float64]:
        product = np.asarray(profiles[i].multiply(profiles[j]).sum(axis=1)).ravel() / n
        return np.asarray((product - mean[i] * mean[j]) * scale[i] * scale[j])

    block = max(1, NUMBERS_AT_A_TIME // max(1, profiles.nnz // max(1, profiles.shape[0])))
    return score_pairs(_in_blocks(correlations, block), known, n, **options)


def score_pairs(
    cosines: Cosines,
    known: KnownPairs,
    n_components: int,
    *,
    seed: int = 0,
    n_null_draws: int = 3,
    n_null_pairs: int = N_NULL_PAIRS,
) -> RelationshipRecall:
    """Score any likeness of pairs of genes; see `relationship_recall`."""
    for name, value in (("n_null_draws", n_null_draws), ("n_null_pairs", n_null_pairs)):
        if value < 1:
            raise ConfigError(f"{name} is {value}: at least 1 is needed")
    thresholds = np.empty((n_null_draws, 2))
    for draw in range(n_null_draws):
        pairs = random_pairs(known.n_genes, n_null_pairs, seed, draw)
        thresholds[draw] = np.percentile(cosines(pairs[:, 0], pairs[:, 1]), PERCENTILES)
    rows = []
    for database, pairs in known.pairs.items():
        found = cosines(pairs[:, 0], pairs[:, 1])
        recalls = [float(np.mean((found < low) | (found > high))) for low, high in thresholds]
        rows.append(
            {
                "database": database,
                "recall": float(np.mean(recalls)),
                "spread": float(np.std(recalls)),
                "n_pairs": len(pairs),
                "n_given": known.n_given[database],
            }
        )
    table = pd.DataFrame(rows).set_index("database")
    return RelationshipRecall(table, thresholds, known.n_genes, n_components)


def _cosines(vectors: NDArray[np.float64]) -> Cosines:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)

    def cosines(i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(np.einsum("pd,pd->p", unit[i], unit[j]))

    return _in_blocks(cosines, max(1, NUMBERS_AT_A_TIME // vectors.shape[1]))


def _in_blocks(cosines: Cosines, block: int) -> Cosines:
    def blocked(i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.float64]:
        found = np.empty(len(i))
        for start in range(0, len(i), block):
            part = slice(start, start + block)
            found[part] = cosines(i[part], j[part])
        return found

    return blocked
