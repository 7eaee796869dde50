"""`kernomics stages`: base and specific genes, and which cells show which."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kernomics.cli import options as cli_options
from kernomics.cli.messages import Help
from kernomics.errors import ConfigError, closest

SETS = (".h5ad", ".h5mu", ".zarr")
OF_LABELLED_CELLS = ("labels_key", "unlabelled", "n_genes", "ranking")


def add_parser(commands: Any) -> None:
    """Add the command."""
    stages = commands.add_parser(
        "stages",
        help="divide genes and cells into stages, for gene-incremental learning",
        description="Divide genes and cells into stages: base genes are in every stage, the "
        "specific genes of a stage in its cells alone, as if they had not been measured in the "
        "others. Writes a JSON file for kernomics increment.",
        formatter_class=Help,
    )
    cli_options.add_reading(stages, several=True, keep_empty=False)
    stages.add_argument(
        "--specific", required=True, nargs="+", metavar="NAME=FILE",
        help="per stage after the first, in order, its genes: a list (one per line, or a CSV with "
        "the column gene), or labelled cells, of which the most important genes are taken",
    )  # fmt: skip
    stages.add_argument(
        "--labels-key", nargs="+", default=[], metavar="[NAME=]COLUMN",
        help="obs column of the labelled cells, one for all or one per stage",
    )  # fmt: skip
    stages.add_argument(
        "--unlabelled", nargs="+", default=[], metavar="[NAME=]CLASS",
        help="class of the labelled cells that means 'no label', one for all or of some stages",
    )  # fmt: skip
    stages.add_argument(
        "--n-genes", type=int, metavar="N", help="genes that each labelled set wants (150)"
    )
    stages.add_argument(
        "--ranking", choices=("DE", "L1"),
        help="how genes of labelled cells are ranked: by Wilcoxon's test (DE, if not given) or by "
        "an L1 regression",
    )  # fmt: skip
    stages.add_argument(
        "--base", metavar="FILE", help="list of the base genes (all others if not given)"
    )
    stages.add_argument(
        "--common-genes", action="store_true",
        help="of several files, only genes that all have become base genes",
    )  # fmt: skip
    stages.add_argument("--base-stage", default="base", metavar="NAME", help="of the first stage")
    stages.add_argument(
        "--by", metavar="COLUMN",
        help="obs column whose values are the names of the cells' stages, such as dataset, which "
        "of several files names each cell's (cells are drawn if not given)",
    )  # fmt: skip
    stages.add_argument(
        "--base-share", type=float, default=0.5, metavar="SHARE",
        help="the first stage's share of the cells; the others divide the rest equally",
    )  # fmt: skip
    stages.add_argument("--seed", type=int, default=0, help="decides how cells are divided")
    stages.add_argument("--out", required=True, metavar="FILE", help="where the stages are written")
    stages.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Make the stages, print what they are, and write them."""
    from kernomics.data import gene_stages
    from kernomics.data.gene_lists import read_genes

    files = cli_options.pairs_of(args, "specific", "NAME=FILE")
    if args.base is not None and args.common_genes:
        raise ConfigError("--base names the base genes, and --common-genes finds them: give one")
    cells = cli_options.read_cells(args)
    vocabulary = [str(gene) for gene in cells.genes]
    if args.common_genes:
        if cells.observed is None:
            raise ConfigError("--common-genes needs several files: one has all its genes anyway")
        everywhere = cells.observed.mask.numpy().astype(bool).all(0)
        vocabulary = [str(gene) for gene in cells.genes[everywhere]]
    specific, removed = _specific(args, files, vocabulary)
    base = None
    if args.base is not None:
        base = read_genes(args.base)
    elif args.common_genes:
        taken = {gene for genes in specific.values() for gene in genes}
        base = [gene for gene in vocabulary if gene not in taken]
    found = gene_stages(
        cells,
        specific,
        base=base,
        base_stage=args.base_stage,
        by=args.by,
        base_share=args.base_share,
        seed=args.seed,
    )
    found.save(args.out)
    print(f"cells      {cells.n_cells:,}   genes {cells.n_genes:,}   {cli_options.data_name(args)}")
    print(f"stages     {'name':<16}{'genes':>9}{'known':>9}{'train':>9}{'validate':>10}{'test':>9}")
    for name, row in found.counts().iterrows():
        print(
            f"           {name!s:<16}{row['genes']:>9,}{row['known']:>9,}{row['train']:>9,}"
            f"{row['validation']:>10,}{row['test']:>9,}"
        )
    if removed:
        print(f"removed    {len(removed):,} genes that several sets want became base genes")
    print(f"written    {args.out}")


def _specific(
    args: argparse.Namespace, files: dict[str, str], vocabulary: list[str]
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the genes of each stage, from lists or from labelled cells, and those removed."""
    from kernomics.baselines import specific_genes
    from kernomics.baselines.specific import N_GENES
    from kernomics.data.gene_lists import read_genes
    from kernomics.models.base import as_collection

    sets = {name: path for name, path in files.items() if Path(path).suffix.lower() in SETS}
    if not sets:
        _refuse_ranking(args)
        return {name: read_genes(path) for name, path in files.items()}, []
    if len(sets) < len(files):
        raise ConfigError(
            f"--specific has {len(sets)} labelled sets and {len(files) - len(sets)} lists of "
            "genes: give all of one kind"
        )
    keys = _per_set(args, "labels_key", "COLUMN", list(sets))
    missing = [name for name in sets if name not in keys]
    if missing:
        raise ConfigError(
            f"--labels-key names no column for {len(missing)} of {len(sets)} labelled sets, first "
            f"{missing[0]!r}: write --labels-key {missing[0]}=COLUMN"
        )
    unlabelled = _per_set(args, "unlabelled", "CLASS", list(sets))
    cells = {
        name: as_collection(
            path,
            cli_options.reading(args),
            labels_key=keys[name],
            unlabelled_category=unlabelled.get(name),
        )
        for name, path in sets.items()
    }
    found = specific_genes(
        cells,
        keys,
        n_genes=N_GENES if args.n_genes is None else args.n_genes,
        by=args.ranking or "DE",
        genes=vocabulary,
        seed=args.seed,
    )
    return found.lists, found.removed


def _refuse_ranking(args: argparse.Namespace) -> None:
    """Refuse options of labelled cells where lists of genes are given."""
    for option in OF_LABELLED_CELLS:
        if getattr(args, option) not in (None, []):
            raise ConfigError(
                f"--{option.replace('_', '-')} is about labelled cells, of which --specific names "
                "none, but lists of genes: leave it out"
            )


def _per_set(args: argparse.Namespace, option: str, what: str, names: list[str]) -> dict[str, str]:
    """Return what an option gives for each set: one value for all, or NAME=value for some."""
    given = getattr(args, option)
    if len(given) == 1 and "=" not in given[0]:
        return dict.fromkeys(names, given[0])
    found = cli_options.pairs_of(args, option, f"NAME={what}, or one {what} for all")
    unknown = [name for name in found if name not in names]
    if unknown:
        raise ConfigError(
            f"--{option.replace('_', '-')} names {unknown[0]!r}, which is no set of --specific; "
            f"{closest(unknown[0], names)}"
        )
    return found
