"""Options and settings that commands share, and those on which genes a panel may hold."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kernomics.errors import ConfigError, closest

if TYPE_CHECKING:
    from kernomics.data import CellCollection, ReadOptions
    from kernomics.data.labels import Kind
    from kernomics.models import YOTO, CellEncoder


FILES = "an .h5ad or .h5mu file, or a zarr store, with raw counts"

READING = (
    *("layer", "use_raw", "gene_names", "library_key", "allow_fractions", "modality"),
    "all_features",
)


def add_reading(
    command: argparse.ArgumentParser, *, several: bool = False, keep_empty: bool = True
) -> None:
    """Add the data and the options that `reading` reads."""
    if several:
        command.add_argument(
            "data", nargs="+",
            help=f"{FILES}; several files are joined over the union of their genes, and each "
            "file is a batch named after it",
        )  # fmt: skip
    else:
        command.add_argument("data", help=FILES)
    group = command.add_argument_group("how to read the data")
    group.add_argument("--layer", help="layer that holds the counts (X if not given)")
    group.add_argument(
        "--use-raw", action="store_true",
        help="take counts and genes from raw, as in CELLxGENE files",
    )  # fmt: skip
    group.add_argument(
        "--gene-names", metavar="COLUMN",
        help="var column with the gene names, such as feature_name (var_names if not given)",
    )  # fmt: skip
    group.add_argument("--library-key", help="obs column with each cell's total over all genes")
    group.add_argument(
        "--allow-fractions", action="store_true",
        help="accept counts that are not integers, such as counts corrected for ambient RNA",
    )  # fmt: skip
    if keep_empty:
        group.add_argument(
            "--keep-empty", action="store_true",
            help="keep cells without counts, and cells without counts in a model's genes, which "
            "all get the same representation; otherwise they are an error",
        )  # fmt: skip
    group.add_argument("--modality", metavar="NAME", help="modality to read from an .h5mu file")
    group.add_argument(
        "--all-features", action="store_true",
        help="keep features that var['feature_types'] says are not genes, such as antibodies",
    )  # fmt: skip


def reading(args: argparse.Namespace) -> ReadOptions:
    """Return what the options of `add_reading` ask for."""
    asked = {name: getattr(args, name) for name in READING}
    if getattr(args, "keep_empty", False):
        asked["empty_cells"] = "keep"
    return {name: value for name, value in asked.items() if value}  # type: ignore[return-value]


def read_cells(
    args: argparse.Namespace, *, model: CellEncoder | None = None, **labels: Any
) -> CellCollection:
    """Read the command's data, one file or several."""
    from kernomics.data import CellCollection, concat
    from kernomics.models.base import same_library_key

    known = {} if model is None else model.info.get("library", {})

    def read(path: str, **more: Any) -> CellCollection:
        how = same_library_key(path, known, reading(args))
        return CellCollection.from_anndata(path, **how, **more)

    paths = data_paths(args)
    if len(paths) == 1:
        return read(paths[0], **labels)
    return concat({name: read(path) for name, path in named_paths(paths).items()}, **labels)


def data_paths(args: argparse.Namespace) -> list[str]:
    """Return the path, or paths, that the command was given."""
    return [args.data] if isinstance(args.data, str) else list(args.data)


def data_name(args: argparse.Namespace) -> str:
    """Return what the data are called in what the command prints and writes."""
    return ", ".join(Path(path).name for path in data_paths(args))


def named_paths(paths: Sequence[str]) -> dict[str, str]:
    """Name several files by their stems, or with their folders where these are alike."""
    stems = [Path(path).stem for path in paths]
    folders = [f"{Path(path).resolve().parent.name}/{Path(path).stem}" for path in paths]
    for names in (stems, folders):
        if len(set(names)) == len(names):
            return dict(zip(names, paths, strict=True))
    twice = [path for path, name in zip(paths, folders, strict=True) if folders.count(name) > 1]
    raise ConfigError(
        f"{len(twice)} of the {len(paths)} files have the same name and parent directory as "
        f"another, first {twice[0]} and {twice[1]}: list each file once, or rename one"
    )


