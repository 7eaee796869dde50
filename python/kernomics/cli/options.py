"""Options and settings that commands share."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kernomics._files import json_of
from kernomics.errors import ConfigError, closest

if TYPE_CHECKING:
    from kernomics.data import CellCollection, ReadOptions, Split
    from kernomics.models import CellEncoder, ExpressionModel, PhenotypeModel


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
            help=f"{FILES}; several files are joined over the union of their genes, and each "
            "file is a batch named after it (obs column dataset)",
        )  # fmt: skip
    else:
        command.add_argument("data", help=FILES)
    group = command.add_argument_group(
        "how to read the data",
        "Options not given are as in the model's training." if trained else None,
    )
    flag: Any = argparse.BooleanOptionalAction if trained else "store_true"

    def unless(default: str) -> str:
        return "" if trained else f" ({default} if not given)"

    group.add_argument("--layer", help=f"layer that holds the counts, or X{unless('X')}")
    group.add_argument(
        "--use-raw", action=flag, default=None,
        help="take counts and genes from raw, as in CELLxGENE files",
    )  # fmt: skip
    group.add_argument(
        "--gene-names", metavar="COLUMN",
        help="var column with the gene names, such as feature_name, or var_names"
        + unless("var_names"),
    )  # fmt: skip
    group.add_argument(
        "--library-key", metavar="COLUMN",
        help="obs column with each cell's total over all genes, or auto: found in the data"
        + unless("auto"),
    )  # fmt: skip
    group.add_argument(
        "--allow-fractions", action=flag, default=None,
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
        "--all-features", action=flag, default=None,
        help="keep features that var['feature_types'] says are not genes, such as antibodies",
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
    args: argparse.Namespace,
    *,
    model: CellEncoder | PhenotypeModel | ExpressionModel | None = None,
    trained_further: bool = False,
    **labels: Any,
) -> CellCollection:
    """Read the command's data, one file or several, as those that a model was trained on."""
    from kernomics.data import concat
    from kernomics.models.base import as_collection
    from kernomics.models.reading import read_as_trained

    def read(path: str, **more: Any) -> CellCollection:
        if model is None:
            return as_collection(path, reading(args), **more)
        return read_as_trained(
            path, reading(args), model.info, model.genes, trained_further=trained_further, **more
        )

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


def add_labels(
    command: argparse._ActionsContainer,
    what: str = "obs column(s) to predict",
    *,
    need: bool = True,
) -> None:
    """Add the labels, of which the help says `what`, and what `labels_of` reads."""
    given: dict[str, Any] = {"required": True} if need else {"default": []}
    command.add_argument("--labels-key", nargs="+", metavar="COLUMN", help=what, **given)
    command.add_argument(
        "--label-kinds", nargs="+", default=[], metavar="LABEL=KIND",
        help="whether a label is categorical (classes, such as cluster numbers) or continuous "
        "(numbers); by default integers with at most 20 distinct values are classes",
    )  # fmt: skip
    command.add_argument("--unlabelled", metavar="CLASS", help="class that means 'no label'")


