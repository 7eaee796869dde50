"""Planted truths: cells simulated so that it is known which genes tell the case from the baseline.

    python -m bench.polygene.planted --kinds additive interaction --seeds 0 1 2 3 4

One JSON line per kind and seed to `--out` (bench/results/systems/attribution-planted.jsonl): how
well held-out cells are called, and for each ranking the average precision of the true genes, their
share of the best n (n true ones), and that of decoys and of markers; and for each kind a line with
how alike the rankings of the seeds are. The genes' parameters are the same for all seeds of a kind;
cells, split, weights and pairs are new in each.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import spearmanr

import kernomics
from kernomics.attribution import attribute, gene_statistics
from kernomics.data.expression import log_expression
from kernomics.metrics import class_scores
from kernomics.models import PolyGene

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "bench" / "results" / "systems" / "attribution-planted.jsonl"
ENGINES = ("deeplift", "grad_x_delta")
SCORES = ("absolute", "effect", "signed_by_change")
ASKED: dict[str, Any] = {"target": "disease", "case": "case", "baseline": "healthy"}
N_MARKERS, N_SWITCHES = 40, 20
DISPERSION = 0.25
USED = 0.02
"""Share of the accuracy that a pair costs, from which the model is said to go by it."""
DISAGREE = 0.1
"""How often a pair of switches does not do what the class says."""


@dataclass(frozen=True)
class Settings:
    """How many cells and genes are simulated, and how the model is trained on them."""

    n_cells: int = 2000
    n_genes: int = 300
    n_true: int = 20
    counts: float = 100.0
    epochs: int = 10
    n_pairs: int = 300
    options: dict[str, Any] = field(default_factory=dict)


# With the default settings no interaction is found within 800 steps (balanced accuracy 0.50):
# these take the cell's own genes to be all there, the target always asked for, and more cells.
PLAINLY: dict[str, Any] = {
    "bins": "binary", "gene_mask_rate": 0.0, "gene_weight": 0.0, "phenotype_mask_rate": 1.0,
    "layer_scale": 1.0,
}  # fmt: skip
KINDS: dict[str, Settings] = {
    "additive": Settings(),
    "confounded": Settings(n_cells=2400),
    "interaction": Settings(n_cells=4000, counts=20.0, epochs=18, options=PLAINLY),
    "decoys": Settings(),
}


def simulate(kind: str, seed: int, settings: Settings) -> AnnData:
    """Draw cells; `var` says of each gene whether it is true, a marker or a decoy.

    Counts are negative binomial around a cell's size times a gene's share. All kinds but the
    interaction have `n_true` genes that the case raises or lowers 1.4 to 2.8 times, in every cell
    type alike.

    confounded
        85 % of the case cells are of cell type A and 85 % of the healthy ones of B; `N_MARKERS`
        other genes differ four times between the types.
    interaction
        Genes that are on or off, each with one chance in two in either class. `n_true` of them come
        in pairs, which agree in the case and disagree in healthy cells (10 % of the time not); the
        others, `N_SWITCHES`, are drawn independently.
    decoys
        Each true gene has a copy whose values are permuted over the cells.
    """
    number = list(KINDS).index(kind)
    genes, cells = np.random.default_rng([number, 2026]), np.random.default_rng([number, 1, seed])
    n, g, n_true = settings.n_cells, settings.n_genes, settings.n_true
    share = genes.lognormal(0.0, 1.0, g)
    share /= share.sum()
    is_case = np.arange(n) % 2 == 0
    factor = np.ones((n, g))
    role = np.full(g, "other", dtype=object)
    usual = np.flatnonzero((share > 0.5 / g) & (share < 5 / g))
    chosen = genes.permutation(usual)
    in_type_a = cells.random(n) < 0.5
    if kind == "interaction":
        _switches(factor, role, share, chosen, is_case, settings, cells)
    else:
        true = chosen[:n_true]
        role[true] = "true"
        fold = 2 ** (genes.uniform(0.5, 1.5, n_true) * np.resize([1, -1], n_true))
        factor[np.ix_(is_case, true)] *= fold
    if kind == "confounded":
        markers = chosen[n_true : n_true + N_MARKERS]
        role[markers] = "marker"
        in_type_a = cells.random(n) < np.where(is_case, 0.85, 0.15)
        fold = 4.0 ** np.resize([0.5, -0.5], N_MARKERS)
        factor[:, markers] *= np.where(in_type_a[:, None], fold, 1 / fold)
    size = settings.counts * cells.lognormal(0.0, 0.3, n)
    mean = size[:, None] * share * factor
    counts = cells.poisson(mean * cells.gamma(1 / DISPERSION, DISPERSION, mean.shape))
    if kind == "decoys":
        true = np.flatnonzero(role == "true")
        decoys = chosen[n_true : 2 * n_true]
        role[decoys] = "decoy"
        for copy, gene in zip(decoys, true, strict=True):
            counts[:, copy] = cells.permutation(counts[:, gene])
    return AnnData(
        sparse.csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame(
            {
                "disease": np.where(is_case, "case", "healthy"),
                "cell_type": np.where(in_type_a, "A", "B"),
            },
            index=[f"cell {i}" for i in range(n)],
        ).astype("category"),
        var=pd.DataFrame({"role": role}, index=[f"gene {i}" for i in range(g)]),
        uns={"pairs": [[f"gene {i}" for i in pair] for pair in chosen[:n_true].reshape(-1, 2)]},
    )


def _switches(
    factor: NDArray[np.float64], role: NDArray[Any], share: NDArray[np.float64],
    chosen: NDArray[np.int64], is_case: NDArray[np.bool_], settings: Settings,
    cells: np.random.Generator,
) -> None:  # fmt: skip
    """Make genes that are on or off, some of them in pairs that tell the case."""
    n, n_true = len(is_case), settings.n_true
    true, others = chosen[:n_true], chosen[n_true : n_true + N_SWITCHES]
    role[true], role[others] = "true", "switch"
    on = cells.random((n, n_true + N_SWITCHES)) < 0.5
    for first in range(0, n_true, 2):
        agree = is_case ^ (cells.random(n) < DISAGREE)
        on[:, first + 1] = np.where(agree, on[:, first], ~on[:, first])
    switches = np.concatenate([true, others])
    share[switches] = 4.0 / settings.counts
    factor[:, switches] = np.where(on, 2.0, 0.02)


def logistic(model: PolyGene) -> float:
    """Return the balanced accuracy of logistic regression on the same cells and genes."""
    from sklearn.linear_model import LogisticRegression

    split, codes = model.split, model.cells.labels[ASKED["target"]].values
    train, test = (log_expression(model.cells.batch(rows)) for rows in (split.train, split.test))
    fitted = LogisticRegression(max_iter=2000).fit(train, codes[split.train])
    return class_scores(codes[split.test], fitted.predict(test))["balanced_accuracy"]


def trained(adata: AnnData, labels: list[str], seed: int, settings: Settings) -> PolyGene:
    """Train with the settings of a kind."""
    model = PolyGene(adata, labels, seed=seed, min_cells=1, **settings.options)
    return model.train(settings.epochs, progress=False)


def run(kind: str, seed: int, settings: Settings) -> tuple[dict[str, Any], dict[str, pd.Series]]:
    """Simulate, train, attribute and score with one seed; return the line and the rankings."""
    adata = simulate(kind, seed, settings)
    keys = ["cell_type"] if kind == "confounded" else []
    begun = time.monotonic()
    model = trained(adata, [ASKED["target"], *keys], seed, settings)
    seconds = {"train": round(time.monotonic() - begun, 1)}
    rankings: dict[str, pd.Series] = {}
    completeness = {}
    for controlled in [keys, []] if keys else [[]]:
        for engine in ENGINES:
            name = f"{engine}, not controlled" if keys and not controlled else engine
            begun = time.monotonic()
            found = attribute(
                model.cells,
                model,
                **ASKED,
                controlled=controlled,
                engine=engine,
                n_pairs=settings.n_pairs,
                seed=seed,
            )
            seconds[name] = round(time.monotonic() - begun, 1)
            rankings |= {f"{name}: {score}": found.table[score] for score in SCORES}
            completeness[name] = found.summary()["completeness"]["median"]
    statistics = gene_statistics(
        model.cells, model.genes, model.cells.labels[ASKED["target"]], ASKED["case"],
        ASKED["baseline"], model.split.train,
        controlled=[model.cells.labels[key] for key in keys], seed=seed,
    )  # fmt: skip
    rankings |= {name: statistics[name] for name in ("|DE|", "DE", "HVG", "random")}
    if keys:
        rankings["|DE within strata|"] = statistics["DE within strata"].abs()
    role = adata.var["role"].reindex(model.genes)
    used = used_pairs(model, adata) if kind == "interaction" else None
    line = {
        "bench": "attribution-planted",
        "version": kernomics.__version__,
        "torch": torch.__version__,
        "kind": kind,
        "seed": seed,
        "settings": asdict(settings),
        "epochs": model.training.max_epochs,
        "cells": {"train": len(model.split.train), "test": len(model.split.test)},
        "genes": role.value_counts().to_dict(),
        "genes_per_cell": float((adata.X > 0).sum() / adata.n_obs),
        "controlled": keys,
        "seconds": seconds,
        "load_average": round(os.getloadavg()[0], 1),
        "balanced_accuracy": model.test_metrics()[ASKED["target"]]["balanced_accuracy"],
        "logistic_regression": logistic(model),
        "n_pairs": len(found.pairs),
        "completeness": completeness,
        "found": {name: scored(values, role, settings.n_true) for name, values in rankings.items()},
    }
    if used is not None:  # the genes of those pairs of switches that the model goes by
        line["accuracy_lost_by_pair"] = used
        of_used = {gene for pair, lost in used.items() if lost >= USED for gene in pair.split(", ")}
        in_use = role.where((role != "true") | role.index.isin(of_used), "unused")
        line["used"] = len(of_used)
        if of_used:
            line["found_of_used"] = {
                name: scored(values, in_use, len(of_used)) for name, values in rankings.items()
            }
    return line, rankings


def used_pairs(model: PolyGene, adata: AnnData) -> dict[str, float]:
    """Return what accuracy each pair of switches costs when it is permuted over held-out cells."""
    test = adata[model.split.test].copy()
    whole = model.evaluate(test)[ASKED["target"]]["balanced_accuracy"]
    counts, lost = test.X.toarray(), {}
    for pair in adata.uns["pairs"]:
        columns = [adata.var_names.get_loc(gene) for gene in pair]
        other = counts.copy()
        other[:, columns] = counts[np.random.default_rng(0).permutation(len(counts))][:, columns]
        test.X = sparse.csr_matrix(other)
        less = model.evaluate(test)[ASKED["target"]]["balanced_accuracy"]
        lost[", ".join(pair)] = whole - less
    return lost


def scored(values: pd.Series, role: pd.Series, n: int) -> dict[str, Any]:
    """Say how early the true genes come, and what else is among the best n."""
    order = np.argsort(-values.to_numpy(), kind="stable")
    roles = role.to_numpy()[order]
    hits = roles == "true"
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    best = roles[:n]
    return {
        "average_precision": float(precision[hits].mean()),
        "recall": float((best == "true").mean()),
        "decoys": float((best == "decoy").mean()),
        "markers": float((best == "marker").mean()),
        "best": values.index[order[:n]].tolist(),
    }


def stability(
    kind: str, seeds: list[int], rankings: list[dict[str, pd.Series]], n: int
) -> dict[str, Any]:
    """Return how alike the rankings of any two seeds are: Spearman's ρ, shared of the best n."""
    found = {}
    for name in rankings[0]:
        table = pd.DataFrame({i: one[name] for i, one in enumerate(rankings)}).dropna()
        best = [set(table[i].nlargest(n).index) for i in table]
        pairs = list(combinations(range(len(rankings)), 2))
        found[name] = {
            "spearman": float(np.mean([spearmanr(table[a], table[b])[0] for a, b in pairs])),
            "shared": float(np.mean([len(best[a] & best[b]) / n for a, b in pairs])),
        }
    return {
        "bench": "attribution-planted-stability",
        "version": kernomics.__version__,
        "kind": kind,
        "seeds": seeds,
        "stability": found,
    }


def main() -> None:
    """Run kinds and seeds, and append their lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--n-cells", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    for kind in args.kinds:
        given = {"n_cells": args.n_cells, "epochs": args.epochs}
        settings = replace(KINDS[kind], **{k: v for k, v in given.items() if v is not None})
        found = []
        for seed in args.seeds:
            line, rankings = run(kind, seed, settings)
            found.append(rankings)
            _append(args.out, line)
            shown = {k: round(v["average_precision"], 2) for k, v in line["found"].items()}
            print(kind, seed, line["seconds"], round(line["balanced_accuracy"], 3),
                  round(line["logistic_regression"], 3), shown, flush=True)  # fmt: skip
        if len(found) > 1:
            _append(args.out, stability(kind, args.seeds, found, settings.n_true))


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
