"""The `kernomics` command."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from kernomics._version import __version__
from kernomics.cli import (
    attribute,
    bench,
    convert,
    demo,
    embed,
    evaluate,
    finetune,
    increment,
    info,
    panel,
    pretrain,
    prune,
    select,
    stages,
)
from kernomics.cli.many import among_ranks
from kernomics.cli.messages import CommandParser, as_options, options_of
from kernomics.errors import KernomicsError

COMMANDS = (
    *(select, demo, evaluate, panel),
    *(pretrain, finetune, embed),
    *(attribute, prune),
    *(stages, increment),
    *(convert, bench, info),
)
EXAMPLES = """examples:
  kernomics demo
  kernomics select cells.h5ad --labels-key cell_type --n-genes 64 --out runs/panel
  kernomics select cells.h5ad --labels-key cell_type disease --layer counts \\
      --split group --split-key donor --force CD3D MS4A1 --out runs/two-tasks
  kernomics evaluate runs/panel other.h5ad
  kernomics evaluate runs/txfm screen.h5ad --perturbation-key guide --control non-targeting
  kernomics panel cells.h5ad --genes genes.txt --labels-key cell_type
  kernomics pretrain cells.h5ad --size XS --labels-key cell_type --out runs/txfm
  kernomics finetune runs/txfm other.h5ad --out runs/tuned
  kernomics embed runs/tuned other.h5ad --out embedded.h5ad
  kernomics pretrain cells.h5ad --model polygene --labels-key disease cell_type --out runs/poly
  kernomics attribute runs/poly cells.h5ad --target disease --case lupus --baseline normal \\
      --controlled cell_type --out runs/lupus
  kernomics prune runs/poly cells.h5ad --attribution runs/lupus --out runs/pruned
  kernomics stages cells.h5ad --specific lupus=lupus.h5ad --labels-key cell_type \\
      --out stages.json
  kernomics increment cells.h5ad --stages stages.json --method replay --memory 1000 \\
      --out runs/replay
  kernomics convert a.h5ad b.h5ad --shuffle --shards 16 --out atlas
  kernomics bench --op poisson_nll --out times.jsonl
"""


def parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    top = CommandParser(
        prog="kernomics",
        description="Train models on gene-expression counts: gene panels with their predictors, "
        "representations of cells, phenotypes with the genes that tell them, and models that learn "
        "new genes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"kernomics {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    for command in COMMANDS:
        command.add_parser(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    whole = parser()
    args = whole.parse_args(argv)
    options = options_of(whole, args.command)

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"warning: {as_options(str(message), options)}", file=sys.stderr)

    who = ""
    with warnings.catch_warnings():
        # The data layer's warnings are for the reader of the terminal, without code lines.
        warnings.showwarning = show
        try:
            with among_ranks(args.command) as rank:
                who = f", rank {rank}" if rank else ""
                args.run(args)
        except (KernomicsError, OSError, ImportError) as error:
            told = as_options(str(error), options)
            print(f"kernomics {args.command}{who}: error: {told}", file=sys.stderr)
            return 2
        except KeyboardInterrupt as stop:
            if not who:
                print(f"\n{as_options(str(stop), options) or 'interrupted'}", file=sys.stderr)
                _say_how_to_continue(args)
            return 130
        except SystemExit as stop:
            if stop.code and not who:  # SIGTERM, after saving
                print("\nterminated", file=sys.stderr)
                _say_how_to_continue(args)
            raise
    return 0


def _say_how_to_continue(args: argparse.Namespace) -> None:
    if "resume" in args:
        print("the same command with --resume continues", file=sys.stderr)
