"""Good calls that take seconds: a training, numba, a figure of many parts.

They are not made. What no parameter of a kind may be is refused at the door, before any of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kernomics import baselines

from .good import CODES, NAMES, cells, collection, counts, model
from .good_models import txfm


def selected() -> dict[str, Any]:
    return {"counts": counts(), "labels": CODES, "n_genes": 3, "seed": 0}


def of_cells(**more: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"adata": cells(), "labels_key": "type", "n_genes": 3, "max_epochs": 1, **more}


SLOW: dict[str, Callable[[], dict[str, Any]]] = {
    **{f"baselines.{name}Baseline.select": selected for name in ("DE", "HVG")},
    "baselines.de_panel": lambda: {"data": counts(), "labels": CODES, "k": 3},
    "baselines.hvg_panel": lambda: {"data": counts(), "k": 3},
    "metrics.clustering_scores": lambda: {"representation": counts().toarray(), "codes": CODES},
    "models.TxFM.train": lambda: {"max_epochs": 1},
    "models.YOTO.train": lambda: {"max_epochs": 1},
    "evaluation.panels.compare_over_splits": lambda: {
        "model": model(), "scores": {}, "n_splits": 2,
    },
    "evaluation.relationships.compare_relationships": lambda: {
        "model": txfm().trained, "cells": collection(), "rows": None,
        "relations": {"known": [("G0", "G1")]},
    },
    "evaluation.representations.compare_representations": lambda: {
        "model": txfm().trained, "cells": collection(), "split": model().split,
    },
    "evaluation.panels.panel_curve": lambda: {"model": model(), "n_genes": [2, 3]},
    "evaluation.panels.panel_embedding": lambda: {"cells": collection(), "genes": NAMES[:3]},
    "evaluation.panels.panel_stability": lambda: {"model": model(), "seeds": 2},
    "tl.panel_curve": of_cells(n_genes=[2, 3]),
    "tl.panel_stability": of_cells(n_seeds=2),
    "tl.represent_cells": lambda: {"adata": cells(), "model": txfm()},
    "tl.select_genes": of_cells(),
}  # fmt: skip

INSTANCES: dict[str, Callable[[], Any]] = {
    f"baselines.{name}Baseline": getattr(baselines, f"{name}Baseline") for name in ("DE", "HVG")
}
