"""The command ``kernomics finetune``: a trained TxFM goes on with other cells."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kernomics import cli_txfm
from kernomics.errors import ConfigError


def add_finetune(commands: Any, formatter: type[argparse.HelpFormatter]) -> None:
    """Add ``kernomics finetune`` to the subcommands."""
    finetune = commands.add_parser(
        "finetune",
        help="train a TxFM further on other cells, whose genes may be others",
        description="Train a TxFM further on the cells of a file. Genes are matched by name: those "
        "that the model knows keep its weights, those that it does not are added, and those that "
        "the data lack are left out. With --labels-key the representation is scored on held-out "
        "cells beside that of the model as it was, PCA and normalised counts. Writes a run "
        "directory as kernomics pretrain does; the model given stays as it is.",
        formatter_class=formatter,
    )
    finetune.add_argument("model", help="the model: a run directory, or a saved model")
    cli_txfm.add_data(finetune)
    finetune.add_argument(
        "--known-genes-only", action="store_true", help="add no genes that the model does not know"
    )
    finetune.add_argument(
        "--min-cells", type=int, default=3, metavar="N",
        help="add no genes that fewer training cells have",
    )  # fmt: skip
    finetune.add_argument(
        "--min-gene-overlap", type=float, default=0.5, metavar="SHARE",
        help="share of the genes that must be known, of the model's or of the data's, whichever "
        "are fewer",
    )  # fmt: skip
    cli_txfm.add_training(
        finetune, tokens="genes revealed in training (as before)", epochs="50", rate="0.0001"
    )
    finetune.set_defaults(run=_finetune)


def _finetune(args: argparse.Namespace) -> None:
    from kernomics.models import CellEncoder, TxFM

    cli_txfm.use_threads(args.threads)
    if Path(args.out).resolve() in (
        Path(args.model).resolve(),
        *Path(args.model).resolve().parents,
    ):
        raise ConfigError(f"--out is {args.out!r}, where the model lies: choose another directory")
    encoder = CellEncoder.load(args.model)
    settings, training = cli_txfm.training_settings(args, encoder.config)
    cells, split = cli_txfm.read_divided(args, encoder)
    model = TxFM.from_pretrained(
        encoder,
        cells,
        new_genes=not args.known_genes_only,
        min_cells=args.min_cells,
        min_gene_overlap=args.min_gene_overlap,
        split=split,
        seed=args.seed,
        **settings,
    )
    assert model.start is not None
    start = model.start
    print(
        f"from       {args.model}: {len(start.kept):,} genes kept, {len(start.new):,} new, "
        f"{len(start.dropped):,} not in the data"
    )
    cli_txfm.run_training(args, model, training)
