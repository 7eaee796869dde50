"""Finding and reading a saved model, in a directory of its own or in that of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from kernomics._files import bytes_of, json_of
from kernomics.errors import CheckpointError
from kernomics.train import load_model_dir
from kernomics.train.atomic import existing

PARTS = ("manifest.json", "model.json", "model.safetensors")
"""Files of a saved model."""
IN_STAGES = "increment.json"
"""What a GIL keeps its settings in, in the directory that it trains in."""
KINDS = {
    "kernomics gil": "a GIL",
    "kernomics panel": "a gene panel (YOTO)",
    "kernomics polygene": "a PolyGene",
    "kernomics txfm": "a TxFM",
}
"""What a saved model is, by its format without the version; `loading.HOMES` says who reads it."""


def read_saved(path: str | Path, wanted: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a saved model of one format."""
    folder = checked_folder(path)
    tensors, meta = load_model_dir(folder)
    if meta.get("format") != wanted:
        found = str(meta.get("format"))
        kinds = KINDS.get(found.rpartition(" ")[0]), KINDS.get(wanted.rpartition(" ")[0])
        if kinds[0] != kinds[1] and None not in kinds:
            raise CheckpointError(f"{path} holds {kinds[0]}, but this takes {kinds[1]}")
        raise CheckpointError(f"{folder} holds {found!r}, not {wanted!r}: is it another model?")
    with describes(path):
        _require_words(meta)
    return tensors, meta


@contextmanager
def describes(path: str | Path) -> Iterator[None]:
    """Say of which saved model no network can be made, however that failed."""
    try:
        yield
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:
        raise CheckpointError(
            f"{existing(_folder(Path(path))) / 'model.json'} does not describe the weights beside "
            f"it: {type(error).__name__}: {error}; it was changed, or written by another version: "
            "save the model again with this one, or copy or download it again"
        ) from error


def _require_words(meta: Mapping[str, Any]) -> None:
    """Refuse what every saved model says of itself in other words."""
    for name in ("genes", "all_genes"):
        genes = meta.get(name, [] if name == "all_genes" else None)
        if not isinstance(genes, list) or not all(isinstance(gene, str) for gene in genes):
            raise ValueError(f"its {name} are no list of names")
        if len(set(genes)) < len(genes):
            raise ValueError(f"its {name} repeat a name")
    for name, kind in {"info": dict, "config": dict, "tasks": list, "added": list}.items():
        if not isinstance(meta.get(name, kind()), kind):
            raise ValueError(f"its {name} are a {type(meta[name]).__name__}")


def require_size(wanted: int, weights: Mapping[str, Tensor]) -> None:
    """Refuse settings of a network with more numbers than there are, before memory is taken."""
    found = sum(tensor.numel() for tensor in weights.values())
    if wanted > found:
        raise ValueError(
            f"its settings are those of {wanted:,} numbers and more, and there are {found:,}"
        )


def require_blocks(meta: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Refuse wider or more blocks, or more genes, than the weights can be of."""
    config = meta["config"]
    width = int(config["d_model"])
    blocks = sum(int(n) for name, n in config.items() if name.endswith("layers"))
    require_size(max(width, 1) * (len(meta["genes"]) + max(width, 1) * max(blocks, 1)), weights)


def checked_folder(path: str | Path) -> Path:
    """Return the folder of a saved model, and refuse what is neither a run nor such a folder."""
    folder = _folder(Path(path))
    if existing(folder).is_file():
        raise CheckpointError(
            f"{path} is a file; a model is a run directory or the directory it was saved to, and "
            "is given before the data"
        )
    if existing(folder).is_dir() and not any((existing(folder) / name).exists() for name in PARTS):
        if (folder / IN_STAGES).is_file():
            raise CheckpointError(
                f"{path} holds a training in stages, and no model beside: train(run_dir=…, "
                "resume=True) of a GIL of the same cells, stages and settings brings its models "
                "back, and save(path) keeps one"
            )
        raise CheckpointError(
            f"{path} is neither a run nor a saved model: it has no config.json and no "
            f"{PARTS[0]}; give the directory passed to --out or save(path)"
        )
    return folder


def saved_format(path: str | Path) -> str:
    """Return the format that a saved model names; empty where there is none to read."""
    try:
        meta = json_of(bytes_of(existing(_folder(Path(path))) / "model.json"))
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
