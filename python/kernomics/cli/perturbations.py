"""Scores of perturbed cells, for ``kernomics evaluate`` of a TxFM."""

from __future__ import annotations

import argparse
from typing import Any

from kernomics.errors import ConfigError


def add_perturbations(command: argparse.ArgumentParser) -> None:
    """Add the options that name perturbations."""
    group = command.add_argument_group("for a TxFM, on perturbed cells")
    group.add_argument("--perturbation-key", metavar="COLUMN", help="obs column of perturbations")
    group.add_argument(
        "--control",
        metavar="NAME",
        nargs="+",
        help="name(s) of the control perturbation(s)",
    )
    group.add_argument(
        "--null", choices=("cells", "groups"), default="cells",
        help="what the cells of a perturbation are compared with: single cells, as in the "
        "paper, or random groups of the same size, which detects weaker effects",
    )  # fmt: skip


def evaluate(args: argparse.Namespace, model: Any, cells: Any) -> Any:
    """Score the model on perturbed cells beside PCA and normalised counts."""
    from kernomics.evaluation.perturbations import evaluate_perturbations

    if args.control is None:
        raise ConfigError(
            f"which cells of {args.perturbation_key!r} are controls? name them with --control"
        )
    return evaluate_perturbations(
        cells,
        model,
        perturbation_key=args.perturbation_key,
        control=args.control,
        batch_key=args.batch_key,
        null=args.null,
        n_tokens=args.n_tokens,
        n_draws=args.n_draws,
        min_gene_overlap=args.min_gene_overlap,
        seed=args.seed,
    )


def print_scores(scores: Any) -> None:
    """Print a table of `PerturbationScores`."""
    print(
        f"perturbed  {scores.n_cells:,} cells of {scores.n_perturbations:,} perturbations, "
        f"{scores.n_controls:,} of them controls, {scores.n_batches:,} batch"
        + ("es" if scores.n_batches > 1 else "")
    )
    heads = {"consistency": "consistent", "spearman": "Spearman", "structural_integrity": "struct."}
    print(
        f"           {'representation':<26}{'alignment':<13}"
        + "".join(f"{head:>11}" for head in heads.values())
    )
    for name, row in scores.table.iterrows():
        values = ["–" if row[key] != row[key] else f"{row[key]:.3f}" for key in heads]
        print(f"           {name:<26}{row['alignment']:<13}" + "".join(f"{v:>11}" for v in values))
