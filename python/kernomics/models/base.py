"""What every model is made of and trained by: its cells, their division, a seed and one loop."""

from __future__ import annotations

import dataclasses
import inspect
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer

from kernomics._arguments import shown, words_of
from kernomics.data import (
    CellCollection,
    Labels,
    Sampler,
    Split,
    balanced_weights,
    make_split,
)
from kernomics.data.labels import column
from kernomics.data.order import VERSION as ORDER
from kernomics.data.readers.inputs import DEFAULTS, ReadOptions, require_unread
from kernomics.data.splits import How
from kernomics.errors import ConfigError, DataError, closest
from kernomics.nn import drawing_from
from kernomics.train import History, TrainConfig, fit, opened
from kernomics.train.device import require_precision, usable_device
from kernomics.train.distributed import own_device, ranks, together
from kernomics.train.interfaces import Batches, Callback, Validate
from kernomics.train.skipping import Steps

if TYPE_CHECKING:
    from anndata import AnnData


def require_arguments(model: type, settings: Mapping[str, Any], config: type) -> None:
    """Refuse what is no argument of a model, no setting and no way of reading, by the nearest."""
    known = [field.name for field in dataclasses.fields(config) if field.init]
    arguments = list(inspect.signature(model).parameters)[:-1]  # the last one takes all others
    for name in settings:
        if name not in known:
            raise ConfigError(
                f"{model.__name__} has no argument and {config.__name__} no setting {name!r}; "
                f"{closest(name, [*arguments, *known, *DEFAULTS])}"
            )


def checked_seed(seed: int) -> int:
    """Return a seed as a plain integer, if it is one of 64 bits."""
    try:
        return int(np.int64(operator.index(seed)))
    except (TypeError, OverflowError):
        raise ConfigError(f"seed is {seed!r}: it must be an integer of 64 bits") from None


def checked_integer(name: str, value: Any, least: int = 1) -> int:
    """Return a parameter as a plain integer, if it is one and not below `least`."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ConfigError(f"{name} is {value!r}: it must be an integer") from None
    if number < least:
        raise ConfigError(f"{name} is {number}: at least {least} is needed")
    return number


def checked_names(names: str | Iterable[str]) -> list[str]:
    """Return names of genes as a list; a single one may come by itself."""
    return [names] if isinstance(names, str) else [str(name) for name in names]


def as_collection(
    adata: AnnData | str | Path | CellCollection,
    reading: ReadOptions,
    *,
    labels_key: str | Sequence[str] | None = None,
    **more: Any,
) -> CellCollection:
    """Read cells, or take a collection as it is."""
    if not isinstance(adata, CellCollection):
        return CellCollection.from_anndata(adata, labels_key=labels_key, **reading, **more)
    require_unread({**reading, **more})
    if labels_key is None:
        return adata
    keys = words_of("labels_key", labels_key)
    if keys == list(adata.labels):
        return adata
    for key in keys:
        if key not in adata.labels:
            raise ConfigError(
                f"labels_key names {key!r}, but the CellCollection was read with "
                f"{', '.join(map(repr, adata.labels)) or 'no labels'}; read it with "
                f"CellCollection.from_anndata(…, labels_key={keys!r})"
            )
    return adata.with_labels({key: adata.labels[key] for key in keys})


def split_cells(
    cells: CellCollection,
    split: How | Split,
    key: str | None,
    fractions: tuple[float, float, float],
    seed: int,
) -> Split:
    """Divide the cells as asked for, or check the division given.

    Groups are divided so that every class of the labels stays in training, and two of each label
    are held out, where that can be.
    """
    if not isinstance(split, Split | str):
        raise ConfigError(f"split is {shown(split)}: give the name of a way to split, or a Split")
    if isinstance(split, Split):
        rows = np.concatenate([split.train, split.validation, split.test])
        if rows.size and not 0 <= rows.min() <= rows.max() < cells.n_cells:
            raise ConfigError(
                f"the split names rows {rows.min():,} … {rows.max():,}, but there are "
                f"{cells.n_cells:,} cells: was it made for other data?"
            )
        return split
    labels = next((v for v in cells.labels.values() if v.kind == "categorical"), None)
    if split == "stratified" and labels is None:
        split = "random"
    groups, keep = None, []
    if split == "group":
        if key is None:
            raise ConfigError("split='group' needs split_key, the obs column of groups")
        groups = Labels.from_series(column(cells.obs, key), key, kind="categorical")
        keep = [label for name, label in cells.labels.items() if name != key]
    elif key is not None:
        raise ConfigError(
            f"split_key is {key!r}, but split={split!r} uses no groups; "
            "keep the groups whole with split='group', or leave split_key out"
        )
    return make_split(
        cells.n_cells,
        how=split,
        fractions=fractions,
        labels=labels if split == "stratified" else None,
        groups=groups,
        keep=keep,
        seed=seed,
    )


Module = TypeVar("Module", bound=nn.Module)


def sampler_of(split: Split, config: TrainConfig, seed: int, cells: CellCollection) -> Sampler:
    """Return what draws the training cells.

    See `sampler_of_rows`.
    """
    weights = draw_weights(cells, split.train, config.balance)
    return sampler_of_rows(split.train, config, seed, weights)


def sampler_of_rows(
    rows: NDArray[np.int64],
    config: TrainConfig,
    seed: int,
    weights: NDArray[np.float64] | None = None,
    *,
    version: int = ORDER,
) -> Sampler:
    """Return what draws some cells, of each batch the part of this rank.

    In runs of 64 cells wherever these are, so that a file gives the same batches as memory.
    """
    one = ranks()
    return Sampler(
        rows,
        config.batch_size,
        seed,
        block_size=64,
        rank=one.rank,
        world=one.world,
        weights=weights,
        version=version,
    )


def draw_weights(
    cells: CellCollection, rows: NDArray[np.int64], balance: str | None
) -> NDArray[np.float64] | None:
    """Return by which weights training cells are drawn; None for each once per epoch."""
    return None if balance is None else balanced_weights(balanced_by(cells, balance).subset(rows))


def balanced_by(cells: CellCollection, balance: str) -> Labels:
    """Return the classes that are to be drawn equally often, of all cells."""
    if balance in cells.labels:
        return cells.labels[balance]
    obs = cells.obs
    if balance not in obs.columns:
        raise DataError(
            f"balance is {balance!r}, which is no column of obs; {closest(balance, obs.columns)}"
        )
    return Labels.from_series(obs[balance], balance)


def train_module(
    build: Callable[[], Module],
    batches: Callable[[Module], Batches],
    config: TrainConfig,
    device: str | torch.device,
    *,
    seed: int,
    validate: Callable[[Module], Validate | None],
    optimizer: Callable[[Module], Optimizer],
    run_dir: str | Path | None,
    resume: bool,
    callbacks: Sequence[Callback],
    loggers: Sequence[Any],
    log_dir: str | Path | None,
    skip_steps: Steps = (),
) -> tuple[Module, History]:
    """Build a module and train it: what comes before the loop is the same for every model."""
    where = own_device(usable_device(device))
    require_precision(where, config.precision)
    with together() as one:
        with drawing_from(seed):
            module = build().to(where)
        history = fit(
            module,
            batches(module),
            config,
            validate=validate(module),
            optimizer_factory=lambda _: optimizer(module),
            run_dir=run_dir,
            resume=resume,
            callbacks=callbacks,
            loggers=opened(loggers, log_dir if one.first else None),
            skip_steps=skip_steps,
        )
    return module, history
