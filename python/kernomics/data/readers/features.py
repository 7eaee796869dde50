"""Names of genes and cells, and which features of a data set are genes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from kernomics._warnings import warn
from kernomics.errors import DataError, closest

NO_NAMES = ("", "nan", "NaN", "<NA>", "None")
"""What a missing name becomes when it is written as text."""

GENES = "Gene Expression"
OTHER_FEATURES = (
    *("Antibody Capture", "Antigen Capture", "CRISPR Guide Capture", "Multiplexing Capture"),
    *("Peaks", "Custom"),
)
"""Values of ``var["feature_types"]`` in files of Cell Ranger, beside that of genes."""


def names_of(index: Any, what: str) -> npt.NDArray[Any]:
    """Return names as an object array of str, none of them missing."""
    names, missing = _texts(index)
    if missing.any():
        raise DataError(
            f"{np.count_nonzero(missing):,} of {len(names):,} {what} are missing (NaN or empty), "
            f"first at position {int(np.argmax(missing)):,}, counting from 0; name them, or "
            "remove them"
        )
    return names


def _texts(values: Any) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    names = np.array([str(value) for value in values], dtype=object)
    missing = np.asarray(pd.isna(pd.Index(values))) | np.isin(names, NO_NAMES)
    return names, missing


def _from_var(table: pd.DataFrame, var: pd.DataFrame, name: str) -> pd.Series[Any] | None:
    """Return a column of raw.var, or of var by gene where that alone has it."""
    if name in table:
        return table[name]
    if name in var and var.index.is_unique:
        return var[name].reindex(table.index)
    return None


def named_genes(table: pd.DataFrame, var: pd.DataFrame, gene_names: str | None) -> npt.NDArray[Any]:
    """Return the name of each gene, object array of str [G]."""
    if gene_names is None:
        return names_of(table.index, "gene names (var_names)")
    column = _from_var(table, var, gene_names)
    if column is None:
        raise DataError(
            f"gene_names is {gene_names!r}, and var has no such column; "
            f"{closest(gene_names, table.columns)}"
        )
    names, missing = _texts(column)
    shared = pd.Index(names).duplicated(keep=False) & ~missing
    if not missing.any() and not shared.any():
        return names
    by_index = names_of(table.index, "gene names (var_names)")
    told = []
    if missing.any():
        told.append(
            f"{np.count_nonzero(missing):,} of {len(names):,} genes have no name in "
            f"var[{gene_names!r}], first {by_index[np.argmax(missing)]!r}, and keep the one in "
            "var_names"
        )
    if shared.any():
        first = int(np.argmax(shared))
        told.append(
            f"{np.count_nonzero(shared):,} of {len(names):,} genes share a name in "
            f"var[{gene_names!r}] with another, first {names[first]!r}, so the name in var_names "
            f"is appended: '{names[first]}_{by_index[first]}'"
        )
    warn("; ".join(told))
    names[missing] = by_index[missing]
    names[shared] += "_" + by_index[shared]
    return names


def other_features(table: pd.DataFrame, var: pd.DataFrame) -> npt.NDArray[np.bool_] | None:
    """Tell which features are no genes, bool [G]; None when all are genes."""
    column = _from_var(table, var, "feature_types")
    if column is None:
        return None
    kinds = column.astype(object).to_numpy()
    known = ~np.asarray(pd.isna(kinds))
    if (kinds == GENES).any():
        other = known & (kinds != GENES)
    else:
        other = known & np.isin(kinds.astype(str), OTHER_FEATURES)
    return np.asarray(other) if other.any() else None


def gene_features(table: pd.DataFrame, var: pd.DataFrame) -> npt.NDArray[np.int64] | None:
    """Return the positions of the genes among other features, or None when all are genes."""
    other, column = other_features(table, var), _from_var(table, var, "feature_types")
    if other is None or column is None:
        return None
    kinds = column.astype(object).to_numpy()
    counts = pd.Series(kinds[other]).value_counts(sort=False)
    told = ", ".join(f"{n:,} of type {kind!r}" for kind, n in counts.items())
    if other.all():
        raise DataError(
            f"none of the {len(kinds):,} features is a gene according to var['feature_types']: "
            f"{told}; load the gene expression, or treat these features as genes with "
            "all_features=True"
        )
    warn(
        f"{np.count_nonzero(other):,} of {len(kinds):,} features are not genes according to "
        f"var['feature_types'] and are left out: {told}; keep them with all_features=True"
    )
    return np.flatnonzero(~other)
