"""The one door for what is handed over as cells: recognised, or refused in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, TypedDict

import h5py
import pandas as pd

from kernomics.data.readers.anndata import AnnDataInput
from kernomics.data.readers.contents import (
    FileContents,
    ObjectContents,
    ZarrContents,
    open_h5,
    read_elem,
)
from kernomics.data.readers.own import CellReader, OwnContents
from kernomics.data.readers.parts import MANIFEST, PartsContents
from kernomics.errors import ConfigError, DataError, closest

if TYPE_CHECKING:
    from anndata import AnnData

    AnnDataLike: TypeAlias = AnnData | str | Path | CellReader
    """AnnData, MuData with `modality`, the path of an .h5ad or .h5mu file or a zarr store, or a
    `CellReader`."""


class ReadOptions(TypedDict, total=False):
    """How to read cells: the same keyword arguments wherever an AnnData or a path is accepted.

    A trained model reads cells as those of its training were read, `empty_cells` aside: what is
    not given is as it was there. What is given holds, None too: ``layer=None`` is X,
    ``gene_names=None`` are ``var_names``, and with ``library_key=None`` the sizes are looked for.

    Attributes
    ----------
    layer
        Layer with the counts (default: X).
    use_raw
        Take counts and genes from ``adata.raw``, as in CELLxGENE files.
    gene_names
        var column with the gene names, such as ``"feature_name"`` (default: ``var_names``). Genes
        that share a name there have their ``var_names`` entry appended.
    library_key
        obs column with each cell's total over all measured genes. By default the row total over the
        genes at hand.
    allow_fractions
        Accept counts that are not integers, such as counts corrected for ambient RNA.
    empty_cells
        What to do with cells without counts: ``"error"`` or ``"keep"``.
    modality
        Which modality of a MuData or an ``.h5mu`` file.
    all_features
        Treat features as genes even if ``var["feature_types"]`` says they are not, such as
        antibodies.
    """

    layer: str | None
    use_raw: bool
    gene_names: str | None
    library_key: str | None
    allow_fractions: bool
    empty_cells: Literal["error", "keep"]
    modality: str | None
    all_features: bool


DEFAULTS: ReadOptions = {
    "layer": None,
    "use_raw": False,
    "gene_names": None,
    "library_key": None,
    "allow_fractions": False,
    "empty_cells": "error",
    "modality": None,
    "all_features": False,
}


def divided_options(options: Mapping[str, Any]) -> tuple[ReadOptions, dict[str, Any]]:
    """Divide keyword arguments into those of reading and the others."""
    reading = {name: value for name, value in options.items() if name in DEFAULTS}
    others = {name: value for name, value in options.items() if name not in DEFAULTS}
    return reading, others  # type: ignore[return-value]


def given_options(reading: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that ask for something else than what holds by default."""
    defaults: Mapping[str, Any] = DEFAULTS
    return {
        name: value
        for name, value in reading.items()
        if value is not None and (name not in defaults or value != defaults[name])
    }


def require_unread(reading: Mapping[str, Any]) -> None:
    """Refuse options of reading that come with a `CellCollection`, which has been read."""
    given = list(given_options(reading))
    if given:
        raise ConfigError(
            f"{given[0]} was given with a CellCollection, which has already been read; pass it "
            "to CellCollection.from_anndata"
        )


def counts_options(reading: Mapping[str, Any]) -> ReadOptions:
    """Return what a model remembers: the options on counts and genes that are not by default."""
    found = given_options({k: v for k, v in reading.items() if k in DEFAULTS})
    return {k: v for k, v in found.items() if k != "empty_cells"}  # type: ignore[return-value]


def shared_options(readings: Sequence[ReadOptions]) -> ReadOptions:
    """Return the options that several data sets were all read with."""
    first, *others = readings
    found = {k: v for k, v in first.items() if all(one.get(k) == v for one in others)}
    return found  # type: ignore[return-value]


def door_options(reading: ReadOptions) -> dict[str, Any]:
    """Return the options that `open_input` takes."""
    names = ("layer", "use_raw", "gene_names", "modality", "all_features")
    return {name: value for name, value in reading.items() if name in names}


def open_input(
    given: Any,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    modality: str | None = None,
    all_features: bool = False,
) -> AnnDataInput:
    """Look at what was handed over as cells; parameters as in `ReadOptions`."""
    return AnnDataInput(
        contents_of(given, modality),
        layer=layer,
        use_raw=use_raw,
        gene_names=gene_names,
        all_features=all_features,
    )


Found: TypeAlias = FileContents | ObjectContents | PartsContents | OwnContents


