"""`kernomics attribute`: which genes make a model call a cell one thing and not another."""

from __future__ import annotations

import argparse
from typing import Any

from kernomics.cli import options as cli_options
from kernomics.cli.evaluate_txfm import noted_warnings
from kernomics.cli.messages import Help

TOP = 15
SHOWN = ("absolute", "signed_by_change", "effect", "forward", "backward", "importance")


def add_parser(commands: Any) -> None:
    """Add the command."""
    attribute = commands.add_parser(
        "attribute",
        help="score genes by how much they move a model's output",
        description="Pair case cells with baseline cells, and score each gene by how much it moves "
        "the model's output for the case from the one cell to the other. Of the data that the run "
        "was trained on, only the training cells are used. Writes attribution.csv, by_group.csv, "
        "gene_statistics.csv, top_genes.csv, results.json, plots and a report (report.html). "
        "Started by torchrun or srun, all processes share the pairs; the first one does the rest.",
        formatter_class=Help,
    )
    attribute.add_argument(
        "run_or_model", help="a run directory of a PolyGene (or YOTO), or a saved model"
    )
    cli_options.add_reading(attribute, several=True, keep_empty=False, trained=True)
    compared = attribute.add_argument_group("what is compared")
    compared.add_argument(
        "--target", required=True, metavar="COLUMN", help="obs column that the model predicts"
    )
    compared.add_argument("--case", required=True, metavar="VALUE", help="value to explain")
    compared.add_argument(
        "--baseline", required=True, metavar="VALUE", help="value to compare with"
    )
    compared.add_argument(
        "--controlled", nargs="+", default=[], metavar="COLUMN",
        help="obs column(s) in which the two cells of a pair must agree",
    )  # fmt: skip
    numbers = compared.add_mutually_exclusive_group()
    numbers.add_argument(
        "--n-pairs", type=int, metavar="N",
        help="number of pairs (one for each case cell with a partner if not given)",
    )  # fmt: skip
    numbers.add_argument(
        "--n-baselines", type=int, metavar="N", help="number of baseline cells for each case cell"
    )
    compared.add_argument(
        "--all-cells", action="store_true", help="use all cells, not only those trained on"
    )
    how = attribute.add_argument_group("how")
    how.add_argument(
        "--engine", default="grad_x_delta",
        choices=("grad_x_delta", "deeplift", "integrated_gradients"),
        help="grad_x_delta is what the paper's figures show; the scores of deeplift add up to the "
        "difference in output, and those of integrated_gradients nearly do",
    )  # fmt: skip
    how.add_argument(
        "--contrast", default="pairs", choices=("pairs", "empty"),
        help="compare each cell with its partner, or with a cell without genes",
    )  # fmt: skip
    how.add_argument(
        "--output", default="logits", choices=("logits", "probabilities"), help="what is attributed"
    )
    how.add_argument(
        "--normalise", action=argparse.BooleanOptionalAction, default=False,
        help="divide each pair's scores by their L2 norm, as in the paper",
    )  # fmt: skip
    how.add_argument(
        "--n-tokens", type=int, metavar="K",
        help="how many of a cell's genes a PolyGene is shown at most (all if not given)",
    )  # fmt: skip
    how.add_argument(
        "--min-gene-overlap", type=float, default=0.8, metavar="SHARE",
        help="fraction of the model's genes that the data must have",
    )  # fmt: skip
    attribute.add_argument(
        "--truth", metavar="GMT", help="file of gene sets, to score how well rankings recall them"
    )
    attribute.add_argument("--seed", type=int, default=0, help="decides everything random")
    add_out(attribute)
    attribute.set_defaults(run=run)


def add_out(command: argparse.ArgumentParser) -> None:
    """Add where the results go, and what the command shows."""
    command.add_argument("--out", required=True, metavar="DIR", help="where the results go")
    command.add_argument(
        "--overwrite", action="store_true", help="delete the results in --out first"
    )
    command.add_argument("--threads", type=int, metavar="N", help="CPU threads (all if not given)")
    command.add_argument("--quiet", action="store_true", help="no progress bar")


def check_out(args: argparse.Namespace) -> None:
    """Refuse an output directory that cannot be used, before anything is read."""
    from pathlib import Path

    from kernomics.train.rundir import refuse_foreign, refuse_held

    refuse_foreign(Path(args.out))
    if not args.overwrite:
        refuse_held(Path(args.out))


