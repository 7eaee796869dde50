"""`kernomics select`: a gene panel with its predictor."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from kernomics.cli import constraints as cli_constraints
from kernomics.cli import options as cli_options
from kernomics.cli import tables
from kernomics.cli.messages import Help
from kernomics.errors import ConfigError


def add_parser(commands: Any) -> None:
    """Add the command."""
    select = commands.add_parser(
        "select",
        help="select a gene panel and train its predictor (YOTO)",
        description="Select a gene panel that predicts one or several labels. A single training "
        "run gives the panel and its predictor. Writes a run directory with the panel "
        "(panel.csv), the model (model/), the scores on held-out cells (results.json) and a "
        "report (report.html).",
        formatter_class=Help,
    )
    cli_options.add_labels(select)
    select.add_argument(
        "--task-weights", nargs="+", default=[], metavar="LABEL=WEIGHT",
        help="weight of a label's loss relative to the others (1 if not given)",
    )  # fmt: skip
    cli_options.add_split(select, "into 70%% training, 10%% validation and 20%% test")
    cli_options.add_reading(select)
    cli_constraints.add_constraints(select)
    add_training(select)
    select.set_defaults(run=run)


def add_training(
    command: argparse.ArgumentParser,
    *,
    out: str | None = None,
    n_genes: int = 64,
    splits: int = 1,
    compare: Sequence[str] = ("de", "random"),
) -> None:
    """Add the options of a selection."""
    # Their defaults come last, after --config: see _settings.
    command.set_defaults(least={"n_genes": n_genes, "seed": 0})
    command.add_argument(
        "--n-genes", type=int, metavar="K", help=f"panel size ({n_genes} if not given)"
    )
    cli_options.add_run(command, out=out)
    command.add_argument("--seed", type=int, help="seed of everything random (0 if not given)")
    command.add_argument(
        "--starts", type=int, metavar="N",
        help="select N times within this training, and train the predictor on the panel that is "
        "best by --judge (1 if not given)",
    )  # fmt: skip
    command.add_argument(
        "--judge", choices=("own", "linear", "both"),
        help="who tells the best of several starts: the selection's own network, a regression on "
        "the panel (if not given), or the mean of both",
    )  # fmt: skip
    command.add_argument(
        "--halving", action="store_true", default=None,
        help="end most starts early: the better half goes on each time their steps double",
    )  # fmt: skip
    command.add_argument(
        "--start-rankings", nargs="+", choices=("markers", "l1", "de"), metavar="RANKING",
        help="whose ranking of the genes each start begins with, by turns: markers (if not given), "
        "l1 or de",
    )  # fmt: skip
    command.add_argument(
        "--max-epochs", type=int, metavar="N",
        help="passes over the cells (enough for about 2,500 steps if not given); each start but "
        "the first adds to them",
    )  # fmt: skip
    command.add_argument(
        "--batch-size", type=int, metavar="N", help="cells per batch (64 or 128 if not given)"
    )
    cli_options.add_draws(command)
    command.add_argument(
        "--config", metavar="JSON",
        help='JSON file with settings of YOTOConfig and TrainConfig, such as {"relaxation": '
        '"neuralsort", "patience": 10}, or the config.json of another run; the options of this '
        "command take precedence",
    )  # fmt: skip
    command.add_argument(
        "--compare", nargs="*", default=list(compare), metavar="METHOD",
        help="other panels to compare with: de, l1, hvg, random, or nothing",
    )  # fmt: skip
    command.add_argument(
        "--splits", type=int, default=splits, metavar="N",
        help="select and compare on this many splits of the cells, this run's included: mean ± "
        "standard error, and which methods differ",
    )  # fmt: skip
    command.add_argument(
        "--stability", type=int, metavar="SEEDS",
        help="compare the panels of this many seeds, this one included, and form their consensus",
    )  # fmt: skip
    command.add_argument(
        "--curve", type=int, nargs="+", default=[], metavar="K",
        help="compare panels of these sizes and suggest one",
    )  # fmt: skip
    cli_options.add_machine(command)


def run(args: argparse.Namespace) -> None:
    """Select."""
    settings = settings_of(args)  # a mistake there is told before the data are read
    cells = cli_options.read_cells(args, **cli_options.labels_of(args))
    select(
        args,
        settings,
        cells,
        cli_options.data_name(args),
        [],
        split=args.split,
        split_key=args.split_key,
        task_weights=cli_constraints.task_weights(args),
        **cli_constraints.constraints(args),
    )


def select(
    args: argparse.Namespace,
    settings: tuple[dict[str, Any], dict[str, Any]],
    cells: Any,
    dataset: str,
    notes: Sequence[str],
    **options: Any,
) -> None:
    """Train, and print what was found."""
    from kernomics.models import YOTO
    from kernomics.workflows.select import run_selection

    selecting, training = settings
    model = YOTO(cells, seed=training["seed"], **options, **selecting)
    cli_options.print_cells(cells.n_cells, cells.n_genes, dataset, model.split)
    for line in cli_constraints.excluded(model):
        print(line)
    for task in model.tasks:
        print(f"task       {task.name}: {model.cells.labels[task.name].description}")
    print(f"library    {cells.library_source}")
    result = run_selection(
        model,
        args.out,
        dataset=dataset,
        resume=args.resume,
        overwrite=args.overwrite,
        compare=args.compare,
        notes=notes,
        splits=args.splits,
        stability=args.stability or 0,
        curve=args.curve,
        log_dir=args.log_dir,
        skip_steps=cli_options.skipped_steps(args),
        device=args.device,
        **training,
    )
    print(f"panel      {', '.join(model.genes)}")
    for line in [*cli_constraints.kept_markers(model), *cli_constraints.spent(model)]:
        print(line)
    tables.print_selection(result)
    if model.starts is not None:
        print(f"starts     {model.starts}")
    if result.stability is not None:
        print(f"stability  {result.stability}")
        print(f"consensus  {', '.join(result.stability.consensus)}")
    if result.curve is not None:
        print(f"sizes      {result.curve}")
    for warning in result.warnings:
        print(f"warning    {warning}")
    print(f"seconds    {result.seconds:.1f} for the selection")
    print(f"report     {result.report}")


def settings_of(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Gather the settings of the model and of its training: options, --config, then defaults."""
    from kernomics.models import YOTOConfig
    from kernomics.train.device import usable_device

    cli_options.use_threads(args.threads)
    usable_device(args.device)
    cli_options.check_run(args)
    cli_options.skipped_steps(args)
    given = {
        "n_genes": args.n_genes,
        "n_starts": args.starts,
        "judge": args.judge,
        "halving": args.halving,
        "start_rankings": args.start_rankings,
        "seed": args.seed,
        "max_epochs": args.max_epochs,
        "batch_size": args.batch_size,
        "balance": args.balance,
        "progress": False if args.quiet else None,
    }
    least, given = args.least, {k: v for k, v in given.items() if v is not None}
    found, training = cli_options.settings(args.config, YOTOConfig(), least=least, given=given)
    if args.judge is not None and found.get("n_starts", YOTOConfig().n_starts) == 1:
        raise ConfigError(
            "--judge chooses among several starts, and --starts is 1: give --starts, such as 4, or "
            "leave --judge out"
        )
    return found, training
