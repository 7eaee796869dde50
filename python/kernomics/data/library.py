"""Each cell's library size: a total found in the data where the genes are a part of those measured.

The order: the obs column named by the caller; ``raw``, if it holds the same counts over more genes;
an obs column of the usual names, if it can be the total; else the totals of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from kernomics._warnings import warn
from kernomics.data import checks
from kernomics.data.csr import canonical
from kernomics.data.labels import column
from kernomics.data.readers.anndata import AnnDataInput
from kernomics.data.readers.sources import Source
from kernomics.errors import DataError, percent

TOTALS = ("total_counts", "n_counts", "nCount_RNA")
"""obs columns that scanpy, its older versions and Seurat write."""

NEARLY_ALL = 0.95
"""From this share of the library on, row totals will do in its place."""

FEW_GENES = 0.5
"""Row totals over a smaller share of a model's genes are no library sizes for it."""

Totals = npt.NDArray[np.float32]


@dataclass(eq=False)
class LibraryRule:
    """Where library sizes come from.

    Attributes
    ----------
    source
        In words.
    n_genes
        How many genes the counts are over.
    key
        The obs column, if it is one.
    share
        Of the library that these counts are, over all cells; 1 where they are all of it.
    whole_genes
        Over how many genes the library is a total, where that is known.
    partial
        How it is known that it is no total over all genes measured; often nothing.
    told
        Whether a warning has said so.
    """

    source: str
    n_genes: int
    key: str | None = None
    share: float = 1.0
    whole_genes: int | None = None
    partial: str = ""
    told: bool = False

    @property
    def of_rows(self) -> bool:
        """Whether it is the total of each row, of all the counts at hand."""
        return self.key is None and self.whole_genes == self.n_genes

    @property
    def description(self) -> dict[str, Any]:
        """What a trained model keeps of it, fit for JSON; no entry is None."""
        found = {
            "source": self.source,
            "key": self.key,
            "genes": self.whole_genes or self.n_genes,
            "over_more_genes": self.key is not None and self.share < NEARLY_ALL,
            "partial": bool(self.partial),
        }
        return {name: value for name, value in found.items() if value is not None}

    def unlike(self, known: Mapping[str, Any]) -> str:
        """Say how a model's library sizes, by their `description`, were others than these."""
        if known.get("partial") and not (self.of_rows and self.n_genes == known["genes"]):
            return (
                "the model was trained with library sizes that are totals over only "
                f"{known['genes']:,} genes, and these are different: {self.source}"
            )
        few = self.n_genes < FEW_GENES * known.get("genes", 0)
        fewer = bool(known.get("over_more_genes")) and self.n_genes <= known["genes"]
        if self.of_rows and (few or fewer):
            return (
                f"library sizes are totals over the {self.n_genes:,} genes of these data, while "
                "those the model was trained with are totals over "
                f"{'more than ' * fewer}{known['genes']:,} ({known['source']})"
            )
        return ""

    def tell(self, known: Mapping[str, Any] | None = None) -> None:
        """Warn, once for some cells, of library sizes that are not those wanted."""
        known = known or {}
        unlike = self.unlike(known)
        wanted = unlike or (self.partial and not known.get("partial"))
        if self.told or not wanted:
            return
        self.told = True
        told = unlike or (
            f"library sizes are totals over these {self.n_genes:,} genes, a subset of the "
            f"measured genes: {self.partial}"
        )
        warn(f"{told}; pass library_key, the obs column with each cell's total over all genes")


def rows_rule(n_genes: int) -> LibraryRule:
    """Return the rule of row totals."""
    return LibraryRule(f"row totals over {n_genes:,} genes", n_genes, whole_genes=n_genes)


