"""Knock-outs of the interferon-γ pathway in THP-1 cells: which genes tell them from controls.

    python -m bench.polygene.papalexi --seeds 0 1 2

The cells had interferon-γ, so that a knock-out of STAT1, IFNGR1 or JAK2 lowers what it induces: the
hallmark interferon-γ genes are the truth, of which some ten are measured. One PolyGene per seed
learns the controls and the three knock-outs together (with `--apart` one for each knock-out), and
each knock-out is attributed against the controls. One JSON line per seed to `--out`
(bench/results/systems/attribution-papalexi.jsonl): average precision and genes among the best ten
for each score, with the target of the knock-out and without it, beside differential expression.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch

import kernomics
from kernomics.attribution import attribute, gene_statistics, read_gene_sets, recall_of_sets
from kernomics.models import PolyGene

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "bench" / "results" / "systems" / "attribution-papalexi.jsonl"
BASELINE, CASES = "non-targeting", ("STAT1", "IFNGR1", "JAK2")
KEY, TRUTH = "perturbation", "HALLMARK_INTERFERON_GAMMA_RESPONSE"
ENGINES = ("deeplift", "grad_x_delta")
BEST = 10


def scores_of(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Return an engine's scores; a knock-out lowers the genes sought, so those come first."""
    return {
        "absolute": table["absolute"],
        "effect": table["effect"],
        "|effect|": table["effect"].abs(),
        "lowered": -table["signed_by_change"],
        "effect of the lowered": -table["effect"] * np.sign(table["expression_change"]),
    }


def statistics_of(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Return what the scores are held against."""
    return {
        "|DE|": table["|DE|"],
        "DE, lowered": -table["DE"],
        "HVG": table["HVG"],
        "random": table["random"],
    }


def truth_of(
    rankings: dict[str, pd.Series], genes: list[str], target: str
) -> dict[str, dict[str, Any]]:
    """Score rankings by a set, with the target of the knock-out and without it."""
    found = {}
    for name, left_out in (("with target", []), ("without target", [target])):
        less = {key: values.drop(left_out, errors="ignore") for key, values in rankings.items()}
        table = recall_of_sets(less, {TRUTH: genes}, n=BEST).set_index("ranking")
        found[name] = {
            "genes": int(table["genes"].iloc[0]),
            "by_chance": float(table["by_chance"].iloc[0]),
            "average_precision": table["average_precision"].to_dict(),
            f"in_top_{BEST}": table[f"in_top_{BEST}"].to_dict(),
        }
    return found


def run(data: Path, seed: int, *, apart: bool = False, **training: Any) -> dict[str, Any]:
    """Train, and attribute each knock-out, with one seed."""
    adata = anndata.read_h5ad(data / "papalexi_eccite_thp1_299g.h5ad")
    genes = read_gene_sets(data / "gene_sets" / "interferon.gmt")[TRUTH]
    seconds: dict[str, float] = {}
    found: dict[str, Any] = {}
    accuracies = {}
    for cases in [[case] for case in CASES] if apart else [list(CASES)]:
        own = adata[adata.obs[KEY].isin([BASELINE, *cases])].copy()
        begun = time.monotonic()
        model = PolyGene(own, KEY, seed=seed).train(progress=False, **training)
        seconds[f"train {' '.join(cases)}"] = round(time.monotonic() - begun, 1)
        accuracies[" ".join(cases)] = model.test_metrics()[KEY]["balanced_accuracy"]
        for case in cases:
            asked: dict[str, Any] = {"target": KEY, "case": case, "baseline": BASELINE}
            rankings: dict[str, pd.Series] = {}
            line: dict[str, Any] = {"completeness": {}}
            for engine in ENGINES:
                begun = time.monotonic()
                result = attribute(model.cells, model, **asked, engine=engine, seed=seed)
                seconds[f"{engine} {case}"] = round(time.monotonic() - begun, 1)
                line["completeness"][engine] = result.summary()["completeness"]["median"]
                rankings |= {f"{engine}: {k}": v for k, v in scores_of(result.table).items()}
            statistics = gene_statistics(
                model.cells, model.genes, model.cells.labels[KEY], case, BASELINE,
                model.split.train, seed=seed,
            )  # fmt: skip
            rankings |= statistics_of(statistics)
            line |= {
                "n_pairs": len(result.pairs),
                "target_measured": case in model.genes,
                "truth": truth_of(rankings, genes, case),
                "best": {k: v.nlargest(BEST).index.tolist() for k, v in rankings.items()},
            }
            found[case] = line
    return {
        "bench": "attribution-papalexi",
        "version": kernomics.__version__,
        "torch": torch.__version__,
        "seed": seed,
        "models": "one for each knock-out" if apart else "one for all",
        "cells": {case: int((adata.obs[KEY] == case).sum()) for case in (BASELINE, *CASES)},
        "epochs": model.training.max_epochs,
        "genes": len(model.genes),
        "seconds": seconds,
        "load_average": round(os.getloadavg()[0], 1),
        "balanced_accuracy": accuracies,
        "cases": found,
    }


def main() -> None:
    """Run the seeds and append their lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("KERNOMICS_DATA", str(ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max-epochs", type=int)
    parser.add_argument("--apart", action="store_true", help="one model for each knock-out")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    training = {} if args.max_epochs is None else {"max_epochs": args.max_epochs}
    for seed in args.seeds:
        line = run(args.data, seed, apart=args.apart, **training)
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(seed, line["balanced_accuracy"], line["seconds"], flush=True)
        for case, one in line["cases"].items():
            truth = one["truth"]["with target"]
            print(" ", case, {k: f"{v:.2f} {truth[f'in_top_{BEST}'][k]}"
                  for k, v in truth["average_precision"].items()}, flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
