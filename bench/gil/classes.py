"""Cell types told from the features after each stage, of the runs that bench.gil.methods left.

    python -m bench.gil.classes --runs runs/gil --methods naive "replay 5%"

The labelled cells of one set, with all genes known by then; one JSON line per method to `--out`.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from bench.gil import corpus
from bench.gil.methods import STAGES, methods
from kernomics.evaluation.forgetting import stage_probes
from kernomics.models import GIL

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "bench" / "results" / "systems" / "gil_classes.jsonl"
SCORES = ["linear_accuracy", "linear_macro_f1", "knn_accuracy", "knn_macro_f1"]


def main() -> None:
    """Score what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("KERNOMICS_DATA"))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--labelled", default="zheng", choices=corpus.LABELLED)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", required=True)
    parser.add_argument("--max-epochs", type=int, default=5)
    args = parser.parse_args()
    cells, labelled = corpus.read(Path(args.data))
    stages = corpus.stages(cells, labelled, STAGES, seed=args.seed)
    known = methods(stages)
    _, key, none = corpus.LABELLED[args.labelled]
    for name in args.methods:
        folder = args.runs / f"{'-'.join(STAGES)}-{args.seed}" / name.replace(" ", "-")
        model = GIL(cells, stages, method=known[name], n_tokens=128, seed=args.seed)
        model.train(args.max_epochs, run_dir=folder, resume=True, progress=False)
        found = stage_probes(model, key, labelled[args.labelled], unlabelled_category=none)
        means = found.groupby("after", sort=False)[SCORES].mean().round(4)
        errors = found.groupby("after", sort=False)[SCORES].sem().round(4)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("a") as file:
            line = {
                "system": "gil classes",
                "method": name,
                "seed": args.seed,
                "labelled": args.labelled,
                "n_cells": int(found["n_cells"].iloc[0]),
                "means": means.to_dict("index"),
                "standard_errors": errors.to_dict("index"),
            }
            print(json.dumps(line), file=file, flush=True)
        print(name, means.to_string(), sep="\n", flush=True)


if __name__ == "__main__":
    main()
