"""One training of TxFM on a benchmark set, and its scores beside PCA and normalised counts."""

from __future__ import annotations

import dataclasses
import json
import math
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import HERE
from bench.sets import Problem, data_folder
from kernomics.baselines.representations import baseline_representations, scvi_representation
from kernomics.data.expression import genes_by_variance
from kernomics.evaluation.relationships import compare_relationships
from kernomics.evaluation.representations import score_representations
from kernomics.metrics import read_relations
from kernomics.models import TxFM
from kernomics.train import config_hash

RESULTS = HERE / "results" / "systems"
SIZE, N_GENES, EPOCHS = "XXS", 1000, 100
ATTENTION_ALONE = {"n_genes": N_GENES, "linear_path": False}
"""Of ablations and transfers, which were run before the linear path was."""
N_VARIABLE, SCVI_EPOCHS = 2_000, 150
COMPONENTS = (32, 64, 256)
HUMAN = ("zheng", "pbmc3k", "kang", "marrow")


def relations() -> dict[str, Any]:
    """Return the tables of related genes beside the data sets, human symbols."""
    return {path.stem: read_relations(path) for path in (data_folder() / "relations").glob("*.txt")}


def run(
    problem: Problem,
    settings: Mapping[str, Any],
    training: Mapping[str, Any],
    *,
    related: bool = True,
    scvi: bool = False,
) -> dict[str, Any]:
    """Train once and score.

    Everything is fitted on the training cells: the vocabulary, TxFM, PCA, the classifiers. PCA and
    normalised counts are of the vocabulary, and of all genes, with TxFM's number of dimensions;
    another PCA is of the 2,000 most variable genes, and so is scVI, if wanted, 150 epochs. With
    `related`, the recall of related genes, for which they have human symbols. Seconds are of the
    processor, which other work on the machine hardly changes.
    """
    model = TxFM(problem.cells, SIZE, split=problem.split, seed=problem.seed, **settings)
    begun = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.train(progress=False, **training)
    seconds = time.process_time() - begun
    split, width = problem.split, model.config.d_model
    train, test = (
        model.trained.get_latent_representation(model.cells, rows=rows)
        for rows in (split.train, split.test)
    )
    found = {"TxFM": (train, test)}
    order = genes_by_variance(problem.cells, split.train)[:N_VARIABLE]
    variable = problem.cells.with_genes(problem.cells.genes[np.sort(order)], 1.0)
    took = {"TxFM": round(seconds, 1)}
    for cells, where in (
        (model.cells, ""),
        (problem.cells, ", all genes"),
        (variable, f", {N_VARIABLE:,} variable genes"),
    ):
        begun = time.process_time()
        for name, pair in baseline_representations(cells, split, width, problem.seed).items():
            if name == "PCA" or cells is not variable:
                found[name + where] = pair
        took[f"PCA{where}"] = round(time.process_time() - begun, 1)
    if scvi:
        begun = time.process_time()
        name = f"scVI, {N_VARIABLE:,} variable genes"
        found[name] = scvi_representation(
            variable, split, width, problem.seed, max_epochs=SCVI_EPOCHS
        )
        took[name] = round(time.process_time() - begun, 1)
    scores = score_representations(found, model.cells, split).table
    recall = []
    if related:
        recall = compare_relationships(
            model.trained,
            model.cells,
            split.train,
            relations(),
            n_components=COMPONENTS,
            seed=problem.seed,
        ).to_dict()["mean"]
    last = {r["split"]: r["loss"] for r in model.history if "loss" in r}
    return {
        "scores": {
            label: scores.loc[label].round(4).to_dict("index")
            for label in scores.index.unique("label")
        },
        "recall": {
            f"{x['representation']}, {x['n_components']}": round(x["mean"], 4) for x in recall
        },
        "loss": {part: round(value, 4) for part, value in last.items() if math.isfinite(value)},
        "seconds": round(seconds, 1),
        "took": took,
        "config": dataclasses.asdict(model.config),
        "training": dataclasses.asdict(model.training),
    }


def identity(settings: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    """Return what a run's line is found by: a digest of everything that was chosen."""
    return config_hash({"size": SIZE, "n_genes": N_GENES, **settings, "training": dict(training)})


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line to a results file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
