"""Which perturbed cells a TxFM should learn from: all, those with an effect, or controls alone.

As the paper asks (arXiv 2605.31562), on two screens. The cells with one known perturbation are
split 70/30 within each. A model (XXS, its defaults) learns from all training cells; from controls;
from controls and phenoprints, the perturbations with p < 0.1 under the model of all training
cells; and from as many random training cells as either has. All take the default 100 epochs, so
what has as many cells takes as many steps. Scored is the share of perturbations whose held-out
cells agree (p < 0.01 against random groups of cells, each batch standardised by its controls),
beside a PCA of the same training cells. Nothing is chosen by held-out cells. One line per screen
and seed goes to bench/results/systems/txfm_curation.jsonl; what is there already is not run again.

    python -m bench.txfm.curation
    python -m bench.txfm.curation --sets papalexi --seeds 0
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import anndata
import numpy as np
import torch
from numpy.typing import NDArray

from bench.records import paired, read_lines
from bench.sets import data_folder
from bench.table import NOTHING, grid
from bench.txfm.runs import EPOCHS, RESULTS, SIZE, append
from kernomics.baselines.representations import baseline_representations
from kernomics.data import CellCollection, Split, make_split
from kernomics.evaluation.perturbations import evaluate_perturbations
from kernomics.metrics.perturbation import Null
from kernomics.models import TxFM
from kernomics.pp import select_phenoprints
from kernomics.train import config_hash

SEEDS = (0, 1, 2)
CONTROL, KEY = "non-targeting", "perturbation"
PARTS = (0.7, 0.0, 0.3)
PHENOPRINT_P, THRESHOLD = 0.1, 0.01
SCORED_BY: Null = "groups"
SMOKE_CELLS = 1_200


@dataclasses.dataclass(frozen=True)
class Screen:
    """A data set of perturbed cells.

    Attributes
    ----------
    title
        For the table.
    file
        Name of the ``.h5ad`` file.
    batch
        obs column of batches, each with its own controls.
    unknown
        What `KEY` says of cells without one known perturbation, which are left out.
    """

    title: str
    file: str
    batch: str | None = None
    unknown: tuple[str, ...] = ()


SCREENS = {
    "papalexi": Screen("Papalexi, THP-1", "papalexi_eccite_thp1_299g", "bio_rep"),
    "gasperini": Screen(
        "Gasperini, K562", "k562_gasperini_highmoi_366g", unknown=("none", "multi")
    ),
}

MODELS = ("TxFM", "PCA")
ALL, CONTROLS, PHENOPRINTS = "all", "controls", "controls and phenoprints"
AS_MANY = {CONTROLS: "random, as many as controls", PHENOPRINTS: "random, as many as those"}
"""The random sample that each choice stands beside."""


def load(name: str, *, smoke: bool = False) -> anndata.AnnData:
    """Read the cells of a screen that have one known perturbation."""
    screen = SCREENS[name]
    path = data_folder() / f"{screen.file}.h5ad"
    if not path.is_file():
        raise SystemExit(f"no cells at {path}; set KERNOMICS_DATA to the folder of real cells")
    cells = anndata.read_h5ad(path)
    cells = cells[~cells.obs[KEY].isin(screen.unknown).to_numpy()]
    if smoke:
        commonest = cells.obs[KEY].value_counts().index[:4]
        cells = cells[cells.obs[KEY].isin([CONTROL, *commonest]).to_numpy()][:SMOKE_CELLS]
    cells = cells.copy()
    cells.obs[KEY] = cells.obs[KEY].astype(str)
    return cells


def chosen_rows(
    split: Split, perturbations: NDArray[Any], phenoprints: Sequence[str], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Return the training cells of each choice but all of them.

    Controls; controls and phenoprints, where these are some of the perturbations and not all; and
    for each a random sample of the training cells, of as many.
    """
    given = perturbations[split.train]
    found = {CONTROLS: split.train[given == CONTROL]}
    with_effect = split.train[np.isin(given, [CONTROL, *phenoprints])]
    if len(found[CONTROLS]) < len(with_effect) < len(split.train):
        found[PHENOPRINTS] = with_effect
    rng = np.random.default_rng(seed)
    for choice in list(found):
        drawn = rng.choice(split.train, len(found[choice]), replace=False)
        found[AS_MANY[choice]] = np.sort(drawn)
    return found


