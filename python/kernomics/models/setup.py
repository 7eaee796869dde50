"""What every model is made of before it is trained: its cells, their division and a seed."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kernomics.data import CellCollection, Labels, Split, make_split
from kernomics.data.inputs import ReadOptions, given_options
from kernomics.data.labels import column
from kernomics.data.splits import How
from kernomics.errors import ConfigError

if TYPE_CHECKING:
    from anndata import AnnData


def checked_seed(seed: int) -> int:
    """Return a seed as a plain integer, if it is one of 64 bits."""
    try:
        return int(np.int64(operator.index(seed)))
    except (TypeError, OverflowError):
        raise ConfigError(f"seed is {seed!r}: it must be an integer of 64 bits") from None


def as_collection(
    adata: AnnData | str | Path | CellCollection,
    reading: ReadOptions,
    *,
    labels_key: str | Sequence[str] | None = None,
    **more: Any,
) -> CellCollection:
    """Read cells, or take a collection as it is.

    Parameters
    ----------
    adata
        AnnData, path of an ``.h5ad`` file, or a collection.
    reading
        How to read an AnnData.
    labels_key
        obs column or columns to learn, or names of labels that a collection has; None for all of a
        collection's.
    **more
        Further arguments of `CellCollection.from_anndata`; None for what was not asked for.

    Raises
    ------
    ConfigError
        When a collection comes with options of reading, or lacks a label.
    """
    if not isinstance(adata, CellCollection):
        return CellCollection.from_anndata(adata, labels_key=labels_key, **reading, **more)
    given = list(given_options({**reading, **more}))
    if given:
        raise ConfigError(
            f"{given[0]} was given beside a CellCollection, which has been read already; "
            "pass it to CellCollection.from_anndata"
        )
    if labels_key is None:
        return adata
    keys = [labels_key] if isinstance(labels_key, str) else list(labels_key)
    if keys == list(adata.labels):
        return adata
    for key in keys:
        if key not in adata.labels:
            raise ConfigError(
                f"labels_key names {key!r}, and the CellCollection was read with "
                f"{', '.join(map(repr, adata.labels)) or 'no labels'}; read it with "
                f"CellCollection.from_anndata(…, labels_key={keys!r})"
            )
    return adata.with_labels({key: adata.labels[key] for key in keys})


def split_cells(
    cells: CellCollection,
    split: How | Split,
    key: str | None,
    fractions: tuple[float, float, float],
    seed: int,
) -> Split:
    """Divide the cells as asked for, or check the division given."""
    if isinstance(split, Split):
        rows = np.concatenate([split.train, split.validation, split.test])
        if rows.size and not 0 <= rows.min() <= rows.max() < cells.n_cells:
            raise ConfigError(
                f"the split names rows {rows.min():,} … {rows.max():,}, but there are "
                f"{cells.n_cells:,} cells: was it made for other data?"
            )
        return split
    labels = next((v for v in cells.labels.values() if v.kind == "categorical"), None)
    if split == "stratified" and labels is None:
        split = "random"
    groups = None
    if split == "group":
        if key is None:
            raise ConfigError("split='group' needs split_key, the obs column of the groups")
        groups = Labels.from_series(column(cells.obs, key), key, kind="categorical")
    elif key is not None:
        raise ConfigError(f"split_key is {key!r}, but split={split!r} uses no groups")
    return make_split(
        cells.n_cells,
        how=split,
        fractions=fractions,
        labels=labels if split == "stratified" else None,
        groups=groups,
        seed=seed,
    )
