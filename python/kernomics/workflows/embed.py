"""Representations of cells, written to a file as they come: memory does not grow with the cells."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd

from kernomics.data import CellCollection
from kernomics.data.readers.contents import FileContents, ZarrContents
from kernomics.data.readers.inputs import ReadOptions, anndata_of, contents_of, names_in_var
from kernomics.tl._representations import gene_tables, key_of, params_of
from kernomics.train.atomic import TEMPORARY, fsync_directory

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kernomics.models import CellEncoder, ExpressionModel, PhenotypeModel

ROWS_OF_A_CHUNK = 1024


def write_representation(
    model: CellEncoder | PhenotypeModel | ExpressionModel,
    cells: CellCollection,
    data: Path,
    out: Path,
    *,
    reading: ReadOptions,
    batch_size: int | None,
    progress: bool,
    **options: Any,
) -> int:
    """Write the cells' representations to `out`, and return their width.

    Parameters
    ----------
    model
        What represents them.
    cells
        The cells, read from `data`.
    data
        A file or a zarr store, of which an ``.h5ad`` file in `out` is a copy.
    out
        ``.h5ad``, ``.csv`` or ``.npy``. It is there once all is written.
    reading
        How the cells were read.
    batch_size, progress, **options
        As of the model's `get_latent_representation`.
    """
    shape = (cells.n_cells, model.config.d_model)

    def write(place: Any) -> None:
        model.get_latent_representation(
            cells, batch_size=batch_size, progress=progress, out=place, **options
        )

    with _whole_or_absent(out) as path:
        if out.suffix == ".npy":
            place = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
            write(place)
            place.flush()
        elif out.suffix == ".csv":
            with path.open("w", encoding="utf-8", newline="") as file:
                write(_Table(file, cells.cell_names, key_of(model), shape))
        else:
            _copy(data, reading.get("modality"), path)
            with h5py.File(path, "r+") as file:
                write(_obsm(file, f"X_{key_of(model)}", shape))
                options["library"] = cells.library_source
                _add_genes(file, data, model, reading, options)
    return shape[1]


@contextmanager
def _whole_or_absent(out: Path) -> Iterator[Path]:
    """Give a name beside `out`, whose file takes its place when all went well."""
    temporary = out.with_name(f".{out.name}{TEMPORARY}{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(out.absolute().parent)


class _Table:
    """A table of text, to which rows are written one after the other."""

    def __init__(self, file: Any, names: NDArray[Any], key: str, shape: tuple[int, int]) -> None:
        self.file, self.names, self.shape = file, names, shape
        self.columns = [f"{key}_{i}" for i in range(shape[1])]

    def __setitem__(self, rows: slice, values: NDArray[np.float32]) -> None:
        names = self.names[rows].astype(str)
        table = pd.DataFrame(values, index=names, columns=self.columns)
        table.to_csv(self.file, header=rows.start == 0)


def _copy(data: Path, modality: str | None, path: Path) -> None:
    """Copy an AnnData to an ``.h5ad`` file, in parts where it is in a file of today's layout.

    A zarr store, which is a directory, goes through memory.
    """
    contents = contents_of(data, modality)
    if (
        not isinstance(contents, FileContents)
        or isinstance(contents, ZarrContents)
        or _is_old(contents)
    ):
        anndata_of(data, modality).write_h5ad(path)
    elif not contents.group:
        shutil.copyfile(data, path)
    else:
        with h5py.File(data, "r") as source, h5py.File(path, "w") as target:
            group = source[contents.group]
            target.attrs.update(group.attrs)
            for name in group:
                source.copy(group[name], target, name=name)


def _is_old(contents: FileContents) -> bool:
    """Tell whether a file is laid out as before anndata 0.7, which reads it and writes it anew."""
    with h5py.File(contents.path, "r") as file:
        root = file[contents.group] if contents.group else file
        names = [name for name in ("obs", "var", "obsm", "varm", "uns") if name in root]
        return contents.legacy_raw or any(isinstance(root[name], h5py.Dataset) for name in names)


def _obsm(file: h5py.File, name: str, shape: tuple[int, int]) -> h5py.Dataset:
    """Make an array of the cells, as anndata writes it."""
    group = _group(file, "obsm")
    if name in group:
        del group[name]
    chunks = (min(ROWS_OF_A_CHUNK, max(1, shape[0])), shape[1])
    made = group.create_dataset(name, shape, np.float32, chunks=chunks)
    made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return made


def _add_genes(
    file: h5py.File,
    data: Path,
    model: CellEncoder | PhenotypeModel | ExpressionModel,
    reading: ReadOptions,
    params: dict[str, Any],
) -> None:
    """Add the model's embeddings of genes, and how the cells were represented."""
    key = key_of(model)
    var = contents_of(data, reading.get("modality")).var
    names = names_in_var(data, var.index, reading)
    for name, table in gene_tables(model, names).items():
        _write(_group(file, "varm"), f"{key}_{name}", table)
    _write(_group(file, "uns"), key, {"params": params_of(model, reading, params)})


def _group(file: h5py.File, name: str) -> h5py.Group:
    if name not in file:
        _write(file, name, {})
    return file[name]


def _write(group: h5py.Group, name: str, value: Any) -> None:
    """Write an element as anndata does."""
    try:
        from anndata.io import write_elem
    except ImportError:  # anndata < 0.11
        from anndata.experimental import write_elem
    write_elem(group, name, value)
