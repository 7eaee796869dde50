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
    """Return an engine's scores; a knock-out lowers the genes sought, so those come first.

    `t` is the mean over the pairs as a multiple of its standard error, but for a factor that all
    genes share, √n.
    """
    t = (table["effect"] / table["effect_sd"]).replace([np.inf, -np.inf], np.nan).fillna(0.0)
    return {
        "absolute": table["absolute"],
        "effect": table["effect"],
        "|effect|": table["effect"].abs(),
        "lowered": -table["signed_by_change"],
        "effect of the lowered": -table["effect"] * np.sign(table["expression_change"]),
        "t": t,
        "|t|": t.abs(),
    }


def mean_of(scores: list[dict[str, pd.Series]]) -> dict[str, pd.Series]:
    """Return the mean of each score over models, each model's scaled to a sum of squares of 1."""
    found = {}
    for name in scores[0]:
        columns = [one[name] / max(float(np.linalg.norm(one[name])), 1e-300) for one in scores]
        found[name] = pd.concat(columns, axis=1).fillna(0.0).mean(axis=1)
    return found


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


Scores = dict[str, dict[str, dict[str, pd.Series]]]
"""Per knock-out and engine its scores."""


def run(
    data: Path, seed: int, *, apart: bool = False, **training: Any
) -> tuple[dict[str, Any], Scores]:
    """Train, and attribute each knock-out, with one seed."""
    adata = anndata.read_h5ad(data / "papalexi_eccite_thp1_299g.h5ad")
    genes = read_gene_sets(data / "gene_sets" / "interferon.gmt")[TRUTH]
    seconds: dict[str, float] = {}
    found: dict[str, Any] = {}
    scores: Scores = {case: {} for case in CASES}
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
                scores[case][engine] = scores_of(result.table)
                rankings |= {f"{engine}: {k}": v for k, v in scores[case][engine].items()}
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
    line = {
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
    return line, scores


def together(data: Path, seeds: list[int], lines: list[Any], scores: list[Scores]) -> Any:
    """Return the line of the mean scores of the models of all seeds."""
    genes = read_gene_sets(data / "gene_sets" / "interferon.gmt")[TRUTH]
    found = {}
    for case in CASES:
        rankings = {
            f"{engine}: {k}": v
            for engine in ENGINES
            for k, v in mean_of([one[case][engine] for one in scores]).items()
        }
        found[case] = {"truth": truth_of(rankings, genes, case)}
    accuracies = [line["balanced_accuracy"] for line in lines]
    return lines[0] | {
        "seed": " ".join(map(str, seeds)),
        "models": f"the mean of {len(seeds)} models, {lines[0]['models']}",
        "balanced_accuracy": {k: float(np.mean([x[k] for x in accuracies])) for k in accuracies[0]},
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
    parser.add_argument("--together", action="store_true", help="also the mean over the seeds")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    training = {} if args.max_epochs is None else {"max_epochs": args.max_epochs}
    lines: list[dict[str, Any]] = []
    scores: list[Scores] = []
    for seed in args.seeds:
        line, found = run(args.data, seed, apart=args.apart, **training)
        lines.append(line)
        scores.append(found)
        note(line, args.out)
    if args.together:
        note(together(args.data, args.seeds, lines, scores), args.out)


def note(line: dict[str, Any], out: Path) -> None:
    """Append a line, and print what it says of the truth."""
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(line["seed"], line["balanced_accuracy"], line["seconds"], flush=True)
    for case, one in line["cases"].items():
        for name, truth in one["truth"].items():
            print(" ", case, name, {k: f"{v:.2f} {truth[f'in_top_{BEST}'][k]}"
                  for k, v in truth["average_precision"].items()}, flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
