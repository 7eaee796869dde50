"""Checkpoints of a run, and saved models: safetensors and JSON, verified, never half-written.

A checkpoint is a directory ``step-00001234/`` with one ``PART.safetensors`` per part (module,
optimizer, best weights, random state), ``state.json`` (everything that is not a tensor) and
``manifest.json`` (sizes and sha256). The file ``latest`` beside it names the newest one and is
replaced last: until then the save has not happened. No pickle is read or written.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from kernomics._arguments import checked
from kernomics._files import json_of
from kernomics._warnings import warn
from kernomics.errors import CheckpointError
from kernomics.train import atomic as storage

CHECKPOINT = "kernomics checkpoint"
MODEL = "kernomics model"
AGAIN = "save the model again, or copy or download it again"
LATEST = "latest"
STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and verified.

    Attributes
    ----------
    step
        The optimiser steps done when it was saved.
    path
        Its directory.
    parts
        What was passed to :func:`save_checkpoint`; tensors are on the CPU.
    """

    step: int
    path: Path
    parts: dict[str, Any]


@checked
def save_checkpoint(root: Path, step: int, parts: Mapping[str, Any], *, keep: int = 2) -> Path:
    """Save a checkpoint, and remove the older ones once it is safe.

    Parameters
    ----------
    root
        The directory that holds the checkpoints; made if missing.
    step
        The optimiser steps done, which name the checkpoint.
    parts
        Per part a nest of dicts, lists and tuples of tensors, numbers, strings and ``None``, such
        as a ``state_dict()``.
    keep
        How many checkpoints to keep, this one included; at least 2.

    Returns
    -------
    Path
        The checkpoint's directory.

    Raises
    ------
    CheckpointError
        If it cannot be written (the previous ones are then untouched), or `parts` hold something
        else.
    """
    if keep < 2:
        raise CheckpointError(f"keep is {keep}: at least 2 checkpoints must be kept")
    path = checkpoint_path(root, step)
    try:
        root.mkdir(parents=True, exist_ok=True)
        storage.remove_leftovers(root)
        storage.write_directory(path, _checkpoint_files(step, parts), kind=CHECKPOINT)
        storage.replace_file(root / LATEST, f"{path.name}\n".encode())
    except OSError as error:
        raise CheckpointError(
            f"cannot save the checkpoint of step {step} in {root}: {error}; earlier checkpoints "
            "are untouched: fix the cause and resume the run"
        ) from error
    _prune(root, step, keep)
    return path


@checked
def load_checkpoint(root: Path) -> Checkpoint | None:
    """Read the newest intact checkpoint.

    The one named by ``latest`` comes first, then the others from the newest to the oldest. A
    damaged one is named in a warning and passed over.

    Parameters
    ----------
    root
        The directory that holds the checkpoints.

    Returns
    -------
    Checkpoint or None
        ``None`` if none was ever saved there.

    Raises
    ------
    CheckpointError
        If there are checkpoints and all are damaged; the faults of each are listed.
    """
    faults: list[str] = []
    for path in _candidates(root):
        try:
            checkpoint = _read_checkpoint(path)
        except CheckpointError as error:
            faults.append(str(error))
            continue
        if faults:
            warn(f"resuming from {checkpoint.path}, because: " + "; ".join(faults))
        return checkpoint
    if faults:
        raise CheckpointError(
            f"none of the {len(faults)} checkpoints in {root} can be used: "
            + "; ".join(faults)
            + "; start the run again with overwrite=True or in another directory"
        )
    return None


