"""`CellCollection`: all cells of a source, checked once and then read in batches."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from kernomics._arguments import checked, columns_of, shown, words_of
from kernomics.data import checks
from kernomics.data.cells import Cells
from kernomics.data.csr import Rows, canonical
from kernomics.data.gene_stats import GeneSummary, fingerprint_of, summarise
from kernomics.data.genes import Absent, match_genes
from kernomics.data.ingest import read_batches, read_through
from kernomics.data.labels import Kind, Labels, read_labels
from kernomics.data.library import LibraryRule, find_library, rows_rule
from kernomics.data.readers.inputs import ReadOptions, counts_options, open_input
from kernomics.data.readers.sources import CsrSource, Source
from kernomics.data.readers.stored import stored_entries
from kernomics.data.row_numbers import row_numbers
from kernomics.errors import ConfigError, DataError
from kernomics.ops import ObservedGenes

if TYPE_CHECKING:
    from anndata import AnnData

EmptyCells: TypeAlias = Literal["error", "keep"]
"""What to do with cells without counts."""


def require_empty_cells(choice: str) -> None:
    """Refuse what is no choice of `EmptyCells`."""
    if choice not in ("error", "keep"):
        raise ConfigError(f"empty_cells must be 'error' or 'keep', not {choice!r}")


class CellCollection:
    """All cells of a data source; made by `from_anndata`.

    Attributes
    ----------
    genes, cell_names
        Object arrays of str [n_genes], [n_cells].
    labels
        Label columns by name.
    batch_labels
        The column named by `batch_key`, or None.
    library_rule
        Where the library sizes come from, and what is known about them; see `LibraryRule`.
    empty_cells
        ``"keep"`` if cells without counts were to be kept, else ``"error"``.
    fractional
        Whether the check found counts that are not integers, as `allow_fractions` allows.
    var
        The table of genes of what was read, if there is one.
    reading
        The options of `ReadOptions` on counts and gene names that it was read with, except those
        at their defaults; a model trained on it keeps them.
    """

    @checked
    def __init__(
        self,
        source: Source,
        *,
        genes: npt.NDArray[Any],
        cell_names: npt.NDArray[Any],
        obs: pd.DataFrame,
        labels: Mapping[str, Labels],
        batch_labels: Labels | None = None,
        library: npt.NDArray[np.float32] | None = None,
        library_rule: LibraryRule | None = None,
        empty_cells: EmptyCells = "error",
        fractional: bool = False,
        checked: bool = True,
        var: pd.DataFrame | None = None,
        reading: Mapping[str, Any] | None = None,
    ) -> None:
        self._source = source
        self._obs = obs
        self._library = library
        self._columns: npt.NDArray[np.int64] | None = None
        self._observed: ObservedGenes | None = None
        self._panel_of_cell: npt.NDArray[np.int32] | None = None
        self._fingerprint: str | None = None
        self.genes = genes
        self.cell_names = cell_names
        self.labels = dict(labels)
        self.batch_labels = batch_labels
        self.library_rule = library_rule or rows_rule(len(genes))
        self.empty_cells: EmptyCells = empty_cells
        self.fractional = fractional
        self.reading: ReadOptions = counts_options(reading or {})
        self.var = var
        self._checked = checked

    @classmethod
    @checked
    def from_anndata(
        cls,
        adata: AnnData | str | Path,
        *,
        layer: str | None = None,
        use_raw: bool = False,
        gene_names: str | None = None,
        labels_key: str | Sequence[str] | None = None,
        batch_key: str | None = None,
        unlabelled_category: str | None = None,
        label_kinds: Mapping[str, Kind] | None = None,
        library_key: str | None = None,
        modality: str | None = None,
        all_features: bool = False,
        in_memory: bool = False,
        allow_fractions: bool = False,
        empty_cells: EmptyCells = "error",
        check: bool = True,
    ) -> CellCollection:
        """Read an AnnData, which is never modified.

        An AnnData in memory is copied into CSR (12 bytes and less per non-zero), so that later
        changes to it do not reach the collection; a dask array is computed block by block. A path
        of an HDF5 file or a zarr store, or a backed AnnData, stays on disk: the check reads it once
        in blocks, and each batch reads its own rows. What is stored by genes (CSC) is converted in
        memory, or refused where that is too small; `convert` writes any of these anew.

        Parameters
        ----------
        adata
            An AnnData, a view of one, a backed one, a MuData, the path of an ``.h5ad`` or ``.h5mu``
            file or a zarr store, or a `CellReader`, a reader of one's own. Counts may be
            dense, CSR, CSC (converted, with a warning) or dask, of any integer or float type.
        layer
            Layer with the counts (default: X). ``adata.raw`` then only provides library sizes.
        use_raw
            Take counts and genes from ``adata.raw``, as in CELLxGENE files.
        gene_names
            var column with the gene names, such as ``"feature_name"`` (default: ``var_names``). A
            gene without a name there keeps its ``var_names`` entry, and genes that share a name
            have that entry appended (``"TBCE_ENSG00000285053"``), with a warning.
        labels_key
            obs column or columns to learn; see `Labels.from_series`.
        batch_key
            obs column of batches; every cell must have one.
        unlabelled_category
            A class that means "unlabelled".
        label_kinds
            For a label, ``"categorical"`` or ``"continuous"``, to override the inferred kind.
        library_key
            obs column with each cell's total over all measured genes. By default the first
            available of: the totals of ``raw``, if it holds the same counts over more genes;
            ``obs["total_counts"]``, ``"n_counts"`` or ``"nCount_RNA"``, if integers (or fractions
            of fractional counts) and in no cell less than the row total; the row totals over the
            genes of `adata`, a view's own genes included. Features that are left out are never
            counted. `library_source` says which was used.
        modality
            Which modality of a MuData or an ``.h5mu`` file, if it has several.
        all_features
            Treat features as genes even if ``var["feature_types"]`` says they are not, such as
            antibodies. Otherwise they are left out, with a warning that counts them.
        in_memory
            Load a path or a backed AnnData.
        allow_fractions
            Accept counts that are not integers, such as counts corrected for ambient RNA;
            `fractional` then says so. Losses and sampling use them unchanged. A gene counts as
            detected wherever its value is above 0, however small (`min_cells`, `min_detection`).
        empty_cells
            What to do with cells without counts. If a collection keeps them, models that represent
            cells also keep cells without counts in the model's genes.
        check
            Check every value. With False, values that are not integers are accepted and a source on
            disk is not read through first, unless a total in it must be compared with the counts;
            NaN, infinite and negative values are then an error when a batch has them.

        Raises
        ------
        DataError
            The message says what was found, where, how many, and what to do.
        """
        require_empty_cells(empty_cells)
        given = open_input(
            adata,
            layer=layer,
            use_raw=use_raw,
            gene_names=gene_names,
            modality=modality,
            all_features=all_features,
        )
        checks.require_cells_and_genes(given.shape)
        checks.require_unique(
            given.genes,
            "gene names (var_names)",
            "call adata.var_names_make_unique(), or sum the columns of each gene",
        )
        checks.require_unique(
            given.cell_names, "cell names (obs_names)", "call adata.obs_names_make_unique()"
        )
        keys = words_of("labels_key", labels_key)
        labels = read_labels(given.obs, keys, unlabelled_category, label_kinds)
        batch_labels = None if batch_key is None else read_batches(given.obs, batch_key)
        if check:
            for label in labels.values():
                label.require_usable()
        source, totals, fractional = read_through(
            given,
            in_memory=in_memory or not given.on_disk,
            check=check,
            empty_cells=empty_cells,
            allow_fractions=allow_fractions,
        )
        library, rule = find_library(
            given,
            given.library_key if library_key is None else library_key,
            totals,
            fractional=fractional or (allow_fractions and not check),
        )
        found = cls(
            source,
            genes=given.genes,
            cell_names=given.cell_names,
            obs=given.obs,
            labels=labels,
            batch_labels=batch_labels,
            library=library,
            library_rule=rule,
            empty_cells=empty_cells,
            fractional=fractional,
            checked=check,
            var=given.var,
            reading={
                "layer": layer,
                "use_raw": use_raw,
                "gene_names": gene_names,
                "library_key": library_key,
                "allow_fractions": allow_fractions,
                "modality": modality,
                "all_features": all_features,
            },
        )
        if given.panels is None:
            return found
        panels = [np.flatnonzero(panel) for panel in given.panels]
        panel_of_cell = given.obs[given.panel_key].to_numpy(np.int32)
        return found.with_observed(
            ObservedGenes.from_lists(panels, len(given.genes)), panel_of_cell
        )

    def __len__(self) -> int:
        return self.n_cells

    def __repr__(self) -> str:
        where = "on disk" if self.on_disk else "in memory"
        labels = ", ".join(
            f"{label.name} ({label.n_classes} classes)" if label.categories else label.name
            for label in self.labels.values()
        )
        return f"CellCollection of {self.n_cells:,} cells × {self.n_genes:,} genes, {where}" + (
            (", fractional counts" if self.fractional else "")
            + (f", labels: {labels}" if labels else "")
        )

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self._source.shape[0]

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return len(self.genes)

    @property
    def on_disk(self) -> bool:
        """Whether batches are read from a file."""
        return self._source.on_disk

    @property
    def obs(self) -> pd.DataFrame:
        """A copy of the table of cells."""
        return self._obs.copy()

    @checked
    def batch(self, rows: npt.ArrayLike) -> Cells:
        """Read some cells.

        Parameters
        ----------
        rows
            int [B], indices of cells, in any order, or bool [n_cells].

        Returns
        -------
        Cells
            Those cells in that order, on the CPU; `cell_ids` are their indices.

        Raises
        ------
        DataError
            If rows are neither, or out of range; if values that were not checked before are NaN,
            infinite or negative.
        """
        wanted = row_numbers(rows, self.n_cells)
        found = self._source.read(wanted)
        if self.on_disk:  # in memory it was made canonical once
            path = getattr(self._source, "path", None)
            where = "the matrix read" if path is None else f"'{path}'"
            found = canonical(found, self._source.shape[1], where=where)
        if not self._checked:
            checks.require_amounts(found, self.cell_names[wanted])
        library = found.totals() if self._library is None else self._library[wanted]
        labels = {name: label.values[wanted] for name, label in self.labels.items()}
        cells = Cells.from_rows(found, self._source.shape[1], wanted, library, labels)
        if self._columns is not None:
            cells = cells.select_genes(self._columns)
        if self._observed is None or self._panel_of_cell is None:
            return cells
        return replace(cells, observed=self._observed.with_panel_id(self._panel_of_cell[wanted]))

    @checked
    def with_genes(
        self,
        genes: Sequence[str] | npt.NDArray[Any],
        min_gene_overlap: float = 0.8,
        *,
        absent: Absent = "zero",
    ) -> CellCollection:
        """Return the same cells over a model's genes.

        Nothing is read or copied; `library` stays the total over all genes of the source.

        Parameters
        ----------
        genes, min_gene_overlap
            As in `match_genes`.
        absent
            How to treat a gene missing from the data: as a count of ``"zero"`` or as
            ``"unobserved"``. If only some genes were measured in each cell, it is unobserved in
            either case.
        """
        found = columns = match_genes(
            genes, self.genes, min_gene_overlap, absent=absent, var=self.var
        )
        if self._columns is not None:
            columns = np.where(columns >= 0, self._columns[columns], -1)
        same = np.array_equal(columns, np.arange(self._source.shape[1]))
        view = self._copy(
            genes=np.array(list(genes), dtype=object), _columns=None if same else columns
        )
        if self._observed is not None:
            view._observed = self._observed.select_genes(found)
        elif absent == "unobserved" and (found < 0).any():
            panels = ObservedGenes.from_lists([np.flatnonzero(found >= 0)], len(found))
            return view.with_observed(panels, np.zeros(self.n_cells, np.int32))
        return view

    @checked
    def with_observed(
        self, panels: ObservedGenes, panel_of_cell: npt.NDArray[np.int32]
    ) -> CellCollection:
        """Return the same cells, with only some of the genes measured in each.

        Parameters
        ----------
        panels
            The sets of genes.
        panel_of_cell
            int32 [n_cells], the set of each cell.

        Raises
        ------
        DataError
            If they are not of these genes and cells.
        """
        if panels.n_genes != self.n_genes:
            raise DataError(
                f"the panels are of {panels.n_genes:,} genes, and the collection has "
                f"{self.n_genes:,}"
            )
        given = columns_of("panel_of_cell", panel_of_cell)
        if given.shape != (self.n_cells,):
            raise DataError(
                f"panel_of_cell has shape {given.shape} for {self.n_cells:,} cells: one number for "
                "each is needed"
            )
        n_panels = len(panels.mask)
        wrong = np.flatnonzero((given < 0) | (given >= n_panels))
        if wrong.size:
            raise DataError(
                f"panel_of_cell names panels that there are not for {wrong.size:,} of "
                f"{self.n_cells:,} cells, first {int(given[wrong[0]]):,} of cell "
                f"{self.cell_names[wrong[0]]!r}: there are {n_panels:,}, counted from 0"
            )
        panel_of_cell = given.astype(np.int32)
        return self._copy(_observed=panels, _panel_of_cell=panel_of_cell)

    @property
    def observed(self) -> ObservedGenes | None:
        """The sets of genes measured in the cells; None if all genes were measured in all cells."""
        return self._observed

    @property
    def panel_of_cell(self) -> npt.NDArray[np.int32] | None:
        """The set measured in each cell, int32 [n_cells]; None if `observed` is None."""
        return self._panel_of_cell

    @property
    def library(self) -> npt.NDArray[np.float32]:
        """Each cell's total over all genes of its source, float32 [n_cells]."""
        if self._library is None:
            parts = [cells.library for cells in self._batches_of(np.arange(self.n_cells))]
            self._library = np.concatenate([p.numpy() for p in parts if p is not None])
        return self._library

    @property
    def library_source(self) -> str:
        """Where the library sizes come from, in words, such as ``"row totals over 765 genes"``."""
        return self.library_rule.source

    @property
    def library_is_subset(self) -> bool:
        """Whether library sizes are known to be totals over a subset of the measured genes."""
        return bool(self.library_rule.partial)

    @property
    def n_stored(self) -> int:
        """About how many entries the source holds, stored zeros and genes left out included."""
        return stored_entries(self._source)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Cut all rows into ranges that fit easily in memory."""
        return self._source.blocks()

    @checked
    def load_genes(self, columns: npt.ArrayLike) -> CellCollection:
        """Return the same cells over a few genes, read into memory in one pass.

        Parameters
        ----------
        columns
            int64 [k], the genes by number, each at most once.

        Returns
        -------
        CellCollection
            The same cells, names and labels, over k genes; `library` stays the total over all
            genes of the source.
        """
        wanted = columns_of("columns", columns)
        parts = list(self._batches_of(np.arange(self.n_cells), wanted))
        indptr = np.zeros(self.n_cells + 1, dtype=np.int64)
        np.cumsum(np.concatenate([part.indptr.diff().numpy() for part in parts]), out=indptr[1:])
        indices = np.concatenate([part.indices.numpy() for part in parts])
        values = np.concatenate([part.values.numpy() for part in parts])
        return self._copy(
            _source=CsrSource(Rows(indptr, indices, values), len(wanted)),
            _library=np.concatenate([p.library.numpy() for p in parts if p.library is not None]),
            _columns=None,
            _observed=None if self._observed is None else self._observed.select_genes(wanted),
            genes=self.genes[wanted],
        )

    def compact(self) -> CellCollection:
        """Return the same cells without the counts of other genes, if reading these costs more.

        That is so in memory, where at most a quarter of the source's genes are wanted: there each
        batch would look for them among all counts. Elsewhere it is the collection as it is.
        """
        few = self._columns is not None and 4 * self.n_genes <= self._source.shape[1]
        return self.load_genes(np.arange(self.n_genes)) if few and not self.on_disk else self

    @checked
    def with_labels(self, labels: Mapping[str, Labels]) -> CellCollection:
        """Return the same cells with other labels, one entry per cell in each."""
        for name, label in labels.items():
            if not isinstance(label, Labels):
                raise DataError(
                    f"labels[{name!r}] is {shown(label)}: Labels are needed, such as those from "
                    "Labels.from_series"
                )
            if len(label) != self.n_cells:
                raise DataError(
                    f"label {name!r} has {len(label):,} entries for {self.n_cells:,} cells"
                )
        return self._copy(labels=dict(labels))

    def _copy(self, **changes: Any) -> CellCollection:
        other = copy.copy(self)
        other._fingerprint = None
        for name, value in changes.items():
            setattr(other, name, value)
        return other

    def _batches_of(
        self, rows: npt.NDArray[np.int64], genes: npt.NDArray[np.int64] | None = None
    ) -> Iterator[Cells]:
        """Read sorted rows in blocks of bounded size, over some genes alone if asked."""
        for start, stop in self._source.blocks():
            first, last = np.searchsorted(rows, [start, stop])
            if last > first:
                cells = self.batch(rows[first:last])
                yield cells if genes is None else cells.select_genes(genes)

    @checked
    def summary(self, rows: npt.ArrayLike | None = None, by: str | None = None) -> GeneSummary:
        """Summarise each gene in one pass over the cells, in blocks.

        Parameters
        ----------
        rows
            Cells to look at, int [n] or bool [n_cells]; all by default.
        by
            A categorical label; unlabelled cells are then left out.
        """
        wanted = np.arange(self.n_cells)
        if rows is not None:
            wanted = np.sort(row_numbers(rows, self.n_cells))
        if by is None:
            one = np.zeros(self.n_cells, np.int64)
            found = summarise(self._batches_of(wanted), self.n_genes, one, 1)
            return GeneSummary(found.n_cells[0], found.n_expressing[0], found.mean[0])
        label = self._label(by)
        wanted = wanted[label.values[wanted] >= 0]
        return summarise(self._batches_of(wanted), self.n_genes, label.values, label.n_classes)

    def _label(self, name: str) -> Labels:
        known = dict(self.labels)
        if self.batch_labels is not None:
            known[self.batch_labels.name] = self.batch_labels
        if name not in known or not known[name].categories:
            raise DataError(
                f"{name!r} is not a categorical label of this collection: {list(known)}"
            )
        return known[name]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over shape, names, counts, library sizes and labels.

        Identical for identical cells however they are stored; computed on first use, in one pass.
        """
        if self._fingerprint is None:
            self._fingerprint = fingerprint_of(self, self._batches_of(np.arange(self.n_cells)))
        return self._fingerprint