def contents_of(given: Any, modality: str | None = None) -> Found:
    """Find the AnnData in what was handed over."""
    if isinstance(given, str | Path):
        return _of_path(Path(given), modality)
    if isinstance(given, FileContents | ObjectContents | PartsContents | OwnContents):  # as found
        return given
    if _is_a(given, "mudata", "MuData"):
        return _of_mudata(given, modality)
    if not isinstance(given, type) and not is_anndata(given) and isinstance(given, CellReader):
        _refuse_modality(modality, f"a {type(given).__name__} has none")
        return OwnContents(given)
    if not is_anndata(given):
        raise DataError(f"{_what(given)} where {WANTED} is wanted{_remedy(given)}")
    _refuse_modality(modality, "an AnnData has none")
    return ObjectContents(given)


WANTED = "an AnnData, the path of an .h5ad file or a CellCollection"


def is_anndata(given: Any) -> bool:
    """Tell whether it is an AnnData, without importing anndata."""
    return _is_a(given, "anndata", "AnnData")


def require_anndata(adata: Any, function: str) -> None:
    """Refuse anything but an AnnData where results are added to it."""
    if is_anndata(adata):
        return
    if isinstance(adata, str | Path):
        remedy = f"read it with anndata.read_h5ad({str(adata)!r}) and pass that"
    elif _is_a(adata, "mudata", "MuData"):
        remedy = f"pass one of its modalities: {_listed(adata.mod)}"
    else:
        remedy = "pass the AnnData"
    raise DataError(
        f"{_what(adata)} where kernomics.tl.{function} wants an AnnData, to add its results to; "
        f"{remedy}, or use the class or function behind it, which adds nothing"
    )


def anndata_of(given: Any, modality: str | None = None) -> AnnData:
    """Return the whole AnnData behind what was handed over; files are read."""
    contents = contents_of(given, modality)
    return contents.adata if isinstance(contents, ObjectContents) else contents.load()


class Outline(NamedTuple):
    """What there is to read in an AnnData, in memory or not, without its counts."""

    obs_columns: list[str]
    var: pd.DataFrame
    raw_var: pd.DataFrame | None
    layers: list[str]
    has_x: bool


def outline_of(given: Any, modality: str | None = None) -> Outline:
    """Look at what was handed over as cells; parameters and errors as of `open_input`."""
    found = contents_of(given, modality)
    obs = [str(name) for name in found.obs.columns]
    return Outline(obs, found.var, found.raw_var, found.layers, found.has_x)


def modalities_of(given: Any) -> list[str]:
    """Return the names of the modalities of a MuData, in memory or not; an AnnData has none."""
    if _is_a(given, "mudata", "MuData"):
        return list(given.mod)
    path = Path(given) if isinstance(given, str | Path) else None
    if path is None or not path.exists():
        return []
    if path.is_dir():
        return sorted(entry.name for entry in path.glob("mod/*") if entry.is_dir())
    if not h5py.is_hdf5(path):
        return []
    with open_h5(path) as file:
        return list(file["mod"]) if "mod" in file and "X" not in file else []


def gene_names_in_var(adata: AnnData, reading: ReadOptions) -> pd.Index[Any]:
    """Return what each row of an AnnData's var is called when it is read with these options."""
    return names_in_var(adata, adata.var_names, reading)


def names_in_var(given: Any, var_names: pd.Index[Any], reading: ReadOptions) -> pd.Index[Any]:
    """Return it of whatever is handed over as cells, whose var has these names."""
    names = [str(name) for name in var_names]
    if reading.get("gene_names") is None:
        return pd.Index(names, dtype=object)
    read = open_input(given, **door_options(reading))
    called = pd.Series(read.genes, index=read.var.index.astype(str))
    index: pd.Index[Any] = pd.Index([called.get(name, name) for name in names], dtype=object)
    return index


# -- paths -----------------------------------------------------------------------------------------


def _of_path(path: Path, modality: str | None) -> Found:
    if path.is_dir():
        return _of_folder(path, modality)
    if not path.is_file():
        raise DataError(f"there is no file '{path}'")
    if not h5py.is_hdf5(path):
        if path.stat().st_size == 0:
            raise DataError(f"'{path}' is empty: copy or download it again")
        raise DataError(
            f"'{path}' is not an HDF5 file, so it is not an .h5ad file, or it is damaged"
            + READERS.get(path.suffix.lower(), "")
        )
    with open_h5(path) as file:
        names = sorted(file)
        if "mod" in file and "X" not in file:
            return _of_h5mu(path, file, modality)
        if "obs" not in file or "var" not in file:
            kind = ""
            if "matrix" in file:
                kind = READERS[".loom" if "col_attrs" in file else ".h5"]
            raise DataError(f"'{path}' is not an .h5ad file: it holds {names}{kind}")
    _refuse_modality(modality, f"'{path.name}' is an .h5ad file, which has none")
    return FileContents(path)


READERS = {
    ".h5": "; it looks like a Cell Ranger file: read it with scanpy.read_10x_h5(path)",
    ".loom": "; it looks like a .loom file: read it with anndata.io.read_loom(path)",
    ".csv": "; read a table with anndata.io.read_csv(path)",
    ".tsv": "; read a table with anndata.io.read_text(path)",
    ".txt": "; read a table with anndata.io.read_text(path)",
    ".mtx": "; read a matrix market file with anndata.io.read_mtx(path)",
    ".rds": "; save the R object as .h5ad first",
    ".gz": "; unpack it first",
    ".zip": "; unpack it first",
}


