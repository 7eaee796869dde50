"""What a corpus is made of: cells and genes with enough counts, perturbations with an effect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kernomics._arguments import checked
from kernomics._warnings import warn
from kernomics.data import CellCollection, select_cells
from kernomics.data.labels import column
from kernomics.data.readers.inputs import ReadOptions, anndata_of
from kernomics.errors import ConfigError, DataError, closest
from kernomics.metrics.alignment import How, align
from kernomics.metrics.perturbation import (
    Null,
    PerturbationConsistency,
    perturbation_consistency,
    perturbation_labels,
)
from kernomics.models.base import as_collection

if TYPE_CHECKING:
    from anndata import AnnData

MIN_CELLS = 1000
MIN_GENES = 2000

Given = TypeVar("Given", "AnnData", CellCollection)


@dataclass(frozen=True, eq=False)
class Curation:
    """Which cells and genes are kept, and which are not.

    Attributes
    ----------
    cells, genes : numpy.ndarray
        Bool [n_cells], [n_genes]: what is kept.
    min_genes, min_cells : int
        Minimum genes per cell and cells per gene.
    genes_of_cell : numpy.ndarray
        int64 [n_cells]: genes with a count, of all genes.
    cells_of_gene : numpy.ndarray
        int64 [n_genes]: cells with a count, among those kept.
    """

    cells: NDArray[np.bool_]
    genes: NDArray[np.bool_]
    min_genes: int
    min_cells: int
    genes_of_cell: NDArray[np.int64]
    cells_of_gene: NDArray[np.int64]

    def __str__(self) -> str:
        lines = []
        for what, kept, why in (
            ("cells", self.cells, f"have fewer than {self.min_genes:,} genes"),
            ("genes", self.genes, f"are in fewer than {self.min_cells:,} of these cells"),
        ):
            removed = int((~kept).sum())
            share = f" ({removed / kept.size:.1%})" if removed else ""
            lines.append(
                f"{int(kept.sum()):,} of {kept.size:,} {what} kept; {removed:,}{share} {why}"
            )
        return "\n".join(lines)

    @checked
    def apply(self, data: Given) -> Given:
        """Return the kept cells and genes: a copy of an AnnData, a view of a collection.

        A collection keeps its library sizes, totals over all genes measured. Row totals of an
        AnnData's copy no longer are: where they matter, store them in obs before, and name that
        column as ``library_key``.
        """
        shape = (len(self.cells), len(self.genes))
        found = (data.n_cells, data.n_genes) if isinstance(data, CellCollection) else data.shape
        if found != shape:
            raise DataError(
                f"this curation is of {shape[0]:,} cells × {shape[1]:,} genes, but the data have "
                f"{found[0]:,} × {found[1]:,}"
            )
        if isinstance(data, CellCollection):
            return select_cells(data, self.cells).with_genes(data.genes[self.genes], 1.0)
        chosen = data[self.cells, self.genes]
        return chosen.to_memory() if data.isbacked else chosen.copy()


@checked
def curate(
    data: AnnData | str | Path | CellCollection,
    *,
    min_genes: int = MIN_GENES,
    min_cells: int = MIN_CELLS,
    **reading: Unpack[ReadOptions],
) -> Curation:
    """Find cells with enough genes, then genes in enough of those cells.

    The defaults are those of TxFM's corpus (arXiv 2605.31562), whose sets have 10,000 to 500,000
    cells. Both are absolute numbers: data sets that are small, shallow or have few genes need lower
    ones.

    Parameters
    ----------
    data
        AnnData, path of an ``.h5ad`` file, or a collection; not modified.
    min_genes
        Minimum number of genes with a count in a cell, of all genes.
    min_cells
        Minimum number of kept cells with a count of a gene.
    **reading
        How to read an AnnData or a file, as in `kernomics.data.ReadOptions`. Cells without counts
        are kept by default.

    Returns
    -------
    Curation
        What is kept; its ``str()`` says what is removed, and `Curation.apply` removes it.

    Raises
    ------
    DataError
        If no cell or no gene is left; the message says what half of them have.
    ConfigError
        If a number is negative.

    Warns
    -----
    UserWarning
        If more than half of the cells, or of the genes, are removed.
    """
    for name, value in (("min_genes", min_genes), ("min_cells", min_cells)):
        if value < 0:
            raise ConfigError(f"{name} is {value}: it is a number of {name[4:]}")
    cells = _collection(data, reading)
    genes_of_cell = np.concatenate(
        [cells.batch(np.arange(*block)).indptr.diff().numpy() for block in cells.blocks()]
    )
    kept_cells = _kept(genes_of_cell, min_genes, "cell", "genes", "min_genes")
    _require_cells(genes_of_cell, kept_cells, min_genes, min_cells)
    cells_of_gene = cells.summary(np.flatnonzero(kept_cells)).n_expressing
    kept_genes = _kept(cells_of_gene, min_cells, "gene", "of the cells kept", "min_cells")
    found = Curation(kept_cells, kept_genes, min_genes, min_cells, genes_of_cell, cells_of_gene)
    if 2 * kept_cells.sum() < kept_cells.size or 2 * kept_genes.sum() < kept_genes.size:
        warn(f"more than half are removed: {found}".replace("\n", "; "))
    return found


def _kept(
    having: NDArray[np.int64], least: int, what: str, of: str, name: str
) -> NDArray[np.bool_]:
    kept = np.asarray(having >= least)
    if not kept.any():
        half = int(np.median(having))
        raise DataError(
            f"no {what} of {len(having):,} has {least:,} {of}; the most is {int(having.max()):,}, "
            f"and half have {half:,} or more: set {name} to {half} or lower"
        )
    return kept


def _require_cells(
    genes_of_cell: NDArray[np.int64], kept: NDArray[np.bool_], min_genes: int, min_cells: int
) -> None:
    """Say so where min_genes leaves fewer cells than min_cells asks of a gene."""
    n_kept = int(kept.sum())
    if n_kept >= min_cells:
        return
    lower = ""
    if 2 * n_kept < kept.size:
        half = int(np.median(genes_of_cell))
        lower = f"min_genes to {half} or lower, which half of the cells have, and "
    raise DataError(
        f"no gene can be in {min_cells:,} cells: {n_kept:,} of {kept.size:,} have {min_genes:,} "
        f"genes and are kept; set {lower}min_cells to a small share of the cells"
    )


def _collection(
    data: AnnData | str | Path | CellCollection, reading: ReadOptions
) -> CellCollection:
    if isinstance(data, CellCollection):
        return as_collection(data, reading)
    return as_collection(data, {"empty_cells": "keep", **reading})


# -- phenoprints -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Phenoprints:
    """Perturbations with an effect.

    Attributes
    ----------
    kept, removed : list of str
        Perturbations, sorted by name; the control is in neither.
    cells : numpy.ndarray
        Bool [n]: cells of a perturbation that is kept, and controls.
    p : float
        A perturbation is kept when its p lies below this.
    consistency : PerturbationConsistency
        What decided it.
    """

    kept: list[str]
    removed: list[str]
    cells: NDArray[np.bool_]
    p: float
    consistency: PerturbationConsistency

    def __str__(self) -> str:
        return (
            f"{len(self.kept):,} of {len(self.kept) + len(self.removed):,} perturbations kept "
            f"(p < {self.p:g}), with the controls {int(self.cells.sum()):,} of "
            f"{self.cells.size:,} cells"
        )


@checked
def select_phenoprints(
    data: AnnData | str | Path | CellCollection,
    representation: str | ArrayLike | Callable[[CellCollection], ArrayLike],
    *,
    perturbation_key: str,
    control: str | Sequence[str],
    batch_key: str | None = None,
    p: float = 0.1,
    how: How = "none",
    n_null: int | None = None,
    null: Null = "cells",
    n_components: int | None = None,
    seed: int = 0,
) -> Phenoprints:
    """Keep the perturbations that have a consistent effect under an earlier model.

    A perturbation without effect teaches a model no more than a control does. The K562 cells of
    TxFM's corpus were selected in this way, by p < 0.1 of `perturbation_consistency` (arXiv
    2605.31562).

    Parameters
    ----------
    data
        AnnData, path of an ``.h5ad`` file, or a collection; not modified. Only obs and obsm are
        used, unless a function makes the representation.
    representation
        That of the earlier model: float [n, d], a key of ``obsm``, or a function of the
        collection, such as ``model.get_latent_representation``.
    perturbation_key, batch_key
        obs columns; by default all cells are one batch.
    control
        Name(s) of the control in `perturbation_key`; several become one. They are kept.
    p
        Perturbations with p below this are kept.
    how
        How to `align` the representation first.
    n_null, null, n_components, seed
        As in `perturbation_consistency`.

    Returns
    -------
    Phenoprints
        Which perturbations and cells are kept.

    Raises
    ------
    DataError, ConfigError
        As in `align` and `perturbation_consistency`; or a key is missing.
    """
    obs, x = _obs_and_representation(data, representation)
    perturbations = column(obs, perturbation_key).to_numpy()
    batches = None if batch_key is None else column(obs, batch_key).to_numpy()
    labels = perturbation_labels(perturbations, len(x), control)
    found = perturbation_consistency(
        align(x, labels.values == labels.control, batches, how),
        perturbations,
        control=control,
        batches=batches,
        n_null=n_null,
        seed=seed,
        threshold=p,
        n_components=n_components,
        null=null,
    )
    kept = found.table.index[found.table["consistent"]].tolist()
    wanted = np.isin(labels.names, [*kept, labels.names[labels.control]])
    return Phenoprints(
        kept,
        found.table.index[~found.table["consistent"]].tolist(),
        (labels.values >= 0) & wanted[labels.values],
        p,
        found,
    )


def _obs_and_representation(data: Any, representation: Any) -> tuple[Any, NDArray[Any]]:
    if callable(representation):
        cells = _collection(data, {})
        obs, x = cells.obs, np.asarray(representation(cells))
    elif isinstance(data, CellCollection):
        if isinstance(representation, str):
            raise ConfigError(
                f"a CellCollection has no obsm to look up {representation!r} in; pass the "
                "representation itself, or an AnnData"
            )
        obs, x = data.obs, np.asarray(representation)
    else:
        obs, x = _of_anndata(data, representation)
    if x.ndim != 2 or len(x) != len(obs):
        raise DataError(f"the representation has shape {x.shape} for {len(obs):,} cells")
    return obs, x


def _of_anndata(data: Any, representation: Any) -> tuple[Any, NDArray[Any]]:
    data = anndata_of(data)
    if isinstance(representation, str):
        if representation not in data.obsm:
            raise DataError(
                f"obsm has no {representation!r}; {closest(representation, data.obsm.keys())}"
            )
        representation = data.obsm[representation]
    return data.obs.copy(), np.array(representation)
