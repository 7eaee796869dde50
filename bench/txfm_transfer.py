"""What a TxFM trained on other people's cells is worth where there are few: Kang's to PBMC 3k.

A model of Kang's training cells represents PBMC 3k as it is, and fine-tuned on some of its training
cells; beside it a TxFM trained on these alone, and PCA of them. All see the same genes, and the
classifiers the same cells. One line per run goes to bench/results/systems/txfm_transfer.jsonl; what
is there already is not run again.

    python bench/txfm_transfer.py
    python bench/txfm_transfer.py --cells 200 --seeds 0
"""

from __future__ import annotations

import argparse
import dataclasses
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kernomics.data import CellCollection, Split
from kernomics.models import CellEncoder, TxFM
from kernomics.representation import score_representations
from kernomics.representation_baselines import baseline_representations
from kernomics.train import config_hash
from txfm_runs import N_GENES, RESULTS, SIZE, append
from yoto_results import read_lines
from yoto_sets import Problem, load

SOURCE, TARGET = "kang", "pbmc3k"
SEEDS = (0, 1, 2, 3, 4)
CELLS = (200, 500, 0)  # training cells of the target; 0 for all
SMOKE: dict[str, Any] = {"n_tokens": 50}


def some_cells(split: Split, n: int, seed: int) -> Split:
    """Keep n of the training cells, at random, or all for 0."""
    if not 0 < n < len(split.train):
        return split
    kept = np.random.default_rng(seed).choice(split.train, n, replace=False)
    return dataclasses.replace(split, train=np.sort(kept))


def run(
    problem: Problem, n: int, source: Callable[[], CellEncoder], options: dict[str, Any]
) -> dict[str, Any]:
    """Represent the target's cells in each way, and score by its labels."""
    split = some_cells(problem.split, n, problem.seed)
    encoder = source()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        common = encoder.genes[np.isin(encoder.genes, problem.cells.genes)]
        view = problem.cells.with_genes(common.tolist(), 1.0)
        shared: dict[str, Any] = {"split": split, "seed": problem.seed}
        settings = SMOKE if options else {}
        alone = TxFM(view, SIZE, **shared, **settings).train(progress=False, **options)
        tuned = TxFM.from_pretrained(encoder, view, new_genes=False, **shared)
        tuned.train(progress=False, **options)

        def both(model: CellEncoder, cells: CellCollection) -> Any:
            return tuple(
                model.get_latent_representation(cells, rows=rows, min_gene_overlap=0.5)
                for rows in (split.train, split.test)
            )

        found = {
            "fine-tuned": both(tuned.trained, tuned.cells),
            "as it is": both(encoder, view),
            "trained on these cells alone": both(alone.trained, alone.cells),
            "PCA": baseline_representations(view, split, encoder.config.d_model, problem.seed)[
                "PCA"
            ],
        }
    scores = score_representations(found, view, split).table
    return {
        "scores": {
            label: scores.loc[label].round(4).to_dict("index")
            for label in scores.index.unique("label")
        },
        "n_genes": view.n_genes,
        "n_train": len(split.train),
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", type=int, default=CELLS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="few cells and epochs")
    parser.add_argument("--out", type=Path, default=RESULTS / "txfm_transfer.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    options: dict[str, Any] = {"max_epochs": 2} if args.smoke else {}
    which = config_hash({"size": SIZE, "n_genes": N_GENES, "from": SOURCE, **options})

    @cache
    def source() -> CellEncoder:
        first = load(SOURCE, smoke=args.smoke).problem(0)
        settings = SMOKE if args.smoke else {}
        model = TxFM(first.cells, SIZE, n_genes=N_GENES, split=first.split, seed=0, **settings)
        return model.train(progress=False, **options).trained

    done = {(x["set"], x["seed"], x["n_cells"], x["settings"]) for x in read_lines(args.out)}
    loaded = load(TARGET, smoke=args.smoke)
    for n in args.cells:
        for seed in args.seeds:
            if (TARGET, seed, n, which) in done:
                continue
            found = run(loaded.problem(seed), n, source, options)
            key = {"set": TARGET, "seed": seed, "n_cells": n, "settings": which}
            append(args.out, key | found)
            for name, s in found["scores"][loaded.what.labels[0]].items():
                print(
                    f"{TARGET} {seed} {found['n_train']:,} cells {name:<30} "
                    f"kNN {s['knn_accuracy']:.3f} linear {s['linear_accuracy']:.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