def checkpoint_path(root: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return root / f"step-{step:08d}"


def list_checkpoints(root: Path) -> list[Path]:
    """List the checkpoint directories in `root`, damaged ones included, oldest first."""
    names = {
        path.name.removeprefix(".").removesuffix(storage.ASIDE)
        for pattern in ("step-*", f".step-*{storage.ASIDE}")
        for path in root.glob(pattern)
    }
    valid = (name for name in names if re.fullmatch(r"step-\d{8,}", name))
    return [root / name for name in sorted(valid, key=_step_of)]


@checked
def save_model_dir(
    path: str | Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    """Save a model as a directory that can be read without kernomics.

    It holds ``model.safetensors``, ``model.json`` and ``manifest.json``. A model saved there
    before stays until the new one is safe.

    Parameters
    ----------
    path
        The directory: new, empty, or one that holds a saved model and nothing else.
    tensors
        The weights by name, such as a ``state_dict()``.
    meta
        What else is needed to use the model: configuration, genes, classes. NaN becomes ``null``.

    Raises
    ------
    CheckpointError
        If `path` holds something other than a saved model, or cannot be written.
    """
    path = Path(path).resolve()
    _refuse_foreign(path)
    text = json.dumps(storage.jsonable(meta), indent=1, ensure_ascii=False, allow_nan=False)
    weights = dict(tensors)
    for name, tensor in weights.items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{name!r} is a {type(tensor).__name__}, not a tensor")

    def files() -> Iterator[tuple[str, bytes]]:
        yield "model.safetensors", _tensor_bytes(weights)
        yield "model.json", (text + "\n").encode()

    try:
        storage.write_directory(path, files(), kind=MODEL)
    except OSError as error:
        raise CheckpointError(
            f"cannot save the model in {path}: {error}; any model saved there before is untouched"
        ) from error


@checked
def load_model_dir(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read and verify what :func:`save_model_dir` saved.

    Parameters
    ----------
    path
        The directory.

    Returns
    -------
    tensors : dict of str to Tensor
        The weights, on the CPU.
    meta : dict
        What ``model.json`` holds.

    Raises
    ------
    CheckpointError
        If there is no saved model, or it is damaged.
    """
    place = storage.existing(Path(path))
    if not place.is_dir():
        raise CheckpointError(f"there is no saved model at {path}: no such directory")
    files = storage.read_directory(place, kind=MODEL)
    lacking = [name for name in ("model.json", "model.safetensors") if name not in files]
    if lacking:
        raise CheckpointError(f"{place} has no {lacking[0]}, its {storage.MANIFEST} says: {AGAIN}")
    try:
        meta = json_of(files["model.json"])
        if not isinstance(meta, dict):
            raise ValueError(f"it holds a {type(meta).__name__}, not an object")
    except ValueError as error:
        raise CheckpointError(f"{place / 'model.json'} cannot be read: {error}; {AGAIN}") from None
    return _tensors(files["model.safetensors"], place / "model.safetensors"), meta


def flatten(value: Any, tensors: dict[str, Tensor], name: str = "") -> Any:
    """Split a nest of containers into tensors and a description that JSON can hold."""
    if isinstance(value, Tensor):
        key = name or "tensor"
        while key in tensors:
            key += "'"
        tensors[key] = value
        return {"tensor": key}
    prefix = f"{name}/" if name else ""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str | int):
                raise CheckpointError(f"cannot save the key {key!r} in {name!r}: not a str or int")
        return {"dict": [[k, flatten(v, tensors, f"{prefix}{k}")] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        items = [flatten(item, tensors, f"{prefix}{i}") for i, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if value is None or isinstance(value, str | int | float):
        return value
    raise CheckpointError(
        f"cannot save {name!r}, a {type(value).__name__}: a checkpoint holds tensors, numbers, "
        "strings, None, and dicts, lists and tuples of these"
    )


def unflatten(description: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put together again what :func:`flatten` split."""
    if not isinstance(description, dict):
        return description
    ((kind, content),) = description.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unflatten(item, tensors) for key, item in content}
    items = [unflatten(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items


def _checkpoint_files(step: int, parts: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    state: dict[str, Any] = {"step": step, "parts": {}}
    for part, value in parts.items():
        tensors: dict[str, Tensor] = {}
        state["parts"][part] = flatten(value, tensors)
        if tensors:
            yield f"{part}.safetensors", _tensor_bytes(tensors)
    yield STATE, json.dumps(state, indent=1).encode()


def _read_checkpoint(path: Path) -> Checkpoint:
    files = storage.read_directory(storage.existing(path), kind=CHECKPOINT)
    parts: dict[str, Any] = {}
    try:
        state = json_of(files[STATE])
        step = int(state["step"])
        for part, description in state["parts"].items():
            name = f"{part}.safetensors"
            data = files.get(name)
            tensors = {} if data is None else _tensors(data, path / name)
            parts[part] = unflatten(description, tensors)
    except CheckpointError:
        raise
    except (
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise CheckpointError(f"{path / STATE} is no state of a checkpoint: {error!r}") from None
    return Checkpoint(step=step, path=path, parts=parts)


def _tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Serialise tensors; shared memory (tied weights) is written once per name."""
    ready: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        address = plain.untyped_storage().data_ptr()
        ready[name] = plain.clone() if address in seen else plain
        seen.add(address)
    return safetensors.torch.save(ready)


def _tensors(data: bytes, path: Path) -> dict[str, Tensor]:
    try:
        loaded = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} holds tensors that cannot be read: {error}; {AGAIN}"
        ) from None
    # A copy of its own for each: memory aligned as torch aligns it, and the file's bytes freed.
    return {name: tensor.clone() for name, tensor in loaded.items()}


def _candidates(root: Path) -> list[Path]:
    paths = list_checkpoints(root)[::-1]
    try:
        latest = (root / LATEST).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        latest = ""
    if latest and not paths:
        raise CheckpointError(
            f"{root / LATEST} names {latest!r}, but there is no checkpoint in {root}: they were "
            "removed; start the run again with overwrite=True"
        )
    if latest and root / latest not in paths:
        warn(
            f"{root / LATEST} names {latest!r}, which is not there; trying the others, from the "
            "newest to the oldest"
        )
    return sorted(paths, key=lambda path: path.name != latest)


def _prune(root: Path, step: int, keep: int) -> None:
    """Remove all but the `keep` newest checkpoints up to `step`.

    Later ones exist only where a run fell back past a damaged one; they belong to a course of
    the run that was given up.
    """
    paths = list_checkpoints(root)
    kept = [path for path in paths if _step_of(path.name) <= step][-keep:]
    for path in paths:
        if path not in kept:
            # Renamed first: a kill half-way leaves a leftover, not a damaged checkpoint.
            trash = root / f".{path.name}{storage.TEMPORARY}pruned"
            try:
                path.rename(trash)
                shutil.rmtree(trash)
            except OSError as error:
                warn(f"cannot remove the old checkpoint {path}: {error}")


def _step_of(name: str) -> int:
    return int(name.removeprefix("step-"))


def _refuse_foreign(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise CheckpointError(f"cannot save a model at {path}: a file of that name exists")
    names = {entry.name for entry in path.iterdir()}
    if not names:
        return
    # A damaged model may be replaced too: its own file names are what makes it one.
    known = {"model.safetensors", "model.json", storage.MANIFEST}
    foreign = sorted(names - known)
    if foreign:
        raise CheckpointError(
            f"{path} holds {len(foreign)} entries that are not part of a saved model, the first "
            f"is {foreign[0]!r}: choose another directory, or move them away"
        )