def labels_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the options of `add_labels` ask for, as arguments of `read_cells`."""
    kinds = pairs_of(args, "label_kinds", "LABEL=categorical or LABEL=continuous")
    for name, kind in kinds.items():
        if kind not in ("categorical", "continuous"):
            raise ConfigError(
                f"--label-kinds '{name}={kind}': write LABEL=categorical or LABEL=continuous"
            )
    return {
        "labels_key": args.labels_key,
        "unlabelled_category": args.unlabelled,
        "label_kinds": kinds,
    }


def pairs_of(args: argparse.Namespace, option: str, form: str) -> dict[str, str]:
    """Read the pairs name=value that an option took."""
    found: dict[str, str] = {}
    for pair in getattr(args, option):
        name, equals, value = pair.rpartition("=")
        if not (name and equals):
            raise ConfigError(f"--{option.replace('_', '-')} {pair!r}: write {form}")
        if name in found:
            raise ConfigError(
                f"--{option.replace('_', '-')} names {name!r} twice, with {found[name]!r} and "
                f"{value!r}: name it once"
            )
        found[name] = value
    return found


def add_split(command: argparse.ArgumentParser, what: str) -> None:
    """Add how cells are divided, to do `what`."""
    command.add_argument(
        "--split", choices=("stratified", "random", "group"), default="stratified",
        help=f"how cells are split {what}",
    )  # fmt: skip
    command.add_argument(
        "--split-key", metavar="COLUMN", help="obs column of groups (--split group)"
    )


def add_revealed(command: argparse._ActionsContainer) -> None:
    """Add by which of its genes a model represents a cell."""
    command.add_argument(
        "--n-tokens", type=int, metavar="K", help="genes to reveal (all if not given)"
    )
    command.add_argument(
        "--n-draws", type=int, default=1, metavar="N",
        help="with --n-tokens, the number of draws to average",
    )  # fmt: skip
    command.add_argument(
        "--min-gene-overlap", type=float, default=0.8, metavar="SHARE",
        help="fraction of the model's genes that the data must have",
    )  # fmt: skip


def print_cells(n_cells: int, n_genes: int, dataset: str, split: Split) -> None:
    """Print what was read, and how it is divided."""
    parts = [(split.train, "to train"), (split.validation, "to validate"), (split.test, "held out")]
    print(f"cells      {n_cells:,}   genes {n_genes:,}   {dataset}")
    print(
        f"split      {split.how}{f' by {split.by}' if split.by else ''}: "
        + ", ".join(f"{len(rows):,} {what}" for rows, what in parts)
    )


def print_json(found: Any) -> None:
    """Print as JSON, NaN as null."""
    from kernomics.train.atomic import jsonable

    print(json.dumps(jsonable(found), indent=1))


def add_run(command: argparse.ArgumentParser, *, out: str | None = None) -> None:
    """Add where a run goes, `out` by default, and what is done with one that is there."""
    command.add_argument(
        "--out", default=out, required=out is None, metavar="DIR", help="the run directory"
    )
    ending = command.add_mutually_exclusive_group()
    ending.add_argument("--resume", action="store_true", help="continue the run in --out")
    ending.add_argument("--overwrite", action="store_true", help="delete the run in --out first")


def add_draws(command: argparse.ArgumentParser) -> None:
    """Add how often the cells of a training are drawn, and which steps it passes over."""
    command.add_argument(
        "--balance", metavar="COLUMN",
        help="obs column, such as cell types or batches, whose classes are drawn equally often, "
        "with replacement (each cell once per epoch if not given)",
    )  # fmt: skip
    command.add_argument(
        "--skip-steps", nargs="+", default=[], metavar="N",
        help="steps to pass over, such as 1200 or 1200-1210, with --resume after a spike of the "
        "loss; counted from 1 as in metrics.jsonl, and all other steps stay as they are",
    )  # fmt: skip


def skipped_steps(args: argparse.Namespace) -> list[tuple[int, int]]:
    """Return the ranges that --skip-steps names."""
    found = []
    for text in args.skip_steps:
        first, dash, last = text.partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)):
            raise ConfigError(
                f"--skip-steps {text!r}: write a step, such as 1200, or a range, such as 1200-1210"
            )
        found.append((int(first), int(last or first)))
    return found


def add_machine(command: argparse.ArgumentParser) -> None:
    """Add what a training runs on and shows."""
    command.add_argument(
        "--log-dir", metavar="DIR", help="write TensorBoard event files to this directory"
    )
    command.add_argument("--device", default="cpu", help="where to train: cpu or cuda")
    command.add_argument("--threads", type=int, metavar="N", help="CPU threads (all if not given)")
    command.add_argument("--quiet", action="store_true", help="no progress bar")


def check_run(args: argparse.Namespace) -> None:
    """Refuse a run directory that cannot be used, before the data are read."""
    from kernomics.train.distributed import ranks
    from kernomics.train.rundir import refuse_foreign, refuse_held, require_run

    if not ranks().first:
        return  # the first one may have begun to write there
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
        found = json_of(Path(path).read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(
            f"{path} must hold a JSON object of settings, not a {type(found).__name__}"
        )
    if found.get("kind") == "kernomics run":
        parts = found.get("config")
        if not isinstance(parts, dict) or not all(
            isinstance(parts.get(part), dict) for part in ("model", "train")
        ):
            raise ConfigError(
                f"{path} is the config.json of a run, but holds no settings of a model and its "
                "training: copy it again"
            )
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
