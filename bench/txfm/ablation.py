"""The ablations of TxFM's paper (arXiv 2605.31562, Table 5) on real cells, one change at a time.

Small enough for a laptop: 1,000 genes of zheng_pbmc_facs, a quarter of them revealed, as of the
paper's set of 8,248 genes; other K keep the paper's ratio to it. One line per run goes to
bench/results/systems/txfm_ablation.jsonl; what is there already is not run again.

    python -m bench.txfm.ablation                           every change, three seeds
    python -m bench.txfm.ablation --only MSE --seeds 100
    python -m bench.txfm.ablation --table                   print the table for the docs
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from scipy.stats import spearmanr

from bench.records import read_lines
from bench.sets import load
from bench.table import NOTHING, grid
from bench.txfm.runs import ATTENTION_ALONE, RESULTS, append, identity, run

DATA, SEEDS = "zheng", (100, 101, 102)
K, EPOCHS = 250, 40

ABLATIONS: dict[str, tuple[dict[str, Any], tuple[float | None, float | None, float | None]]] = {
    "default": ({}, (37.3, 32.6, 43.9)),
    "MSE": ({"loss": "mse"}, (27.2, 31.1, 41.8)),
    "SmoothL1": ({"loss": "smooth_l1"}, (23.4, 23.2, 38.1)),
    "negative binomial": ({"loss": "negative_binomial"}, (33.9, 29.4, 41.2)),
    "ZINB": ({"loss": "zinb"}, (None, None, None)),
    "counts not normalised": ({"normalise": False}, (27.9, 25.7, 42.2)),
    "K a quarter": ({"n_tokens": K // 4}, (31.9, 26.8, 40.2)),
    "K half": ({"n_tokens": K // 2}, (35.2, 31.9, 44.3)),
    "K double": ({"n_tokens": K * 2}, (35.6, 25.3, 42.8)),
    "masking τ = −1": ({"masking_power": -1.0}, (31.3, None, None)),
    "masking τ = −0.5": ({"masking_power": -0.5}, (34.4, None, None)),
    "masking τ = 0.5": ({"masking_power": 0.5}, (37.6, None, None)),
    "masking τ = 1": ({"masking_power": 1.0}, (36.4, None, None)),
    "linear decoder": ({"decoder_layers": 0}, (36.5, 32.3, 43.6)),
    "decoder of 1 layer": ({"decoder_layers": 1}, (36.0, None, None)),
    "decoder of 8 layers": ({"decoder_layers": 8}, (36.5, None, None)),
    "ReLU": ({"activation": "relu"}, (34.4, None, None)),
    "clamped ReLU": ({"activation": "clamped_relu"}, (34.6, 32.4, 44.3)),
    "softmax": ({"activation": "softmax"}, (27.6, 16.2, 15.3)),
    "half the width": ({"d_model": 32}, (33.2, 29.2, 43.9)),
    "twice the width": ({"d_model": 128}, (37.2, 28.2, 43.1)),
    "two blocks": ({"n_layers": 2}, (None, None, None)),
    "genes start at random": ({"gene_start": "random"}, (None, None, None)),
}
"""Settings by name, and the paper's perturbation consistency, recall of encoder tokens and of
decoder weights, in %, for B; the widths stand beside its S and L."""

Measure = tuple[str, str, str]
MEASURES: dict[str, Measure] = {
    "kNN accuracy": ("scores", "TxFM", "knn_accuracy"),
    "linear accuracy": ("scores", "TxFM", "linear_accuracy"),
    "recall, encoder": ("recall", "TxFM encoder tokens", ""),
    "recall, decoder": ("recall", "TxFM decoder weights", ""),
}


def value(line: Mapping[str, Any], measure: Measure) -> float:
    """Read a measure off a run's line; recall with the number of components that is there."""
    kind, name, column = measure
    if kind == "scores":
        return float(line["scores"]["cell_type"][name][column])
    return next(float(v) for key, v in line["recall"].items() if key.startswith(name))


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table: mean and difference from the default, beside the paper's figures.

    Below it, how alike our order of the changes and the paper's are.
    """
    runs: dict[str, dict[int, Mapping[str, Any]]] = {}
    for x in lines:
        if x["settings"] == identity(*settings_of(x["ablation"])):
            runs.setdefault(x["ablation"], {})[x["seed"]] = x
    if "default" not in runs:
        return NOTHING
    rows = []
    for name in (name for name in ABLATIONS if name in runs):
        cells = [name]
        for measure in MEASURES.values():
            found = {seed: value(x, measure) for seed, x in runs[name].items()}
            text = f"{mean(found.values()):.3f}"
            if name != "default":
                gaps = [v - value(runs["default"][s], measure) for s, v in found.items()]
                error = f" ± {stdev(gaps) / len(gaps) ** 0.5:.3f}" if len(gaps) > 1 else ""
                text += f" ({mean(gaps):+.3f}{error})".replace("-", "−")
            cells.append(text)
        paper = " / ".join("–" if x is None else f"{x:.1f}" for x in ABLATIONS[name][1])
        rows.append([*cells, str(len(runs[name])), paper])
    head = ["change", *MEASURES, "runs", "paper: consistency / encoder / decoder"]
    return f"{grid(head, rows)}\n\n{_order(runs)}"


def _order(runs: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> str:
    """Return Spearman's correlation of our figures with the paper's, over the changes with both."""
    said = []
    pairs = {"kNN accuracy": 0, "linear accuracy": 0, "recall, encoder": 1, "recall, decoder": 2}
    for name, place in pairs.items():
        both = [
            (mean(value(x, MEASURES[name]) for x in by.values()), ABLATIONS[change][1][place])
            for change, by in runs.items()
            if ABLATIONS[change][1][place] is not None
        ]
        if len(both) > 2 and len({ours for ours, _ in both}) > 1:
            found = spearmanr(*zip(*both, strict=True))
            what = ("consistency", "recall, encoder", "recall, decoder")[place]
            said.append(
                f"- {name} and the paper's {what}: ρ = {found.statistic:.2f}, p = "
                f"{found.pvalue:.3f}, {len(both)} settings".replace("= -", "= −")
            )
    title = "Rank correlation of the settings here and in the paper:"
    return "\n".join([title, "", *said]) if said else ""


def settings_of(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of an ablation and of its training."""
    return {"n_tokens": K, **ABLATIONS[name][0]}, {"max_epochs": EPOCHS}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(ABLATIONS), choices=list(ABLATIONS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "txfm_ablation.jsonl")
    args = parser.parse_args()
    if args.table:
        print(table(read_lines(args.out)))
        return
    torch.set_num_threads(args.threads)
    done = {(x["ablation"], x["seed"], x["settings"]) for x in read_lines(args.out)}
    loaded = load(DATA)
    for seed in args.seeds:
        for name in args.only:
            settings, training = settings_of(name)
            which = identity(settings, training)
            if (name, seed, which) in done:
                continue
            found = run(loaded.problem(seed), {**ATTENTION_ALONE, **settings}, training)
            append(args.out, {"ablation": name, "seed": seed, "settings": which, **found})
            shown = {m: round(value(found, measure), 3) for m, measure in MEASURES.items()}
            print(name, seed, shown, found["seconds"], flush=True)


if __name__ == "__main__":
    main()
