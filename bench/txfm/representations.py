"""What TxFM's representation is worth: five seeds on real cells beside PCA and normalised counts.

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
from bench.txfm.runs import EPOCHS, RESULTS, append, identity, run

SETS = ("zheng", "pbmc3k", "kang")
SEEDS = (0, 1, 2, 3, 4)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="few cells and epochs")
    parser.add_argument("--out", type=Path, default=RESULTS / "txfm.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings: dict[str, Any] = {"n_tokens": 50} if args.smoke else {}
    training = {"max_epochs": 2 if args.smoke else args.epochs}
    which = identity(settings, training)
    done = {(x["set"], x["seed"], x["settings"]) for x in read_lines(args.out)}
    for data in args.sets:
        loaded = load(data, smoke=args.smoke)
        for seed in args.seeds:
            if (data, seed, which) in done:
                continue
            found = run(loaded.problem(seed), settings, training)
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
