"""Which genes a model knows: those named, or those that enough training cells have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kernomics._warnings import warn
from kernomics.data import CellCollection
from kernomics.data.expression import most_variable_genes
from kernomics.data.genes import mismatch_cause
from kernomics.errors import ConfigError, DataError, closest
from kernomics.models.base import checked_integer, checked_names


def over_vocabulary(
    cells: CellCollection,
    train: NDArray[np.int64],
    genes: str | Sequence[str] | None,
    n_genes: int | None,
    min_cells: int,
) -> CellCollection:
    """Return the cells over the genes named, or over those that enough training cells have.

    With `n_genes`, over so many of the latter, those that vary most.
    """
    if genes is not None and n_genes is not None:
        raise ConfigError("genes and n_genes both define the vocabulary; give one")
    if n_genes is not None:
        n_genes = checked_integer("n_genes", n_genes, 2)
    if checked_integer("min_cells", min_cells, 0) < 1:
        raise ConfigError(
            f"min_cells is {min_cells}: a gene detected in no cell carries no information"
        )
    if genes is not None:
        names = checked_names(genes)
        _require_genes(cells, names)
        return cells.with_genes(names, 1.0)
    seen = cells.summary(train).n_expressing >= min_cells
    if not seen.any():
        raise DataError(
            f"no gene is in {min_cells:,} of the {len(train):,} training cells; lower min_cells"
        )
    found = cells if seen.all() else cells.with_genes(cells.genes[seen], 1.0)
    if n_genes is None or n_genes >= found.n_genes:
        return found
    return found.with_genes(found.genes[most_variable_genes(found, train, n_genes)], 1.0)


def _require_genes(cells: CellCollection, genes: Sequence[str]) -> None:
    if not len(genes):
        raise DataError("genes is empty: leave it out for all genes, or name some")
    repeated = pd.Index(genes)[pd.Index(genes).duplicated()]
    if len(repeated):
        raise DataError(
            f"genes names {len(repeated):,} of its {len(genes):,} genes more than once, first "
            f"{repeated[0]!r}; name each once"
        )
    absent = [
        gene for gene, found in zip(genes, np.isin(genes, cells.genes), strict=True) if not found
    ]
    if absent:
        cause = mismatch_cause(genes, cells.genes, len(genes) - len(absent), cells.var)
        raise DataError(
            f"{len(absent):,} of the {len(genes):,} genes asked for are not in the data, first "
            f"{absent[0]!r}{cause or f'; {closest(absent[0], cells.genes)}'}"
        )


def warn_of_unseen(genes: NDArray[Any], n_known: int, detected: NDArray[Any]) -> None:
    """Say which genes no training cell has counts of, the first `n_known` left aside."""
    unseen = genes[n_known:][detected[n_known:] == 0]
    if len(unseen):
        warn(
            f"{len(unseen):,} of the {len(genes):,} genes of the vocabulary have no counts in "
            f"any training cell, first {unseen[0]!r}; nothing can be learnt about them: leave "
            "them out of genes"
        )
