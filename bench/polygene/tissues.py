"""Attributions where something must be controlled for, or donors must be kept apart.

    python -m bench.polygene.tissues oligodendrocytes
    python -m bench.polygene.tissues lymphoma

Oligodendrocytes after acute stress or not: only the hypothalamus was stressed, and only males were,
so these cells alone are taken and pairs are of one cell type and one sex; the line says where genes
of the sex chromosomes come with and without that. Lymphoma of the skin against healthy skin: each
donor is of one class, so donors are held out, of both classes. Neither has a known truth.

One JSON line each to `--out` (bench/results/systems/polygene-tissues.jsonl).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import kernomics
from bench.polygene.kang import ROOT, logistic, plain
from kernomics.attribution import Attribution, attribute
from kernomics.metrics import class_scores
from kernomics.models import PolyGene

OUT = ROOT / "bench" / "results" / "systems" / "polygene-tissues.jsonl"
TOP = 15
SHOWN = 512
"""Genes of an oligodendrocyte that a training step shows, which has 1,250 in the median."""
OF_SEX = ("Xist", "Tsix", "Ddx3y", "Eif2s3y", "Uty", "Kdm5d")
ASKED: dict[str, dict[str, Any]] = {
    "oligodendrocytes": {
        "target": "treatment", "case": "6hr post acute stress", "baseline": "No",
        "controlled": ["cell_type", "sex"],
    },
    "lymphoma": {"target": "disease", "case": "CTCL", "baseline": "healthy", "n_pairs": 300},
}  # fmt: skip


def oligodendrocytes(data: Path, seed: int) -> PolyGene:
    """Return a model of the cells of the hypothalamus, untrained."""
    import anndata

    adata = anndata.read_h5ad(data / "mouse_oligo_marques.h5ad")
    return PolyGene(
        adata[adata.obs["region"] == "hypothalamus"].copy(), ["treatment", "cell_type", "sex"],
        seed=seed, n_tokens=SHOWN, task_weights={"treatment": 2.0},
    )  # fmt: skip


def lymphoma(data: Path, seed: int) -> PolyGene:
    """Return a model of skin, untrained; a third of the donors is held out."""
    return PolyGene(
        data / "ctcl_skin_vs_healthy.h5ad", "disease", split="group", split_key="sample",
        fractions=(2 / 3, 0.0, 1 / 3), seed=seed,
    )  # fmt: skip


def scores(model: PolyGene, target: str, column: str, found: NDArray[np.int64]) -> dict[str, Any]:
    """Score the calls of held-out cells: all, and those of each value of a column."""
    rows = model.split.test
    truth = model.cells.labels[target].values[rows]
    values = np.asarray(model.cells.obs[column].astype(str))[rows]
    return {
        "balanced_accuracy": class_scores(truth, found)["balanced_accuracy"],
        f"by_{column}": {
            value: _of(truth[values == value], found[values == value])
            for value in sorted(set(values))
        },
    }


def _of(truth: NDArray[Any], found: NDArray[Any]) -> dict[str, float]:
    score = class_scores(truth, found)
    named = {"n_cells": len(truth), "accuracy": float((truth == found).mean())}
    both = len(set(truth.tolist())) > 1
    return named | ({"balanced_accuracy": score["balanced_accuracy"]} if both else {})


def _split(model: PolyGene) -> dict[str, Any]:
    split = model.split
    found: dict[str, Any] = {"how": split.how, "by": split.by, "note": split.note}
    if split.how == "group":
        groups = model.cells.obs[split.by].astype(str).to_numpy()
        for part in ("train", "validation", "test"):
            found[part] = sorted(set(groups[getattr(split, part)]))
    return found


def told(found: Attribution) -> dict[str, Any]:
    """Return what an attribution says, in short."""
    summary = found.summary()
    return {
        "n_pairs": summary["n_pairs"],
        "n_cells": summary["n_cells"],
        "pairs_per_group": summary["pairs_per_group"],
        "left_out": summary["left_out"],
        "completeness": summary["completeness"],
        "top": {by: list(found.top(TOP, by).index) for by in ("absolute", "effect")},
        "lowest_effect": list(found.table["effect"].sort_values(kind="stable").index[:TOP]),
    }


def ranks(found: Attribution, genes: tuple[str, ...]) -> dict[str, int]:
    """Return the places of genes by absolute score, counted from 1."""
    order = found.table["absolute"].rank(ascending=False, method="first").astype(int)
    return {gene: int(order[gene]) for gene in genes if gene in order.index}


def run(name: str, data: Path, seed: int, **training: Any) -> dict[str, Any]:
    """Train, score and attribute with one seed."""
    asked, begun = ASKED[name], time.monotonic()
    model = {"oligodendrocytes": oligodendrocytes, "lymphoma": lymphoma}[name](data, seed)
    model.train(progress=False, **training)
    trained = time.monotonic()
    found = attribute(model.cells, model, **asked, seed=seed)
    attributed = time.monotonic()
    by = "sex" if name == "oligodendrocytes" else "sample"
    probabilities = model.trained.probabilities(model.cells, asked["target"], rows=model.split.test)
    found_of = {
        "polygene": probabilities[asked["target"]].argmax(1),
        "logistic": logistic(model, asked["target"]),
    }
    line: dict[str, Any] = {
        "bench": f"polygene-{name}",
        "version": kernomics.__version__,
        "torch": torch.__version__,
        "seed": seed,
        "cells": {"train": len(model.split.train), "test": len(model.split.test)},
        "genes": len(model.genes),
        "n_tokens": model.config.n_tokens,
        "epochs": model.training.max_epochs,
        "seconds": {
            "train": round(trained - begun, 1),
            "attribute": round(attributed - trained, 1),
        },
        "load_average": round(os.getloadavg()[0], 1),
        "asked": asked,
        "split": _split(model),
        "held_out": scores(model, asked["target"], by, found_of["polygene"]),
        "logistic_regression": scores(model, asked["target"], by, found_of["logistic"]),
        "attribution": told(found),
    }
    if asked.get("controlled"):
        loose = attribute(model.cells, model, **{**asked, "controlled": []}, seed=seed)
        line["uncontrolled"] = told(loose)
        line["ranks_of_sex_genes"] = {
            "controlled": ranks(found, OF_SEX), "uncontrolled": ranks(loose, OF_SEX),
        }  # fmt: skip
    return line


def main() -> None:
    """Run one data set and append its line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("KERNOMICS_DATA", str(ROOT.parent / "shared" / "data"))
    parser.add_argument("name", choices=sorted(ASKED))
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--max-epochs", type=int)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    training = {} if args.max_epochs is None else {"max_epochs": args.max_epochs}
    for seed in args.seeds:
        line = run(args.name, args.data, seed, **training)
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=plain) + "\n")
        print(seed, line["seconds"], line["held_out"], line["logistic_regression"], flush=True)


if __name__ == "__main__":
    main()
