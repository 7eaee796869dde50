"""Which cells of a collection classifiers are fitted and scored on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernomics.data import CellCollection
from kernomics.data.labels import Kind, column, read_labels
from kernomics.errors import ConfigError, DataError
from kernomics.metrics.tuned_probes import probe_split

N_TRIALS = 3


def probed_cells(
    cells: CellCollection,
    labels_key: str,
    unlabelled_category: str | None,
    groups_key: str | None,
    n_trials: int = N_TRIALS,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any] | None]:
    """Return the class of each cell, the labelled cells, and their groups, which can be divided."""
    if n_trials < 1:
        raise ConfigError(f"n_trials is {n_trials}: at least 1 is needed")
    kinds: dict[str, Kind] = {labels_key: "categorical"}
    labels = read_labels(cells.obs, [labels_key], unlabelled_category, kinds)[labels_key]
    rows = np.flatnonzero(labels.labelled)
    if not rows.size:
        raise DataError(f"none of the {cells.n_cells:,} cells has a {labels_key!r}")
    groups = None if groups_key is None else column(cells.obs, groups_key).to_numpy()[rows]
    for trial in range(n_trials):
        try:
            probe_split(labels.values[rows], groups, trial)
        except DataError as error:
            by = f", grouped by {groups_key!r}" if groups_key is not None else ""
            raise DataError(f"classes of {labels_key!r}{by}: {error}") from error
    return labels.values, rows, groups
