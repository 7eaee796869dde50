"""The tables of a converted file: its cells and genes, and what it says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from kernomics.data.collection import CellCollection
from kernomics.errors import DataError

LIBRARY, PANEL = "kernomics_library", "kernomics_panel"
"""obs columns that a converted file has where they are needed."""
FORMER = "former_names"
"""The var column of the names that genes had, where a column became their names and the index of
the table has no name."""


def var_table(cells: CellCollection, parts: Sequence[CellCollection]) -> pd.DataFrame:
    """Return the table of genes: of each the row of the first part that has it."""
    index = pd.Index(cells.genes.astype(str))
    tables = []
    for part in parts:
        var = pd.DataFrame(index=range(part.n_genes)) if part.var is None else part.var.copy()
        genes = pd.Index(part.genes.astype(str))
        if part.var is not None and not genes.equals(pd.Index(var.index.astype(str))):
            var = _with_former_names(var)
        tables.append(var.set_index(genes))
    whole = tables[0] if len(tables) == 1 else pd.concat(tables)
    whole = whole[~whole.index.duplicated()].reindex(index)
    return storable(whole, "var")


def _with_former_names(var: pd.DataFrame) -> pd.DataFrame:
    """Keep what the genes were named by, where a column of the table names them from now on."""
    column = str(var.index.name or FORMER)
    while column in var.columns:
        column += "_"
    return var.assign(**{column: var.index.astype(str)})


def obs_table(cells: CellCollection, library: npt.NDArray[np.float32] | None) -> pd.DataFrame:
    """Return the table of cells, with what cannot be told from their counts."""
    obs = cells.obs.set_index(pd.Index(cells.cell_names.astype(str)))
    if library is not None:
        obs[LIBRARY] = library
    if cells.panel_of_cell is not None:
        obs[PANEL] = cells.panel_of_cell
    return storable(obs, "obs")


def uns_of(
    cells: CellCollection, library: npt.NDArray[np.float32] | None, digest: str, made: str
) -> dict[str, Any]:
    """Return what a converted file says of itself."""
    said: dict[str, Any] = {"digest": digest, "convert": made}
    if library is not None:
        said["library_key"] = LIBRARY
    if cells.library_is_subset:
        said["genes_are_subset"] = True
    if cells.observed is not None:
        said["panel_key"] = PANEL
        said["panels"] = cells.observed.mask.numpy().astype(bool)
    return {"kernomics": said}


def storable(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return a table that a file can hold: texts that repeat or lack values are categories."""
    table = table.copy()
    table.columns = pd.Index([str(column) for column in table.columns])
    twice = table.columns[table.columns.duplicated()]
    if twice.size:
        raise DataError(
            f"{name} has {twice.size:,} columns whose name another has, first {twice[0]!r}: "
            "rename or drop them"
        )
    for column in table.columns[[isinstance(kind, pd.StringDtype) for kind in table.dtypes]]:
        table[column] = table[column].astype(object)
    for column in table.columns[[_of_objects(kind) for kind in table.dtypes]]:
        values = table[column]
        kind = pd.api.types.infer_dtype(values, skipna=True)
        if kind in ("string", "empty"):
            if values.isna().any() or values.nunique() < len(values):
                table[column] = pd.Categorical(values.where(values.notna(), None))
        elif kind == "boolean":
            table[column] = values.astype("boolean")
        elif kind == "integer":
            table[column] = _integers(values, f"{name}[{column!r}]")
        elif kind in ("floating", "mixed-integer-float", "decimal"):
            table[column] = values.astype(np.float64)
        else:
            raise DataError(
                f"{name}[{column!r}] holds values of several kinds ({kind}), which no file can "
                f"hold: convert the column with .astype(str), or drop it"
            )
    for column in table.columns:
        if table[column].dtype.kind in "mM" or isinstance(table[column].dtype, pd.PeriodDtype):
            times = table[column]  # those that are missing stay so
            table[column] = pd.Categorical(times.astype(str).where(times.notna(), None))
    table.index = pd.Index(table.index.astype(str).to_numpy(dtype=object))
    return table


def _integers(values: pd.Series[Any], where: str) -> pd.Series[Any]:
    """Return integers as such, to the last digit, whether or not some are missing."""
    try:
        found = values.astype("Int64")
    except (OverflowError, TypeError, ValueError) as error:
        raise DataError(
            f"{where} holds integers beyond 64 bits: convert the column with .astype(str), or "
            "drop it"
        ) from error
    return found if found.isna().any() else found.astype(np.int64)


def _of_objects(kind: Any) -> bool:
    return isinstance(kind, np.dtype) and kind.kind == "O"
