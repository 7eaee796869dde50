"""`kernomics prune`: how few genes a model needs, by the rankings of an attribution."""

from __future__ import annotations

import argparse
from typing import Any

from kernomics._warnings import warn
from kernomics.cli import attribute
from kernomics.cli import options as cli_options
from kernomics.cli.evaluate_txfm import noted_warnings
from kernomics.cli.messages import Help
from kernomics.errors import ConfigError


def add_parser(commands: Any) -> None:
    """Add the command."""
    prune = commands.add_parser(
        "prune",
        help="remove genes in the order of an attribution, and score what still works",
        description="Remove more and more genes from a PolyGene's cells, in the order of an "
        "attribution's rankings and of rankings made without a model, and score the predictions on "
        "the run's held-out cells. Writes pruning.csv, results.json, a plot and a report "
        "(report.html).",
        formatter_class=Help,
    )
    prune.add_argument("run_or_model", help="a run directory of a PolyGene, or a saved model")
    cli_options.add_reading(prune, several=True, keep_empty=False, trained=True)
    prune.add_argument(
        "--attribution", required=True, metavar="DIR", help="what kernomics attribute wrote"
    )
    prune.add_argument(
        "--n-cells", type=int, default=300, metavar="N",
        help="how many cells to use at most, half of them case cells if there are enough",
    )  # fmt: skip
    prune.add_argument(
        "--shares", nargs="+", type=float, metavar="SHARE",
        help="shares of the genes to remove, from 0 to below 1 (eight up to 0.997 if not given)",
    )  # fmt: skip
    prune.add_argument(
        "--reversed-too", action=argparse.BooleanOptionalAction, default=True,
        help="also remove the highest scores first",
    )  # fmt: skip
    prune.add_argument(
        "--min-gene-overlap", type=float, default=0.8, metavar="SHARE",
        help="fraction of the model's genes that the data must have",
    )  # fmt: skip
    prune.add_argument(
        "--retrain", nargs="+", type=int, default=[], metavar="N",
        help="also train new models on the top N genes of five rankings; takes as long as that "
        "many trainings",
    )  # fmt: skip
    prune.add_argument("--seed", type=int, default=0, help="decides everything random")
    attribute.add_out(prune)
    prune.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Prune, print the scores, and write them."""
    with noted_warnings() as notes:
        _run(args, notes)


def _run(args: argparse.Namespace, notes: list[str]) -> None:
    from kernomics.attribution.pruning import SHARES
    from kernomics.models import PhenotypeModel
    from kernomics.workflows.attribute import read_attribution, trained_by
    from kernomics.workflows.prune import run_pruning
    from kernomics.workflows.run_cells import load_trained, run_cells

    cli_options.use_threads(args.threads)
    attribute.check_out(args)
    attribution, statistics, results = read_attribution(args.attribution)
    model = load_trained(args.run_or_model, (PhenotypeModel,), "a PolyGene")
    for n in args.retrain:
        if not 1 <= n <= len(model.genes):
            raise ConfigError(
                f"--retrain is {n}: it must be from 1 to {len(model.genes):,}, the model's genes"
            )
    cells = attribute.read(args, model)
    known = run_cells(args.run_or_model, model, cells)
    rows, which = known.part("test", cells.n_cells)
    if known.split is None:
        warn(
            f"it is not known which cells were held out ({known.said}): the model may have been "
            "trained on some of the cells it is scored on"
        )
    elif results.get("part") == "all":
        warn(
            f"the attribution was made on all cells of {results.get('dataset')}: if the held-out "
            "cells are among them, its rankings have seen them"
        )
    elif results.get("trained") != trained_by(model):
        warn(
            f"the attribution is of another model ({results.get('model')}): if that had another "
            "split, its rankings have seen held-out cells of this one"
        )
    print(f"model      {model!r}")
    print(f"cells      {which}")
    for line in cli_options.as_in_training(args, cells):
        print(line)
    result = run_pruning(
        model,
        cells,
        attribution,
        statistics,
        args.out,
        rows=rows,
        which=which,
        source=str(args.run_or_model),
        dataset=cli_options.data_name(args),
        attributed=str(args.attribution),
        split=known.split,
        n_cells=args.n_cells,
        shares=SHARES if args.shares is None else args.shares,
        reversed_too=args.reversed_too,
        min_gene_overlap=args.min_gene_overlap,
        n_genes=args.retrain,
        overwrite=args.overwrite,
        notes=notes,
        seed=args.seed,
        progress=not args.quiet,
    )
    _print(result)


def _print(result: Any) -> None:
    found = result.pruning
    print("pruned on  " + ", ".join(f"{name}: {n:,} cells" for name, n in found.n_cells.items()))
    called, probability = found.empty
    print(f"no genes   a cell without genes is called {called} (probability {probability:.2f})")
    shares = sorted(set(found.table["removed"]))
    areas = found.areas.set_index(["order", "ranking"])["area"]
    for order in dict.fromkeys(found.table["order"]):
        part = found.table[found.table["order"] == order]
        scores = part.pivot(index="ranking", columns="removed", values="balanced_accuracy")
        heads = [*(f"-{100 * share:.3g}%" for share in shares), "area"]
        print(f"balanced   {order:<22}" + "".join(f"{head:>9}" for head in heads))
        for name in dict.fromkeys(part["ranking"]):
            values = [*(scores.at[name, share] for share in shares), areas[order, name]]
            print(f"           {name:<22}" + "".join(f"{value:>9.3f}" for value in values))
    if result.retrained is not None:
        print(f"retrained  {'ranking':<22}{'genes':>9}{'balanced':>10}{'macro-F1':>10}")
        for row in result.retrained.to_dict("records"):
            print(
                f"           {row['ranking']:<22}{row['n_genes']:>9,}"
                f"{row['balanced_accuracy']:>10.3f}{row['macro_f1']:>10.3f}"
            )
    print(f"report     {result.report}")
