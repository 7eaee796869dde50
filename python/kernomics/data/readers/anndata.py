"""Counts and names of an AnnData, as the reading options say: one look, nothing modified."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from kernomics.data.checks import first_bad_count
from kernomics.data.readers.contents import Contents
from kernomics.data.readers.features import gene_features, named_genes, names_of, other_features
from kernomics.data.readers.sources import Source, SubsetSource
from kernomics.errors import ConfigError, DataError, closest


class AnnDataInput:
    """Names, tables and the matrix of counts, wherever they are.

    `whole_source` has the features too that are left out because they are no genes; `said_subset`
    says how the AnnData tells, beside raw and obs, that it lacks genes that were measured;
    `raw_genes` are those of ``raw`` by its index, None without it or where it is what is read.
    `digest` is that of the cells by the conversion that wrote them, None if there is none to go by;
    `library_key`, `panel_key` and `panels` are what `kernomics convert` noted, each None without.
    """

    def __init__(
        self,
        contents: Contents,
        *,
        layer: str | None = None,
        use_raw: bool = False,
        gene_names: str | None = None,
        all_features: bool = False,
    ) -> None:
        self._contents = contents
        self._key = self._counts_key(layer, use_raw)
        self.where = "raw" if use_raw else "X" if layer is None else f"layer {layer!r}"
        if contents.file_name is not None:
            self.where += f" of '{contents.file_name}'"
        self.obs = contents.obs
        of = "" if contents.file_name is None else f" of {contents.file_name!r}"
        self.cell_names = names_of(self.obs.index, f"cell names (obs_names){of}")
        raw, var = contents.raw_var, contents.var
        self.var = raw if use_raw and raw is not None else var
        self.source: Source = contents.source(self._key, self.where)
        tables = (len(self.obs), len(self.var))
        if tuple(self.source.shape) != tables:
            found = "{:,} cells × {:,} genes".format(*self.source.shape)
            raise DataError(
                f"{self.where} has {found}, and its tables name {tables[0]:,} cells and "
                f"{tables[1]:,} genes: it is damaged; copy or load it again"
            )
        self.whole_source: Source | None = None
        kept = None if all_features else gene_features(self.var, var)
        if kept is not None:
            self.var = self.var.iloc[kept]
            self.whole_source = self.source
            self.source = SubsetSource(self.source, None, kept)
        self.genes = named_genes(self.var, var, gene_names)
        as_written = self._key == "X" and kept is None and gene_names is None
        self.digest: str | None = getattr(contents, "digest", None) if as_written else None
        self.library_key, self.panel_key = (
            None if name is None or str(name) not in self.obs.columns else str(name)
            for name in (contents.said.get("library_key"), contents.said.get("panel_key"))
        )
        self.panels: npt.NDArray[np.bool_] | None = None  # genes that each set of cells measured
        if self.panel_key is not None and not use_raw:
            panels = np.asarray(contents.said["panels"], bool)
            self.panels = panels if kept is None else panels[:, kept]
        self.said_subset = ""
        if not (use_raw and raw is not None and len(raw) > len(var)):  # said of var, not of raw
            self.said_subset = _said_subset(contents.says_subset, self.var if not use_raw else var)
        self.raw_genes: npt.NDArray[Any] | None = None
        self._raw_columns: npt.NDArray[np.int64] | None = None
        if raw is not None and not use_raw:
            other = None if all_features else other_features(raw, var)
            if other is not None:
                self._raw_columns = np.flatnonzero(~other)
                raw = raw.iloc[self._raw_columns]
            self.raw_genes = _index_names(raw)
        self.shape = self.source.shape
        self.on_disk = self.source.on_disk

    def _counts_key(self, layer: str | None, use_raw: bool) -> str:
        has = self._contents
        if use_raw:
            if layer is not None:
                raise ConfigError(
                    f"layer={layer!r} and use_raw=True name two sources of counts; give one"
                )
            if has.raw_var is None:
                raise DataError(
                    "the AnnData has no raw for use_raw=True to read; leave it out, or name a "
                    f"layer: {closest('counts', has.layers)}"
                )
            return "raw/X"
        if layer is None:
            if not has.has_x:
                raise DataError(
                    f"the AnnData has no X; name a layer with layer=…, "
                    f"{closest('counts', has.layers)}"
                    + ("" if has.raw_var is None else "; or pass use_raw=True")
                )
            return "X"
        if layer not in has.layers:
            remedy = closest(layer, has.layers)
            if layer == "X":
                remedy += "; X itself is layer=None"
            if has.raw_var is not None:
                remedy += "; adata.raw is read with use_raw=True"
            raise DataError(f"there is no layer {layer!r}; {remedy}")
        return f"layers/{layer}"

    def in_raw(self) -> npt.NDArray[np.bool_]:
        """Tell which of `raw_genes` are genes at hand, by the names in the indices of both vars."""
        assert self.raw_genes is not None
        return np.isin(self.raw_genes, _index_names(self.var))

    def raw_source(self) -> Source:
        """Open the counts of ``raw`` for these cells, over `raw_genes`."""
        with warnings.catch_warnings():  # how raw is stored is nobody's concern
            warnings.simplefilter("ignore", UserWarning)
            source = self._contents.source("raw/X", "adata.raw")
        if self._raw_columns is None:
            return source
        return SubsetSource(source, None, self._raw_columns)

    def where_counts_may_be(self) -> str:
        """Return a hint: which other matrix of this AnnData holds counts, at first glance."""
        for key, name, remedy in self._others():
            values = self._contents.first_values(key)
            numbers = np.issubdtype(values.dtype, np.number) and values.size
            if numbers and not first_bad_count(values):
                return f"{name} does: {remedy}"
        return "no other layer and no adata.raw of these data holds counts: load the raw counts"

    def _others(self) -> Iterator[tuple[str, str, str]]:
        """Yield key, name and remedy of each other matrix."""
        if self._key != "X" and self._contents.has_x:
            option = "use_raw" if self._key == "raw/X" else "layer"
            yield "X", "X", f"leave {option} out"
        for layer in self._contents.layers:
            if self._key != f"layers/{layer}":
                yield f"layers/{layer}", f"layer {layer!r}", f"pass layer={layer!r}"
        if self._key != "raw/X" and self._contents.raw_var is not None:
            yield "raw/X", "adata.raw", "pass use_raw=True"


def _said_subset(flagged: bool, var: pd.DataFrame) -> str:
    if flagged:
        return 'uns["kernomics"]["genes_are_subset"] says so'
    chosen = var["highly_variable"] if "highly_variable" in var.columns else None
    if chosen is not None and len(chosen) and chosen.dtype == bool and bool(chosen.all()):
        return 'var["highly_variable"] is True for all'
    return ""


def _index_names(table: pd.DataFrame) -> npt.NDArray[Any]:
    return np.array([str(name) for name in table.index], dtype=object)
