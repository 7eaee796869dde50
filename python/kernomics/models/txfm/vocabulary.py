"""What a `TxFM` is made of before it is trained: cells with counts, genes, and settings."""

from __future__ import annotations

import numpy as np

from kernomics.data import CellCollection, Split
from kernomics.data.splits import How
from kernomics.errors import ConfigError
from kernomics.models.base import split_cells
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
        raise ConfigError(f"validation is {validation}: it is a fraction, from 0 to below 1")
    how: How = "random" if key is None else "group"
    return split_cells(cells, split or how, key, (1 - validation, validation, 0.0), seed)


def default_tokens(cells: CellCollection, n_tokens: int) -> int:
    """Return a size's `n_tokens`, or half of the fewest genes measured if these are fewer."""
    fewest = cells.n_genes if cells.observed is None else cells.observed.smallest
    return min(n_tokens, max(1, fewest // 2))


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
    if fewest < 2:
        raise ConfigError(
            f"{whose} has {fewest:,} gene: a TxFM learns by predicting genes that it does not see "
            "from others, so at least 2 are needed"
        )
    if n_tokens >= fewest:
        raise ConfigError(
            f"n_tokens is {n_tokens:,}, and {whose} has {fewest:,} genes: none would be masked; "
            f"set n_tokens to about {max(1, fewest // 4):,}, a quarter"
        )