def run(name: str, adata: anndata.AnnData, seed: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Train on each choice of the training cells, and score the held-out cells."""
    screen = SCREENS[name]
    cells = CellCollection.from_anndata(adata)
    perturbations = adata.obs[KEY].to_numpy()
    split = make_split(
        cells.n_cells, how="stratified", fractions=PARTS, labels=perturbations, seed=seed
    )
    held_out: dict[str, NDArray[Any]] = {}
    by_choice: dict[str, dict[str, Any]] = {}

    def learn(choice: str, rows: NDArray[np.int64]) -> TxFM:
        own = dataclasses.replace(split, train=rows)
        begun = time.process_time()
        model = TxFM(cells, SIZE, split=own, seed=seed).train(progress=False, **options)
        seconds = time.process_time() - begun
        held_out[f"{choice}: TxFM"] = model.trained.get_latent_representation(
            cells, rows=split.test
        )
        width = model.config.d_model
        held_out[f"{choice}: PCA"] = baseline_representations(cells, own, width, seed)["PCA"][1]
        by_choice[choice] = {"n_train": len(rows), "seconds": round(seconds, 1)}
        return model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        earlier = learn(ALL, split.train)
        found = select_phenoprints(
            adata[split.train],
            earlier.trained.get_latent_representation(cells, rows=split.train),
            perturbation_key=KEY, control=CONTROL, batch_key=screen.batch, p=PHENOPRINT_P,
            null=SCORED_BY, seed=seed,
        )  # fmt: skip
        for choice, rows in chosen_rows(split, perturbations, found.kept, seed).items():
            learn(choice, rows)
        for null in ("groups", "cells"):
            scores = evaluate_perturbations(
                adata[split.test].copy(), representations=held_out, perturbation_key=KEY,
                control=CONTROL, batch_key=screen.batch, alignments=("standardise",), null=null,
                threshold=THRESHOLD, n_reconstructed=100, seed=seed,
            )  # fmt: skip
            for choice, by in by_choice.items():
                for model in MODELS:
                    table = scores.consistencies[f"{choice}: {model}"].table
                    by.setdefault(model, {})[null] = {
                        "share": round(float(table["consistent"].mean()), 4),
                        "statistic": round(float(table["statistic"].mean()), 5),
                        "consistent": table.index[table["consistent"]].tolist(),
                    }
    return {
        "choices": by_choice,
        "phenoprints": found.kept,
        "n_perturbations": scores.n_perturbations,
        "n_test": len(split.test),
    }


MEASURES = {"share": "share", "mean cosine": "statistic"}
"""Of consistent perturbations; and the statistic that is tested, in the mean over all of them."""


def value(line: Mapping[str, Any], choice: str, model: str, measure: str) -> float:
    """Read a measure off a line."""
    return float(line["choices"][choice][model][SCORED_BY][measure])


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table: each choice of training cells, and minus as many at random."""
    last = {line["set"]: line["settings"] for line in lines}
    rows: list[list[str]] = []
    for name, settings in last.items():
        runs = {x["seed"]: x for x in lines if x["set"] == name and x["settings"] == settings}
        rows += _rows_of(name, runs)
    measures = [f"{model}, {title}" for title in MEASURES for model in MODELS]
    return grid(["screen", "training cells", "number", *measures], rows) if rows else NOTHING


def _rows_of(name: str, runs: Mapping[int, Mapping[str, Any]]) -> Iterator[list[str]]:
    one = next(iter(runs.values()))
    several = "s" * (len(runs) > 1)
    screen = f"{SCREENS[name].title} ({one['n_perturbations']} perturbations, {len(runs)} seed"
    screen += f"{several})"
    for choice in (ALL, PHENOPRINTS, AS_MANY[PHENOPRINTS], CONTROLS, AS_MANY[CONTROLS]):
        has = {seed: x for seed, x in runs.items() if choice in x["choices"]}
        if not has:
            continue
        texts = []
        for measure in MEASURES.values():
            for model in MODELS:
                found = {seed: value(x, choice, model, measure) for seed, x in has.items()}
                text = _mean(list(found.values()))
                if choice in AS_MANY:
                    other = {s: value(x, AS_MANY[choice], model, measure) for s, x in has.items()}
                    text += f" ({paired(found, other)})"
                texts.append(text)
        size = mean(x["choices"][choice]["n_train"] for x in has.values())
        yield [screen, choice, f"{size:,.0f}", *texts]
        screen = ""


def _mean(values: Sequence[float]) -> str:
    error = f" ± {stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{error}"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=list(SCREENS), choices=list(SCREENS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="few cells and epochs")
    parser.add_argument("--out", type=Path, default=RESULTS / "txfm_curation.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    options = {"max_epochs": 2 if args.smoke else EPOCHS}
    done = {(x["set"], x["seed"], x["settings"]) for x in read_lines(args.out)}
    sets = {name: load(name, smoke=args.smoke) for name in args.sets}
    for seed in args.seeds:
        for name, adata in sets.items():
            which = config_hash({
                "size": SIZE, **options, **dataclasses.asdict(SCREENS[name]), "parts": PARTS,
                "p": PHENOPRINT_P, "threshold": THRESHOLD, "null": SCORED_BY,
            })  # fmt: skip
            if (name, seed, which) in done:
                continue
            found = run(name, adata, seed, options)
            append(args.out, {"set": name, "seed": seed, "settings": which, **found})
            for choice, by in found["choices"].items():
                print(f"{name} {seed} {choice}: {by['n_train']:,} cells", by["seconds"], flush=True)


if __name__ == "__main__":
    main()
