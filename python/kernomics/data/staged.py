"""Cells of which each has the genes of its own stage: what is absent is nowhere to be found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kernomics._arguments import checked
from kernomics.data.checks import named_cells
from kernomics.data.collection import CellCollection
from kernomics.data.csr import Rows
from kernomics.data.readers.sources import CsrSource, Source
from kernomics.data.row_numbers import parts as row_parts
from kernomics.data.stages import Stages
from kernomics.data.subset import select_cells
from kernomics.errors import ConfigError, DataError, closest
from kernomics.ops import ObservedGenes


@dataclass(frozen=True, eq=False)
class StagedCells:
    """The cells of stages over the vocabulary.

    Attributes
    ----------
    stages
        Which genes and cells belong to which.
    cells
        All cells of the stages, in the data's order. A gene that a cell's stage lacks is not
        observed in it, its counts are dropped, and they are not in the library size either.
    stage_of_cell
        int64 [n_cells].
    """

    stages: Stages
    cells: CellCollection
    stage_of_cell: npt.NDArray[np.int64]
    _rows: dict[tuple[int, str], npt.NDArray[np.int64]]

    @checked
    def rows(self, stage: int, part: str = "train") -> npt.NDArray[np.int64]:
        """Return the cells of a stage's part, ascending int64 [n].

        Parameters
        ----------
        stage
            Its number, from 0.
        part
            ``"train"``, ``"validation"`` or ``"test"``.
        """
        if (stage, part) not in self._rows:
            raise ConfigError(
                f"there is no part {part!r} of a stage {stage}: there are {len(self.stages)} "
                "stages, counted from 0, of 'train', 'validation' and 'test'"
            )
        return self._rows[stage, part]


class _StagedSource:
    """A collection's counts without those of genes that a cell's stage lacks."""

    def __init__(
        self,
        cells: CellCollection,
        stage_of_cell: npt.NDArray[np.int64],
        has: npt.NDArray[np.bool_],
    ) -> None:
        self.cells, self.stage_of_cell, self.has = cells, stage_of_cell, has
        self.shape = (cells.n_cells, cells.n_genes)
        self.dtype: np.dtype[Any] = np.dtype(np.float32)

    @property
    def on_disk(self) -> bool:
        """Whether the collection is read from a file."""
        return self.cells.on_disk

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Cut all rows into ranges that fit in memory with ease."""
        return self.cells.blocks()

    def divided(self, rows: npt.NDArray[np.int64]) -> tuple[Rows, npt.NDArray[np.float64]]:
        """Read the named rows, and the total of what was dropped of each."""
        found = self.cells.batch(rows)
        indptr, indices = found.indptr.numpy(), found.indices.numpy()
        values = found.values.numpy()
        row = np.repeat(np.arange(len(rows)), np.diff(indptr))
        kept = self.has[self.stage_of_cell[rows][row], indices]
        dropped = np.bincount(
            row[~kept], weights=values[~kept].astype(np.float64), minlength=len(rows)
        ).astype(np.float64)
        lengths = np.bincount(row[kept], minlength=len(rows))
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Rows(starts, indices[kept], values[kept]), dropped

    def read(self, rows: npt.NDArray[np.int64]) -> Rows:
        """Copy the named rows, in the order given."""
        return self.divided(rows)[0]


@checked
def staged_cells(cells: CellCollection, stages: Stages) -> StagedCells:
    """Return the cells of stages, each with the genes of its own stage.

    Parameters
    ----------
    cells
        What the stages were made of; cells and genes are found by name, others are left out.
    stages
        Which genes and cells belong to which stage.

    Raises
    ------
    DataError
        If cells or genes of the stages are not in the data, a cell has no counts of its stage's
        genes, or no cell that a stage trains on has a count of the genes that it brings.
    """
    place = {str(name): row for row, name in enumerate(cells.cell_names)}
    of_stage = _stage_of_names(stages)
    absent = [name for name in of_stage if name not in place]
    if absent:
        raise DataError(
            f"{len(absent):,} of the {len(of_stage):,} cells of the stages are not in the data, "
            f"first {absent[0]!r}; {closest(absent[0], place)}: were the stages made of other "
            "cells?"
        )
    vocabulary, known = stages.vocabulary, set(map(str, cells.genes))
    lost = [gene for gene in vocabulary if gene not in known]
    if lost:
        raise DataError(
            f"{len(lost):,} of the {len(vocabulary):,} genes of the stages are not in the data, "
            f"first {lost[0]!r}; {closest(lost[0], known)}: were the stages made of other cells?"
        )
    rows = np.sort(np.array([place[name] for name in of_stage], np.int64))
    chosen = cells if len(rows) == cells.n_cells else select_cells(cells, rows)
    view = chosen.with_genes(vocabulary, 1.0)
    names = [str(name) for name in view.cell_names]
    stage_of_cell = np.array([of_stage[name] for name in names], np.int64)
    group = stages.group_of_gene()
    has = (group == 0)[None, :] | (group[None, :] == np.arange(len(stages))[:, None])
    row_of = {name: row for row, name in enumerate(names)}
    parts = {
        (i, part): np.sort(np.array([row_of[name] for name in getattr(stage, part)], np.int64))
        for i, stage in enumerate(stages.stages)
        for part in ("train", "validation", "test")
    }
    source = _StagedSource(view, stage_of_cell, has)
    _require_counts_of_new_genes(source, stages, parts)
    return StagedCells(stages, _of_source(source), stage_of_cell, parts)


