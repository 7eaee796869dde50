"""Options and settings that commands share, and those on which genes a panel may hold."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
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

NONE = {"layer": "X", "gene_names": "var_names", "library_key": "auto"}
"""What the command calls the None of Python."""


def add_reading(
    command: argparse.ArgumentParser,
    *,
    several: bool = False,
    keep_empty: bool = True,
    trained: bool = False,
) -> None:
    """Add the data and the options that `reading` reads; `trained` for a model that reads."""
    if several:
        command.add_argument(
            "data", nargs="+",
            help=f"{FILES}; several are put together over the union of their genes, and each is a "
            "batch by its file's name",
        )  # fmt: skip
    else:
        command.add_argument("data", help=FILES)
    group = command.add_argument_group(
        "how to read the data",
        "What is not given is as the model was trained." if trained else None,
    )
    flag: Any = argparse.BooleanOptionalAction if trained else "store_true"

    def unless(default: str) -> str:
        return "" if trained else f" ({default} if not given)"

    group.add_argument("--layer", help=f"layer that holds the counts, or X{unless('X')}")
    group.add_argument(
        "--use-raw", action=flag, default=None,
        help="take counts and genes from raw, as in files of CELLxGENE",
    )  # fmt: skip
    group.add_argument(
        "--gene-names", metavar="COLUMN",
        help="var column that names the genes, such as feature_name, or var_names"
        + unless("var_names"),
    )  # fmt: skip
    group.add_argument(
        "--library-key", metavar="COLUMN",
        help="obs column with each cell's total over all genes, or auto: found in the data"
        + unless("auto"),
    )  # fmt: skip
    group.add_argument(
        "--allow-fractions", action=flag, default=None,
        help="take counts that are no integers, such as those corrected for ambient RNA",
    )  # fmt: skip
    if keep_empty:
        group.add_argument(
            "--keep-empty", action="store_true",
            help="keep cells without counts, and represent those without a count of a model's "
            "genes, all alike; they are refused otherwise",
        )  # fmt: skip
    group.add_argument("--modality", metavar="NAME", help="which one of an .h5mu file")
    group.add_argument(
        "--all-features", action=flag, default=None,
        help="keep features that are no genes by var['feature_types'], such as antibodies",
    )  # fmt: skip


def reading(args: argparse.Namespace) -> ReadOptions:
    """Return what the options of `add_reading` ask for."""
    asked = {name: getattr(args, name) for name in READING}
    if getattr(args, "keep_empty", False):
        asked["empty_cells"] = "keep"
    return {
        name: None if value == NONE.get(name) else value
        for name, value in asked.items()
        if value is not None
    }  # type: ignore[return-value]


def as_in_training(args: argparse.Namespace, cells: CellCollection) -> list[str]:
    """Say in one line, or none, by which options a model read cells that nobody gave."""
    found = {name: value for name, value in cells.reading.items() if name not in reading(args)}
    said = [
        "--" + name.replace("_", "-") + ("" if value is True else f" {shlex.quote(str(value))}")
        for name, value in found.items()
    ]
    return [f"read       as in training, {' '.join(said)}"] if said else []


def read_cells(
    args: argparse.Namespace, *, model: CellEncoder | None = None, **labels: Any
) -> CellCollection:
    """Read the command's data, one file or several."""
    from kernomics.data import concat
    from kernomics.models.base import as_collection
    from kernomics.models.reading import read_as_trained

    def read(path: str, **more: Any) -> CellCollection:
        if model is None:
            return as_collection(path, reading(args), **more)
        return read_as_trained(path, reading(args), model.info, model.genes, **more)

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
        f"{len(twice)} of the {len(paths)} files share their name and their folder's, first "
        f"{twice[0]} and {twice[1]}: name each file once, or rename one"
    )


def add_label_kinds(command: argparse._ActionsContainer) -> None:
    """Add the option that `label_kinds` reads."""
    command.add_argument(
        "--label-kinds", nargs="+", default=[], metavar="LABEL=KIND",
        help="what label(s) are, where it is not to be inferred: categorical (classes, such as "
        "cluster numbers) or continuous (numbers); integers of at most 20 values are taken for "
        "classes",
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
        "--log-dir", metavar="DIR", help="write TensorBoard's event files of the training here"
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
        help="never in the panel unless forced: mitochondrial, ribosomal, ribosomal_mitochondrial, "
        "haemoglobin, or regular expressions for the start of a name, such as 'HLA-'",
    )  # fmt: skip
    genes.add_argument(
        "--min-detection", type=float, default=0.0, metavar="SHARE",
        help="leave out genes found in a smaller share of the training cells",
    )  # fmt: skip
    genes.add_argument(
        "--max-detection", type=float, default=1.0, metavar="SHARE",
        help="leave out genes found in a larger share of the training cells",
    )  # fmt: skip
    genes.add_argument(
        "--extend", metavar="PANEL",
        help="build on this panel: a run directory, a saved model, a panel.csv, or a file with one "
        "gene per line; --n-genes is the size of the whole",
    )  # fmt: skip
    genes.add_argument(
        "--start-from", metavar="PANEL",
        help="begin with the scores (and network) of this panel, likewise; its genes may go again",
    )  # fmt: skip
    genes.add_argument(
        "--gene-costs", metavar="COSTS",
        help="what each gene costs: a .csv file with columns gene and cost, or a column of var",
    )  # fmt: skip
    genes.add_argument(
        "--budget", type=float, metavar="TOTAL", help="what the genes of the panel may cost"
    )
    genes.add_argument(
        "--n-markers-per-class", type=int, default=0, metavar="M",
        help="every class keeps its M strongest markers; --n-genes counts them",
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
                f"{path} has the setting {name!r}, which is unknown; "
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
        raise ConfigError(f"{path}: a setting is of the wrong type: {error}") from error
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
