"""Good calls of stages, GIL, and what is told of forgetting."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from kernomics import data, evaluation, models
from kernomics.models.gil.methods import Adapters

from .good import CODES, NAMES, cells, collection, representation
from .good_attribution import polygene

TINY = {"d_model": 8, "n_layers": 1, "n_heads": 2, "n_tokens": 4}


@functools.cache
def stages() -> data.Stages:
    return data.gene_stages(collection(), {"late": NAMES[:2]})


@functools.cache
def three_stages() -> models.GIL:
    """Return a model, not trained, whose third stage lacks genes of the second."""
    found = data.gene_stages(collection(), {"late": NAMES[:2], "later": NAMES[2:4]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return models.GIL(cells(), found, **TINY)


@functools.cache
def gil() -> models.GIL:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = models.GIL(cells(), stages(), method=Adapters(rank=2), **TINY)
        return model.train(1, batch_size=32, progress=False)


def losses() -> pd.DataFrame:
    names = ["base", "late"]
    return pd.DataFrame([[3.0, 4.0], [1.0, 4.0], [1.5, 2.0]], ["start", *names], names)


def table() -> pd.DataFrame:
    return evaluation.forgetting.gene_forgetting(gil())


def asked() -> dict[str, Any]:
    return {"adata": cells(), "rows": np.arange(6)}


GOOD: dict[str, Callable[[], dict[str, Any]]] = {
    "baselines.share_out": lambda: {"rankings": {"a": NAMES[:3], "b": NAMES[2:5]}},
    "data.Stages.load": lambda: {"path": "no-such-place"},
    "data.Stages.save": lambda: {"path": "kept.json"},
    "data.gene_stages": lambda: {"cells": collection(), "specific": {"late": NAMES[:2]}},
    "evaluation.forgetting.gene_forgetting": lambda: {"model": gil()},
    "evaluation.forgetting.what_predicts": lambda: {"table": table(), "stage": "base"},
    "metrics.forgetting": lambda: {"losses": losses()},
    "metrics.tuned_probes": lambda: {"features": representation(), "codes": CODES},
    "models.ExpressionModel.extend": lambda: {"genes": ["new"], "init": {"new": NAMES[0]}},
    "models.ExpressionModel.get_latent_representation": asked,
    "models.ExpressionModel.load": lambda: {"path": "no-such-place"},
    "models.ExpressionModel.predict": lambda: {**asked(), "genes": NAMES[:2]},
    "models.ExpressionModel.read": lambda: {"adata": cells()},
    "models.ExpressionModel.save": lambda: {"path": "kept"},
    "models.GIL": lambda: {"adata": cells(), "stages": stages(), "method": Adapters(2), **TINY},
    "models.GIL.after": lambda: {"stage": "late"},
    "models.GIL.get_latent_representation": lambda: {"adata": cells()},
    "models.GIL.load": lambda: {"path": "no-such-place"},
    "models.GIL.losses": dict,
    "models.GIL.predict": lambda: {"adata": cells(), "genes": NAMES[:2]},
    "models.GIL.save": lambda: {"path": "kept"},
    "models.GILConfig": dict,
    "models.GILConfig.of_size": lambda: {"size": "laptop"},
    "models.PhenotypeModel.extend": lambda: {"genes": ["new"], "init": "mean"},
    "pl.forgetting_by_memory": lambda: {"deltas": {10: [0.1, 0.2]}},
    "pl.losses_and_classes": lambda: {"methods": {"naive": ([0.4, 0.5], [0.7, 0.8])}},
    "pl.stage_losses": lambda: {"losses": losses()},
}  # fmt: skip

SLOW: dict[str, Callable[[], dict[str, Any]]] = {
    "baselines.specific_genes": lambda: {
        "sets": {"late": collection()}, "labels_key": "type", "n_genes": 2,
    },
    "evaluation.forgetting.stage_probes": lambda: {"model": gil(), "labels_key": "type"},
    "models.GIL.train": lambda: {"max_epochs": 1},
}  # fmt: skip

INSTANCES: dict[str, Callable[[], Any]] = {
    "data.Stages": stages,
    "models.ExpressionModel": lambda: gil().trained,
    "models.GIL": gil,
    "models.PhenotypeModel": lambda: polygene().trained,
}

UNFIT = {"data.Stages.load", "models.ExpressionModel.load", "models.GIL.load"}
