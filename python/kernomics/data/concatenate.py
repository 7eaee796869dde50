"""Several data sets with different genes as one collection over the union of their genes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from kernomics._arguments import checked, words_of
from kernomics._warnings import warn
from kernomics.data.collection import CellCollection
from kernomics.data.csr import Rows, canonical, gather
from kernomics.data.genes import gene_id_kind, mismatch_cause
from kernomics.data.labels import Kind, Labels, read_labels
from kernomics.data.library import joined_rule
from kernomics.data.readers.inputs import shared_options
from kernomics.errors import DataError
from kernomics.ops import ObservedGenes

SOURCE_COLUMN = "dataset"


class JointSource:
    """Rows of several collections, one after the other; `columns` are the common ones of each."""

    def __init__(
        self,
        parts: Sequence[CellCollection],
        columns: Sequence[npt.NDArray[np.int64]],
        n_genes: int,
    ) -> None:
        self.parts, self.columns = list(parts), list(columns)
        self.starts = np.cumsum([0, *(part.n_cells for part in parts)])
        self.shape = (int(self.starts[-1]), n_genes)
        self.dtype: np.dtype[Any] = np.dtype(np.float32)

    @property
    def on_disk(self) -> bool:
        """Whether any part is read from a file."""
        return any(part.on_disk for part in self.parts)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Cut all rows into ranges that fit in memory with ease, none over two parts."""
        for part, start in zip(self.parts, self.starts[:-1].tolist(), strict=True):
            for first, last in part.blocks():
                yield start + first, start + last

    def read(self, rows: npt.NDArray[np.int64]) -> Rows:
        """Copy the named rows, in the order given."""
        found = np.searchsorted(self.starts, rows, side="right") - 1
        read, columns, order = [], [], []
        for i in np.unique(found):
            place = np.flatnonzero(found == i)
            order.append(place)
            read.append(self.parts[i].batch(rows[place] - self.starts[i]))
            columns.append(self.columns[i][read[-1].indices.numpy()])
        if not read:
            return Rows(np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
        lengths = np.concatenate([cells.indptr.diff().numpy() for cells in read])
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        indices = np.concatenate(columns)
        values = np.concatenate([cells.values.numpy() for cells in read])
        back = np.argsort(np.concatenate(order), kind="stable")
        return canonical(gather(indptr, indices, values, back), self.shape[1])


@checked
def concat(
    collections: Mapping[str, CellCollection],
    *,
    labels_key: str | Sequence[str] | None = None,
    unlabelled_category: str | None = None,
    label_kinds: Mapping[str, Kind] | None = None,
) -> CellCollection:
    """Join data sets with different genes.

    Each cell keeps track of the genes its own data set measured: a gene that only other data sets
    have is unknown in its cells, not zero.

    Parameters
    ----------
    collections
        The data sets by name. Cell names become ``"<data set>:<cell>"``.
    labels_key
        obs column or columns to use as labels; cells of data sets without them are unlabelled.
    unlabelled_category
        A class that means "unlabelled".
    label_kinds
        As in `CellCollection.from_anndata`.

    Returns
    -------
    CellCollection
        Over the union of the genes, in order of appearance. ``obs["dataset"]`` names each cell's
        set, and it is the `batch_labels`. Library sizes stay each set's own. `reading` holds the
        options that all sets were read with.

    Raises
    ------
    DataError
        If there are no collections, something is not a collection, a data set shares no genes with
        the others, or Ensembl ids and gene symbols are mixed.

    Warns
    -----
    UserWarning
        If the union contains an Ensembl id in two versions, as two genes.
    """
    if not collections:
        raise DataError("no data sets were given to join")
    for name, part in collections.items():
        if not isinstance(part, CellCollection):
            raise DataError(
                f"data set {name!r} is of type {type(part).__name__}: read it first with "
                "CellCollection.from_anndata(…), which takes an AnnData or a path"
            )
    names, parts = list(collections), list(collections.values())
    kinds = {name: gene_id_kind(part.genes) for name, part in collections.items()}
    if len(set(kinds.values())) > 1:
        told = ", ".join(f"{name} has {kind}" for name, kind in kinds.items())
        raise DataError(f"the data sets name their genes differently: {told}")
    genes = list(dict.fromkeys(str(gene) for part in parts for gene in part.genes))
    place = {gene: i for i, gene in enumerate(genes)}
    columns = [np.array([place[str(g)] for g in part.genes], np.int64) for part in parts]
    for i in range(1, len(parts)):
        if not np.isin(columns[i], np.concatenate(columns[:i])).any():
            before = list(dict.fromkeys(str(g) for part in parts[:i] for g in part.genes))
            raise DataError(
                f"{names[i]} shares none of its {parts[i].n_genes:,} genes with the data sets "
                f"before it, first {parts[i].genes[0]!r}"
                + (mismatch_cause(parts[i].genes, before, 0) or ": are they of another species?")
            )
    _warn_of_versions(genes)
    tables = [part.obs.assign(**{SOURCE_COLUMN: name}) for name, part in collections.items()]
    cells = np.concatenate(
        [[f"{name}:{cell}" for cell in part.cell_names] for name, part in collections.items()]
    ).astype(object)
    obs = pd.concat(tables, ignore_index=True).set_index(pd.Index(cells))
    keys = words_of("labels_key", labels_key)
    libraries = [part.library for part in parts]
    joined = CellCollection(
        JointSource(parts, columns, len(genes)),
        genes=np.array(genes, dtype=object),
        cell_names=cells,
        obs=obs,
        labels=read_labels(obs, keys, unlabelled_category, label_kinds),
        batch_labels=Labels.from_series(obs[SOURCE_COLUMN], SOURCE_COLUMN, kind="categorical"),
        library=np.concatenate(libraries),
        library_rule=joined_rule({name: part.library_rule for name, part in collections.items()}),
        empty_cells="keep" if any(part.empty_cells == "keep" for part in parts) else "error",
        fractional=any(part.fractional for part in parts),
        reading=shared_options([part.reading for part in parts]),
    )
    return joined.with_observed(*_observed(parts, columns, len(genes)))


def _observed(
    parts: Sequence[CellCollection], columns: Sequence[npt.NDArray[np.int64]], n_genes: int
) -> tuple[ObservedGenes, npt.NDArray[np.int32]]:
    """Return the panels of genes measured, and each cell's; a part may bring several of its own."""
    panels: list[npt.NDArray[np.int64]] = []
    panel_of_cell = []
    for part, own in zip(parts, columns, strict=True):
        found = part.observed
        which = np.zeros(part.n_cells, np.int32) if found is None else part.panel_of_cell
        assert which is not None
        panel_of_cell.append(which.astype(np.int32) + len(panels))
        if found is None:
            panels.append(own)
        else:
            panels.extend(own[np.flatnonzero(row)] for row in found.mask.numpy())
    return ObservedGenes.from_lists(panels, n_genes), np.concatenate(panel_of_cell)


def _warn_of_versions(genes: Sequence[str]) -> None:
    """Say where one gene goes by two names, Ensembl ids of two versions."""
    if gene_id_kind(genes) != "Ensembl ids":
        return
    plain = pd.Index([gene.split(".")[0] for gene in genes])
    again = np.flatnonzero(plain.duplicated())
    if again.size:
        first = genes[int(np.argmax(plain == plain[again[0]]))]
        warn(
            f"{again.size:,} genes appear in the data sets under two names, first {first!r} and "
            f"{genes[again[0]]!r}, and count as two; to merge them, remove the version suffixes: "
            "adata.var_names = adata.var_names.str.split('.').str[0]"
        )
