"""What a `TxFM` is made of before it is trained: cells with counts, genes, and settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kernomics._warnings import warn
from kernomics.data import CellCollection, Split
from kernomics.data.checks import named_cells
from kernomics.data.expression import most_variable_genes
from kernomics.data.genes import mismatch_cause
from kernomics.data.splits import How
from kernomics.errors import ConfigError, DataError, closest
from kernomics.models.base import checked_integer, checked_names, split_cells
from kernomics.train import TrainConfig

NARROW = 128


def default_training(n_train: int, d_model: int) -> TrainConfig:
    """Training settings for a number of cells and a width.

    The paper's: AdamW, learning rate 0.001, one cosine cycle with a tenth of it to warm up, 200
    epochs. Ours: batches of 128 cells below 100,000 and of 64 below 10,000 (the paper's 1,536 cells
    are half of a small data set), three times the rate and half the epochs up to a width of 128,
    and a limit on the gradient's norm.
    """
    return TrainConfig(
        max_epochs=100 if d_model <= NARROW else 200,
        batch_size=64 if n_train < 10_000 else 128 if n_train < 100_000 else 1536,
        learning_rate=3e-3 if d_model <= NARROW else 1e-3,
        schedule="one_cycle",
        warmup=0.1,
        max_grad_norm=1.0,
        validate_every=10,
    )


def divide(
    cells: CellCollection, split: Split | None, validation: float, key: str | None, seed: int
) -> Split:
    """Divide the cells into those to train and to validate on, or check the division given."""
    if not 0 <= validation < 1:
        raise ConfigError(f"validation is {validation}: it is a share, 0 to below 1")
    how: How = "random" if key is None else "group"
    return split_cells(cells, split or how, key, (1 - validation, validation, 0.0), seed)


def require_counts(cells: CellCollection, split: Split) -> None:
    """Refuse cells without counts: they say nothing, and no library divides them."""
    rows = np.concatenate([split.train, split.validation])
    empty = np.sort(rows[cells.library[rows] <= 0])
    if len(empty):
        raise DataError(
            f"{len(empty):,} of the {len(rows):,} cells to train and validate on have no counts, "
            f"first {named_cells(empty.tolist(), cells.cell_names, len(empty))}; remove them "
            "(sc.pp.filter_cells(adata, min_counts=1)), or leave them out of the split"
        )


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
        raise ConfigError("genes and n_genes both say what the vocabulary is; give one")
    if n_genes is not None:
        n_genes = checked_integer("n_genes", n_genes, 2)
    if checked_integer("min_cells", min_cells, 0) < 1:
        raise ConfigError(f"min_cells is {min_cells}: a gene no cell has says nothing")
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
        raise DataError("genes names no genes: leave it out for all, or name some")
    repeated = pd.Index(genes)[pd.Index(genes).duplicated()]
    if len(repeated):
        raise DataError(
            f"genes names {len(repeated):,} of its {len(genes):,} genes twice, first "
            f"{repeated[0]!r}; name each once"
        )
    absent = [
        gene for gene, found in zip(genes, np.isin(genes, cells.genes), strict=True) if not found
    ]
    if absent:
        cause = mismatch_cause(genes, cells.genes, len(genes) - len(absent))
        raise DataError(
            f"{len(absent):,} of the {len(genes):,} genes asked for are not in the data, first "
            f"{absent[0]!r}{cause or f'; {closest(absent[0], cells.genes)}'}"
        )


def default_tokens(cells: CellCollection, n_tokens: int) -> int:
    """Return a size's `n_tokens`, or a quarter of the fewest genes measured if it is no fewer."""
    fewest = cells.n_genes if cells.observed is None else cells.observed.smallest
    return n_tokens if n_tokens < fewest else max(1, fewest // 4)


def require_masked(cells: CellCollection, n_tokens: int) -> None:
    """Refuse to reveal all genes of a cell: nothing would be left to learn from."""
    observed, of_cell = cells.observed, cells.panel_of_cell
    fewest, whose = cells.n_genes, "the vocabulary"
    if observed is not None and of_cell is not None:
        fewest = observed.smallest
        short = np.flatnonzero(observed.counts.numpy() <= n_tokens)
        smallest = int(observed.counts.argmin())
        whose = f"the smallest of the {len(observed.counts)} data sets"
        if cells.batch_labels is not None:
            code = cells.batch_labels.values[np.argmax(of_cell == smallest)]
            whose = f"data set {cells.batch_labels.categories[int(code)]!r}"
        if len(short) > 1:
            whose = f"{len(short)} data sets have no more; the smallest, {whose},"
    if n_tokens >= fewest:
        raise ConfigError(
            f"n_tokens is {n_tokens:,}, and {whose} has {fewest:,} genes: none would be masked; "
            f"set n_tokens to about {max(1, fewest // 4):,}, a quarter"
        )


def warn_of_unseen(genes: NDArray[Any], n_known: int, detected: NDArray[Any]) -> None:
    """Say which genes no training cell has counts of, the first `n_known` left aside."""
    unseen = genes[n_known:][detected[n_known:] == 0]
    if len(unseen):
        warn(
            f"{len(unseen):,} of the {len(genes):,} genes of the vocabulary have counts in no "
            f"training cell, first {unseen[0]!r}; nothing can be learnt of them: leave them out "
            "of genes"
        )
