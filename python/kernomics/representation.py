"""How a TxFM's representation compares with PCA and normalised counts on held-out cells."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from kernomics.data import CellCollection, Split
from kernomics.errors import DataError
from kernomics.metrics import probe_metrics
from kernomics.metrics._extras import require_extra
from kernomics.models import CellEncoder

PCA_TARGET_SUM = 1e4
"""Counts per cell before the logarithm for PCA and normalised counts: scanpy's usual choice."""


@dataclass(frozen=True, eq=False)
class RepresentationScores:
    """Scores of several representations with the same number of dimensions.

    Attributes
    ----------
    table : pandas.DataFrame
        One row per label and representation, with the columns of `probe_metrics`.
    n_dimensions : int
        Of each representation.
    n_train, n_test : int
        Cells the classifiers were fitted and scored on.
    """

    table: pd.DataFrame
    n_dimensions: int
    n_train: int
    n_test: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON-able values."""
        return {
            "n_dimensions": self.n_dimensions,
            "n_train": self.n_train,
            "n_test": self.n_test,
            "scores": self.table.reset_index().to_dict("records"),
        }


def log_normalised(
    cells: CellCollection, rows: NDArray[np.int64], target_sum: float = PCA_TARGET_SUM
) -> sparse.csr_matrix:
    """Return log(1 + target_sum·count/library) of some cells, CSR [n, G]."""
    batch = cells.batch(rows)
    if batch.library is None:
        raise DataError("there are no library sizes to normalise by")
    per_cell = np.repeat(target_sum / batch.library.numpy(), np.diff(batch.indptr.numpy()))
    return sparse.csr_matrix(
        (np.log1p(batch.values.numpy() * per_cell), batch.indices.numpy(), batch.indptr.numpy()),
        shape=(len(batch), cells.n_genes),
    )


def most_variable(expression: sparse.csr_matrix, n_genes: int) -> NDArray[np.int64]:
    """Return the n_genes columns of largest variance of a CSR [n, G], ascending, int64."""
    mean = np.asarray(expression.mean(axis=0)).ravel()
    variance = np.asarray(expression.multiply(expression).mean(axis=0)).ravel() - mean**2
    return np.sort(np.argsort(-variance, kind="stable")[:n_genes])


def baseline_representations(
    cells: CellCollection, split: Split, n_dimensions: int, seed: int = 0
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Represent training and test cells by PCA and by their most variable genes.

    Parameters
    ----------
    cells
        All cells.
    split
        Everything is fitted on its training cells.
    n_dimensions
        d of each representation.
    seed
        Of the randomised PCA.

    Returns
    -------
    dict
        ``"PCA"``: of log-normalised counts of all genes, centred, not scaled. ``"normalised
        counts"``: log-normalised counts of the d genes whose variance over the training cells is
        largest. Each (training [n, d], test [m, d]).
    """
    require_extra("sklearn", purpose="PCA")
    from sklearn.decomposition import PCA

    train = log_normalised(cells, split.train)
    test = log_normalised(cells, split.test)
    top = most_variable(train, n_dimensions)
    pca = PCA(n_dimensions, svd_solver="arpack", random_state=seed).fit(train)
    return {
        "PCA": (pca.transform(train), pca.transform(test)),
        "normalised counts": (train[:, top].toarray(), test[:, top].toarray()),
    }


def compare_representations(
    model: CellEncoder,
    cells: CellCollection,
    split: Split,
    *,
    n_tokens: int | None = None,
    n_draws: int = 1,
    seed: int = 0,
    others: Mapping[str, CellEncoder] = MappingProxyType({}),
) -> RepresentationScores:
    """Score a trained model's representation beside `baseline_representations`.

    Parameters
    ----------
    model
        A trained TxFM.
    cells
        Labelled cells.
    split
        Classifiers and baselines are fitted on its training cells and scored on its test cells.
    n_tokens, n_draws
        As in `CellEncoder.get_latent_representation`.
    seed
        Of the PCA.
    others
        Further models by name, of which the cells need not have all genes.
    """

    def represent(encoder: CellEncoder, **options: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        train, test = (
            encoder.get_latent_representation(
                cells, rows=rows, n_tokens=n_tokens, n_draws=n_draws, **options
            )
            for rows in (split.train, split.test)
        )
        return train, test

    found: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {"TxFM": represent(model)}
    with warnings.catch_warnings():  # whoever names other models knows whose genes these are
        warnings.filterwarnings("ignore", "[0-9,]+ of the model's", UserWarning)
        found |= {name: represent(other, min_gene_overlap=0.0) for name, other in others.items()}
    found |= baseline_representations(cells, split, model.config.d_model, seed)
    return score_representations(found, cells, split)


def score_representations(
    found: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
    cells: CellCollection,
    split: Split,
) -> RepresentationScores:
    """Score representations of the training and test cells by every categorical label.

    Parameters
    ----------
    found
        (training [n, d], test [m, d]) by name.
    cells
        The cells, with labels.
    split
        Which cells are which.
    """
    labels = [label for label in cells.labels.values() if label.kind == "categorical"]
    if not labels:
        raise DataError(
            "the cells have no categorical label to score a representation by: give labels_key"
        )
    rows = [
        {
            "label": label.name,
            "representation": name,
            **probe_metrics(train, label.values[split.train], test, label.values[split.test]),
        }
        for label in labels
        for name, (train, test) in found.items()
    ]
    widths = {test.shape[1] for _, test in found.values()}
    return RepresentationScores(
        pd.DataFrame(rows).set_index(["label", "representation"]),
        max(widths),
        len(split.train),
        len(split.test),
    )
