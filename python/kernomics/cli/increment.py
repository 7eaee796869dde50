"""`kernomics increment`: a model that learns new genes stage by stage."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kernomics.cli import options as cli_options
from kernomics.cli import pretrain
from kernomics.cli.messages import Help
from kernomics.errors import ConfigError

METHODS = (
    *("naive", "joint", "freezing", "adapters", "replay", "distillation", "der", "features"),
    *("ghosts", "ewc"),
)
WEIGHTS = {"distillation": 1.0, "features": 1.0, "ghosts": 0.2, "ewc": 1.0}
"""Of the losses, where none is given."""
OPTIONS = {
    "memory": (("replay", "der"), "memory"),
    "adapters_rank": (("adapters",), "rank"),
    "replay_share": (("replay",), "share"),
    "der_alpha": (("der",), "alpha"),
    "der_beta": (("der",), "beta"),
    "distillation_weight": (("distillation",), "weight"),
    "features_weight": (("features",), "weight"),
    "ghosts_weight": (("ghosts",), "weight"),
    "ewc_weight": (("ewc",), "weight"),
}
"""Per option the methods that it is a setting of, and which."""


def add_parser(commands: Any) -> None:
    """Add the command."""
    increment = commands.add_parser(
        "increment",
        help="train a model that learns new genes stage by stage (GIL)",
        description="Train a masked model of expression stage by stage, with a method against "
        "forgetting, and score after each stage how well it predicts the genes of all stages. "
        "Writes the model, results.json, genes.csv, a plot and a report (report.html).",
        formatter_class=Help,
    )
    cli_options.add_reading(increment, several=True, keep_empty=False)
    increment.add_argument(
        "--stages", required=True, metavar="FILE", help="what kernomics stages wrote"
    )
    increment.add_argument(
        "--method", nargs="+", default=["naive"], choices=METHODS,
        help="against forgetting: naive (nothing), joint (all stages at once), freezing (only new "
        "genes' embeddings learn), adapters (these and small networks of the new genes' cells), "
        "replay and der (cells are kept), distillation, features and ghosts (of the model before), "
        "ewc; several go together, but not the first three, nor adapters with replay, der, ghosts "
        "or ewc",
    )  # fmt: skip
    increment.add_argument(
        "--memory",
        type=int,
        metavar="N",
        help="cells that replay or der keeps of each stage (1000)",
    )
    increment.add_argument(
        "--adapters-rank", type=int, metavar="N", help="width of a bottleneck of adapters (16)"
    )
    increment.add_argument(
        "--replay-share", type=float, metavar="SHARE", help="kept cells' share of a batch (0.5)"
    )
    increment.add_argument(
        "--der-alpha", type=float, metavar="α",
        help="weight of the difference to what was stored (0.5)",
    )  # fmt: skip
    increment.add_argument(
        "--der-beta", type=float, metavar="β",
        help="weight of the loss of kept cells' values (0.5)",
    )  # fmt: skip
    for name, usual in WEIGHTS.items():
        increment.add_argument(
            f"--{name}-weight", type=float, metavar="λ",
            help=f"weight of the loss of {name} ({usual:g})",
        )  # fmt: skip
    increment.add_argument(
        "--oracle", action="store_true",
        help="also train on all stages at once, to compare with; takes as long again",
    )  # fmt: skip
    increment.add_argument(
        "--labels-key", metavar="COLUMN",
        help="obs column of classes, to be told from the features after each stage",
    )  # fmt: skip
    increment.add_argument("--unlabelled", metavar="CLASS", help="class that means 'no label'")
    increment.add_argument(
        "--groups-key", metavar="COLUMN",
        help="obs column of groups, such as donors, kept whole when classes are told",
    )  # fmt: skip
    increment.add_argument(
        "--size", choices=("laptop", "paper"), default="laptop", help="of the network"
    )
    pretrain.add_training(
        increment,
        tokens="the most genes of a cell that a step shows (256; paper 512)",
        epochs="of each stage; about 600 steps of the first",
        rate="0.002; paper 0.0005",
        config="GILConfig",
        example='{"combine": "concat", "n_layers": 3}',
    )
    cli_options.add_run(increment)
    increment.set_defaults(run=run)


def methods_of(args: argparse.Namespace) -> list[Any]:
    """Return the methods with their settings."""
    from kernomics.models.gil import methods

    settings: dict[str, dict[str, Any]] = {name: {} for name in args.method}
    for option, (owners, setting) in OPTIONS.items():
        value = getattr(args, option)
        if value is None:
            continue
        named = [name for name in owners if name in settings]
        if not named:
            raise ConfigError(
                f"--{option.replace('_', '-')} is a setting of {' and '.join(owners)}, which "
                "--method does not name: add it, or leave the option out"
            )
        for name in named:
            settings[name][setting] = value
    return [methods.METHODS[name](**settings[name]) for name in args.method]


def run(args: argparse.Namespace) -> None:
    """Train, print the losses, and write all."""
    from kernomics.data import Stages
    from kernomics.models import GIL, GILConfig
    from kernomics.workflows.increment import run_increment

    cli_options.use_threads(args.threads)
    methods = methods_of(args)
    for option in ("unlabelled", "groups_key"):
        if getattr(args, option) is not None and args.labels_key is None:
            raise ConfigError(
                f"--{option.replace('_', '-')} is about the classes of --labels-key, which is not "
                "given: name them, or leave the option out"
            )
    settings, training = pretrain.training_settings(args, GILConfig.of_size(args.size))
    stages = Stages.load(args.stages)
    cells = cli_options.read_cells(args)
    model = GIL(cells, stages, args.size, method=methods, seed=args.seed, **settings)
    dataset, config = cli_options.data_name(args), model.config
    print(f"cells      {model.staged.cells.n_cells:,}   {dataset}")
    for i, (name, row) in enumerate(stages.counts().iterrows()):
        print(
            f"{'stages' if not i else '':<11}{name!s:<16}{row['genes']:>7,} genes, "
            f"{row['train']:,} cells to train, {row['validation']:,} to validate, {row['test']:,} "
            "held out"
        )
    print(
        f"model      GIL, {config.n_layers} block{'s' * (config.n_layers > 1)}, width "
        f"{config.d_model}, {config.n_heads} heads; at most {config.n_tokens:,} genes of a cell"
    )
    print(f"method     {' + '.join(map(str, methods))}")
    print(f"library    {model.cells.library_source}")
    result = run_increment(
        model,
        args.out,
        dataset=dataset,
        labels_key=args.labels_key,
        unlabelled_category=args.unlabelled,
        groups_key=args.groups_key,
        oracle=args.oracle,
        resume=args.resume,
        overwrite=args.overwrite,
        device=args.device,
        log_dir=args.log_dir,
        skip_steps=cli_options.skipped_steps(args),
        **training,
    )
    print(f"seconds    {result.seconds:.1f}")
    _print(result)
    print(f"model      {Path(args.out) / 'model'}")
    print(f"report     {result.report}")


def _print(result: Any) -> None:
    """Print the losses by stage and group, what was forgotten, and the classes told."""
    for kind, said in (("tokens", "from masked tokens"), ("queries", "from the cell's state")):
        losses, found = result.losses[kind], result.forgotten[kind].groups
        print(f"loss       {said:<24}" + "".join(f"{name!s:>12}" for name in losses.columns))
        rows = [
            (f"after {name}", row)
            for name, row in zip(losses.index, losses.to_numpy(), strict=True)
        ]
        rows[0] = ("untrained", rows[0][1])
        rows.append(("Δ, forgotten", found["delta"].to_numpy()))
        if kind in result.oracle:
            rows.append(("all at once", result.oracle[kind].to_numpy()[-1]))
        for name, row in rows:
            print(f"           {name:<24}" + "".join(f"{value:>12.4f}" for value in row))
    if result.probes is not None:
        names = ["linear_accuracy", "linear_macro_f1", "knn_accuracy", "knn_macro_f1"]
        means = result.probes.groupby("after", sort=False)[names].mean()
        heads = ("linear acc.", "macro-F1", "kNN acc.", "macro-F1")
        print(f"classes    {'from the features':<24}" + "".join(f"{head:>12}" for head in heads))
        for name, row in zip(means.index, means.to_numpy(), strict=True):
            print(f"           {f'after {name}':<24}" + "".join(f"{v:>12.3f}" for v in row))
