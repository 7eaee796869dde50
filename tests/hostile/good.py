"""One good call of every public callable, on tiny data; or where its arguments are tested instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from kernomics import baselines

N, G, C = 24, 8, 3
CODES = np.arange(N) % C
NAMES = [f"G{i}" for i in range(G)]


def counts() -> sparse.csr_matrix:
    rate = 0.5 + 4 * (np.arange(G)[None, :] % C == CODES[:, None])
    return sparse.csr_matrix(np.random.default_rng(0).poisson(rate).astype(np.float32))


def representation() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(N, 4)) + CODES[:, None]


def truth() -> dict[str, Any]:
    return {"truth": CODES, "predicted": np.roll(CODES, 1)}


def values() -> dict[str, Any]:
    random = np.random.default_rng(2)
    return {"truth": random.normal(size=N), "predicted": random.normal(size=N)}


def probes() -> dict[str, Any]:
    x = representation()
    return {"train": x, "train_codes": CODES, "test": x + 0.1, "test_codes": CODES}


def expression() -> dict[str, Any]:
    x = counts().toarray()
    return {"predicted": x + 0.5, "observed": x}


def moments() -> dict[str, Any]:
    x = np.random.default_rng(3).uniform(1, 2, size=(2, G))
    return {"components": np.random.default_rng(4).normal(size=(G, 2)), "mean": x[0],
            "variance": x[1]}  # fmt: skip


def perturbed() -> dict[str, Any]:
    return {"representation": representation(), "control": "none",
            "perturbations": np.array(["none", "A", "B"], dtype=object)[CODES]}  # fmt: skip


def selected() -> dict[str, Any]:
    return {"counts": counts(), "labels": CODES, "n_genes": 3, "seed": 0}


def judged() -> dict[str, Any]:
    x = counts()
    return {"x_train": x, "y_train": CODES, "x_test": x, "y_test": CODES}


def measured() -> dict[str, Any]:
    y = np.asarray(counts().sum(axis=1)).ravel().astype(np.float64)
    return {**judged(), "y_train": y, "y_test": y}


GOOD: dict[str, Callable[[], dict[str, Any]]] = {
    "metrics.accuracy": truth,
    "metrics.f1_per_class": lambda: {**truth(), "n_classes": C},
    "metrics.confusion_matrix": lambda: {**truth(), "n_classes": C},
    "metrics.macro_f1": truth,
    "metrics.auprc": lambda: {"truth": CODES, "scores": np.eye(C)[CODES]},
    "metrics.classification_metrics": lambda: {**truth(), "scores": np.eye(C)[CODES]},
    "metrics.r2": values,
    "metrics.mae": values,
    "metrics.pearson": values,
    "metrics.regression_metrics": values,
    "metrics.align": lambda: {
        "representation": representation(), "controls": CODES == 0, "batches": np.arange(N) // 12,
    },
    "metrics.class_expression": lambda: {
        "counts": counts(), "labels": CODES, "classes": ["a", "b", "c"], "task": "type",
    },
    "metrics.ilisi": lambda: {"representation": representation(), "batches": CODES},
    "metrics.probe_metrics": probes,
    "metrics.linear_top_accuracy": lambda: {**probes(), "top": 2},
    "metrics.mlp_probe": lambda: {
        **probes(), "hidden": (3,), "max_epochs": 1, "learning_rates": (1e-3,),
    },
    "metrics.moments_explained": moments,
    "metrics.rank_correlations": expression,
    "metrics.spearman_inversion": expression,
    "metrics.structural_integrity": lambda: {
        **expression(), "batches": np.arange(N) // 12, "controls": CODES == 0,
    },
    "metrics.perturbation_consistency": perturbed,
    "metrics.relationship_recall": lambda: {
        "embeddings": np.random.default_rng(5).normal(size=(G, 4)), "genes": NAMES,
        "relations": {"known": [("G0", "G1"), ("G2", "G3")]}, "n_null_pairs": 20,
    },
    "baselines.L1Baseline.select": selected,
    "baselines.RandomBaseline.select": selected,
    "baselines.RandomBaseline": dict,
    "baselines.L1Baseline": dict,
    "baselines.evaluate_genes": judged,
    "baselines.evaluate_genes_regression": measured,
    "baselines.random_panel": lambda: {"n_genes_total": G, "k": 3, "seed": 0},
    "baselines.round_robin": lambda: {"rankings": [[0, 1, 2], [2, 1, 0]], "k": 2},
    "baselines.PersistConfig": dict,
    "data.make_split": lambda: {"n_cells": N, "how": "random"},
    "train.TrainConfig": dict,
    "models.YOTOConfig": dict,
    "models.TxFMConfig": dict,
}  # fmt: skip

INSTANCES: dict[str, Callable[[], Any]] = {
    "baselines.L1Baseline": baselines.L1Baseline,
    "baselines.RandomBaseline": baselines.RandomBaseline,
}
