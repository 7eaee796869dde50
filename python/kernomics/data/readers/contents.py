"""What an AnnData holds, in memory, backed or as a file: its tables, and where its matrices are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from kernomics.data.readers.room import require_room
from kernomics.data.readers.sources import Source, SubsetSource, memory_source
from kernomics.data.readers.stored import h5_source, open_zarr, zarr_source
from kernomics.errors import DataError, KernomicsError

if TYPE_CHECKING:
    from anndata import AnnData

SAMPLE = 1000
"""Stored values, or rows of a dense matrix, that a hint looks at."""


class Contents(Protocol):
    """Tables and matrices; a matrix goes by ``"X"``, ``"raw/X"`` or ``"layers/<name>"``."""

    file_name: str | None
    obs: pd.DataFrame
    var: pd.DataFrame
    raw_var: pd.DataFrame | None
    layers: list[str]
    has_x: bool
    says_subset: bool
    said: Mapping[str, Any]

    def source(self, key: str, where: str) -> Source:
        """Open a matrix for reading by rows."""

    def first_values(self, key: str) -> npt.NDArray[Any]:
        """Return the first stored values of a matrix."""


class FileContents:
    """An AnnData inside an HDF5 file, as anndata writes it or wrote it before 0.7.

    `group` is where in it: ``""``, or ``"mod/rna"`` in an ``.h5mu`` file. Where `scratch` names a
    directory, a matrix stored by columns is written there by rows, instead of into memory.
    """

    scratch: Path | None = None

    def __init__(self, path: Path, group: str = "") -> None:
        self.path, self.group = path, group
        self.file_name: str | None = path.name
        with readable(path, "its tables"), self._open() as file:
            root = file[group] if group else file
            for name in ("obs", "var", "raw/var", "raw.var"):
                if name in root:
                    require_room(path, root[name], name)
            self.obs, self.var = _table(root, "obs"), _table(root, "var")
            self.layers = list(root["layers"]) if "layers" in root else []
            self.has_x = "X" in root
            self.legacy_raw = "raw.X" in root
            raw_var = "raw.var" if self.legacy_raw else "raw/var"
            self.raw_var = _table(root, raw_var) if raw_var in root else None
            self.said = _said(root)
            self.says_subset = bool(self.said.get("genes_are_subset", False))

    def _open(self) -> Any:
        return open_h5(self.path)

    def _stored(self, key: str) -> str:
        name = "raw.X" if key == "raw/X" and self.legacy_raw else key
        return f"{self.group}/{name}" if self.group else name

    def load(self) -> AnnData:
        """Read everything."""
        if self.group:
            with self._open() as file:
                adata: AnnData = read_elem(file[self.group])
                return adata
        import anndata

        return anndata.read_h5ad(self.path)

    def source(self, key: str, where: str) -> Source:
        """Open a matrix for reading by rows."""
        with readable(self.path, self._stored(key)):
            return h5_source(self.path, self._stored(key), where, self.scratch)

    def first_values(self, key: str) -> npt.NDArray[Any]:
        """Return the first stored values of a matrix."""
        with readable(self.path, self._stored(key)), self._open() as file:
            return _first_values(file[self._stored(key)])


class ZarrContents(FileContents):
    """An AnnData in a zarr store of version 2 or 3, of which only what is asked for is read."""

    def _open(self) -> Any:
        return nullcontext(open_zarr(self.path))

    def load(self) -> AnnData:
        """Read everything."""
        import anndata

        return anndata.read_zarr(self.path)

    def source(self, key: str, where: str) -> Source:
        """Open a matrix for reading by rows."""
        with readable(self.path, self._stored(key)):
            return zarr_source(self.path, self._stored(key), where, self.scratch)


class ObjectContents:
    """An AnnData in memory, a view or backed, which stays in its file; never written to."""

    def __init__(self, adata: AnnData) -> None:
        self.adata = adata
        self.obs = pd.DataFrame(adata.obs, copy=True)
        self.var = pd.DataFrame(adata.var, copy=True)
        self.layers = list(adata.layers)
        self._file = FileContents(Path(adata.filename)) if adata.isbacked else None
        self.file_name = None if self._file is None else self._file.file_name
        self.has_x = self._file.has_x if self._file is not None else adata.X is not None
        raw = adata.raw
        self.raw_var = None if raw is None else pd.DataFrame(raw.var, copy=True)
        said = adata.uns.get("kernomics")
        self.said: Mapping[str, Any] = said if isinstance(said, Mapping) else {}
        self.says_subset = bool(self.said.get("genes_are_subset", False))

    def source(self, key: str, where: str) -> Source:
        """Open a matrix for reading by rows."""
        if self._file is not None and not key.startswith("layers/"):  # anndata loads layers
            return self._backed(self._file, key, where)
        return memory_source(self._matrix(key), where)

    def _matrix(self, key: str) -> Any:
        if key == "X":
            return self.adata.X
        return self.adata.raw.X if key == "raw/X" else self.adata.layers[key[len("layers/") :]]

    def _backed(self, file: FileContents, key: str, where: str) -> Source:
        """Open the file behind a backed AnnData; a view is found in it by its names."""
        source = file.source(key, where)
        shape = (len(self.obs), len(self.var) if key == "X" else source.shape[1])
        if not self.adata.is_view and source.shape == shape:
            return source
        rows = self._places(self.obs.index, file.obs.index, "cell")
        if key != "X":  # a view has all genes of raw
            return SubsetSource(source, rows, None)
        return SubsetSource(source, rows, self._places(self.var.index, file.var.index, "gene"))

    def _places(self, names: Any, stored: Any, what: str) -> npt.NDArray[np.int64]:
        index = pd.Index(stored.astype(str))
        wanted = pd.Index(names.astype(str))
        whole = getattr(self.adata, "_adata_ref", None)  # what it is a view of, whose names may
        if whole is not None:  # have been given to other rows since it was opened
            now = whole.obs_names if what == "cell" else whole.var_names
            renamed = not np.array_equal(now.astype(str), index)
        else:
            renamed = not wanted.isin(index).all()
        if renamed or not index.is_unique:
            raise DataError(
                f"the {what} names of this view of the backed file {self.file_name!r} do not "
                "identify its rows in the file (renamed or repeated); pass view.to_memory()"
            )
        places: npt.NDArray[np.int64] = index.get_indexer(wanted)
        return places

    def first_values(self, key: str) -> npt.NDArray[Any]:
        """Return the first stored values of a matrix."""
        if self._file is not None and not key.startswith("layers/"):
            return self._file.first_values(key)
        return _first_values(self._matrix(key))


@contextmanager
def readable(path: Path, what: str) -> Iterator[None]:
    """Say of what a file cannot be read, however its library put it."""
    try:
        yield
    except (KernomicsError, ImportError, MemoryError):
        raise
    except Exception as error:
        raise DataError(
            f"'{path}' cannot be read at {what}: {error}; it is damaged, or holds what anndata "
            "does not write: copy or download it again"
        ) from error


def open_h5(path: Path) -> Any:
    """Open an HDF5 file for reading, if it is whole."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(
            f"'{path}' is an HDF5 file that cannot be opened: {error}; it is truncated, damaged "
            "or still being written: copy or download it again"
        ) from error