def joined_rule(rules: Mapping[str, LibraryRule]) -> LibraryRule:
    """Return one rule for several data sets by name, over the union of their genes."""
    parts = list(rules.values())
    sources = [rule.source for rule in parts]
    known = [rule.whole_genes for rule in parts if rule.whole_genes is not None]
    of_rows = [rule.of_rows for rule in parts]
    whole = min(known) if all(of_rows) else None if any(of_rows) else max(known, default=None)
    one = parts[0]
    same = all(s == sources[0] for s in sources)
    partial = [f"in {name}, {rule.partial}" for name, rule in rules.items() if rule.partial]
    fewest = min(rule.n_genes for rule in parts)
    return LibraryRule(
        sources[0] if same else "; ".join(f"{n}: {rule.source}" for n, rule in rules.items()),
        n_genes=fewest,
        key=one.key if len({rule.key for rule in parts}) == 1 else None,
        share=min(rule.share for rule in parts),
        whole_genes=whole,
        partial="; ".join(partial),
        told=all(rule.told for rule in parts if rule.partial),
    )


# -- finding them ----------------------------------------------------------------------------------


def find_library(
    given: AnnDataInput, key: str | None, totals: Totals | None, *, fractional: bool = False
) -> tuple[Totals | None, LibraryRule]:
    """Find each cell's library size."""
    rule, n_genes = rows_rule(given.shape[1]), given.shape[1]
    if key is not None:
        named = _named(given, key, totals)
        share = _share(totals, named) if totals is not None else 0.0
        return named, LibraryRule(f"obs[{key!r}], as named", n_genes, key=key, share=share)
    more = given.raw_genes is not None and len(given.raw_genes) > n_genes
    columns = [name for name in TOTALS if name in given.obs.columns]
    if totals is None:
        if not more and not columns:
            rule.partial = given.said_subset
            return None, rule
        totals = row_totals(given.source, given.where)
    reasons = [given.said_subset] if given.said_subset else []
    if more:
        library, why = _of_raw(given, totals, fractional)
        if library is not None:
            n_raw = len(given.raw_genes if given.raw_genes is not None else ())
            share = _share(totals, library)
            source = f"adata.raw, totals over its {n_raw:,} genes ({_of(share)})"
            return library, LibraryRule(source, n_genes, share=share, whole_genes=n_raw)
        reasons.append(why)
    for name in columns:
        library, why = _of_column(given.obs[name], name, totals, fractional)
        if library is not None and given.whole_source is not None:
            library, why = _of_genes(library, name, given)
        if library is not None:
            share = _share(totals, library)
            source = f"obs[{name!r}] ({_of(share)})"
            return library, LibraryRule(source, n_genes, key=name, share=share)
        reasons += [why] if why else []
    rule.partial = "; ".join(reasons)
    return totals, rule


def row_totals(source: Source, where: str) -> Totals:
    """Read all rows once and add up each."""
    parts = [np.empty(0, np.float32)]
    for start, stop in source.blocks():
        raw = source.read(np.arange(start, stop, dtype=np.int64))
        parts.append(canonical(raw, source.shape[1], start, where).totals())
    return np.concatenate(parts)


def _share(totals: Totals, library: Totals) -> float:
    whole = float(library.sum(dtype=np.float64))
    return float(totals.sum(dtype=np.float64)) / whole if whole else 1.0


def _of(share: float) -> str:
    return f"these genes account for {percent(share)} of it"


def _named(given: AnnDataInput, key: str, totals: Totals | None) -> Totals:
    """Read the column named, none of whose entries may be below the row total."""
    series = column(given.obs, key)
    try:
        library = series.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise DataError(f"obs[{key!r}] cannot be read as library sizes: {error}") from error
    smallest = np.zeros(library.size, np.float32) if totals is None else totals
    checks.require_library(library, smallest, key, given.cell_names)
    return library.astype(np.float32)


