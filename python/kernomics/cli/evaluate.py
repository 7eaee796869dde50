"""`kernomics evaluate`: a saved model on other cells."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from kernomics._warnings import warn
from kernomics.cli import evaluate_polygene, evaluate_txfm
from kernomics.cli import options as cli_options
from kernomics.cli.messages import Help
from kernomics.errors import ConfigError

TASK = {"panel": "TASK", "PolyGene": "PHENOTYPE"}
"""What --label names of each model."""


def add_parser(commands: Any) -> None:
    """Add the command."""
    evaluate = commands.add_parser(
        "evaluate",
        help="score a saved model on other cells",
        description="Score the predictions of a saved panel on other cells. Or score a saved "
        "TxFM on other cells: how well classes can be predicted from its representation, from "
        "PCA and from normalised counts, on a fifth of the cells; how consistent the effects of "
        "perturbations are; or how many known relationships between genes its parameters recall. "
        "Or score a saved PolyGene's predictions of phenotypes on other cells. Started by torchrun "
        "or srun, all processes share the cells that the model is run on; the first one scores.",
        formatter_class=Help,
    )
    evaluate.add_argument("run_or_model", help="a run directory or a saved model")
    cli_options.add_reading(evaluate, trained=True)
    evaluate.add_argument(
        "--label", nargs="+", default=[], metavar="TASK=COLUMN",
        help="obs column of a label or phenotype, if its name differs from the one in training",
    )  # fmt: skip
    evaluate.add_argument(
        "--allow-missing", action="store_true",
        help="continue if the data lack genes of the panel, filling each with its mean over the "
        "training cells",
    )  # fmt: skip
    evaluate.add_argument(
        "--predictions", metavar="CSV", help="write the prediction for each cell to this file"
    )
    evaluate.add_argument(
        "--report", metavar="HTML",
        help="also write a report of the scores, with errors and figures, to this file",
    )  # fmt: skip
    evaluate_polygene.add_evaluation(evaluate)
    evaluate_txfm.add_evaluation(evaluate)
    evaluate.add_argument("--json", action="store_true", help="print the scores as JSON")
    evaluate.add_argument("--threads", type=int, metavar="N", help="CPU threads (all if not given)")
    evaluate.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Evaluate a panel, a TxFM or a PolyGene."""
    from kernomics.models import CellEncoder, ExpressionModel, Panel, PhenotypeModel
    from kernomics.models.saved import saved_format
    from kernomics.models.yoto.levels import level_note
    from kernomics.workflows.shared_model import shared

    cli_options.use_threads(args.threads)
    _check_report(args.report)
    kind = saved_format(args.run_or_model)
    if kind == PhenotypeModel.FORMAT:
        _refuse_labels_key(args, "PolyGene", "phenotype")
        evaluate_polygene.evaluate(args, _labels(args, "PolyGene"))
        return
    if kind == CellEncoder.FORMAT:
        evaluate_txfm.evaluate(args)
        return
    if kind == ExpressionModel.FORMAT:
        raise ConfigError(
            f"{args.run_or_model} holds a GIL, which kernomics increment scores (results.json and "
            "report.html in its run); this scores a panel, a TxFM or a PolyGene"
        )
    _refuse_labels_key(args, "panel", "label")
    others = (*evaluate_txfm.OF_TXFM, *evaluate_txfm.OF_PHENOTYPES)
    evaluate_txfm.refuse(args, others, "is a panel, which does not take")
    labels = _labels(args, "panel")
    panel = Panel.load(args.run_or_model)
    cells = panel.read(args.data, **cli_options.reading(args))
    with evaluate_txfm.noted_warnings() as notes, shared(panel, cells) as sharing:
        evaluate_txfm.tell_seen(panel, cells)
        if (note := level_note(panel, cells)) is not None:
            warn(note)
        scores = _scores(args, sharing, cells, labels)
    if args.report is not None:
        _report(args, panel, labels, notes)
    if args.json:
        cli_options.print_json(scores)
        return
    print(f"panel      {len(panel.genes)} genes")
    for line in cli_options.as_in_training(args, cells):
        print(line)
    for task, found in scores.items():
        of = f"{int(found['n_cells']):,} of {cells.n_cells:,} cells"
        scored = "   ".join(f"{k} {value:.4g}" for k, value in found.items() if k != "n_cells")
        print(f"{task:<10} {of}   {scored}")
    if args.predictions:
        print(f"predictions {args.predictions}")
    if args.report is not None:
        print(f"report     {args.report}")


def _scores(
    args: argparse.Namespace, panel: Any, cells: Any, labels: dict[str, str]
) -> dict[str, dict[str, float]]:
    """Score the predictions of a panel where there are labels, and write them if asked to."""
    missing = {"allow_missing": args.allow_missing}
    unlabelled = not labels and not {task.name for task in panel.tasks} & set(cells.obs.columns)
    if args.predictions and unlabelled and args.report is None:
        warn(f"obs has none of the panel's labels {[task.name for task in panel.tasks]}: "
             "predictions are written, but not scored")  # fmt: skip
        panel.predict(cells, **missing).to_csv(args.predictions)
        return {}
    scores: dict[str, dict[str, float]] = panel.evaluate(cells, labels=labels, **missing)
    if args.predictions:
        with evaluate_txfm.noted_warnings(show=False):  # they were told with the scores
            panel.predict(cells, **missing).to_csv(args.predictions)
    return scores


def _refuse_labels_key(args: argparse.Namespace, what: str, known: str) -> None:
    if args.labels_key:
        raise ConfigError(
            f"{args.run_or_model} is a {what}, and --labels-key is only for a TxFM. A {what} knows "
            f"its {known}s: leave the option out, or name the column of a {known} with --label "
            f"{TASK[what]}=COLUMN"
        )


def _labels(args: argparse.Namespace, what: str) -> dict[str, str]:
    labels = {}
    for pair in args.label:
        task, equals, name = pair.partition("=")
        if not equals:
            raise ConfigError(f"--label {pair!r}: write {TASK[what]}=COLUMN")
        labels[task] = name
    return labels


def _check_report(path: str | None) -> None:
    """Refuse, before anything takes time, a report that could not be written."""
    if path is None:
        return
    target = Path(path)
    if target.suffix.lower() != ".html":
        raise ConfigError(f"--report is {path!r}: its name must end in .html")
    if not target.parent.is_dir():
        raise ConfigError(f"--report is {path!r}: there is no directory {target.parent}")
    from kernomics._optional import require_extra

    require_extra("matplotlib", purpose="the report")


def _report(args: argparse.Namespace, panel: Any, labels: dict[str, str], notes: list[str]) -> None:
    """Write the report of a panel's evaluation, with what was warned of."""
    from kernomics.report.panel_evaluation import write_panel_evaluation
    from kernomics.workflows.evaluate_panel import panel_evaluation_data

    with evaluate_txfm.noted_warnings(show=False) as again:  # told with the scores
        cells = panel.read(args.data, **cli_options.reading(args))
        data, errors = panel_evaluation_data(
            panel, cells, labels, cli_options.data_name(args), allow_missing=args.allow_missing
        )
    write_panel_evaluation(
        args.report, replace(data, warnings=list(dict.fromkeys([*notes, *again]))), errors
    )
