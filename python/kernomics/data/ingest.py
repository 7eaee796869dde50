"""Reading a source through once: checks, canonical form, row totals, and the columns of obs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from kernomics.data import checks
from kernomics.data.cell_digest import CellDigest
from kernomics.data.csr import Rows, canonical
from kernomics.data.labels import Labels, column
from kernomics.data.readers.anndata import AnnDataInput
from kernomics.data.readers.sources import CsrSource, Source
from kernomics.errors import DataError


def read_through(
    given: AnnDataInput, *, in_memory: bool, check: bool, empty_cells: str, allow_fractions: bool
) -> tuple[Source, npt.NDArray[np.float32] | None, bool]:
    """Read all cells once, as far as wanted."""
    source, n_genes = given.source, given.shape[1]
    if not in_memory and not check:
        return source, None, False
    totals: list[npt.NDArray[np.float32]] = []
    lengths: list[npt.NDArray[np.int64]] = []
    indices: list[npt.NDArray[Any]] = []
    values: list[npt.NDArray[Any]] = []
    digest = CellDigest(given.genes) if check and given.digest is not None else None

    def visit(start: int, raw: Rows) -> None:
        rows = canonical(raw, n_genes, start, given.where)
        totals.append(rows.totals())
        if digest is not None:
            digest.add(rows, given.cell_names[start : start + len(rows)])
        if in_memory:
            lengths.append(np.diff(rows.indptr))
            indices.append(rows.indices)
            values.append(rows.values)

    fractional = False
    if check:
        found = checks.scan(source, given.where, visit, allow_fractions=allow_fractions)
        found.report(
            given.cell_names, given.genes, empty_cells=empty_cells, hint=given.where_counts_may_be
        )
        fractional = found.fractional
        if digest is not None and str(digest) != given.digest:
            raise DataError(
                f"{given.where} is damaged: its cells have the digest {digest}, and those "
                f"converted had {given.digest}; copy the directory or convert the cells again"
            )
    else:
        for start, stop in source.blocks():
            visit(start, source.read(np.arange(start, stop, dtype=np.int64)))
    if in_memory:
        indptr = np.concatenate(([0], np.cumsum(np.concatenate(lengths)))).astype(np.int64)
        source = CsrSource(Rows(indptr, _joined(indices), _joined(values)), n_genes)
    return source, np.concatenate(totals), fractional


def _joined(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Concatenate and let go of the parts, so that no two columns are held twice at once."""
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
    parts.clear()
    return whole


def read_batches(obs: pd.DataFrame, key: str) -> Labels:
    """Read the column of batches, which every cell must have."""
    batches = Labels.from_series(column(obs, key), key, kind="categorical")
    missing = np.flatnonzero(~batches.labelled)
    if missing.size:
        raise DataError(
            f"obs[{key!r}] is missing for {missing.size:,} of {len(batches):,} cells, first in "
            f"row {missing[0]:,}; every cell needs a batch: assign these cells a batch, or drop "
            "them"
        )
    return batches
