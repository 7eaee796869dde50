"""Finding and reading a saved model, in a directory of its own or in that of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from kernomics.errors import CheckpointError
from kernomics.train import load_model_dir
from kernomics.train.storage import existing


def read_saved(path: str | Path, wanted: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a saved model of one format.

    Parameters
    ----------
    path
        The model's directory, or the directory of a run that has finished.
    wanted
        The format that ``model.json`` must name.

    Returns
    -------
    tensors, meta : dict
        As :func:`kernomics.train.load_model_dir` returns them.

    Raises
    ------
    CheckpointError
        If there is none, it is damaged, or it is of another format.
    """
    folder = _folder(Path(path))
    tensors, meta = load_model_dir(folder)
    if meta.get("format") != wanted:
        raise CheckpointError(
            f"{folder} holds {meta.get('format')!r}, not {wanted!r}: is it another model?"
        )
    return tensors, meta


def saved_format(path: str | Path) -> str:
    """Return the format that a saved model names; empty where there is none to read."""
    try:
        meta = json.loads((existing(_folder(Path(path))) / "model.json").read_text("utf-8"))
    except (OSError, ValueError):
        return ""
    return str(meta.get("format", "")) if isinstance(meta, dict) else ""


def _folder(path: Path) -> Path:
    if not (path / "config.json").is_file():
        return path
    folder = path / "model"
    if not existing(folder).is_dir():
        raise CheckpointError(
            f"the run in {path} has no model: it did not finish; continue it with --resume, "
            "or in Python by train(…, resume=True)"
        )
    return folder
