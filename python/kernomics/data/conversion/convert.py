"""`convert`: cells of any source in files that trainings read fastest, each cell exactly once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from zlib import crc32

import numpy as np
from tqdm.auto import tqdm

from kernomics._arguments import checked
from kernomics.data.collection import CellCollection
from kernomics.data.concatenate import concat
from kernomics.data.conversion import targets
from kernomics.data.conversion.passes import (
    BYTES_PER_ENTRY,
    Gather,
    Layout,
    Scatter,
    layout,
    read_back,
)
from kernomics.data.conversion.tables import obs_table, uns_of, var_table
from kernomics.data.conversion.work import Work, disk_errors, sync_directory
from kernomics.data.readers.contents import FileContents
from kernomics.data.readers.inputs import contents_of
from kernomics.data.readers.parts import MANIFEST, said_by
from kernomics.data.rng import Stream, permutation
from kernomics.errors import ConfigError, DataError

if TYPE_CHECKING:
    from typing import Unpack

    from kernomics.data.readers.inputs import AnnDataLike, ReadOptions

VERSION = 1
MOST_BUCKETS = 2000
MOST_MEMORY = 1e6
"""GB; more is the same."""
NAMES = 1 << 16
"""Names that are looked at in one go."""


@dataclass(frozen=True)
class Converted:
    """What a conversion has written.

    Attributes
    ----------
    path
        The file or directory.
    n_cells, n_genes, n_files
        How many there are.
    digest
        The number of cells and the sum of a word for each, from its name and counts: equal for the
        source and what was written, whatever the order.
    """

    path: Path
    n_cells: int
    n_genes: int
    n_files: int
    digest: str


@checked
def convert(
    adata: AnnDataLike | CellCollection | Mapping[str, AnnDataLike | CellCollection],
    out: str | Path,
    *,
    format: Literal["h5ad", "zarr"] | None = None,
    shuffle: bool = False,
    seed: int = 0,
    shards: int | None = None,
    join: Literal["union", "common"] = "union",
    memory: float = 1.0,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    **options: Unpack[ReadOptions],
) -> Converted:
    """Write cells as uncompressed CSR, which trainings read from disk fastest.

    The source may be larger than memory, and stored in any way that is read elsewhere: dense, CSR,
    CSC, compressed, in several files with different genes. All counts are checked first. The
    tables of cells and genes are kept, in which texts that repeat or are missing become categories,
    and so do dates. Other layers, ``raw`` and embeddings are not. What is written is read back, and
    only then given its name.

    Parameters
    ----------
    adata
        The cells; several data sets by name are joined as by `kernomics.data.concat`.
    out
        The file (``.h5ad``, ``.zarr``), or with `shards` the directory of files.
    format
        ``"h5ad"`` or ``"zarr"`` (version 3); by default as `out` says, h5ad in a directory.
    shuffle, seed
        Put the cells in a random order that depends on the seed and their number alone. Training
        may then read long ranges of the file and still see all kinds of cells in each batch.
    shards
        Write this many files into the directory `out`, which is read like one file.
    join
        Genes of several data sets: their ``"union"``, with note of which genes each has measured,
        or those ``"common"`` to all.
    memory
        About how many GB to use.
    resume
        Continue a conversion to `out` that was stopped, at whatever moment; what is written is the
        same to the byte. Begins one if there is none.
    overwrite
        Replace what is there, once the new is whole: a file, or a directory of converted cells.
    progress
        Show a bar for each pass, with cells per second.
    **options
        As in `ReadOptions`.

    Raises
    ------
    ConfigError
        If something is there already, or was begun with other options.
    DataError
        If the source is damaged or holds no counts, or the disk is full.
    """
    out = Path(out)
    form = _format(out, format, shards)
    for name, value in (("shards", shards), ("memory", memory)):
        if value is not None and value <= 0:
            raise ConfigError(f"{name} is {value}: it must be above 0")
    _require_name(out)
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"out is {str(out)!r}, but there is no directory {str(out.parent)!r}")
    settings = {
        "version": VERSION, "format": form, "shuffle": shuffle, "seed": seed, "shards": shards,
        "join": join, "options": {name: options[name] for name in sorted(options)},  # type: ignore[literal-required]
    }  # fmt: skip
    named = dict(adata) if isinstance(adata, Mapping) else {"": adata}
    if not named:
        raise DataError("no data sets were given to convert")
    plan = {**settings, "memory": memory, "sources": {n: _about(v) for n, v in named.items()}}
    made = json.dumps({**settings, "sources": {n: _name(v) for n, v in named.items()}})
    _refuse_own(out, named)
    if overwrite:
        _refuse_others(out)
    work = Work(out)
    if resume and overwrite:
        raise ConfigError("resume=True continues what overwrite=True would delete: give one")
    if resume and out.exists() and not work.begun:
        return _there(out, made)
    plan = json.loads(json.dumps(plan))
    work.begin(plan, resume=resume, overwrite=overwrite)
    try:
        if work.placed:
            work.remove()
            return _there(out, made)
        with disk_errors(out):
            found = _run(work, named, form, plan, made, progress)
        work.place()
        work.remove()
        return found
    except (ConfigError, DataError):
        if not (work.path / "scatter.json").exists():  # nothing that a resume would miss
            work.remove()
        raise
    finally:
        work.release()


def _format(out: Path, format: str | None, shards: int | None) -> targets.Format:
    kinds: dict[str, targets.Format] = {".h5ad": "h5ad", ".zarr": "zarr"}
    own = kinds.get(out.suffix)
    if format is not None and format not in kinds.values():
        raise ConfigError(f"format must be 'h5ad' or 'zarr', not {format!r}")
    if shards is None and own is None:
        raise ConfigError(
            f"out is {str(out)!r}: its name must end in .h5ad or .zarr; for a directory of files "
            "give shards=…"
        )
    if shards is not None and own is not None:
        raise ConfigError(
            f"out is {str(out)!r}, but with shards={shards} a directory is written: give it a name "
            "without .h5ad and .zarr, or leave shards out"
        )
    if own is not None and format not in (None, own):
        raise ConfigError(f"out is {str(out)!r}, but format is {format!r}: change one")
    return own or kinds["." + (format or "h5ad")]


def _name(given: Any) -> str:
    return Path(given).name if isinstance(given, str | Path) else type(given).__name__


def _about(given: Any) -> dict[str, Any]:
    """Tell a source from another, or from what it was."""
    if not isinstance(given, str | Path):
        return {
            "kind": type(given).__name__,
            "shape": [int(n) for n in getattr(given, "shape", ())],
        }
    path = Path(given).absolute()
    if not path.exists():
        raise DataError(f"there is no file '{given}'")
    files = [path, *(p for p in path.rglob("*") if p.is_file())] if path.is_dir() else [path]
    stats = [file.stat() for file in files]
    return {
        "path": str(path),
        "bytes": sum(stat.st_size for stat in stats),
        "changed": max(stat.st_mtime_ns for stat in stats),
    }


def _require_name(out: Path) -> None:
    """Refuse what can be no name of a new file beside its work directory."""
    try:
        for path in (out, Work(out).path):
            if "\0" in str(path):
                raise ValueError("its name holds a null character")
            path.exists()
    except (OSError, ValueError) as error:
        raise ConfigError(f"out is {str(out)[:80]!r}, which cannot be written: {error}") from error
    if out.name in ("", ".."):
        raise ConfigError(f"out is {str(out)!r}: give the file or directory a name")


def _refuse_own(out: Path, named: Mapping[str, Any]) -> None:
    """Refuse to replace a source by what is made from it, or to change it."""
    mine = out.resolve()
    for given in named.values():
        path = given if isinstance(given, str | Path) else getattr(given, "filename", None)
        if path is None:
            continue
        theirs = Path(path).resolve()
        if mine == theirs or (out.exists() and theirs.exists() and out.samefile(theirs)):
            raise ConfigError(f"out is {str(out)!r}, which is a source: choose another name")
        for inner, outer in ((theirs, mine), (mine, theirs)):
            if inner.is_relative_to(outer):
                raise ConfigError(
                    f"out is {str(out)!r}, and the source is {str(path)!r}: one would lie in the "
                    "other; choose another name"
                )


def _refuse_others(out: Path) -> None:
    """Refuse to replace a directory that holds anything but cells."""
    if not out.is_dir():
        return
    names = sorted(entry.name for entry in out.iterdir())
    if any(name in ("zarr.json", ".zgroup", ".zattrs") for name in names):
        return
    whole = MANIFEST in names
    others = [n for n in names if not (whole and (n == MANIFEST or n.startswith("part-")))]
    if others:
        raise ConfigError(
            f"overwrite=True would delete the directory {str(out)!r}, in which {len(others):,} "
            f"entries are not of converted cells, first {others[0]!r}: choose another out, or "
            "remove it yourself"
        )


def _there(out: Path, made: str) -> Converted:
    """Return what a conversion that came to its end has written."""
    said = said_by(out)
    if said.get("convert") != made:
        raise ConfigError(
            f"{out} already exists, and is not what this conversion writes; choose another out, or "
            "replace it with overwrite=True"
        )
    return Converted(
        out, int(said["n_cells"]), int(said["n_genes"]), int(said["n_files"]), str(said["digest"])
    )


def _open(
    named: Mapping[str, Any], work: Work, options: Mapping[str, Any], join: str
) -> tuple[CellCollection, list[CellCollection]]:
    """Read the sources through, and join them."""
    parts: dict[str, CellCollection] = {}
    for i, (name, given) in enumerate(named.items()):
        if isinstance(given, CellCollection):
            parts[name] = given
            continue
        contents = contents_of(given, options.get("modality"))
        if isinstance(contents, FileContents):
            contents.scratch = work.path / f"by-cell-{i:03d}"
        rest = {key: value for key, value in options.items() if key != "modality"}
        parts[name] = CellCollection.from_anndata(contents, **rest)
    whole = next(iter(parts.values())) if list(parts) == [""] else concat(parts)
    if join == "common" and len(parts) > 1:
        sets = [set(part.genes.tolist()) for part in parts.values()]
        common = [gene for gene in whole.genes.tolist() if all(gene in names for names in sets)]
        if not common:
            raise DataError(f"no gene is common to all {len(parts)} data sets; take join='union'")
        whole = whole.with_genes(common, min_gene_overlap=0.0)
    return whole, list(parts.values())


def _run(
    work: Work, named: Mapping[str, Any], form: targets.Format, plan: Mapping[str, Any], made: str,
    progress: bool,
) -> Converted:  # fmt: skip
    """Make the output in the work directory and read it back."""
    cells, parts = _open(named, work, plan["options"], plan["join"])
    work.require_noted("tables", _tables(cells))
    n, shards = cells.n_cells, plan["shards"]
    if shards is not None and shards > n:
        raise ConfigError(f"shards is {shards:,}, but there are {n:,} cells")
    _try_tables(work, cells, parts, form)
    room = max(1, int(min(plan["memory"], MOST_MEMORY) * 1e9 / 8))
    entries = cells.n_stored
    n_buckets = min(MOST_BUCKETS, max(1, -(-entries * BYTES_PER_ENTRY // room)))
    order = permutation(n, plan["seed"], Stream.CONVERTED_ORDER) if plan["shuffle"] else None
    where = layout(n, shards or 1, n_buckets, order)
    scatter = Scatter(work, cells, where, room)

    def bar(what: str) -> Any:
        return tqdm(total=n, unit="cell", unit_scale=True, desc=what, disable=not progress)

    with bar("reading") as shown:
        lengths, totals, digest = scatter.run(shown)
    needed = int(lengths.sum()) * BYTES_PER_ENTRY
    library = None if np.array_equal(totals, cells.library) else cells.library
    obs, var = obs_table(cells, library), var_table(cells, parts)
    uns = uns_of(cells, library, digest, made)
    files = _files(work, form, shards)

    def part_of(first: int, last: int) -> targets.Part:
        rows = where.rows(first, last)
        indptr = np.concatenate(([0], np.cumsum(lengths[rows]))).astype(np.int64)
        return targets.Part(obs.iloc[rows], var, uns, indptr)

    with disk_errors(work.out, needed):
        with bar("writing") as shown:
            Gather(work, cells, scatter, form).run(files, part_of, shown)
        with bar("checking") as shown:
            read_back(files, digest, work, shown)
        if shards is not None:
            _write_manifest(work, files, where, cells, uns["kernomics"])
    return Converted(work.out, n, cells.n_genes, len(files), digest)


def _try_tables(
    work: Work, cells: CellCollection, parts: list[CellCollection], form: targets.Format
) -> None:
    """Refuse tables that no file can hold, before the counts are read."""
    if work.read("scatter"):
        return
    path = work.path / f"tables.{form}"
    targets.remove(path)
    obs, var = obs_table(cells, None), var_table(cells, parts)
    targets.create(path, form, targets.Part(obs.iloc[:1], var, {}, np.zeros(2, np.int64)))
    targets.remove(path)


def _tables(cells: CellCollection) -> dict[str, Any]:
    """Tell cells from others by what is at hand, where a source has no file that tells."""
    sums = []
    for names in (cells.cell_names, cells.genes):
        found = 0
        for start in range(0, len(names), NAMES):
            found = crc32("\n".join(map(str, names[start : start + NAMES])).encode(), found)
        sums.append(found)
    return {"cells": [cells.n_cells, sums[0]], "genes": [cells.n_genes, sums[1]]}


def _files(work: Work, form: targets.Format, shards: int | None) -> list[Path]:
    if shards is None:
        return [work.result]
    work.result.mkdir(exist_ok=True)
    return [work.result / f"part-{i:05d}.{form}" for i in range(shards)]


def _write_manifest(
    work: Work, files: list[Path], where: Layout, cells: CellCollection, said: Mapping[str, Any]
) -> None:
    found = {
        "kind": "kernomics cells",
        "version": VERSION,
        "n_cells": cells.n_cells,
        "n_genes": cells.n_genes,
        "digest": said["digest"],
        "convert": said["convert"],
        "files": [
            {"name": file.name, "n_cells": int(n)}
            for file, n in zip(files, np.diff(where.parts), strict=True)
        ],
    }
    path = work.result / MANIFEST
    with path.open("w", encoding="utf-8") as file:
        json.dump(found, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(work.result)
