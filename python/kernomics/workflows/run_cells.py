"""Whether cells are those that a run was trained on, and which of them are which part of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernomics._files import bytes_of, json_of
from kernomics.data import CellCollection, Labels, Split
from kernomics.errors import CheckpointError, ConfigError, DataError
from kernomics.models import Panel, PhenotypeModel, load

SPLIT, CONFIG = "split.json", "config.json"


@dataclass(frozen=True)
class RunCells:
    """What a run knows of some cells.

    Attributes
    ----------
    split
        The run's division of these cells; None where they are not known to be the run's.
    said
        How that is known, or why not, as the end of a sentence.
    """

    split: Split | None
    said: str

    def part(self, name: str, n_cells: int) -> tuple[NDArray[np.int64], str]:
        """Return the rows of a part, ``"train"`` or ``"test"``, or all, and say which in words."""
        words = {"train": "training", "test": "held-out test"}[name]
        if self.split is None:
            return np.arange(n_cells), f"all {n_cells:,} cells: {self.said}"
        rows = np.sort(getattr(self.split, name))
        if not len(rows):
            raise DataError(f"the run has no {words} cells: train it with a split that has some")
        return rows, f"the run's {len(rows):,} {words} cells of {n_cells:,}: {self.said}"


def run_cells(path: str | Path, model: Panel | PhenotypeModel, cells: CellCollection) -> RunCells:
    """Compare cells with those of a run: by their fingerprint."""
    folder = Path(path)
    if not (folder / SPLIT).is_file():
        return RunCells(None, f"'{folder}' has no {SPLIT}, so which were trained on is not known")
    split = Split.from_dict(_json(folder / SPLIT))
    n_divided = len(split.train) + len(split.validation) + len(split.test)
    if n_divided != cells.n_cells:
        return RunCells(None, f"they are not the {n_divided:,} cells of the run")
    expected = model.info.get("data_sha256")
    if expected is None and (folder / CONFIG).is_file():
        expected = _json(folder / CONFIG).get("config", {}).get("data_sha256")
    if expected is not None and expected == _fingerprint(model, cells):
        return RunCells(split, "these cells are the run's")
    why = (
        f"there are as many as in '{folder}', but their counts, names or labels differ"
        if expected
        else f"'{folder}' does not say which cells it was trained on"
    )
    return RunCells(None, why)


def _fingerprint(model: Panel | PhenotypeModel, cells: CellCollection) -> str:
    """Return the fingerprint that the run would have written of these cells; empty if none."""
    obs, labels = cells.obs, {}
    for task in model.tasks:
        if task.name not in obs.columns:
            return ""
        try:
            label = Labels.from_series(obs[task.name], task.name, kind=task.kind)
        except DataError:
            return ""
        labels[task.name] = label.aligned(task.classes) if task.classes else label
    view = cells.with_labels(labels)
    if isinstance(model, PhenotypeModel):
        if not np.isin(model.genes, cells.genes).all():
            return ""
        if not np.array_equal(model.genes, cells.genes):
            view = view.with_genes(model.genes, 1.0)
    return view.fingerprint


def load_trained(path: str | Path, takes: tuple[type, ...], needed: str) -> Any:
    """Load the model of a run, or refuse what is none or another."""
    config = Path(path) / CONFIG
    if config.is_file():
        written = _json(config).get("config")
        system = written.get("system") if isinstance(written, dict) else None
        if system in ("attribution", "analysis of pruning"):
            raise ConfigError(
                f"'{path}' is what an {system} wrote, and holds no model: give the run that it was "
                "made of"
            )
    model = load(path)
    if not isinstance(model, takes):
        raise ConfigError(f"'{path}' holds {model!r}; {needed} is needed")
    return model


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json_of(bytes_of(path))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return found
