"""``kernomics evaluate`` of a TxFM: by labels, perturbations and relations."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kernomics.cli import options as cli_options
from kernomics.cli import perturbations as cli_perturbations
from kernomics.cli import tables
from kernomics.errors import ConfigError

METRICS = ("probes", "top", "mlp", "clusters")  # and mixing, where batches are named

OF_PANEL = ("label", "predictions", "allow_missing")
OF_PHENOTYPES = ("target", "given")
OF_LABELS = ("label_kinds", "unlabelled", "split_key", "metrics", "blocks")
OF_PERTURBATIONS = ("control", "null")
OF_TXFM = (
    *("labels_key", *OF_LABELS, "perturbation_key", *OF_PERTURBATIONS, "batch_key"),
    *("n_tokens", "n_draws", "min_gene_overlap"),
    *("relations", "n_components", "seed"),
)


def add_evaluation(command: argparse.ArgumentParser) -> None:
    """Add the options of ``kernomics evaluate`` that a TxFM needs."""
    group = command.add_argument_group("for a TxFM")
    cli_options.add_labels(group, "obs column(s) of classes", need=False)
    group.add_argument(
        "--split-key", metavar="COLUMN",
        help="obs column of groups, such as batches; cells of one group are never both fitted "
        "and scored on",
    )  # fmt: skip
    cli_options.add_revealed(group)
    group.add_argument(
        "--metrics", nargs="+", metavar="NAME", default=["probes"], choices=METRICS,
        help="scores of the representation: probes (nearest neighbours, logistic regression), "
        "top (top-5 accuracy), mlp (a network), clusters (NMI, ARI, silhouette)",
    )  # fmt: skip
    group.add_argument(
        "--batch-key", metavar="COLUMN",
        help="obs column of batches, to score how well they mix; perturbed cells are compared "
        "with the controls of their own batch",
    )  # fmt: skip
    group.add_argument(
        "--blocks", nargs="+", type=int, default=[], metavar="I",
        help="also score the representation after these blocks, counting from 1",
    )  # fmt: skip
    group.add_argument(
        "--relations", nargs="+", default=[], metavar="FILE",
        help="pairs of related genes (entity1,entity2), one file per database: score how many the "
        "model's gene parameters recall, beside PCA of the file's cells",
    )  # fmt: skip
    group.add_argument(
        "--n-components", nargs="+", type=int, default=[32, 256], metavar="M",
        help="with --relations, the numbers of principal components to keep",
    )  # fmt: skip
    group.add_argument("--seed", type=int, default=0, help="seed of the split and the scores")
    cli_perturbations.add_perturbations(command)
    command.set_defaults(
        at_first={name: command.get_default(name) for name in (*OF_PANEL, *OF_PHENOTYPES, *OF_TXFM)}
    )


def refuse(args: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    """Refuse options of ``kernomics evaluate`` that would be without effect."""
    given = [name for name in names if getattr(args, name) != args.at_first[name]]
    if given:
        options = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ConfigError(f"{args.run_or_model} {why} {options}")


def evaluate(args: argparse.Namespace) -> None:
    """Score a TxFM: its cells by classes and perturbations, its gene parameters by relations."""
    from kernomics.metrics import read_relations

    if not args.labels_key and not args.relations and args.perturbation_key is None:
        raise ConfigError(
            "a TxFM is scored by labels or perturbations of cells, or by relationships between "
            "genes: name a column with --labels-key or --perturbation-key, or files with "
            "--relations"
        )
    _refuse_without_effect(args)
    relations = {Path(path).stem: read_relations(path) for path in args.relations}
    if len(relations) < len(args.relations):
        raise ConfigError(f"two of the files {args.relations} have the same name")
    with noted_warnings() as notes:
        _evaluate(args, relations, notes)


def _evaluate(args: argparse.Namespace, relations: dict[str, Any], notes: list[str]) -> None:
    from kernomics.models import CellEncoder
    from kernomics.workflows.shared_model import shared

    model = CellEncoder.load(args.run_or_model)
    cells = cli_options.read_cells(
        args, model=model, batch_key=args.batch_key, **cli_options.labels_of(args)
    )
    if not args.json:
        for line in cli_options.as_in_training(args, cells):
            print(line)
    found: dict[str, Any] = {}
    scores = perturbed = split = None
    if args.labels_key:
        split = cli_options.divide(cells, args.split_key, (0.8, 0.0, 0.2), args.seed)
    with shared(model, cells) as sharing:
        if args.labels_key or args.perturbation_key is not None:
            _tell_seen(args, model, cells, split, found)
        if split is not None:
            scores = _cell_scores(args, sharing, cells, split)
            found |= scores.to_dict()
            if not args.json:
                tables.print_scores(scores)
        if args.perturbation_key is not None:
            perturbed = cli_perturbations.evaluate(args, sharing, cells)
            found["perturbations"] = perturbed.to_dict()
            if not args.json:
                cli_perturbations.print_scores(perturbed)
    recall = None
    if relations:
        from kernomics.evaluation.relationships import compare_relationships

        recall = compare_relationships(
            model,
            cells,
            None,
            relations,
            n_components=args.n_components,
            min_gene_overlap=args.min_gene_overlap,
            seed=args.seed,
        )
        found["relationships"] = recall.to_dict()
        if not args.json:
            tables.print_relationships(recall)
    if args.report is not None:
        from kernomics.report import write_representation_report
        from kernomics.workflows.evaluate_representation import evaluation_report

        shown = evaluation_report(
            model, cells, cli_options.data_name(args), split=split, scores=scores,
            perturbations=perturbed, relationships=recall, notes=notes, seed=args.seed,
            n_tokens=args.n_tokens, n_draws=args.n_draws, min_gene_overlap=args.min_gene_overlap,
        )  # fmt: skip
        write_representation_report(args.report, shown)
    if args.json:
        cli_options.print_json(found)
    elif args.report is not None:
        print(f"report     {args.report}")


def _tell_seen(
    args: argparse.Namespace, model: Any, cells: Any, split: Any, found: dict[str, Any]
) -> None:
    """Warn where cells that are scored were trained on, and note how many."""
    whole = split is None or args.perturbation_key is not None
    seen, compared = tell_seen(model, cells, None if whole else split.test)
    if seen:
        found["seen_in_training"] = {"cells": seen, "of": compared}


def tell_seen(model: Any, cells: Any, rows: Any = None) -> tuple[int, int]:
    """Warn where some cells, or all, were trained on; return how many, and of how many told."""
    from kernomics._warnings import warn
    from kernomics.models.seen_cells import told

    seen: tuple[int, int] = model.cells_seen(cells, rows=rows)
    if seen[0]:
        warn(str(told(*seen, "cells" if rows is None else "cells scored on")))
    return seen


def _refuse_without_effect(args: argparse.Namespace) -> None:
    refuse(args, (*OF_PANEL, *OF_PHENOTYPES), "is a TxFM, which does not take")
    if not args.labels_key:
        refuse(args, OF_LABELS, "is not scored by labels: give --labels-key, or leave out")
        if args.perturbation_key is None:
            refuse(
                args,
                ("batch_key", "n_tokens", "n_draws"),
                "is scored by relationships between genes only: give --labels-key or "
                "--perturbation-key, or leave out",
            )
    if args.perturbation_key is None:
        refuse(
            args,
            OF_PERTURBATIONS,
            "is not scored by perturbations: give --perturbation-key, or leave out",
        )
    if not args.relations:
        refuse(
            args,
            ("n_components",),
            "is not scored by relationships: give --relations, or leave out",
        )


def _cell_scores(args: argparse.Namespace, model: Any, cells: Any, split: Any) -> Any:
    from kernomics.evaluation.representations import compare_representations

    return compare_representations(
        model,
        cells,
        split,
        n_tokens=args.n_tokens,
        n_draws=args.n_draws,
        min_gene_overlap=args.min_gene_overlap,
        seed=args.seed,
        blocks=args.blocks,
        metrics=args.metrics + ["ilisi"] * (args.batch_key is not None),
        progress=not args.json,
    )


@contextmanager
def noted_warnings(*, show: bool = True) -> Iterator[list[str]]:
    """Gather what is warned of, each once, and show it as before unless told not to."""
    notes: list[str] = []
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def note(message: Warning | str, *where: Any, **options: Any) -> None:
            if str(message) not in notes:
                notes.append(str(message))
            if show:
                shown(message, *where, **options)

        warnings.showwarning = note
        yield notes
