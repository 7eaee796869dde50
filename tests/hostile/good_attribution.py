"""Good calls of PolyGene and of attributions."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attribution_example import attribution, pruning

from kernomics import models

from .good import CODES, cells, collection

TINY = {"d_model": 8, "n_layers": 1, "n_heads": 1, "n_tokens": 4}
QUESTION = {"target": "type", "case": "A", "baseline": "B"}


@functools.cache
def polygene() -> models.PolyGene:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return models.PolyGene(cells(), "type", **TINY).train(1, progress=False)


def asked() -> dict[str, Any]:
    return {"adata": cells(), "rows": np.arange(6)}


def sets() -> dict[str, Any]:
    Path("sets.gmt").write_text("known\t-\tG0\tG1\n")
    return {"path": "sets.gmt"}


def scores() -> dict[str, Any]:
    table = attribution().table
    return {"absolute": table["absolute"], "effect": table["effect"]}


def statistics() -> dict[str, Any]:
    cells = collection()
    return {"cells": cells, "genes": cells.genes, "target": cells.labels["type"], "case": "A",
            "baseline": "B", "rows": np.arange(40)}  # fmt: skip


GOOD: dict[str, Callable[[], dict[str, Any]]] = {
    "attribution.Attribution.top": dict,
    "attribution.deeplift": lambda: {
        "function": lambda x: x,
        "case": [torch.ones(2, 3)],
        "baseline": [torch.zeros(2, 3)],
        "output": 1,
    },
    "attribution.Pruning.at": lambda: {"share": 0.5},
    "attribution.read_gene_sets": sets,
    "attribution.recall_of_sets": lambda: {"scores": scores(), "sets": {"s": ["g0", "g1"]}},
    "attribution.recurring": lambda: {"attributions": {"a": attribution(), "b": attribution()}},
    "attribution.rankings_of": lambda: {"attribution": attribution()},
    "attribution.top_genes": lambda: {"scores": scores()},
    "metrics.class_scores": lambda: {"truth": CODES, "predicted": np.roll(CODES, 1)},
    "models.PhenotypeModel.cells_seen": lambda: {"adata": cells()},
    "models.PhenotypeModel.evaluate": lambda: {"adata": cells()},
    "models.PhenotypeModel.get_latent_representation": asked,
    "models.PhenotypeModel.load": lambda: {"path": "no-such-place"},
    "models.PhenotypeModel.predict": lambda: {"adata": cells()},
    "models.PhenotypeModel.probabilities": asked,
    "models.PhenotypeModel.read": lambda: {"adata": cells()},
    "models.PhenotypeModel.save": lambda: {"path": "kept"},
    "models.PhenotypeModel.task": lambda: {"name": "type"},
    "models.PolyGene": lambda: {"adata": cells(), "labels_key": "type", **TINY},
    "models.PolyGene.evaluate": lambda: {"adata": cells()},
    "models.PolyGene.get_latent_representation": lambda: {"adata": cells()},
    "models.PolyGene.load": lambda: {"path": "no-such-place"},
    "models.PolyGene.predict": lambda: {"adata": cells()},
    "models.PolyGene.save": lambda: {"path": "kept"},
    "models.PolyGeneConfig": dict,
    "models.PolyGeneConfig.of_size": lambda: {"size": "XS"},
    "pl.attribution_by_gene": lambda: {"attribution": attribution()},
    "pl.attribution_distributions": lambda: {"attribution": attribution()},
    "pl.attribution_heatmap": lambda: {"attribution": attribution()},
    "pl.pruning_curves": lambda: {"pruning": pruning()},
}

SLOW: dict[str, Callable[[], dict[str, Any]]] = {
    "attribution.attribute": lambda: {"adata": cells(), "model": polygene(), **QUESTION},
    "attribution.gene_statistics": statistics,
    "attribution.prune": lambda: {
        "adata": cells(), "model": polygene(), "rankings": {"random": np.arange(8.0)}, **QUESTION,
    },
    "attribution.retrain": lambda: {
        "model": polygene(), "rankings": {"random": np.arange(8.0)}, "target": "type",
        "n_genes": [3],
    },
    "models.PolyGene.train": lambda: {"max_epochs": 1},
    "tl.attribute": lambda: {"adata": cells(), "model": polygene(), **QUESTION},
}  # fmt: skip

INSTANCES: dict[str, Callable[[], Any]] = {
    "attribution.Attribution": attribution,
    "attribution.Pruning": pruning,
    "models.PhenotypeModel": lambda: polygene().trained,
    "models.PolyGene": polygene,
}

UNFIT = {"models.PhenotypeModel.load", "models.PolyGene.load"}