def _of_folder(path: Path, modality: str | None) -> Found:
    if (path / MANIFEST).is_file():
        _refuse_modality(modality, f"'{path.name}' was converted, and has none")
        return PartsContents(path)
    path = _zarr_folder(path, modality)
    try:
        return ZarrContents(path)
    except ImportError:
        raise
    except Exception as error:
        raise DataError(
            f"the zarr store '{path}' cannot be read as an AnnData: {error}; is it whole, and was "
            "it written by AnnData.write_zarr?"
        ) from error


def _zarr_folder(path: Path, modality: str | None) -> Path:
    """Return the folder of the AnnData in a zarr store."""
    if not any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs")):
        raise DataError(
            f"'{path}' is a directory, not a zarr store; give an .h5ad file or a zarr store "
            "(read a Cell Ranger directory with scanpy.read_10x_mtx(path))"
        )
    mods = path / "mod"
    if mods.is_dir():
        names = sorted(entry.name for entry in mods.iterdir() if entry.is_dir())
        return mods / _chosen(names, modality, f"'{path.name}'")
    _refuse_modality(modality, f"'{path.name}' holds an AnnData, which has none")
    return path


def _of_h5mu(path: Path, file: Any, modality: str | None) -> FileContents:
    name = _chosen(list(file["mod"]), modality, f"'{path.name}'")
    contents = FileContents(path, f"mod/{name}")
    if "obs" in file:
        contents.obs = _with_common(contents.obs, pd.DataFrame(read_elem(file["obs"])))
    return contents


# -- objects ---------------------------------------------------------------------------------------


def _of_mudata(mdata: Any, modality: str | None) -> ObjectContents:
    adata = mdata.mod[_chosen(list(mdata.mod), modality, "the MuData")]
    if adata.isbacked:
        raise DataError(
            "the MuData is backed by a file; give the path of that file, and only what is "
            "needed is read"
        )
    contents = ObjectContents(adata)
    contents.obs = _with_common(contents.obs, mdata.obs)
    return contents


def _with_common(obs: pd.DataFrame, common: pd.DataFrame) -> pd.DataFrame:
    """Add the columns of a MuData's own table of cells to those of a modality."""
    new = [name for name in common.columns if name not in obs.columns]
    if not new or not common.index.is_unique:
        return obs
    return obs.join(common[new].reindex(obs.index))


def _chosen(names: list[str], modality: str | None, where: str) -> str:
    if modality is None:
        if len(names) == 1:
            return names[0]
        raise DataError(
            f"{where} holds {len(names)} modalities; name the one with the gene counts with "
            f"modality=…: {_listed(names)}"
        )
    if modality not in names:
        raise DataError(f"{where} has no modality {modality!r}; {closest(modality, names)}")
    return modality


def _refuse_modality(modality: str | None, why: str) -> None:
    if modality is not None:
        raise ConfigError(f"modality is {modality!r}, but {why}; leave modality out")


def _listed(names: Any) -> str:
    return ", ".join(repr(str(name)) for name in names)


def _is_a(given: Any, package: str, name: str) -> bool:
    return any(
        kind.__name__ == name and kind.__module__.split(".")[0] == package
        for kind in type(given).__mro__
    )


def _what(given: Any) -> str:
    """Describe an object in a few words."""
    if given is None:
        return "None was given"
    if isinstance(given, str | Path):
        return f"the path '{given}' was given"
    shape = getattr(given, "shape", None)
    size = ""
    if isinstance(shape, tuple) and shape:
        size = " of shape " + " × ".join(f"{n:,}" if isinstance(n, int) else "?" for n in shape)
    elif isinstance(given, list | tuple | dict):
        size = f" of {len(given):,}"
    kind = type(given).__name__
    article = "an" if kind[0].lower() in "aeiou" or kind == "ndarray" else "a"
    return f"{article} {kind}{size} was given"


def _remedy(given: Any) -> str:
    if _is_a(given, "kernomics", "CellCollection"):
        return "; it has already been read: use it directly"
    if _is_a(given, "anndata", "Raw"):
        return "; pass the AnnData itself, with use_raw=True"
    if isinstance(given, pd.DataFrame):
        return "; for a table of cells by genes pass anndata.AnnData(table), with labels in obs"
    if isinstance(given, list | tuple | dict):
        return (
            "; read several data sets one by one with CellCollection.from_anndata(…), and join "
            "them with kernomics.data.concat"
        )
    if given is not None and len(getattr(given, "shape", ())) == 2:
        return (
            "; a bare matrix has no gene names: pass anndata.AnnData(X, obs, var), with genes "
            "in var and labels in obs"
        )
    return ""
