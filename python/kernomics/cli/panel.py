"""Commands that answer questions about a panel that is there already."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernomics._version import __version__
from kernomics.cli import options as cli_options
from kernomics.cli.messages import Help
from kernomics.errors import ConfigError, DataError

if TYPE_CHECKING:
    from kernomics.data import CellCollection, Split
    from kernomics.evaluation.panels import PanelEvaluation, Redundancy

HEADS = {
    "accuracy": "accuracy", "macro_f1": "macro-F1", "auprc": "AUPRC",
    "r2": "R²", "mae": "MAE", "pearson": "Pearson",
}  # fmt: skip
EVALUATION = "evaluation.json"


def add_parser(commands: Any) -> None:
    """Add ``kernomics panel`` to the subcommands."""
    panel = commands.add_parser(
        "panel",
        help="score a gene list: how well it predicts labels, and which genes are redundant",
        description="Score any list of genes. A logistic (or ridge) regression on these genes "
        "is trained on 70% of the cells and scored on 20%, overall and per class. "
        "Interchangeable genes are grouped, and for each gene the best substitutes outside the "
        "list are shown.",
        formatter_class=Help,
    )
    panel.add_argument(
        "--genes", nargs="+", required=True, metavar="GENE",
        help="the genes, or a file of them: one name per line (.txt), or a table (.csv, .tsv) "
        "whose column 'gene', else the first, is read, such as the panel.csv of a run",
    )  # fmt: skip
    cli_options.add_labels(panel)
    cli_options.add_split(panel, "to train and score the regression")
    panel.add_argument(
        "--allow-missing", action="store_true",
        help="continue without genes that are missing from the data; they are listed",
    )  # fmt: skip
    panel.add_argument(
        "--random", type=int, default=0, metavar="N",
        help="also score this many random panels of the same size",
    )  # fmt: skip
    panel.add_argument(
        "--threshold", type=float, default=0.7, metavar="R",
        help="correlation above which two genes count as interchangeable",
    )  # fmt: skip
    panel.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of the split and the random panels (0 if not given)",
    )
    panel.add_argument(
        "--out", metavar="DIR", help=f"write {EVALUATION} and tables (.csv) to this directory"
    )
    panel.add_argument("--overwrite", action="store_true", help="replace the evaluation in --out")
    panel.add_argument("--json", action="store_true", help="print the evaluation as JSON")
    cli_options.add_reading(panel)
    panel.set_defaults(run=run)


def read_gene_list(given: Sequence[str]) -> list[str]:
    """Read genes given by name, or the one file that lists them."""
    from kernomics.data.gene_lists import TABLES, read_genes

    path = Path(given[0])
    found = path.is_file() or path.is_fifo()  # a shell's <(…) is a pipe
    if len(given) > 1 or not (path.suffix.lower() in (".txt", *TABLES) or found):
        return list(given)
    if not found:
        raise DataError(f"there is no gene list {path}")
    genes = read_genes(path)
    if not genes:
        raise DataError(f"{path} lists no genes; write one name per line")
    return genes


def run(args: argparse.Namespace) -> None:
    """Score a list of genes."""
    from kernomics.evaluation.panels import evaluate_panel, redundancy
    from kernomics.models.base import split_cells

    genes = read_gene_list(args.genes)
    out = None if args.out is None else Path(args.out)
    if out is not None and (out / EVALUATION).exists() and not args.overwrite:
        raise ConfigError(
            f"{out} already holds an evaluation; choose another --out, or replace it with "
            "--overwrite"
        )
    cells = cli_options.read_cells(args, **cli_options.labels_of(args))
    split = split_cells(cells, args.split, args.split_key, (0.7, 0.1, 0.2), args.seed)
    found = evaluate_panel(
        cells, genes, split,
        n_random=args.random, seed=args.seed, allow_missing=args.allow_missing,
    )  # fmt: skip
    same = redundancy(cells, found.genes, split.train, threshold=args.threshold)
    result = _as_json(found, same, split, args.threshold)
    if args.json:
        cli_options.print_json(result)
    else:
        _print_panel(cells, cli_options.data_name(args), split, found, same, args)
    if out is not None:
        _write(out, result, found, same)
        if not args.json:
            print(f"written    {out}")


def _as_json(
    found: PanelEvaluation, same: Redundancy, split: Split, threshold: float
) -> dict[str, Any]:
    return {
        "genes": found.genes,
        "missing": found.missing,
        "split": {"how": split.how, "by": split.by, "seed": split.seed},
        "n_train": found.n_train,
        "n_test": found.n_test,
        "scores": found.scores,
        "per_class": _tables(found.per_class),
        "random": _tables(found.random),
        "redundancy": {
            "threshold": threshold,
            "groups": same.groups,
            "substitutes": same.substitutes.to_dict("records"),
        },
        "version": __version__,
    }


def _tables(tables: Mapping[str, Any]) -> dict[str, Any]:
    return {name: table.to_dict("index") for name, table in tables.items()}


def _write(out: Path, result: dict[str, Any], found: PanelEvaluation, same: Redundancy) -> None:
    from kernomics.train import replace_file, write_json

    out.mkdir(parents=True, exist_ok=True)
    texts = {
        "correlation": same.correlation.to_csv(float_format="%.6g"),
        "substitutes": same.substitutes.to_csv(index=False, float_format="%.6g"),
    }
    for name, table in found.per_class.items():
        plain = re.sub(r"[^\w.-]+", "-", name)
        texts[f"per_class-{plain}"] = table.to_csv(float_format="%.6g")
    for name, text in texts.items():
        replace_file(out / f"{name}.csv", text.encode())
    write_json(out / EVALUATION, result)


# -- what is printed -------------------------------------------------------------------------------


def _print_panel(
    cells: CellCollection,
    data: str,
    split: Split,
    found: PanelEvaluation,
    same: Redundancy,
    args: argparse.Namespace,
) -> None:
    from kernomics.data.gene_columns import describe_missing

    print(f"cells      {cells.n_cells:,}   genes {cells.n_genes:,}   {data}")
    print(
        f"split      {split.how}{f' by {split.by}' if split.by else ''}: {found.n_train:,} to "
        f"train, {found.n_test:,} held out"
    )
    for label_name, one in cells.labels.items():
        print(f"label      {label_name}: {one.description}")
    print(f"panel      {len(found.genes)} genes: {', '.join(found.genes)}")
    if found.missing:
        asked = len(found.genes) + len(found.missing)
        known = set(cells.genes.tolist())
        partly = [gene for gene in found.missing if gene in known]
        missing = [gene for gene in found.missing if gene not in known]
        if missing:
            print(
                f"missing    {len(missing)} of {asked} genes are not in the data: "
                f"{describe_missing(missing, cells.genes, cells.var)}"
            )
        if partly:
            print(
                f"left out   {len(partly)} of {asked} genes are not measured in every cell: "
                f"{', '.join(map(repr, partly))}"
            )
    for label, scores in found.scores.items():
        judge = "logistic" if label in found.per_class else "ridge"
        print(f"held out   {label:<34}" + "".join(f"{HEADS[key]:>10}" for key in scores))
        _print_row(f"the panel, {judge} regression", scores.values())
        if label in found.random:
            table = found.random[label]
            _print_row(f"random, {judge} regression, mean", table["mean"])
            _print_row(f"standard deviation of {args.random} panels", table["sd"])
    for label, table in found.per_class.items():
        print(f"classes    {label:<34}{'F1':>10}{'train':>10}{'held out':>10}")
        for name, row in table.iterrows():
            f1 = "" if row["f1"] != row["f1"] else f"{row['f1']:.3f}"
            print(f"           {name:<34}{f1:>10}{row['n_train']:>10,.0f}{row['n_test']:>10,.0f}")
    groups = f"{len(same.groups)} group{'' if len(same.groups) == 1 else 's'}"
    print(
        f"redundant  {groups} of interchangeable genes, |correlation| ≥ {args.threshold:g} on "
        "the training cells"
    )
    for group in same.groups:
        print(f"           {', '.join(group)}")
    if len(same.substitutes):
        print("instead    the most correlated genes outside the list")
    for gene, rows in same.substitutes.groupby("gene", sort=False):
        near = "   ".join(
            f"{name} {r:+.2f}"
            for name, r in zip(rows["substitute"], rows["correlation"], strict=True)
        )
        print(f"           {gene:<14} {near}")


def _print_row(name: str, values: Any) -> None:
    print(f"           {name:<34}" + "".join(f"{value:>10.3f}" for value in values))
