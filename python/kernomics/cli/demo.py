"""`kernomics demo`: a panel of real blood cells."""

from __future__ import annotations

import argparse
from typing import Any

from kernomics.cli.messages import Help
from kernomics.cli.select import add_training, select, settings_of


def add_parser(commands: Any) -> None:
    """Add the command."""
    demo = commands.add_parser(
        "demo",
        help="select 32 genes for the 10 types of 700 real blood cells",
        description="Select 32 genes for the 10 cell types of the 700 real PBMCs that ship with "
        "scanpy.",
        formatter_class=Help,
    )
    add_training(demo, out="runs/demo", n_genes=32, splits=5, compare=("de", "l1", "hvg", "random"))
    # Batches of 64 cells leave a second thread nothing to do but wait.
    demo.set_defaults(run=run, threads=1)


def run(args: argparse.Namespace) -> None:
    """Select, from the cells that scanpy ships."""
    from kernomics import datasets
    from kernomics.data import CellCollection

    settings = settings_of(args)
    adata = datasets.pbmc68k()
    cells = CellCollection.from_anndata(
        adata, layer="counts", labels_key="cell_type", library_key="n_counts"
    )
    select(
        args,
        settings,
        cells,
        "700 PBMCs (10x Genomics), shipped with scanpy",
        [adata.uns["kernomics"]["note"]],
    )
