"""`kernomics convert`: cells of any source in the form that trainings read fastest."""

from __future__ import annotations

import argparse
from typing import Any

from kernomics.cli import options as cli_options
from kernomics.cli.messages import Help


def add_parser(commands: Any) -> None:
    """Add the command."""
    convert = commands.add_parser(
        "convert",
        help="write cells in the form that trainings read fastest",
        description="Write the counts of one file or several, however they are stored and larger "
        "than memory, as uncompressed CSR with the tables of cells and genes. Counts are checked "
        "first. What is written is read back, and has its name only when it is whole; the digest "
        "that is printed (the number of cells, and a sum over their names and counts) is the same "
        "for the source and for what is written. Other layers, raw and embeddings are left out.",
        formatter_class=Help,
    )
    cli_options.add_reading(convert, several=True)
    convert.add_argument(
        "--out", required=True, metavar="FILE_OR_DIR",
        help="FILE.h5ad or FILE.zarr, or with --shards a directory, which every command reads "
        "like one file",
    )  # fmt: skip
    convert.add_argument(
        "--format", choices=("h5ad", "zarr"),
        help="what is written, zarr being version 3 (as the name of --out says if not given; h5ad "
        "in a directory)",
    )  # fmt: skip
    convert.add_argument(
        "--shards", type=int, metavar="N", help="write a directory of N files (one if not given)"
    )
    convert.add_argument(
        "--shuffle", action="store_true",
        help="put the cells in a random order, so that long ranges of the file hold all kinds",
    )  # fmt: skip
    convert.add_argument("--seed", type=int, default=0, help="decides the order of --shuffle")
    convert.add_argument(
        "--join", choices=("union", "common"), default="union",
        help="genes of several files: all, with note of which each file has measured, or those "
        "that all files have",
    )  # fmt: skip
    convert.add_argument(
        "--memory", type=float, default=1.0, metavar="GB", help="about how much memory to use"
    )
    ending = convert.add_mutually_exclusive_group()
    ending.add_argument(
        "--resume", action="store_true",
        help="continue a conversion to --out that was stopped, at whatever moment, or begin it; "
        "the same bytes are written",
    )  # fmt: skip
    ending.add_argument(
        "--overwrite", action="store_true", help="replace what is in --out, once the new is whole"
    )
    convert.add_argument("--quiet", action="store_true", help="no progress bar")
    convert.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Convert."""
    from kernomics.data import convert

    paths = cli_options.data_paths(args)
    found = convert(
        paths[0] if len(paths) == 1 else cli_options.named_paths(paths),
        args.out,
        format=args.format,
        shuffle=args.shuffle,
        seed=args.seed,
        shards=args.shards,
        join=args.join,
        memory=args.memory,
        resume=args.resume,
        overwrite=args.overwrite,
        progress=not args.quiet,
        **cli_options.reading(args),
    )
    files = "" if found.n_files == 1 else f"   files {found.n_files:,}"
    print(f"cells      {found.n_cells:,}   genes {found.n_genes:,}{files}")
    print(f"digest     {found.digest}")
    print(f"written    {found.path}")
