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

from bench.harness import HERE
from bench.sets import Problem, data_folder
from kernomics.baselines.representations import baseline_representations
from kernomics.evaluation.relationships import compare_relationships
from kernomics.evaluation.representations import score_representations
from kernomics.metrics import read_relations
from kernomics.models import TxFM
from kernomics.train import config_hash

RESULTS = HERE / "results" / "systems"
SIZE, N_GENES, EPOCHS = "XXS", 1000, 100


def relations() -> dict[str, Any]:
    """Return the tables of related genes beside the data sets, human symbols."""
    return {path.stem: read_relations(path) for path in (data_folder() / "relations").glob("*.txt")}


def run(
    problem: Problem, settings: Mapping[str, Any], training: Mapping[str, Any]
) -> dict[str, Any]:
    """Train once and score.

    Everything is fitted on the training cells: the vocabulary, TxFM, PCA, the classifiers. PCA and
    normalised counts are of the vocabulary, and of all genes, with TxFM's number of dimensions.
    """
    model = TxFM(
        problem.cells, SIZE, n_genes=N_GENES, split=problem.split, seed=problem.seed, **settings
    )
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.train(progress=False, **training)
    seconds = time.perf_counter() - begun
    split, width = problem.split, model.config.d_model
    train, test = (
        model.trained.get_latent_representation(model.cells, rows=rows)
        for rows in (split.train, split.test)
    )
    found = {"TxFM": (train, test)}
    for cells, where in ((model.cells, ""), (problem.cells, ", all genes")):
        for name, pair in baseline_representations(cells, split, width, problem.seed).items():
            found[name + where] = pair
    scores = score_representations(found, model.cells, split).table
    recall = compare_relationships(
        model.trained, model.cells, split.train, relations(), seed=problem.seed
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