def _said(root: Any) -> Mapping[str, Any]:
    """Return what kernomics wrote about a file into ``uns["kernomics"]``."""
    if "uns" not in root or "kernomics" not in root["uns"]:
        return {}
    node = root["uns"]["kernomics"]
    found = read_elem(node) if hasattr(node, "keys") else None
    return found if isinstance(found, Mapping) else {}


def read_elem(node: Any) -> Any:
    """Read an element of a file as anndata does."""
    try:
        from anndata.io import read_elem as read
    except ImportError:  # anndata < 0.11
        from anndata.experimental import read_elem as read
    return read(node)


def _table(root: Any, name: str) -> pd.DataFrame:
    """Read obs or var; before anndata 0.7 these were arrays of records."""
    if hasattr(root[name], "keys"):
        table = read_elem(root[name])
        if not isinstance(table, pd.DataFrame):
            raise ValueError(f"{name} is a {type(table).__name__}, not a table")
        return table
    records = root[name][()]
    first, *columns = records.dtype.names
    table = pd.DataFrame(index=pd.Index(_decoded(records[first])))
    for column in columns:
        values = _decoded(records[column])
        categories = f"uns/{column}_categories"
        if categories in root:
            names = _decoded(np.atleast_1d(root[categories][()]))
            table[column] = pd.Categorical.from_codes(values.astype(np.int64), pd.Index(names))
            continue
        table[column] = values
    return table


def _decoded(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if values.dtype.kind not in "SO":
        return values
    texts = [v.decode("utf-8") if isinstance(v, bytes) else v for v in values.tolist()]
    return np.array(texts, dtype=object)


def _first_values(matrix: Any) -> npt.NDArray[Any]:
    if hasattr(matrix, "keys"):  # a group of a file or a store
        return np.asarray(matrix["data"][:SAMPLE])
    if hasattr(matrix, "__dask_graph__"):
        matrix = matrix[:SAMPLE].compute()
    elif hasattr(matrix, "to_memory"):
        matrix = matrix[:SAMPLE]
    return np.asarray(matrix.data[:SAMPLE] if sparse.issparse(matrix) else matrix[:SAMPLE])