def add_label_kinds(command: argparse._ActionsContainer) -> None:
    """Add the option that `label_kinds` reads."""
    command.add_argument(
        "--label-kinds", nargs="+", default=[], metavar="LABEL=KIND",
        help="whether a label is categorical (classes, such as cluster numbers) or continuous "
        "(numbers); by default integers with at most 20 distinct values are classes",
    )  # fmt: skip


def label_kinds(args: argparse.Namespace) -> dict[str, Kind]:
    """Return the kinds that the option names."""
    found: dict[str, Kind] = {}
    for pair in args.label_kinds:
        name, equals, kind = pair.rpartition("=")
        if not equals or kind not in ("categorical", "continuous"):
            raise ConfigError(
                f"--label-kinds {pair!r}: write LABEL=categorical or LABEL=continuous"
            )
        found[name] = kind
    return found


def task_weights(args: argparse.Namespace) -> dict[str, float]:
    """Return the weights that the option names."""
    found: dict[str, float] = {}
    for pair in args.task_weights:
        name, _, weight = pair.rpartition("=")
        try:
            found[name] = float(weight)
        except ValueError:
            name = ""
        if not name:
            raise ConfigError(f"--task-weights {pair!r}: write LABEL=WEIGHT, such as disease=3")
    return found


def add_run(command: argparse.ArgumentParser, *, out: str | None = None) -> None:
    """Add where a run goes, `out` by default, and what is done with one that is there."""
    command.add_argument(
        "--out", default=out, required=out is None, metavar="DIR", help="the run directory"
    )
    ending = command.add_mutually_exclusive_group()
    ending.add_argument("--resume", action="store_true", help="continue the run in --out")
    ending.add_argument("--overwrite", action="store_true", help="delete the run in --out first")


def add_machine(command: argparse.ArgumentParser) -> None:
    """Add what a training runs on and shows."""
    command.add_argument(
        "--log-dir", metavar="DIR", help="write TensorBoard event files to this directory"
    )
    command.add_argument("--device", default="cpu", help="where to train: cpu or cuda")
    command.add_argument("--threads", type=int, metavar="N", help="CPU threads (all if not given)")
    command.add_argument("--quiet", action="store_true", help="no progress bar")


def add_constraints(command: argparse.ArgumentParser) -> None:
    """Add the options that `constraints` reads."""
    genes = command.add_argument_group("which genes")
    genes.add_argument("--force", nargs="+", default=[], metavar="GENE", help="always in the panel")
    genes.add_argument("--forbid", nargs="+", default=[], metavar="GENE", help="never in the panel")
    genes.add_argument(
        "--exclude", nargs="+", default=[], metavar="PATTERN",
        help="never in the panel unless forced: mitochondrial, ribosomal, "
        "ribosomal_mitochondrial, haemoglobin, or regular expressions matched at the start of a "
        "gene name, such as 'HLA-'",
    )  # fmt: skip
    genes.add_argument(
        "--min-detection", type=float, default=0.0, metavar="SHARE",
        help="leave out genes detected in a smaller fraction of the training cells",
    )  # fmt: skip
    genes.add_argument(
        "--max-detection", type=float, default=1.0, metavar="SHARE",
        help="leave out genes detected in a larger fraction of the training cells",
    )  # fmt: skip
    genes.add_argument(
        "--extend", metavar="PANEL",
        help="build on this panel: a run directory, a saved model, a panel.csv, or a file with "
        "one gene per line; --n-genes is the total size",
    )  # fmt: skip
    genes.add_argument(
        "--start-from", metavar="PANEL",
        help="start from the scores (and network) of this panel, given as for --extend; its "
        "genes may be dropped",
    )  # fmt: skip
    genes.add_argument(
        "--gene-costs", metavar="COSTS",
        help="cost of each gene: a .csv file with columns gene and cost, or a var column",
    )  # fmt: skip
    genes.add_argument(
        "--budget",
        type=float,
        metavar="TOTAL",
        help="the most that the genes of the panel may cost in total",
    )
    genes.add_argument(
        "--n-markers-per-class", type=int, default=0, metavar="M",
        help="always include the M strongest markers of every class; they count towards "
        "--n-genes",
    )  # fmt: skip