def read(args: argparse.Namespace, model: Any) -> Any:
    """Read the data for a model, one file or several."""
    paths = cli_options.data_paths(args)
    if len(paths) == 1:
        return model.read(paths[0], **cli_options.reading(args))
    return model.read(cli_options.read_cells(args, model=model))


def run(args: argparse.Namespace) -> None:
    """Attribute, print what stands out, and write the rest."""
    with noted_warnings() as notes:
        _run(args, notes)


def _run(args: argparse.Namespace, notes: list[str]) -> None:
    import numpy as np

    from kernomics.attribution import read_gene_sets
    from kernomics.models import Panel, PhenotypeModel
    from kernomics.workflows.attribute import run_attribution
    from kernomics.workflows.run_cells import load_trained, run_cells

    cli_options.use_threads(args.threads)
    check_out(args)
    if args.truth is not None:
        read_gene_sets(args.truth)  # what is wrong with it is told before the data are read
    model = load_trained(args.run_or_model, (PhenotypeModel, Panel), "a PolyGene or a panel (YOTO)")
    cells = read(args, model)
    if args.all_cells:
        rows, part = np.arange(cells.n_cells), "all"
        which = f"all {cells.n_cells:,} cells, as asked for"
    else:
        known = run_cells(args.run_or_model, model, cells)
        rows, which = known.part("train", cells.n_cells)
        part = "all" if known.split is None else "train"
    print(f"model      {model!r}")
    print(f"cells      {which}")
    for line in cli_options.as_in_training(args, cells):
        print(line)
    dataset = cli_options.data_name(args)
    result = run_attribution(
        model,
        cells,
        args.out,
        rows=rows,
        which=which,
        part=part,
        source=str(args.run_or_model),
        dataset=dataset,
        target=args.target,
        case=args.case,
        baseline=args.baseline,
        controlled=args.controlled,
        truth=args.truth,
        overwrite=args.overwrite,
        notes=notes,
        seed=args.seed,
        progress=not args.quiet,
        n_pairs=args.n_pairs,
        n_baselines=args.n_baselines,
        engine=args.engine,
        contrast=args.contrast,
        output=args.output,
        normalise=args.normalise,
        n_tokens=args.n_tokens,
        min_gene_overlap=args.min_gene_overlap,
    )
    _print(result)


def _print(result: Any) -> None:
    found = result.attribution
    summary = found.summary()
    cells = summary["n_cells"]
    print(
        f"pairs      {len(found.pairs):,} of {cells['case']:,} case and {cells['baseline']:,} "
        f"baseline cells, in {len(found.pairs.groups):,} "
        f"group{'s' * (len(found.pairs.groups) != 1)}"
    )
    for why, n in summary["left_out"].items():
        print(f"left out   {n:,} cells: {why}")
    off = ", ".join(f"{name} {value:.3g}" for name, value in summary["completeness"].items())
    print(f"residual   of the difference in output, not explained: {off}")
    zeros = ", ".join(f"{name} {found.zeros[name]:.0%}" for name in ("forward", "backward",
                                                                     "importance"))  # fmt: skip
    print(f"zeros      share of a pair's genes that score 0: {zeros}")
    top = found.top(TOP)
    print(f"top {len(top):<6} {'gene':<20}" + "".join(f"{name:>17}" for name in SHOWN))
    for gene, row in top.iterrows():
        print(f"           {gene!s:<20}" + "".join(f"{row[name]:>17.3g}" for name in SHOWN))
    if result.recall is not None:
        print_recall(result.recall)
    print(f"report     {result.report}")


def print_recall(recall: Any) -> None:
    """Print how well each ranking recalls each gene set."""
    column = next(name for name in recall if name.startswith("in_top_"))
    n = int(column.removeprefix("in_top_"))
    for name, part in recall.groupby("set", sort=False):
        first = part.iloc[0]
        said = f"{int(first['genes']):,} genes, chance {first['by_chance']:.3f}"
        print(f"truth      {name}")
        print(f"           {said:<44}{'average precision':>18}{f'precision at {n}':>18}")
        for row in part.to_dict("records"):
            hits = f"{row[column] / n:.3f} ({row[column]})"
            print(f"           {row['ranking']:<44}{row['average_precision']:>18.3f}{hits:>18}")
