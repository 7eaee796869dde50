"""What a TxFM trained on other people's cells is worth where there are few.

A model of the source's training cells represents the target's as it is, and fine-tuned on some of
its training cells. From Kang's cells to PBMC 3k all see the genes of both; beside it stands a TxFM
trained on the target's cells alone. From Zheng's to bone marrow, with 28 times the model's genes,
it is fine-tuned with some of the new ones too. PCA is of the same training cells, and so are the
classifiers. One line per run goes to bench/results/systems/txfm_transfer.jsonl; what is there
already is not run again.

    python -m bench.txfm.transfer
    python -m bench.txfm.transfer --sets pbmc3k --cells 200 --seeds 0
"""

from __future__ import annotations

import argparse
import dataclasses
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.records import read_lines
from bench.sets import Problem, load
from bench.txfm.runs import ATTENTION_ALONE, N_GENES, RESULTS, SIZE, append
from kernomics.baselines.representations import baseline_representations
from kernomics.data import Split
from kernomics.evaluation.representations import score_representations
from kernomics.models import CellEncoder, TxFM
from kernomics.train import config_hash

SEEDS = (0, 1, 2, 3, 4)
SMOKE: dict[str, Any] = {"n_tokens": 50}


@dataclasses.dataclass(frozen=True)
class Transfer:
    """From where to where.

    Attributes
    ----------
    source
        Data set of the model.
    cells
        How many of the target's training cells are there to learn from; 0 for all.
    common
        Whether only genes are looked at that both have, and a TxFM is trained anew too.
    new_genes
        How many genes to add, besides none.
    """

    source: str
    cells: tuple[int, ...]
    common: bool = False
    new_genes: tuple[int, ...] = ()


TRANSFERS = {
    "pbmc3k": Transfer("kang", (200, 500, 0), common=True),
    "marrow": Transfer("zheng", (0,), new_genes=(100, 1000)),
}
"""By target."""
SMOKE_NEW_GENES = (20,)
WAY = "known genes, best validation"
"""What fine-tuning does by default, among the settings of a line: a change makes it run again."""


def some_cells(split: Split, n: int, seed: int) -> Split:
    """Keep n of the training cells, at random, or all for 0."""
    if not 0 < n < len(split.train):
        return split
    kept = np.random.default_rng(seed).choice(split.train, n, replace=False)
    return dataclasses.replace(split, train=np.sort(kept))


def run(
    transfer: Transfer, problem: Problem, n: int, encoder: CellEncoder, options: dict[str, Any]
) -> dict[str, Any]:
    """Represent the target's cells in each way, and score by its labels."""
    split = some_cells(problem.split, n, problem.seed)
    cells = problem.cells
    if transfer.common:
        both = encoder.genes[np.isin(encoder.genes, cells.genes)]
        cells = cells.with_genes(both.tolist(), 1.0)
    shared: dict[str, Any] = {"split": split, "seed": problem.seed}

    def represented(model: CellEncoder) -> Any:
        return tuple(
            model.get_latent_representation(cells, rows=rows, min_gene_overlap=0.5)
            for rows in (split.train, split.test)
        )

    def trained(model: TxFM) -> Any:
        return represented(model.train(progress=False, **options).trained)

    new_genes = SMOKE_NEW_GENES if options and transfer.new_genes else transfer.new_genes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = {
            "fine-tuned": trained(TxFM.from_pretrained(encoder, cells, **shared)),
            "as it is": represented(encoder),
        }
        for n_new in new_genes:
            more = TxFM.from_pretrained(encoder, cells, new_genes=n_new, **shared)
            found[f"fine-tuned, {n_new:,} new genes"] = trained(more)
        if transfer.common:
            settings = {"n_tokens": 512, "linear_path": False} | (SMOKE if options else {})
            alone = TxFM(cells, SIZE, n_genes=cells.n_genes, **shared, **settings)
            found["trained on these cells alone"] = trained(alone)
        width = encoder.config.d_model
        found["PCA"] = baseline_representations(cells, split, width, problem.seed)["PCA"]
    scores = score_representations(found, cells, split).table
    return {
        "scores": {
            label: scores.loc[label].round(4).to_dict("index")
            for label in scores.index.unique("label")
        },
        "n_genes": cells.n_genes,
        "n_train": len(split.train),
    }


def trained_source(name: str, kept: Path | None, options: dict[str, Any]) -> CellEncoder:
    """Train a model of a data set, or read it where it was kept."""
    path = None if kept is None else kept / name
    if path is not None and path.is_dir():
        return CellEncoder.load(path)
    first = load(name, smoke=bool(options)).problem(0)
    settings = SMOKE if options else {}
    settings = {"n_tokens": 512, **ATTENTION_ALONE, **settings}
    model = TxFM(first.cells, SIZE, split=first.split, seed=0, **settings)
    model.train(progress=False, **options)
    if path is not None:
        model.save(path)
    return model.trained


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=list(TRANSFERS), choices=list(TRANSFERS))
    parser.add_argument("--cells", nargs="+", type=int, help="training cells; 0 for all")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="few cells and epochs")
    parser.add_argument("--sources", type=Path, help="folder to keep the sources' models in")
    parser.add_argument("--out", type=Path, default=RESULTS / "txfm_transfer.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    options: dict[str, Any] = {"max_epochs": 2} if args.smoke else {}
    source = cache(lambda name: trained_source(name, args.sources, options))
    done = {(x["set"], x["seed"], x["n_cells"], x["settings"]) for x in read_lines(args.out)}
    for target in args.sets:
        transfer = TRANSFERS[target]
        which = config_hash(
            {
                "size": SIZE,
                "n_genes": N_GENES,
                **options,
                **dataclasses.asdict(transfer),
                "way": WAY,
            }
        )
        loaded = load(target, smoke=args.smoke)
        for n in transfer.cells if args.cells is None else args.cells:
            for seed in args.seeds:
                if (target, seed, n, which) in done:
                    continue
                encoder = source(transfer.source)
                found = run(transfer, loaded.problem(seed), n, encoder, options)
                key = {"set": target, "seed": seed, "n_cells": n, "settings": which}
                append(args.out, key | found)
                for name, s in found["scores"][loaded.what.labels[0]].items():
                    print(
                        f"{target} {seed} {found['n_train']:,} cells {name:<30} "
                        f"kNN {s['knn_accuracy']:.3f} linear {s['linear_accuracy']:.3f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
