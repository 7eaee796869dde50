"""A directory of files that `kernomics convert` wrote, read as one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy.typing as npt
import pandas as pd

from kernomics._files import bytes_of, json_of
from kernomics.data.readers.contents import FileContents, ZarrContents
from kernomics.data.readers.sources import Source, StackedSource
from kernomics.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

MANIFEST = "kernomics.json"


class PartsContents:
    """Files of the same genes, one after the other; each is an AnnData of its own."""

    raw_var: pd.DataFrame | None = None
    has_x = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file_name: str | None = path.name
        self.layers: list[str] = []
        manifest = _manifest(path)
        self.digest: str = manifest["digest"]
        self.parts = [_part(path / entry["name"], entry) for entry in manifest["files"]]
        first = self.parts[0]
        for part in self.parts:
            if part.said.get("digest") != self.digest:
                raise DataError(
                    f"'{part.path}' is of another conversion than '{path / MANIFEST}' says (digest "
                    f"{part.said.get('digest')} instead of {self.digest}): the directory "
                    "was changed; copy it again, or convert the cells again"
                )
            if not part.var.index.equals(first.var.index):
                raise DataError(
                    f"'{part.path}' has other genes than '{first.path}': the directory was "
                    "changed; convert the cells again"
                )
        self.obs = pd.concat([part.obs for part in self.parts])
        self.var = first.var
        self.said: Mapping[str, Any] = first.said
        self.says_subset = first.says_subset

    def load(self) -> AnnData:
        """Read everything."""
        import anndata

        whole = anndata.concat([part.load() for part in self.parts], merge="first")
        whole.uns["kernomics"] = dict(self.said)
        return whole

    def source(self, key: str, where: str) -> Source:
        """Open a matrix for reading by rows."""
        return StackedSource([part.source(key, where) for part in self.parts])

    def first_values(self, key: str) -> npt.NDArray[Any]:
        """Return the first stored values of a matrix."""
        return self.parts[0].first_values(key)


def _manifest(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json_of(bytes_of(path / MANIFEST))
        kind, version = found["kind"], found["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"'{path / MANIFEST}' is damaged: {error}; copy the directory again"
        ) from error
    if kind != "kernomics cells" or version != 1:
        raise DataError(
            f"'{path}' is of format {version} of {kind!r}, and this version of kernomics reads "
            "format 1 of 'kernomics cells': upgrade kernomics"
        )
    fault = _fault(found)
    if fault:
        raise DataError(f"'{path / MANIFEST}' is damaged: {fault}; copy the directory again")
    return found


def _fault(manifest: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the entries of a manifest."""
    numbers = [manifest.get(name) for name in ("n_cells", "n_genes")]
    if not all(isinstance(n, int) and n >= 0 for n in numbers):
        return f"it has {numbers[0]!r} cells and {numbers[1]!r} genes"
    for key in ("digest", "convert"):
        if not isinstance(manifest.get(key), str):
            return f"its {key} is {manifest.get(key)!r}"
    files = manifest.get("files")
    if not isinstance(files, list) or not files:
        return "it names no files"
    for i, entry in enumerate(files):
        name, n = (entry.get(k) if isinstance(entry, dict) else None for k in ("name", "n_cells"))
        if not isinstance(name, str) or not isinstance(n, int):
            return f"its file {i:,} is {entry!r}"
        if name in ("", ".", "..", MANIFEST) or "/" in name or "\0" in name:
            return f"its file {i:,} is called {name!r}, which is no file of the directory"
    total = sum(entry["n_cells"] for entry in files)
    if total != numbers[0]:
        return f"its {len(files):,} files have {total:,} cells, and it says {numbers[0]:,}"
    return None


def _part(path: Path, entry: Mapping[str, Any]) -> FileContents:
    if not path.exists():
        raise DataError(
            f"'{path}' is missing, one of the files of '{path.parent}': copy the directory again"
        )
    try:
        part = ZarrContents(path) if path.is_dir() else FileContents(path)
    except (DataError, ImportError):
        raise
    except Exception as error:
        raise DataError(
            f"'{path}' cannot be read as an AnnData: {error}; copy the directory again"
        ) from error
    if len(part.obs) != entry["n_cells"]:
        raise DataError(
            f"'{path}' has {len(part.obs):,} cells instead of {entry['n_cells']:,}: copy the "
            "directory again"
        )
    return part


def said_by(path: Path) -> dict[str, Any]:
    """Return what a converted file or directory says of itself; nothing if it is none."""
    if (path / MANIFEST).is_file():
        found = _manifest(path)
        return {**found, "n_files": len(found["files"])}
    if not path.is_dir() and not h5py.is_hdf5(path):
        return {}
    try:
        contents = ZarrContents(path) if path.is_dir() else FileContents(path)
    except (DataError, KeyError, ValueError, OSError):
        return {}
    shape = {"n_cells": len(contents.obs), "n_genes": len(contents.var), "n_files": 1}
    return {**contents.said, **shape}
