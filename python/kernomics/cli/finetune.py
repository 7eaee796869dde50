"""The command ``kernomics finetune``: a trained TxFM goes on with other cells."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernomics.cli import options as cli_options
from kernomics.cli import pretrain
from kernomics.cli.messages import Help
from kernomics.errors import ConfigError

if TYPE_CHECKING:
    from kernomics.models.txfm.finetune import Pretrained


def add_parser(commands: Any) -> None:
    """Add ``kernomics finetune`` to the subcommands."""
    finetune = commands.add_parser(
        "finetune",
        help="continue training a TxFM on other cells",
        description="Continue training a TxFM on the cells of a file. Genes are matched by "
        "name: genes the model knows keep their weights, --new-genes of the others are added, "
        "and genes missing from the data are left out. The weights with the best validation "
        "loss are kept, including those before training. With --labels-key the representation "
        "is scored on held-out cells beside that of the original model, PCA and normalised "
        "counts. Writes a run directory as kernomics pretrain does; the original model is not "
        "changed.",
        formatter_class=Help,
    )
    finetune.add_argument("model", help="the model: a run directory or a saved model")
    pretrain.add_data(finetune, trained=True)
    finetune.add_argument(
        "--new-genes", type=int, default=0, metavar="N",
        help="of the genes the model does not know, add the N that vary most over the training "
        "cells",
    )  # fmt: skip
    finetune.add_argument(
        "--min-cells", type=int, default=3, metavar="N",
        help="only add genes detected in at least this many training cells",
    )  # fmt: skip
    finetune.add_argument(
        "--min-gene-overlap", type=float, default=0.5, metavar="SHARE",
        help="fraction of the genes that must match, of the model's or of the data's, whichever "
        "has fewer",
    )  # fmt: skip
    pretrain.add_training(
        finetune,
        tokens="genes revealed in training (as before; more with new genes)",
        epochs="50",
        rate="0.0001",
    )
    finetune.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Train a TxFM further."""
    from kernomics.models import CellEncoder, TxFM

    cli_options.use_threads(args.threads)
    if Path(args.out).resolve() in (
        Path(args.model).resolve(),
        *Path(args.model).resolve().parents,
    ):
        raise ConfigError(f"--out is {args.out!r}, which holds the model: choose another directory")
    encoder = CellEncoder.load(args.model)
    settings, training = pretrain.training_settings(args, encoder.config)
    cells, split = pretrain.read_divided(args, encoder)
    model = TxFM.from_pretrained(
        encoder,
        cells,
        new_genes=args.new_genes,
        min_cells=args.min_cells,
        min_gene_overlap=args.min_gene_overlap,
        split=split,
        seed=args.seed,
        **settings,
    )
    assert model.start is not None
    for line in cli_options.as_in_training(args, cells):
        print(line)
    print(f"from       {args.model}: {genes_taken(model.start)}")
    pretrain.run_training(args, model, training)
    if model.history.best_epoch is not None:
        print(f"kept       {weights_kept(model.history.best_epoch)}")


def genes_taken(start: Pretrained) -> str:
    """Say which genes a fine-tuning goes on with, and how to add some that it leaves out."""
    known, new, left_out = len(start.kept), len(start.new), len(start.left_out)
    said = (
        f"{known:,} of its {len(start.encoder.genes):,} genes are in the data, "
        f"{len(start.dropped):,} missing; {new:,} new, {left_out:,} left out"
    )
    return said + (" (--new-genes N adds those that vary most)" if left_out and not new else "")


def weights_kept(best_epoch: int) -> str:
    """Say of which validation the weights are that a fine-tuning ends with."""
    if best_epoch == -1:
        return "the original model: no epoch improved on its validation score"
    return f"the weights after epoch {best_epoch + 1}, the best at validation"