def _require_counts_of_new_genes(
    source: _StagedSource,
    stages: Stages,
    rows_of: Mapping[tuple[int, str], npt.NDArray[np.int64]],
) -> None:
    """Refuse a stage whose training cells hold nothing of the genes that it brings."""
    first = len(stages.base)
    for i, stage in enumerate(stages.stages[1:], start=1):
        rows, stop = rows_of[i, "train"], first + len(stage.genes)
        if not any(
            ((genes >= first) & (genes < stop)).any()
            for genes in (source.read(rows[part]).indices for part in row_parts(len(rows)))
        ):
            raise DataError(
                f"none of the {len(rows):,} cells that stage {stage.name!r} trains on has a count "
                f"of its {len(stage.genes):,} genes, first {stage.genes[0]!r}: nothing can be "
                "learnt of them; give it cells that express them, or other genes"
            )
        first = stop


def _stage_of_names(stages: Stages) -> dict[str, int]:
    return {name: i for i, stage in enumerate(stages.stages) for name in stage.cells}


def _of_source(source: _StagedSource) -> CellCollection:
    view, stage_of_cell, has = source.cells, source.stage_of_cell, source.has
    library = np.empty(view.n_cells, np.float32)
    read, empty = [], []
    for start, stop in source.blocks():
        rows = np.arange(start, stop)
        found, dropped = source.divided(rows)
        # Where a library size is a total over part of the genes, it is not below what is left.
        rest = view.library[rows].astype(np.float64) - dropped
        library[rows] = np.maximum(rest, found.totals())
        empty += rows[np.diff(found.indptr) == 0].tolist()
        if not view.on_disk:
            read.append(found)
    if empty:
        raise DataError(
            f"{len(empty):,} of {view.n_cells:,} cells have no counts in the genes of their stage, "
            f"first {named_cells(empty, view.cell_names, len(empty))}: nothing can be learnt of "
            "them; leave them out before the stages are made"
        )
    held: Source = source
    if not view.on_disk:
        lengths = np.concatenate([np.diff(part.indptr) for part in read])
        held = CsrSource(
            Rows(
                np.concatenate([[0], np.cumsum(lengths)]),
                np.concatenate([part.indices for part in read]),
                np.concatenate([part.values for part in read]),
            ),
            view.n_genes,
        )
    staged = CellCollection(
        held,
        genes=view.genes,
        cell_names=view.cell_names,
        obs=view.obs,
        labels=view.labels,
        batch_labels=view.batch_labels,
        library=library,
        library_rule=view.library_rule,
        empty_cells=view.empty_cells,
        fractional=view.fractional,
        var=view.var,
        reading=view.reading,
    )
    return staged.with_observed(*_observed(view, stage_of_cell, has))


def _observed(
    view: CellCollection, stage_of_cell: npt.NDArray[np.int64], has: npt.NDArray[np.bool_]
) -> tuple[ObservedGenes, npt.NDArray[np.int32]]:
    """Return the genes observed: of the stage, and measured in the cell's data set."""
    if view.observed is None or view.panel_of_cell is None:
        lists = [np.flatnonzero(row) for row in has]
        return ObservedGenes.from_lists(lists, view.n_genes), stage_of_cell.astype(np.int32)
    measured = view.observed.mask.numpy().astype(bool)
    pairs = view.panel_of_cell.astype(np.int64) * len(has) + stage_of_cell
    there, panel_of_cell = np.unique(pairs, return_inverse=True)
    lists = [np.flatnonzero(measured[pair // len(has)] & has[pair % len(has)]) for pair in there]
    return ObservedGenes.from_lists(lists, view.n_genes), panel_of_cell.astype(np.int32)
