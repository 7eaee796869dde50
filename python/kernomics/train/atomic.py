"""Files that are whole or absent: every byte a run must be able to trust is written here.

A file or a directory is first written under a temporary name on the same file system, each file is
flushed to the disk, and only then renamed to its own name. Whatever happens on the way (a full
disk, a kill, a power cut), the name holds either the old content or the new one. A directory that
already exists is set aside as ``.NAME.kernomics-old`` while the new one takes its place;
:func:`existing` finds it there should the process die between those two renames.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kernomics._arguments import checked
from kernomics._files import bytes_of, json_of
from kernomics.errors import CheckpointError

MANIFEST = "manifest.json"
ASIDE = ".kernomics-old"
TEMPORARY = ".kernomics-tmp-"


def write_bytes(path: Path, data: bytes) -> None:
    """Write a new file and flush it to the disk; the only function here that writes content."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def fsync_directory(path: Path) -> None:
    """Flush a directory, so that the names in it survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@checked
def replace_file(path: Path, data: bytes) -> None:
    """Give `path` the content `data` in one step: readers see the old or the new, never a part.

    Parameters
    ----------
    path
        The file; its directory must exist.
    data
        Its whole new content.
    """
    temporary = path.with_name(f".{path.name}{TEMPORARY}{os.getpid()}")
    try:
        write_bytes(temporary, data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def jsonable(value: Any) -> Any:
    """Turn a value into one that strict JSON can hold.

    Dataclasses and mappings become objects, tuples, sets and arrays lists, numpy scalars Python
    numbers, paths strings, and NaN and infinities ``None``, for which JSON has no word.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(jsonable(item) for item in value)
    if isinstance(value, np.ndarray | np.generic):
        return jsonable(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"cannot store a {type(value).__name__} as JSON: {value!r}")


@checked
def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step, see :func:`jsonable` and :func:`replace_file`."""
    text = json.dumps(jsonable(value), indent=1, ensure_ascii=False, allow_nan=False)
    replace_file(path, (text + "\n").encode())


def existing(path: Path) -> Path:
    """Return where the directory called `path` lies: there, or set aside by a replacement."""
    if not path.name:  # "." and "/", which have no neighbours by name
        path = path.resolve()
    if not path.name:
        return path
    aside = _aside(path)
    return aside if not path.exists() and aside.is_dir() else path


def write_directory(path: Path, files: Iterable[tuple[str, bytes]], *, kind: str) -> None:
    """Create or replace a directory of files with a manifest of their sizes and digests."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, path.name)
    temporary = path.with_name(f".{path.name}{TEMPORARY}{os.getpid()}")
    temporary.mkdir()
    try:
        entries: dict[str, dict[str, Any]] = {}
        for name, data in files:
            entries[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            write_bytes(temporary / name, data)
        manifest = {"kind": kind, "version": 1, "files": entries}
        manifest["digest"] = _digest(manifest)
        write_bytes(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
        fsync_directory(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    aside = _aside(path)
    if path.exists():
        path.rename(aside)
    try:
        temporary.rename(path)
    except BaseException:
        if aside.exists():
            aside.rename(path)
        raise
    fsync_directory(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(parent: Path, name: str | None = None) -> None:
    """Remove what killed processes left in `parent` of `name`, or of any name.

    A directory that was set aside and never replaced is put back instead.
    """
    pattern = "*" if name is None else glob.escape(name)
    for aside in parent.glob(f".{pattern}{ASIDE}"):
        path = parent / aside.name.removeprefix(".").removesuffix(ASIDE)
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(path)
    for temporary in parent.glob(f".{pattern}{TEMPORARY}*"):
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def read_directory(path: Path, *, kind: str) -> dict[str, bytes]:
    """Read all files of a directory that :func:`write_directory` made, and verify each."""
    entries = read_manifest(path, kind=kind)
    contents: dict[str, bytes] = {}
    faults: list[str] = []
    for name, entry in entries.items():
        try:
            data = bytes_of(path / name, entry["bytes"], within=path)
        except OSError as error:
            faults.append(f"{name} cannot be read ({error.strerror})")
            continue
        except ValueError as error:
            faults.append(f"{name} {error}")
            continue
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            faults.append(f"{name} was changed: its sha256 is not the one in {MANIFEST}")
        contents[name] = data
    if faults:
        raise CheckpointError(f"{path} is damaged: {'; '.join(faults)}; copy it again")
    return contents


def read_manifest(path: Path, *, kind: str) -> dict[str, dict[str, Any]]:
    """Return the manifest's entry (``bytes``, ``sha256``) of each file in a directory."""
    try:
        text = bytes_of(path / MANIFEST, within=path)
    except OSError as error:
        raise CheckpointError(
            f"{path} has no readable {MANIFEST} ({error.strerror}): it was not saved by kernomics, "
            "or not whole; save or copy it again"
        ) from None
    except ValueError as error:
        raise CheckpointError(f"{path / MANIFEST} {error}: copy the file itself") from None
    try:
        manifest = json_of(text)
        digest = manifest.pop("digest")
        if digest != _digest(manifest):
            raise ValueError("its digest does not match")
        found, version, files = manifest["kind"], manifest["version"], manifest["files"]
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path / MANIFEST} is damaged: {error}; copy it again") from None
    if found != kind:
        raise CheckpointError(f"{path} holds a {found}, not a {kind}")
    if version != 1:
        raise CheckpointError(
            f"{path} has format {version}, and this version of kernomics reads format 1: "
            "upgrade kernomics"
        )
    fault = _fault(files)
    if fault:
        raise CheckpointError(f"{path / MANIFEST} is damaged: {fault}; copy {path} again")
    entries: dict[str, dict[str, Any]] = files
    return entries


def _fault(files: Any) -> str | None:
    """Return what is wrong with the files that a manifest names."""
    if not isinstance(files, dict):
        return f"its files are a {type(files).__name__}"
    for name, entry in files.items():
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            return f"it names {name!r}, which is no file of the directory"
        wanted = {"bytes": int, "sha256": str}
        if not isinstance(entry, dict) or any(
            not isinstance(entry.get(key), kind) for key, kind in wanted.items()
        ):
            return f"it says {entry!r} of {name!r} instead of its bytes and sha256"
    return None


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}{ASIDE}")


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
