"""Good calls of `kernomics.data` and `kernomics.ops`, on tiny data."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ops.problems.calls import CALLS

from kernomics import data, ops

from .good import CODES, NAMES, G, N, cells, collection, counts


def batch() -> data.Cells:
    return collection().batch(np.arange(6))


def labels() -> data.Labels:
    return collection().labels["type"]


def panels() -> ops.ObservedGenes:
    return ops.ObservedGenes.from_lists([[0, 1], [2, 3, 4]], G, [0, 1, 1])


def sampler() -> data.Sampler:
    return data.Sampler(np.arange(20), 4)


@functools.cache
def scratch() -> Path:
    return Path(tempfile.mkdtemp())


SPLIT = {
    "train": [0, 1, 2], "validation": [3], "test": [4, 5], "how": "random", "by": None, "seed": 0,
}  # fmt: skip

GOOD: dict[str, Callable[[], dict[str, Any]]] = {
    "data.CellCollection.batch": lambda: {"rows": np.arange(5)},
    "data.Loader": lambda: {"cells": collection(), "sampler": sampler()},
    "data.Loader.epoch": lambda: {"epoch": 0, "start": 1},
    "data.CellCollection.from_anndata": lambda: {"adata": cells(), "labels_key": "type"},
    "data.CellCollection.load_genes": lambda: {"columns": np.array([2, 0, 1])},
    "data.CellCollection.summary": lambda: {"rows": np.arange(9)},
    "data.CellCollection.with_genes": lambda: {"genes": NAMES[:7]},
    "data.CellCollection.with_labels": lambda: {"labels": {"type": labels()}},
    "data.CellCollection.with_observed": lambda: {
        "panels": panels(), "panel_of_cell": np.zeros(3 * N, np.int32),
    },
    "data.Cells.from_scipy": lambda: {"matrix": counts()},
    "data.Cells.select_genes": lambda: {"columns": np.array([3, 1, -1])},
    "data.Cells.slice": lambda: {"start": 1, "stop": 3},
    "data.Cells.to": lambda: {"device": "cpu"},
    "data.Cells.with_values": lambda: {"values": batch().values},
    "data.Labels.aligned": lambda: {"categories": ["C", "A"]},
    "data.Labels.from_dict": lambda: {"saved": labels().to_dict()},
    "data.Labels.from_series": lambda: {"series": pd.Series(list("aab")), "name": "type"},
    "data.Labels.subset": lambda: {"rows": np.array([4, 2])},
    "data.Sampler.batch": lambda: {"epoch": 0, "i": 1},
    "data.Sampler.batches": lambda: {"epoch": 0},
    "data.Sampler.global_batch": lambda: {"epoch": 0, "i": 1},
    "data.Sampler.part_of": lambda: {"n": 12},
    "data.Sampler.order": lambda: {"epoch": 0},
    "data.Sampler.with_version": lambda: {"version": 1},
    "data.Loader.use_order": lambda: {"version": 1},
    "data.Split.from_dict": lambda: {"saved": dict(SPLIT)},
    "data.shuffle_quality": lambda: {"sampler": sampler(), "labels": np.arange(20) % 3},
    "data.convert": lambda: {
        "adata": cells(), "out": scratch() / "cells.h5ad", "progress": False, "overwrite": True,
    },
    "data.concat": lambda: {"collections": {"a": collection(), "b": collection()}},
    "ops.ObservedGenes.from_lists": lambda: {
        "panels": [[0, 1], [2]], "n_genes": G, "panel_id": [0, 1],
    },
    "ops.ObservedGenes.select_genes": lambda: {"columns": np.array([3, 1, -1])},
    "ops.ObservedGenes.to": lambda: {"device": "cpu"},
    "ops.ObservedGenes.with_panel_id": lambda: {"panel_id": np.array([1, 0])},
    "metrics.bootstrap_scores": lambda: {"truth": CODES, "predicted": {"a": CODES}, "n_draws": 5},
    "metrics.proportion_error": lambda: {"share": 0.5, "n": 10},
}  # fmt: skip
GOOD |= {f"ops.{name}": (lambda call=calls[0]: dict(call)) for name, calls in CALLS.items()}

INSTANCES: dict[str, Callable[[], Any]] = {
    "data.CellCollection": collection,
    "data.Cells": batch,
    "data.Labels": labels,
    "data.Loader": lambda: data.Loader(collection(), sampler()),
    "data.Sampler": sampler,
    "ops.ObservedGenes": panels,
}
