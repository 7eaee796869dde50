"""What an AnnData, a view, a backed AnnData or an h5ad path gives: one look, nothing modified."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from kernomics.data.checks import first_bad_count
from kernomics.data.sources import Source, SubsetSource, h5_source, memory_source
from kernomics.errors import DataError, closest

if TYPE_CHECKING:
    from anndata import AnnData


SAMPLE = 1000
"""Stored values, or rows of a dense matrix, that a hint looks at."""


class AnnDataInput:
    """Names, tables and the matrix of counts, wherever they are.

    Parameters
    ----------
    adata
        AnnData or path.
    layer
        Name of a layer, or None for X.

    Attributes
    ----------
    source
        The counts.
    where
        What to call them in messages.
    on_disk
        Whether they are read from a file.
    obs
        A copy of the table of cells.
    genes, cell_names
        Object arrays of str.
    said_subset
        How the AnnData says, beside raw and obs, that it lacks genes that were measured: by
        ``uns["kernomics"]["genes_are_subset"]``, or by a var in which all are highly variable.
    raw_genes
        Object array of str, the names of the genes of ``raw``; None without one.
    """

    def __init__(self, adata: AnnData | str | Path, layer: str | None) -> None:
        self.where = "X" if layer is None else f"layer {layer!r}"
        self.layer = layer
        self._adata: Any = None
        self._path: Path | None = None
        if isinstance(adata, str | Path):
            self._path = Path(adata)
            self.where += f" of '{self._path.name}'"
            self._open_file(self._path)
        else:
            self._adata = adata
            self._path = Path(adata.filename) if adata.isbacked else None
            self._open_anndata(adata)
        self.shape = self.source.shape
        self.on_disk = self.source.on_disk

    def _open_file(self, path: Path) -> None:
        if not path.is_file():
            raise DataError(f"there is no file '{path}'")
        if not h5py.is_hdf5(path):
            raise DataError(f"'{path}' is not an HDF5 file, so it is no .h5ad; or it is damaged")
        with h5py.File(path, "r") as file:
            if "obs" not in file or "var" not in file:
                raise DataError(f"'{path}' is not an .h5ad file: it holds {sorted(file)}")
            self.obs = _read_elem(file["obs"])
            var = _read_elem(file["var"])
            self.genes = _names(var.index)
            self.cell_names = _names(self.obs.index)
            layers = list(file["layers"]) if "layers" in file else []
            self._require_layer(layers, has_x="X" in file)
            has_raw = "raw/X" in file and "raw/var" in file
            self.raw_genes = _names(_read_elem(file["raw/var"]).index) if has_raw else None
            flag = "uns/kernomics/genes_are_subset"
            flagged = bool(file[flag][()]) if flag in file else False
        self.said_subset = _said_subset(flagged, var)
        self.source: Source = h5_source(path, self._key, self.where)

    def _open_anndata(self, adata: AnnData) -> None:
        self.obs = pd.DataFrame(adata.obs, copy=True)
        self.genes = _names(adata.var_names)
        self.cell_names = _names(adata.obs_names)
        self._require_layer(list(adata.layers), has_x=adata.X is not None)
        said = adata.uns.get("kernomics")
        flagged = isinstance(said, Mapping) and bool(said.get("genes_are_subset", False))
        self.raw_genes = None if adata.raw is None else _names(adata.raw.var_names)
        self.said_subset = _said_subset(flagged, adata.var)
        if self._path is not None and self.layer is None:  # anndata loads layers
            self.source = self._backed(adata, self._path)
        else:
            matrix = adata.X if self.layer is None else adata.layers[self.layer]
            self.source = memory_source(matrix, self.where)

    @property
    def _key(self) -> str:
        return "X" if self.layer is None else f"layers/{self.layer}"

    def _require_layer(self, layers: list[str], has_x: bool) -> None:
        if self.layer is None and not has_x:
            raise DataError(f"the AnnData has no X; pass layer=…, {closest('counts', layers)}")
        if self.layer is not None and self.layer not in layers:
            raise DataError(f"there is no layer {self.layer!r}; {closest(self.layer, layers)}")

    def _backed(self, adata: AnnData, path: Path) -> Source:
        """Open the file behind a backed AnnData; a view is found in it by its names."""
        source = h5_source(path, self._key, self.where)
        with h5py.File(path, "r") as file:
            obs = pd.Index(_names(_read_elem(file["obs"]).index))
            var = pd.Index(_names(_read_elem(file["var"]).index))
        if not adata.is_view and source.shape == adata.shape:
            return source
        for names, index, what in ((self.cell_names, obs, "cell"), (self.genes, var, "gene")):
            if not index.is_unique or not pd.Index(names).isin(index).all():
                raise DataError(
                    f"the {what} names of this view of the backed file '{path.name}' do not tell "
                    "which rows of the file it means (renamed or repeated); pass view.to_memory()"
                )
        return SubsetSource(source, obs.get_indexer(self.cell_names), var.get_indexer(self.genes))

    def raw_source(self) -> Source:
        """Open the counts of ``raw`` for these cells."""
        with warnings.catch_warnings():  # how raw is stored is nobody's concern
            warnings.simplefilter("ignore", UserWarning)
            if self._path is None:
                return memory_source(self._adata.raw.X, "adata.raw")
            source = h5_source(self._path, "raw/X", "adata.raw")
            with h5py.File(self._path, "r") as file:
                stored = pd.Index(_names(_read_elem(file["obs"]).index))
        if self._adata is None or stored.equals(pd.Index(self.cell_names)):
            return source
        rows = stored.get_indexer(pd.Index(self.cell_names))
        if (rows < 0).any():
            return SubsetSource(source, rows[rows >= 0], np.arange(source.shape[1]))
        return SubsetSource(source, rows, np.arange(source.shape[1]))

    def where_counts_may_be(self) -> str:
        """Return a hint: which other matrix of this AnnData holds counts, at first glance."""
        for name, remedy, values in self._samples():
            if values.size and not first_bad_count(values):
                return f"{name} does: {remedy}"
        return "no other layer and no adata.raw of these data holds counts: load the raw counts"

    def _samples(self) -> Iterator[tuple[str, str, npt.NDArray[Any]]]:
        """Yield name, remedy and the first stored values of each other matrix."""
        with ExitStack() as stack:
            if self._path is None:
                adata = self._adata
                layers, x = dict(adata.layers.items()), adata.X
                raw = None if adata.raw is None else adata.raw.X
            else:
                file = stack.enter_context(h5py.File(self._path, "r"))
                layers, x, raw = dict(file.get("layers", {})), file.get("X"), file.get("raw/X")
            if self.layer is None:
                x = None
            layers.pop(self.layer, None)
            for name, remedy, matrix in (
                ("X", "leave layer out", x),
                *((f"layer {name!r}", f"pass layer={name!r}", m) for name, m in layers.items()),
                ("adata.raw", "pass adata.raw.to_adata()", raw),
            ):
                if matrix is not None:
                    yield name, remedy, _first_values(matrix)


def obs_columns(adata: AnnData | str | Path) -> list[str]:
    """Return the names of the columns of obs; none of what is no ``.h5ad`` file."""
    if not isinstance(adata, str | Path):
        return list(adata.obs.columns)
    if not (Path(adata).is_file() and h5py.is_hdf5(adata)):
        return []
    with h5py.File(adata, "r") as file:
        return (
            [str(name) for name in file["obs"].attrs.get("column-order", ())]
            if "obs" in file
            else []
        )


def _said_subset(flagged: bool, var: pd.DataFrame) -> str:
    if flagged:
        return 'uns["kernomics"]["genes_are_subset"] says so'
    chosen = var["highly_variable"] if "highly_variable" in var.columns else None
    if chosen is not None and len(chosen) and chosen.dtype == bool and bool(chosen.all()):
        return 'var["highly_variable"] is true of all'
    return ""


def _first_values(matrix: Any) -> npt.NDArray[Any]:
    if isinstance(matrix, h5py.Group):
        return np.asarray(matrix["data"][:SAMPLE])
    return np.asarray(matrix.data[:SAMPLE] if sparse.issparse(matrix) else matrix[:SAMPLE])


def _read_elem(node: Any) -> Any:
    try:
        from anndata.io import read_elem
    except ImportError:  # anndata < 0.11
        from anndata.experimental import read_elem
    return read_elem(node)


def _names(index: Any) -> npt.NDArray[Any]:
    return np.array([str(name) for name in index], dtype=object)