def constraints(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the options say as arguments of `kernomics.models.YOTO`."""
    from kernomics.models.yoto.budget import costs_of_column, read_costs

    costs = None
    if args.gene_costs is not None:
        path = Path(args.gene_costs)
        # A shell's <(…) is a pipe.
        is_file = path.suffix.lower() == ".csv" or path.is_file() or path.is_fifo()
        costs = (
            read_costs(args.gene_costs)
            if is_file
            else costs_of_column(args.data, args.gene_costs, reading(args))
        )
    return {
        "forced_genes": args.force,
        "forbidden_genes": args.forbid,
        "exclude_patterns": args.exclude,
        "min_detection": args.min_detection,
        "max_detection": args.max_detection,
        "extend": args.extend,
        "start_from": args.start_from,
        "gene_costs": costs,
        "budget": args.budget,
        "n_markers_per_class": args.n_markers_per_class,
    }


def excluded(model: YOTO) -> list[str]:
    """Say in one line, or none, how many genes the rules asked for leave."""
    if len(model.bounds.excluded) > 2:  # forbidden and rare genes are always counted
        rules = ", ".join(f"{count:,} {rule}" for rule, count in model.bounds.excluded.items())
        return [f"usable     {model.bounds.usable:,} of {model.cells.n_genes:,} genes: {rules}"]
    return []


def spent(model: YOTO) -> list[str]:
    """Say in one line, or none, what a trained panel costs."""
    costs = model.trained.info.get("costs")
    return [f"costs      {costs['total']:,g} of {costs['budget']:,g}"] if costs else []


def kept_markers(model: YOTO) -> list[str]:
    """Say in one line, or none, which genes of a panel were kept for which classes."""
    found = zip(model.genes, model.constraints.marker_for(model.genes), strict=True)
    said = [f"{gene} ({classes})" for gene, classes in found if classes]
    return [f"markers    {', '.join(said)}"] if said else []


def check_run(args: argparse.Namespace) -> None:
    """Refuse a run directory that cannot be used, before the data are read."""
    from kernomics.train.rundir import refuse_foreign, refuse_held, require_run

    refuse_foreign(Path(args.out))
    if args.resume:
        require_run(args.out)
    elif not args.overwrite:
        refuse_held(Path(args.out))


def settings(
    path: str | None,
    model: Any,
    *,
    least: Mapping[str, Any] = MappingProxyType({}),
    given: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Gather the settings of a model and of its training."""
    from kernomics.train import TrainConfig, override

    found = {**least, **_read_settings(path), **given}
    kinds = (model, TrainConfig())
    of_model, of_training = ([field.name for field in dataclasses.fields(kind)] for kind in kinds)
    for name in found:
        if name not in of_model + of_training:
            raise ConfigError(
                f"{path} has the setting {name!r}, which does not exist; "
                f"{closest(name, of_model + of_training)}"
            )
    parts = tuple(
        {name: value for name, value in found.items() if name in names}
        for names in (of_model, of_training)
    )
    try:
        for kind, part in zip(kinds, parts, strict=True):
            override(kind, **part)
    except TypeError as error:  # a word where a number belongs
        raise ConfigError(f"{path}: a setting has the wrong type: {error}") from error
    return parts[0], parts[1]


def _read_settings(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(
            f"{path} must hold a JSON object of settings, not a {type(found).__name__}"
        )
    if found.get("kind") == "kernomics run":
        return {**found["config"]["model"], **found["config"]["train"]}
    return found


def use_threads(threads: int | None) -> None:
    """Limit the CPU threads, if asked to."""
    import torch

    if threads is not None:
        if threads < 1:
            raise ConfigError(f"--threads is {threads}: at least 1 is needed")
        torch.set_num_threads(threads)


def divide(cells: Any, key: str | None, fractions: tuple[float, float, float], seed: int) -> Any:
    """Divide cells by group if a column is named, else within each class, else at random."""
    from kernomics.models.base import split_cells

    return split_cells(cells, "stratified" if key is None else "group", key, fractions, seed)
