"""Kang's cells, control against interferon: PolyGene, its attributions, pruning and retraining.

    python -m bench.polygene.kang --seeds 0 1 2 3 4
    python -m bench.polygene.kang --engines grad_x_delta deeplift

One JSON line per seed to `--out` (bench/results/systems/polygene.jsonl): how well held-out cells
are called, beside logistic regression; how early the genes of known sets come, by each score and
beside differential expression; what the best twentieth of the genes keeps of the accuracy; and what
a model trained on that twentieth alone reaches.

With `--engines` the scores of several engines on one model, truth and pruning without retraining,
to bench/results/systems/attribution-kang-deeplift.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

import kernomics
from kernomics.attribution import (
    attribute,
    gene_statistics,
    prune,
    rankings_of,
    read_gene_sets,
    recall_of_sets,
    retrain,
)
from kernomics.data.expression import log_expression
from kernomics.metrics import class_scores
from kernomics.models import PolyGene

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results" / "systems"
OUT = RESULTS / "polygene.jsonl"
ENGINES_OUT = RESULTS / "attribution-kang-deeplift.jsonl"
ASKED: dict[str, Any] = {"target": "perturbation", "case": "IFNB", "baseline": "control"}
SCORES = ("absolute", "signed_by_change", "effect", "forward", "importance", "DE", "HVG", "random")
RETRAINED = ("absolute", "signed_by_change", "DE", "HVG", "random")
OF_ENGINES = ("absolute", "signed_by_change", "effect", "|effect|", "forward", "importance")
PLAIN = ("DE", "|DE|", "HVG", "random")
KEPT = 0.05


def logistic(model: PolyGene, target: str) -> NDArray[np.int64]:
    """Return what logistic regression on the same cells and genes calls the test cells."""
    from sklearn.linear_model import LogisticRegression

    split, codes = model.split, model.cells.labels[target].values
    train, test = (log_expression(model.cells.batch(rows)) for rows in (split.train, split.test))
    fitted = LogisticRegression(max_iter=2000).fit(train, codes[split.train])
    return np.asarray(fitted.predict(test))


def run(data: Path, seed: int, *, retraining: bool = True, **training: Any) -> dict[str, Any]:
    """Train, attribute, prune and retrain with one seed."""
    begun = time.monotonic()
    model = PolyGene(data / "kang_ifnb_harmony.h5ad", ASKED["target"], seed=seed)
    model.train(progress=False, **training)
    trained = time.monotonic()
    found = attribute(model.cells, model, **ASKED, seed=seed)
    attributed = time.monotonic()
    label = model.cells.labels[ASKED["target"]]
    statistics = gene_statistics(
        model.cells, model.genes, label, ASKED["case"], ASKED["baseline"], model.split.train,
        seed=seed,
    )  # fmt: skip
    rankings = rankings_of(found, statistics)
    sets = read_gene_sets(data / "gene_sets" / "interferon.gmt")
    truth = recall_of_sets({name: rankings[name] for name in SCORES}, sets)
    pruning = prune(
        model.cells, model, {name: rankings[name] for name in SCORES}, **ASKED,
        reversed_too=False, seed=seed,
    )  # fmt: skip
    pruned = time.monotonic()
    called = logistic(model, ASKED["target"])
    whole = pruning.at(0.0)["absolute"]
    kept = pruning.at(1 - KEPT)
    line: dict[str, Any] = {
        "bench": "polygene-kang",
        "version": kernomics.__version__,
        "torch": torch.__version__,
        "seed": seed,
        "cells": {"train": len(model.split.train), "test": len(model.split.test)},
        "genes": len(model.genes),
        "epochs": model.training.max_epochs,
        "seconds": {
            "train": round(trained - begun, 1),
            "attribute": round(attributed - trained, 1),
            "prune": round(pruned - attributed, 1),
        },
        "load_average": round(os.getloadavg()[0], 1),
        "balanced_accuracy": model.test_metrics()[ASKED["target"]]["balanced_accuracy"],
        "logistic_regression": class_scores(label.values[model.split.test], called)[
            "balanced_accuracy"
        ],
        "n_pairs": len(found.pairs),
        "completeness": found.summary()["completeness"],
        "zeros": found.zeros,
        "truth": truth.to_dict("records"),
        "empty_cell": pruning.empty,
        "pruned_cells": pruning.n_cells,
        "pruning_whole": whole,
        "pruning": {name: float(value) for name, value in kept.items()},
        "areas": pruning.areas.to_dict("records"),
    }
    if retraining:
        n = round(len(model.genes) * KEPT)
        table = retrain(
            model, {name: rankings[name] for name in RETRAINED}, target=ASKED["target"],
            n_genes=(n,), seed=seed,
        )  # fmt: skip
        line["retrained"] = table.to_dict("records")
    return line


def run_engines(data: Path, seed: int, engines: Sequence[str], **training: Any) -> dict[str, Any]:
    """Train once, attribute with each engine, and prune by the scores of all."""
    begun = time.monotonic()
    model = PolyGene(data / "kang_ifnb_harmony.h5ad", ASKED["target"], seed=seed)
    model.train(progress=False, **training)
    seconds = {"train": round(time.monotonic() - begun, 1)}
    statistics = gene_statistics(
        model.cells, model.genes, model.cells.labels[ASKED["target"]], ASKED["case"],
        ASKED["baseline"], model.split.train, seed=seed,
    )  # fmt: skip
    rankings: dict[str, Any] = {name: statistics[name] for name in PLAIN}
    of_engines: dict[str, Any] = {}
    for engine in engines:
        begun = time.monotonic()
        found = attribute(model.cells, model, **ASKED, engine=engine, seed=seed)
        seconds[engine] = round(time.monotonic() - begun, 1)
        scores = rankings_of(found)
        rankings |= {f"{engine}: {n}": scores[n] for n in OF_ENGINES if n in scores}
        of_engines[engine] = {
            "completeness": found.summary()["completeness"],
            "zeros": found.zeros,
            "scores_over_effect": size_of_scores(found.table),
        }
    sets = read_gene_sets(data / "gene_sets" / "interferon.gmt")
    begun = time.monotonic()
    pruning = prune(model.cells, model, rankings, **ASKED, reversed_too=False, seed=seed)
    seconds["prune"] = round(time.monotonic() - begun, 1)
    return {
        "bench": "attribution-kang-deeplift",
        "version": kernomics.__version__,
        "torch": torch.__version__,
        "seed": seed,
        "cells": {"train": len(model.split.train), "test": len(model.split.test)},
        "genes": len(model.genes),
        "epochs": model.training.max_epochs,
        "seconds": seconds,
        "load_average": round(os.getloadavg()[0], 1),
        "balanced_accuracy": model.test_metrics()[ASKED["target"]]["balanced_accuracy"],
        "n_pairs": len(found.pairs),
        "engines": of_engines,
        "truth": recall_of_sets(rankings, sets).to_dict("records"),
        "empty_cell": pruning.empty,
        "pruned_cells": pruning.n_cells,
        "pruning_whole": float(pruning.at(0.0).iloc[0]),
        "pruning": {name: float(value) for name, value in pruning.at(1 - KEPT).items()},
        "areas": pruning.areas.to_dict("records"),
    }


def size_of_scores(table: pd.DataFrame) -> float:
    """Return the sum of the sizes of all genes' mean scores, by the size of their sum."""
    return float(table["forward"].abs().sum() / abs(table["forward"].sum()))


def main() -> None:
    """Run the seeds and append their lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("KERNOMICS_DATA", str(ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--max-epochs", type=int)
    parser.add_argument("--no-retraining", action="store_true")
    parser.add_argument("--engines", nargs="+", help="several engines on one model")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    training = {} if args.max_epochs is None else {"max_epochs": args.max_epochs}
    out = args.out or (ENGINES_OUT if args.engines else OUT)
    for seed in args.seeds:
        if args.engines:
            line = run_engines(args.data, seed, args.engines, **training)
        else:
            line = run(args.data, seed, retraining=not args.no_retraining, **training)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=plain) + "\n")
        kept = {name: round(x / line["pruning_whole"], 3) for name, x in line["pruning"].items()}
        print(seed, line["seconds"], round(line["balanced_accuracy"], 4), kept, flush=True)


def plain(value: Any) -> Any:
    """Return what JSON can hold of a value of numpy."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


if __name__ == "__main__":
    main()
