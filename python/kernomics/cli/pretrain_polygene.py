"""``kernomics pretrain --model polygene``: phenotypes learned from expressed genes."""

from __future__ import annotations

import argparse
from pathlib import Path

from kernomics.cli import options as cli_options
from kernomics.cli import pretrain, tables
from kernomics.cli.constraints import task_weights
from kernomics.errors import ConfigError

FRACTIONS = (0.7, 0.1, 0.2)


def check(args: argparse.Namespace) -> None:
    """Refuse, before the data are read, what PolyGene cannot do or cannot do without."""
    if args.size == "L":
        raise ConfigError("--size L is a TxFM's; a PolyGene's are XXS, XS, S and B")
    if args.score_epochs:
        raise ConfigError(
            "--score-epochs is about TxFM, which learns no labels: a PolyGene's balanced accuracy "
            "is recorded at each validation anyway; leave it out"
        )
    if not args.labels_key:
        raise ConfigError(
            "--model polygene learns phenotypes: name obs columns with --labels-key, such as "
            "--labels-key disease cell_type"
        )


def run(args: argparse.Namespace) -> None:
    """Train a PolyGene."""
    from kernomics.models import PolyGene, PolyGeneConfig
    from kernomics.workflows.pretrain_polygene import run_polygene

    settings, training = pretrain.training_settings(args, PolyGeneConfig.of_size(args.size))
    weights = task_weights(args)
    cells = cli_options.read_cells(args, **cli_options.labels_of(args))
    split = cli_options.divide(cells, args.split_key, FRACTIONS, args.seed)
    model = PolyGene(
        cells,
        size=args.size,
        genes=pretrain.vocabulary(args),
        n_genes=args.n_genes,
        min_cells=args.min_cells,
        split=split,
        task_weights=weights,
        seed=args.seed,
        **settings,
    )
    dataset, config, split = cli_options.data_name(args), model.config, model.split
    print(f"cells      {model.cells.n_cells:,}   genes {len(model.genes):,}   {dataset}")
    print(
        f"split      {split.how}{f' by {split.by}' if split.by else ''}: {len(split.train):,} to "
        f"train, {len(split.validation):,} to validate, {len(split.test):,} held out"
    )
    print(
        f"model      PolyGene, {config.n_layers} block{'s' * (config.n_layers > 1)}, width "
        f"{config.d_model}, {config.n_heads} heads; at most {config.n_tokens:,} genes of a cell"
    )
    phenotypes = ", ".join(f"{task.name} ({len(task.classes)})" for task in model.tasks)
    print(f"phenotypes {phenotypes}")
    print(f"library    {model.cells.library_source}")
    result = run_polygene(
        model,
        args.out,
        dataset=dataset,
        resume=args.resume,
        overwrite=args.overwrite,
        device=args.device,
        log_dir=args.log_dir,
        skip_steps=cli_options.skipped_steps(args),
        **training,
    )
    print(f"seconds    {result.seconds:.1f}")
    tables.print_phenotypes(result.scores)
    print(f"model      {Path(args.out) / 'model'}")
    print(f"report     {result.report}")
