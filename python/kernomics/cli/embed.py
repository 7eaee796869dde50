"""`kernomics embed`: cells represented by a saved TxFM, PolyGene or GIL."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kernomics.cli import options as cli_options
from kernomics.cli.messages import Help
from kernomics.errors import ConfigError

OF_EMBEDDING = ("n_tokens", "n_draws", "block", "min_gene_overlap")
"""Options that decide a representation."""
OF_TXFM = {"n_draws": 1, "block": None}
"""Those that a PolyGene and a GIL do not take, as they are if not given."""


def add_parser(commands: Any) -> None:
    """Add ``kernomics embed`` to the subcommands."""
    embed = commands.add_parser(
        "embed",
        help="compute representations of the cells in a file",
        description="Write a trained model's representation of each cell to a copy of the data "
        "(.h5ad), a table (.csv) or an array (.npy). In a copy, a TxFM's is obsm['X_txfm'], beside "
        "varm['txfm_encoder'] and varm['txfm_decoder'], a PolyGene's is obsm['X_polygene'], beside "
        "varm['polygene_genes'], and a GIL's, after its last stage, obsm['X_gil'], beside "
        "varm['gil_genes']. Started by torchrun or srun, all processes share the cells, and write "
        "what one would.",
        formatter_class=Help,
    )
    embed.add_argument("run_or_model", help="a run directory or a saved model")
    cli_options.add_reading(embed, trained=True)
    embed.add_argument("--out", required=True, metavar="FILE", help=".h5ad, .csv or .npy")
    embed.add_argument("--overwrite", action="store_true", help="replace the file in --out")
    cli_options.add_revealed(embed)
    embed.add_argument(
        "--block",
        type=int,
        metavar="I",
        help="take the representation after this block, counting from 1 (the last if not given)",
    )
    embed.add_argument("--batch-size", type=int, metavar="N", help="cells per batch")
    embed.add_argument("--threads", type=int, metavar="N", help="CPU threads (all if not given)")
    embed.add_argument("--quiet", action="store_true", help="no progress bar")
    embed.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Represent the cells of a file."""
    from kernomics.data.readers.inputs import ReadOptions
    from kernomics.models import CellEncoder, ExpressionModel, PhenotypeModel
    from kernomics.models.saved import KINDS, saved_format
    from kernomics.workflows.embed import write_representation
    from kernomics.workflows.shared_model import shared

    cli_options.use_threads(args.threads)
    out = Path(args.out)
    if out.suffix not in (".h5ad", ".csv", ".npy"):
        raise ConfigError(f"--out is {args.out!r}: its name must end in .h5ad, .csv or .npy")
    if out.exists() and out.samefile(args.data):
        raise ConfigError(
            f"--out is the data file {args.data}, which is not overwritten: choose another name"
        )
    if out.exists() and not args.overwrite:
        raise ConfigError(
            f"{out} already exists; choose another --out, or replace it with --overwrite"
        )
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out is {args.out!r}, but there is no directory {str(out.parent)!r}")
    options = {name: getattr(args, name) for name in OF_EMBEDDING}
    of_genes: dict[str, type[PhenotypeModel] | type[ExpressionModel]] = {
        PhenotypeModel.FORMAT: PhenotypeModel,
        ExpressionModel.FORMAT: ExpressionModel,
    }
    found = saved_format(args.run_or_model)
    kind, held = of_genes.get(found), found.rpartition(" ")[0]
    if held in KINDS and kind is None and found != CellEncoder.FORMAT:
        raise ConfigError(
            f"{args.run_or_model} holds {KINDS[held]}, but this takes a TxFM, a PolyGene or a GIL"
        )
    model: CellEncoder | PhenotypeModel | ExpressionModel
    if kind is not None:
        given = [name for name, default in OF_TXFM.items() if options.pop(name) != default]
        if given:
            raise ConfigError(
                f"{args.run_or_model} is {KINDS[held]}, which does not take "
                + ", ".join("--" + name.replace("_", "-") for name in given)
            )
        model = kind.load(args.run_or_model)
    else:
        model = CellEncoder.load(args.run_or_model)
    cells = cli_options.read_cells(args, model=model)
    reading: ReadOptions = {**cli_options.reading(args), **cells.reading}
    with shared(model, cells) as model:
        width = write_representation(
            model,
            cells,
            Path(args.data),
            out,
            reading=reading,
            batch_size=args.batch_size,
            progress=not args.quiet,
            **options,
        )
    print(f"cells      {cells.n_cells:,}   dimensions {width}")
    for line in cli_options.as_in_training(args, cells):
        print(line)
    print(f"library    {cells.library_source}")
    print(f"written    {out}")
