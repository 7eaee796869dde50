"""One good call of each public callable, on tiny data; or where its arguments are tested."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from kernomics import baselines, data, models
from kernomics.evaluation import panels

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
    "metrics.evaluate_genes": judged,
    "metrics.evaluate_genes_regression": measured,
    "baselines.random_panel": lambda: {"n_genes_total": G, "k": 3, "seed": 0},
    "baselines.round_robin": lambda: {"rankings": [[0, 1, 2], [2, 1, 0]], "k": 2},
    "data.make_split": lambda: {"n_cells": N, "how": "random"},
    "train.TrainConfig": dict,
    "models.YOTOConfig": dict,
    "models.TxFMConfig": dict,
}  # fmt: skip

INSTANCES: dict[str, Callable[[], Any]] = {
    "baselines.L1Baseline": baselines.L1Baseline,
    "baselines.RandomBaseline": baselines.RandomBaseline,
}


# ---- what a trained panel is asked, and cells in an AnnData --------------------------------------


@functools.cache
def cells() -> ad.AnnData:
    found = ad.AnnData(sparse.vstack([counts()] * 3).tocsr())
    codes = np.tile(CODES, 3)
    found.obs["type"] = pd.Categorical(np.array(list("ABC"))[codes])
    found.obs["guide"] = pd.Categorical(np.array(["none", "A", "B"])[codes])
    found.var_names = NAMES
    found.obs_names = [f"c{i}" for i in range(found.n_obs)]
    found.obsm["X_own"] = np.random.default_rng(6).normal(size=(found.n_obs, 4))
    return found


@functools.cache
def model() -> models.YOTO:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return models.YOTO(cells(), "type", 3).train(max_epochs=1, progress=False)


def collection() -> data.CellCollection:
    return data.CellCollection.from_anndata(cells(), labels_key="type")


def asked() -> dict[str, Any]:
    return {"panel": model().trained, "cells": collection(), "rows": np.arange(40, 60),
            "background_rows": np.arange(30)}  # fmt: skip


def scored() -> dict[str, Any]:
    split, x = model().split, cells().obsm["X_own"]
    return {"found": {"own": (x[split.train], x[split.test])}, "cells": collection(),
            "split": split}  # fmt: skip


@functools.cache
def contributions() -> panels.Contributions:
    return panels.contributions(**asked())


@functools.cache
def redundancy() -> panels.Redundancy:
    return panels.redundancy(collection(), NAMES[:4], np.arange(60))


GOOD |= {
    "models.Panel.predict": lambda: {"adata": cells()},
    "models.Panel.evaluate": lambda: {"adata": cells()},
    "models.Panel.cells_seen": lambda: {"adata": cells()},
    "models.Panel.outputs": lambda: {"cells": collection()},
    "models.Panel.load": lambda: {"path": "no-such-place"},
    "models.YOTO.predict": lambda: {"adata": cells()},
    "models.YOTO.evaluate": lambda: {"adata": cells()},
    "models.YOTO.load": lambda: {"path": "no-such-place"},
    "models.YOTO": lambda: {"adata": cells(), "labels_key": "type", "n_genes": 3},
    "evaluation.panels.contributions": asked,
    "evaluation.panels.evaluate_panel": lambda: {
        "cells": collection(), "genes": NAMES[:3], "split": model().split,
    },
    "evaluation.panels.redundancy": lambda: {
        "cells": collection(), "genes": NAMES[:3], "rows": np.arange(40),
    },
    "tl.panel_redundancy": lambda: {"adata": cells(), "genes": NAMES[:3]},
    "tl.panel_contributions": lambda: {"adata": cells(), "panel_or_model": model()},
    "tl.evaluate_panel": lambda: {"adata": cells(), "genes": NAMES[:3], "labels_key": "type"},
    "pp.curate": lambda: {"data": cells(), "min_genes": 1, "min_cells": 1},
    "pp.select_phenoprints": lambda: {
        "data": cells(), "representation": "X_own", "perturbation_key": "guide",
        "control": "none",
    },
    "evaluation.perturbations.evaluate_perturbations": lambda: {
        "data": cells(), "perturbation_key": "guide", "control": "none", "n_components": 2,
        "alignments": ("centre",),
    },
    "datasets.simulate": lambda: {
        "n_cells": 20, "n_genes": 12, "n_types": 2, "n_markers": 2, "n_batches": 1,
    },
    "pl.contributions": lambda: {"contributions": contributions(), "task": "type"},
    "pl.contribution_table": lambda: {"contributions": contributions(), "task": "type"},
    "pl.confusion": lambda: {"matrix": np.eye(C, dtype=int), "classes": ["a", "b", "c"]},
    "pl.confusion_key": lambda: {"n_classes": C},
    "pl.panel_correlation": lambda: {"redundancy": redundancy()},
    "pl.correlation_order": lambda: {"redundancy": redundancy()},
    "pl.activation": lambda: {"z": np.linspace(-1, 1, 5), "kind": "ReLU"},
    "pl.activation_curves": dict,
    "pl.count_nll": lambda: {"count": 3.0, "mean": 2.0, "kind": "Poisson"},
    "pl.nll_curves": lambda: {"count": 3},
    "pl.training_curves": lambda: {"history": model().history},
    "pl.training_panels": lambda: {"history": model().history},
    "data.gene_id_kind": lambda: {"genes": NAMES},
    "data.balanced_weights": lambda: {"labels": ["a", "b", "a", "a"]},
    "data.match_genes": lambda: {"model_genes": NAMES, "data_genes": NAMES},
    "data.select_cells": lambda: {"cells": collection(), "rows": np.arange(10)},
    "data.Sampler": lambda: {"rows": np.arange(20), "batch_size": 4},
    "train.History.column": lambda: {"name": "loss", "split": "train"},
    "train.History.select": lambda: {"split": "train"},
}  # fmt: skip

INSTANCES |= {
    "models.Panel": lambda: model().trained,
    "models.YOTO": model,
    "train.History": lambda: model().history,
}

GOOD |= {
    "baselines.l1_panel": lambda: {"data": counts(), "labels": CODES, "k": 3},
    "train.config_hash": lambda: {"config": {"a": 1}},
    "train.differences": lambda: {"saved": {"a": 1}, "given": {"a": 2}},
    "train.History.read": lambda: {"path": "no-such-place"},
    "train.load_checkpoint": lambda: {"root": Path("no-such-place")},
    "train.load_model_dir": lambda: {"path": "no-such-place"},
    "metrics.read_relations": lambda: {"path": "no-such-place"},
    "models.load": lambda: {"path": "no-such-place"},
    "metrics.score_panel": lambda: {"kind": "categorical", **judged()},
    "evaluation.representations.batch_split": lambda: {
        "cells": data.CellCollection.from_anndata(cells(), batch_key="guide"),
    },
    "evaluation.representations.score_representations": scored,
    "train.opened": lambda: {"loggers": [], "log_dir": None},
}

UNFIT = {
    "models.Panel.load", "models.YOTO.load", "models.load", "train.History.read",
    "train.load_model_dir", "metrics.read_relations",
}  # fmt: skip
"""Calls that are good in all but what they name: the walk looks at their errors alone."""

NOT_WALKED: dict[str, tuple[str, ...]] = {
    "a function of a tensor, called on each": ("ops.ObservedGenes.map",),
    "a block's inside, and what a module returns": (
        "nn.Encoder.keep", "nn.Encoder.layers", "nn.Encoder.of_genes",
        "nn.CountDecoder.hidden", "nn.Selection",
    ),
    "what a conversion gives back": ("data.Converted",),
    "made from parts that the package checks itself: tests/data": (
        "data.CellCollection", "data.Cells.from_rows",
    ),
    "made from parts of a trained model": (
        "models.CellEncoder", "models.ExpressionModel", "models.Panel", "models.PhenotypeModel",
    ),
    "what attributions are made of inside": (
        "attribution.PanelSource", "attribution.PanelSource.inputs",
        "attribution.PanelSource.outputs", "attribution.PhenotypeSource",
        "attribution.PhenotypeSource.inputs", "attribution.PhenotypeSource.outputs",
        "attribution.ReconstructionSource", "attribution.ReconstructionSource.inputs",
        "attribution.ReconstructionSource.outputs", "attribution.attribute_pairs",
        "attribution.blend", "attribution.deeplift_pairs", "attribution.DeepLift",
        "attribution.grad_x_delta", "attribution.integrated_gradients",
        "attribution.make_pairs", "attribution.overlap", "attribution.Blend",
        "models.PhenotypeModel.evaluate_labels", "models.PhenotypeModel.labelled_outputs",
        "models.PhenotypeModel.shown_codes",
    ),
    "it trains what it is given whole": ("evaluation.panels.score_panels",),
    "what only the loop and the commands call: tests/train": (
        "train.History", "train.JSONLines", "train.JSONLines.config", "train.JSONLines.log",
        "train.Lightning", "train.Lightning.config", "train.Lightning.log", "train.RowAdamW",
        "train.RowAdamW.add_param_group", "train.RowAdamW.moments", "train.RowAdamW.step",
        "train.RowAdamW.zero_grad",
        "train.RunDirectory",
        "train.RunDirectory.create", "train.RunDirectory.open",
        "train.RunDirectory.record", "train.TensorBoard",
        "train.TensorBoard.config", "train.TensorBoard.log", "train.fit", "train.override",
        "train.replace_file", "train.save_checkpoint", "train.save_model_dir",
        "train.write_json",
    ),
    "pictures of what other calls give; the kind of that is all that they check": (
        "pl.component_moments", "pl.consistency_by_block", "pl.consistency_null",
        "pl.curve_parts", "pl.dot_plot", "pl.embedding", "pl.embedding_map",
        "pl.gene_frequency", "pl.method_comparison", "pl.panel_curve", "pl.panel_overlap",
        "pl.panel_scores", "pl.recall_curve", "pl.representation_map",
        "pl.representation_maps", "pl.shown_classes", "pl.training_panel",
    ),
    "curation, perturbations and relationships whole: their own tests": (
        "pp.Curation.apply", "tl.evaluate_perturbations", "tl.relationship_recall",
    ),
}  # fmt: skip
"""Why, and which."""
