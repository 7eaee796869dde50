"""``kernomics evaluate`` of a PolyGene: its predictions of phenotypes."""

from __future__ import annotations

import argparse
from typing import Any

from kernomics._warnings import warn
from kernomics.cli import evaluate_txfm, tables
from kernomics.cli import options as cli_options

SHARED = ("label", "predictions", "n_tokens", "min_gene_overlap")
"""Options of a panel or a TxFM that a PolyGene takes too."""


def add_evaluation(command: argparse.ArgumentParser) -> None:
    """Add the options of ``kernomics evaluate`` that a PolyGene needs."""
    group = command.add_argument_group("for a PolyGene")
    group.add_argument(
        "--target", nargs="+", default=[], metavar="PHENOTYPE",
        help="phenotypes to predict (those that the data have and --given does not name, if not "
        "given)",
    )  # fmt: skip
    group.add_argument(
        "--given", nargs="+", default=[], metavar="PHENOTYPE",
        help="phenotypes to show to the model, or rest: all but the one that is predicted (none if "
        "not given)",
    )  # fmt: skip


def evaluate(args: argparse.Namespace, labels: dict[str, str]) -> None:
    """Score the phenotypes that the cells have, and write the predictions if asked to."""
    others = (*evaluate_txfm.OF_PANEL, *evaluate_txfm.OF_TXFM)
    not_taken = tuple(name for name in others if name not in SHARED)
    evaluate_txfm.refuse(args, not_taken, "is a PolyGene, which does not take")
    with evaluate_txfm.noted_warnings() as notes:
        _evaluate(args, labels, notes)


def _evaluate(args: argparse.Namespace, labels: dict[str, str], notes: list[str]) -> None:
    from kernomics.models import PhenotypeModel
    from kernomics.models.polygene.phenotypes import REST, prediction_table
    from kernomics.report.phenotype_report import write_phenotype_report
    from kernomics.workflows.evaluate_polygene import (
        PhenotypeEvaluation,
        evaluate_phenotypes,
        phenotype_evaluation_report,
        what_is_shown,
    )
    from kernomics.workflows.run_cells import run_cells
    from kernomics.workflows.shared_model import shared

    model = PhenotypeModel.load(args.run_or_model)
    cells = model.read(args.data, **cli_options.reading(args))
    own = run_cells(args.run_or_model, model, cells)
    if own.split is not None:
        warn(
            f"the model was trained on {len(own.split.train):,} of these {cells.n_cells:,} cells, "
            "so the scores say little of new cells; results.json of the run has those of its test "
            "cells"
        )
    given = REST if args.given == [REST] else args.given
    asked: dict[str, Any] = {
        "given": given,
        "labels": labels,
        "n_tokens": args.n_tokens,
        "min_gene_overlap": args.min_gene_overlap,
        "progress": not args.json,
    }
    names = [task.name for task in model.tasks]
    unlabelled = not labels and not set(names) & set(cells.obs.columns)
    with shared(model, cells) as sharing:
        if own.split is None:
            evaluate_txfm.tell_seen(model, cells)
        if args.predictions and unlabelled and args.report is None:
            warn(f"obs has none of the model's phenotypes {names}: predictions are written, but "
                 "not scored")  # fmt: skip
            predicted = sharing.probabilities(cells, args.target or None, **asked)
            found = PhenotypeEvaluation([], predicted)
        else:
            found = evaluate_phenotypes(sharing, cells, args.target or None, **asked)
    if args.predictions:
        tasks = [model.task(name) for name in found.probabilities]
        prediction_table(
            tasks, found.probabilities, cells.cell_names.astype(str).tolist()
        ).to_csv(args.predictions)  # fmt: skip
    if args.report is not None:
        shown = phenotype_evaluation_report(
            model, cells, found, cli_options.data_name(args), given=given, notes=notes
        )
        write_phenotype_report(args.report, shown)
    if args.json:
        cli_options.print_json(found.to_dict())
        return
    print(f"model      {model!r}")
    for line in cli_options.as_in_training(args, cells):
        print(line)
    tables.print_phenotypes(found.scores, "scored", what_is_shown(given))
    if args.predictions:
        print(f"predictions {args.predictions}")
    if args.report is not None:
        print(f"report     {args.report}")
