"""What TxFM's representation is worth: five seeds on eight sets beside PCA, scVI and counts.

One line per run goes to bench/results/systems/txfm.jsonl; what is there already is not run again.

    python -m bench.txfm.representations                     every set, five seeds
    python -m bench.txfm.representations --sets zheng --seeds 0 1
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from bench.records import read_lines
from bench.sets import load
from bench.txfm.runs import EPOCHS, HUMAN, RESULTS, append, identity, run

SETS = ("zheng", "pbmc3k", "kang", "paul15", "oligo", "pancreas", "marrow", "onek1k")
SEEDS = (0, 1, 2, 3, 4)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scvi", action="store_true", help="beside scVI, where it is installed")
    parser.add_argument("--smoke", action="store_true", help="few cells and epochs")
    parser.add_argument("--out", type=Path, default=RESULTS / "txfm.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings: dict[str, Any] = {"n_genes": 4000}  # the default, named
    if args.smoke:
        settings["n_tokens"] = 50
    training = {"max_epochs": 2 if args.smoke else args.epochs}
    which = identity({**settings, "linear_path": True}, training)
    done = {(x["set"], x["seed"], x["settings"]) for x in read_lines(args.out)}
    sets = {data: load(data, smoke=args.smoke) for data in args.sets}
    for seed in args.seeds:
        for data, loaded in sets.items():
            if (data, seed, which) in done:
                continue
            found = run(
                loaded.problem(seed), settings, training, related=data in HUMAN, scvi=args.scvi
            )
            append(args.out, {"set": data, "seed": seed, "settings": which, **found})
            for label, by in found["scores"].items():
                for name, s in by.items():
                    print(
                        f"{data} {seed} {label:<10} {name:<28} kNN {s['knn_accuracy']:.3f} "
                        f"linear {s['linear_accuracy']:.3f}",
                        flush=True,
                    )
            print(found["recall"], found["seconds"], flush=True)


if __name__ == "__main__":
    main()
