"""Options on which genes a panel may hold and what its labels weigh, and what became of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernomics.cli.options import pairs_of, reading
from kernomics.errors import ConfigError

if TYPE_CHECKING:
    from kernomics.models import YOTO


def task_weights(args: argparse.Namespace) -> dict[str, float]:
    """Return the weights that the option names."""
    form, found = "LABEL=WEIGHT, such as disease=3", {}
    for name, weight in pairs_of(args, "task_weights", form).items():
        try:
            found[name] = float(weight)
        except ValueError:
            raise ConfigError(f"--task-weights '{name}={weight}': write {form}") from None
    return found


def add_constraints(command: argparse.ArgumentParser) -> None:
    """Add the options that `constraints` reads."""
    genes = command.add_argument_group("which genes")
    genes.add_argument("--force", nargs="+", default=[], metavar="GENE", help="always in the panel")
    genes.add_argument("--forbid", nargs="+", default=[], metavar="GENE", help="never in the panel")
    genes.add_argument(
        "--exclude", nargs="+", default=[], metavar="PATTERN",
        help="never in the panel unless forced: mitochondrial, ribosomal, "
        "ribosomal_mitochondrial, haemoglobin, or regular expressions matched at the start of a "
        "gene name, such as 'HLA-'",
    )  # fmt: skip
    genes.add_argument(
        "--min-detection", type=float, default=0.0, metavar="SHARE",
        help="leave out genes detected in a smaller fraction of the training cells",
    )  # fmt: skip
    genes.add_argument(
        "--max-detection", type=float, default=1.0, metavar="SHARE",
        help="leave out genes detected in a larger fraction of the training cells",
    )  # fmt: skip
    genes.add_argument(
        "--extend", metavar="PANEL",
        help="build on this panel: a run directory, a saved model, a panel.csv, or a file with "
        "one gene per line; --n-genes is the total size",
    )  # fmt: skip
    genes.add_argument(
        "--start-from", metavar="PANEL",
        help="start from the scores (and network) of this panel, given as for --extend; its "
        "genes may be dropped",
    )  # fmt: skip
    genes.add_argument(
        "--gene-costs", metavar="COSTS",
        help="cost of each gene: a .csv file with columns gene and cost, or a var column",
    )  # fmt: skip
    genes.add_argument(
        "--budget",
        type=float,
        metavar="TOTAL",
        help="the most that the genes of the panel may cost in total",
    )
    genes.add_argument(
        "--n-markers-per-class", type=int, default=0, metavar="M",
        help="always include the M strongest markers of every class; they count towards "
        "--n-genes",
    )  # fmt: skip


def constraints(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the options say as arguments of `kernomics.models.YOTO`."""
    from kernomics.models.yoto.budget import costs_of_column, read_costs

    costs = None
    if args.gene_costs is not None:
        path = Path(args.gene_costs)
        # A shell's <(…) is a pipe.
        is_file = path.suffix.lower() == ".csv" or path.is_file() or path.is_fifo()
        costs = (
            read_costs(args.gene_costs)
            if is_file
            else costs_of_column(args.data, args.gene_costs, reading(args))
        )
    return {
        "forced_genes": args.force,
        "forbidden_genes": args.forbid,
        "exclude_patterns": args.exclude,
        "min_detection": args.min_detection,
        "max_detection": args.max_detection,
        "extend": args.extend,
        "start_from": args.start_from,
        "gene_costs": costs,
        "budget": args.budget,
        "n_markers_per_class": args.n_markers_per_class,
    }


def excluded(model: YOTO) -> list[str]:
    """Say in one line, or none, how many genes the rules asked for leave."""
    if len(model.bounds.excluded) > 2:  # forbidden and rare genes are always counted
        rules = [f"{count:,} {rule}" for rule, count in model.bounds.excluded.items() if count]
        told = f"usable     {model.bounds.usable:,} of {model.cells.n_genes:,} genes"
        return [": ".join([told, ", ".join(rules)]) if rules else told]
    return []


def spent(model: YOTO) -> list[str]:
    """Say in one line, or none, what a trained panel costs."""
    costs = model.trained.info.get("costs")
    return [f"costs      {costs['total']:,g} of {costs['budget']:,g}"] if costs else []


def kept_markers(model: YOTO) -> list[str]:
    """Say in one line, or none, which genes of a panel were kept for which classes."""
    found = zip(model.genes, model.constraints.marker_for(model.genes), strict=True)
    said = [f"{gene} ({classes})" for gene, classes in found if classes]
    return [f"markers    {', '.join(said)}"] if said else []
