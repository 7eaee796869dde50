"""What every model is made of before it is trained: its cells, their division and a seed."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kernomics._arguments import shown
from kernomics.data import CellCollection, Labels, Split, make_split
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


def as_collection(adata: AnnData | str | Path | CellCollection, **reading: Any) -> CellCollection:
    """Read cells, or take a collection as it is.

    Parameters
    ----------
    adata
        AnnData, path of an ``.h5ad`` file, or a collection.
    **reading
        For `CellCollection.from_anndata`; None for what was not asked for.

    Raises
    ------
    ConfigError
        When a collection comes with options of reading.
    """
    if not isinstance(adata, CellCollection):
        return CellCollection.from_anndata(adata, **reading)
    given = [name for name, value in reading.items() if value is not None]
    if given:
        raise ConfigError(
            f"{given[0]} was given beside a CellCollection, which has been read already; "
            "pass it to CellCollection.from_anndata"
        )
    return adata


def split_cells(
    cells: CellCollection,
    split: How | Split,
    key: str | None,
    fractions: tuple[float, float, float],
    seed: int,
) -> Split:
    """Divide the cells as asked for, or check the division given."""
    if not isinstance(split, Split | str):
        raise ConfigError(f"split is {shown(split)}: the name of a way to split, or a Split")
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
