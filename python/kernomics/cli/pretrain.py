"""``kernomics pretrain``: of a TxFM, and the way to that of a PolyGene."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kernomics.cli import options as cli_options
from kernomics.cli import tables
from kernomics.cli.messages import Help
from kernomics.errors import ConfigError


def add_parser(commands: Any) -> None:
    """Add ``kernomics pretrain`` to the subcommands."""
    pretrain = commands.add_parser(
        "pretrain",
        help="learn cell representations from counts alone (TxFM), or phenotypes (PolyGene)",
        description="Train a masked autoencoder of counts: a transformer sees a random subset "
        "of each cell's genes and reconstructs all genes. No labels are used in training; with "
        "--labels-key the representation is scored on held-out cells beside PCA and normalised "
        "counts. Or, with --model polygene, train a transformer of expressed genes and the "
        "phenotypes that --labels-key names to predict each of them. Writes a run directory with "
        "the model (model/), its history, curves, results.json and a report (report.html).",
        formatter_class=Help,
    )
    add_data(pretrain, labels=f"{SCORED_BY}; with --model polygene, the phenotypes it learns")
    pretrain.add_argument(
        "--model", default="txfm", choices=("txfm", "polygene"), help="which model to train"
    )
    pretrain.add_argument(
        "--size", default="XXS", choices=("XXS", "XS", "S", "B", "L"),
        help="XXS and XS suit laptops; S, B and L are those of the paper (PolyGene's: B; it has "
        "no L)",
    )  # fmt: skip
    pretrain.add_argument(
        "--task-weights", nargs="+", default=[], metavar="LABEL=WEIGHT",
        help="with --model polygene, weight of a phenotype's loss beside the others' (1 if not "
        "given)",
    )  # fmt: skip
    vocabulary = pretrain.add_mutually_exclusive_group()
    vocabulary.add_argument("--genes", metavar="FILE", help="the vocabulary, one gene per line")
    vocabulary.add_argument(
        "--n-genes", type=int, metavar="N",
        help="only the N genes whose log expression varies most over the training cells (4,000 for "
        "XXS and XS, all of the other sizes and of a PolyGene; a large N is all)",
    )  # fmt: skip
    pretrain.add_argument(
        "--min-cells", type=int, default=3, metavar="N",
        help="leave out genes detected in fewer training cells",
    )  # fmt: skip
    add_training(
        pretrain,
        tokens="genes revealed in training; of a PolyGene, the most genes of a cell",
        epochs="100 for XXS and XS, else 200; enough for about 800 steps of a PolyGene",
        rate="0.003 for XXS and XS, else 0.001; of a PolyGene 0.002, else 0.0001",
    )
    pretrain.set_defaults(run=run)


SCORED_BY = "obs column(s) of classes to score the representation by; never used in training"


def add_data(
    command: argparse.ArgumentParser, *, labels: str = SCORED_BY, trained: bool = False
) -> None:
    """Add what a training reads, `trained` if a model reads it, and where it writes.

    `labels` says what the labels are for.
    """
    cli_options.add_reading(command, several=True, keep_empty=False, trained=trained)
    cli_options.add_run(command)
    cli_options.add_labels(command, labels, need=False)
    command.add_argument(
        "--score-epochs", action="store_true",
        help="also score by these classes at each validation, on the validation cells",
    )  # fmt: skip
    command.add_argument(
        "--split-key", metavar="COLUMN",
        help="obs column of groups, such as donors; a group is never both trained on and held "
        "out",
    )  # fmt: skip


def add_training(
    command: argparse.ArgumentParser,
    *,
    tokens: str,
    epochs: str,
    rate: str,
    config: str = "TxFMConfig (PolyGeneConfig)",
    example: str = '{"loss": "zinb", "precision": "bf16"}',
) -> None:
    """Add how a training goes about it.

    `tokens`, `epochs` and `rate` say what is the default, `config` and `example` what --config may
    hold.
    """
    command.add_argument("--n-tokens", type=int, metavar="K", help=tokens)
    command.add_argument(
        "--max-epochs",
        type=int,
        metavar="N",
        help=f"passes over the cells ({epochs} if not given)",
    )
    command.add_argument("--batch-size", type=int, metavar="N", help="cells per batch")
    command.add_argument(
        "--learning-rate", type=float, metavar="RATE",
        help=f"peak learning rate of the cycle ({rate} if not given)",
    )  # fmt: skip
    cli_options.add_draws(command)
    command.add_argument("--seed", type=int, default=0, help="seed of everything random")
    command.add_argument(
        "--config", metavar="JSON",
        help=f"JSON file with settings of {config} and TrainConfig, such as {example}, or the "
        "config.json of another run; the options of this command take precedence",
    )  # fmt: skip
    cli_options.add_machine(command)


def run(args: argparse.Namespace) -> None:
    """Train a TxFM or a PolyGene."""
    from kernomics.cli import pretrain_polygene

    cli_options.use_threads(args.threads)
    if args.model == "polygene":
        pretrain_polygene.check(args)
        pretrain_polygene.run(args)
        return
    if args.task_weights:
        raise ConfigError(
            "--task-weights is about --model polygene: a TxFM learns no labels; leave it out"
        )
    from kernomics.models import TxFM, TxFMConfig

    settings, training = training_settings(args, TxFMConfig.of_size(args.size))
    cells, split = read_divided(args)
    model = TxFM(
        cells, args.size, genes=vocabulary(args), n_genes=args.n_genes, min_cells=args.min_cells,
        split=split, seed=args.seed,
        **settings,
    )  # fmt: skip
    run_training(args, model, training)


def vocabulary(args: argparse.Namespace) -> list[str] | None:
    """Return the genes that the file of --genes names."""
    from kernomics.data.gene_lists import read_genes

    return None if args.genes is None else read_genes(args.genes)


def read_divided(args: argparse.Namespace, model: Any = None) -> tuple[Any, Any]:
    """Read cells, for a model to train further if any, and divide them.

    With labels a fifth is held out.
    """
    cells = cli_options.read_cells(
        args, model=model, trained_further=model is not None, **cli_options.labels_of(args)
    )
    held_out = 0.2 if cells.labels else 0.0
    return cells, cli_options.divide(
        cells, args.split_key, (0.9 - held_out, 0.1, held_out), args.seed
    )


def run_training(args: argparse.Namespace, model: Any, training: dict[str, Any]) -> None:
    """Train a TxFM in its run directory, and print what it is and what it gave."""
    from kernomics.workflows.pretrain import run_pretraining

    dataset, config = cli_options.data_name(args), model.config
    cli_options.print_cells(model.cells.n_cells, len(model.genes), dataset, model.split)
    print(
        f"model      {config.n_layers} block{'s' * (config.n_layers > 1)}, width "
        f"{config.d_model}, {config.n_heads} heads; "
        f"{min(config.n_tokens, len(model.genes)):,} genes revealed"
    )
    print(f"library    {model.cells.library_source}")
    result = run_pretraining(
        model,
        args.out,
        dataset=dataset,
        resume=args.resume,
        overwrite=args.overwrite,
        device=args.device,
        score_epochs=args.score_epochs,
        log_dir=args.log_dir,
        skip_steps=cli_options.skipped_steps(args),
        **training,
    )
    print(f"seconds    {result.seconds:.1f}")
    if result.explained is not None:
        print(f"counts     {result.explained}")
    if result.scores is not None:
        tables.print_scores(result.scores)
    elif not args.labels_key:
        print("scores     none; with --labels-key the representation is scored on held-out cells")
    print(f"model      {Path(args.out) / 'model'}")
    print(f"report     {result.report}")


def training_settings(args: argparse.Namespace, base: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Gather the settings of the model, `base` by default, and of its training."""
    from kernomics.train.device import usable_device

    usable_device(args.device)
    cli_options.check_run(args)
    cli_options.skipped_steps(args)
    given = {
        "n_tokens": args.n_tokens,
        "max_epochs": args.max_epochs,
        "batch_size": args.batch_size,
        "balance": args.balance,
        "learning_rate": args.learning_rate,
        "progress": False if args.quiet else None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    return cli_options.settings(args.config, base, given=given)