def _of_column(
    series: pd.Series[Any], name: str, totals: Totals, fractional: bool
) -> tuple[Totals | None, str]:
    """Return a column that is the total of these counts and others; or why it shows others."""
    if not pd.api.types.is_numeric_dtype(series.dtype) or pd.api.types.is_bool_dtype(series.dtype):
        return None, ""
    library = series.to_numpy(dtype=np.float64, na_value=np.nan)
    known = np.isfinite(library)
    above = known & (library > _upper(totals))
    if not above.any():
        return None, ""
    if fractional and bool(np.all(np.floor(library[known]) == library[known])):
        return None, ""  # totals of the counts before they were corrected
    exceeds = f"obs[{name!r}] is larger in {above.sum():,} of {library.size:,} cells, but"
    faults: Sequence[tuple[str, npt.NDArray[np.bool_]]] = (
        ("missing or infinite", ~known),
        ("smaller than the cell's own counts", known & (library < checks.lowest_library(totals))),
        ("no integer", known & (np.floor(library) != library) & (not fractional)),
    )
    for fault, mask in faults:
        if mask.any():
            return None, f"{exceeds} {fault} in {mask.sum():,}"
    if np.ptp(library) == 0 and np.ptp(totals) > 0:
        return None, f"{exceeds} the same in every cell, as after normalisation"
    return library.astype(np.float32), ""


def _of_genes(library: Totals, name: str, given: AnnDataInput) -> tuple[Totals | None, str]:
    """Return a column, unless it may count features that are no genes and were left out."""
    assert given.whole_source is not None
    whole = row_totals(given.whole_source, given.where)
    if (library < checks.lowest_library(whole)).any():
        return library, ""
    above = np.count_nonzero(library > _upper(whole))
    if not above:  # it is their total, with the genes at hand
        return None, ""
    left_out = given.whole_source.shape[1] - given.shape[1]
    return None, (
        f"obs[{name!r}] is larger in {above:,} of {library.size:,} cells, but may count the "
        f"{left_out:,} features that are not genes"
    )


def _upper(totals: Totals) -> npt.NDArray[np.float64]:
    """Return the largest total that may still be that of the rows alone, rounding considered."""
    return totals.astype(np.float64) * (1 + 1e-5) + 0.5


def _of_raw(given: AnnDataInput, totals: Totals, fractional: bool) -> tuple[Totals | None, str]:
    """Return the totals over the genes of raw, if it holds these very counts; or why it does not.

    It does if all its values are counts, and those of the genes at hand add up to each row total.
    Genes are told by the names in the indices of both vars, whatever else they go by.
    """
    genes = given.raw_genes
    assert genes is not None
    has = f"adata.raw has {len(genes):,} genes, but"
    here = given.in_raw()
    if here.sum() != len(given.genes):
        return None, f"{has} {here.sum():,} of these by name"
    try:
        source = given.raw_source()
    except DataError as error:
        return None, f"{has} cannot be read: {error}"
    if source.shape[0] != len(totals):
        return None, f"{has} {source.shape[0]:,} cells instead of {len(totals):,}"
    whole: list[Totals] = [np.empty(0, np.float32)]
    for start, stop in source.blocks():
        stored = source.read(np.arange(start, stop, dtype=np.int64))
        bad = checks.first_bad_count(stored.values)
        if fractional:
            bad.pop("fraction", None)
        if bad:
            return (
                None,
                f"{has} holds no counts, first {stored.values[next(iter(bad.values()))[1]]:.3g}",
            )
        rows = canonical(stored, len(genes), start, "adata.raw")
        row = np.repeat(np.arange(len(rows)), np.diff(rows.indptr))
        kept = np.where(here[rows.indices], rows.values, 0).astype(np.float64)
        own = np.bincount(row, weights=kept, minlength=len(rows))
        expected = totals[start:stop]
        other = (own > _upper(expected)) | (own < checks.lowest_library(expected))
        if other.any():
            return (
                None,
                f"{has} holds other counts of these, first in row {start + np.argmax(other):,}",
            )
        whole.append(rows.totals())
    return np.concatenate(whole), ""
