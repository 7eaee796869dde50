"""Good calls of the models, and of panels compared over splits."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from kernomics import models
from kernomics.evaluation import panels

from .good import NAMES, cells, collection, model, probes

TINY = {"d_model": 8, "n_layers": 1, "n_heads": 2, "n_tokens": 3, "decoder_layers": 0}


@functools.cache
def txfm() -> models.TxFM:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return models.TxFM(cells(), "XXS", **TINY).train(1, batch_size=32, progress=False)


@functools.cache
def compared() -> panels.SplitComparison:
    rows = [
        {"seed": seed, "task": "t", "method": method, "predictor": "logistic regression",
         "metric": "macro_f1", "value": value}
        for method, values in {"YOTO": [0.5, 0.6, 0.8], "DE": [0.4, 0.6, 0.7]}.items()
        for seed, value in enumerate(values)
    ]  # fmt: skip
    return panels.SplitComparison(pd.DataFrame(rows), 0.25)


def asked() -> dict[str, Any]:
    return {"adata": cells(), "rows": np.arange(6)}


def extension() -> dict[str, Any]:
    other = next(name for name in NAMES if name not in model().genes)
    return {"genes": [other], "adata": cells(), "max_epochs": 1, "progress": False}


GOOD: dict[str, Callable[[], dict[str, Any]]] = {
    "models.CellEncoder.get_gene_embeddings": dict,
    "models.CellEncoder.cells_seen": lambda: {"adata": cells()},
    "models.CellEncoder.extend": lambda: {"genes": ["new"], "init": {"new": NAMES[0]}},
    "models.CellEncoder.get_latent_representation": asked,
    "models.CellEncoder.get_block_representations": asked,
    "models.CellEncoder.get_normalized_expression": lambda: {**asked(), "genes": NAMES[:2]},
    "models.CellEncoder.load": lambda: {"path": "no-such-place"},
    "models.CellEncoder.save": lambda: {"path": "kept"},
    "models.CellEncoder.checked_block": lambda: {"block": 1},
    "models.CellEncoder.read": lambda: {"adata": cells()},
    "models.TxFM": lambda: {"adata": cells(), **TINY},
    "models.TxFM.from_pretrained": lambda: {"model": txfm(), "adata": cells()},
    "models.TxFM.get_latent_representation": lambda: {"adata": cells()},
    "models.TxFM.get_normalized_expression": lambda: {"adata": cells()},
    "models.TxFM.load": lambda: {"path": "no-such-place"},
    "models.TxFM.save": lambda: {"path": "kept"},
    "models.TxFMConfig.of_size": lambda: {"size": "XS"},
    "models.YOTO.cost_of_missing": lambda: {"genes": model().genes[:1]},
    "models.YOTO.save": lambda: {"path": "kept"},
    "models.Panel.save": lambda: {"path": "kept"},
    "models.Panel.extend": extension,
    "models.Panel.labelled_outputs": lambda: {"cells": collection()},
    "models.Panel.read": lambda: {"adata": cells()},
    "models.YOTOConfig.schedule": lambda: {"usable": 8},
    "evaluation.panels.SplitComparison.differences": lambda: {"task": "t"},
    "evaluation.panels.SplitComparison.scores": lambda: {"task": "t"},
    "evaluation.panels.SplitComparison.verdict": lambda: {"task": "t"},
    "metrics.probe_predictions": probes,
    "baselines.HVGBaseline": dict,
}  # fmt: skip

INSTANCES: dict[str, Callable[[], Any]] = {
    "models.CellEncoder": lambda: txfm().trained,
    "models.TxFM": txfm,
    "models.YOTO": model,
    "models.Panel": lambda: model().trained,
    "evaluation.panels.SplitComparison": compared,
    "models.YOTOConfig": models.YOTOConfig,
}

UNFIT = {"models.CellEncoder.load", "models.TxFM.load"}
