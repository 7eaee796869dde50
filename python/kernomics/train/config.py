"""Configurations: how a run is trained, and helpers for every dataclass that holds settings."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from kernomics._arguments import check_fields, checked
from kernomics.errors import ConfigError, closest
from kernomics.train.atomic import jsonable

Config = TypeVar("Config")

COSMETIC = frozenset(
    {
        "progress",
        "log_every_steps",
        "checkpoint_every_epochs",
        "checkpoint_every_seconds",
        "keep_checkpoints",
        "shard",
    }
)
"""Settings that may differ between a run and its continuation: they do not change the result."""


LATER: Mapping[str, Any] = MappingProxyType(
    {
        "balance": None,
        "n_starts": 1,
        "halving": False,
        "start_rankings": ["markers"],
        "judge": "linear",
        "linear_path": False,
    }
)
"""Settings that came later, and what they are of a run that does not know them: as if not set."""

DERIVED = {"weight_decay": ("max_epochs", "batch_size", "accumulate", "learning_rate")}
"""Settings that follow from others where nobody gives them, and from which."""


@dataclass(frozen=True)
class TrainConfig:
    """How :func:`kernomics.train.fit` trains.

    Attributes
    ----------
    max_epochs
        Maximum number of epochs.
    batch_size
        Cells per batch; used by whoever makes the sampler, recorded here.
    learning_rate
        Peak learning rate of the schedule.
    weight_decay
        Decoupled weight decay, multiplied by the learning rate.
    optimizer
        ``"adamw"``; for others give :func:`~kernomics.train.fit` an ``optimizer_factory``.
    schedule
        ``"constant"``, or ``"one_cycle"``: a cosine up during the warm-up, then a cosine down.
    warmup
        Fraction of all steps spent warming up, from 0 to 1; only for ``"one_cycle"``.
    restart_at
        Fraction of all steps after which ``"one_cycle"`` restarts, 0 for never: for training in two
        parts. Several fractions, rising, for more parts.
    accumulate
        Number of batches whose gradients are accumulated before each optimiser step.
    max_grad_norm
        The norm above which the gradient of all parameters together is scaled down.
    precision
        ``"float32"``, or ``"bf16"`` for autocast to bfloat16 (the weights stay float32).
    compile
        Compile the step with torch.compile, for modules that have ``compile_step()``. Takes minutes
        before the first step.
    shard
        Share weights, gradients and optimiser state out over the ranks (torch's FSDP2), for models
        too large for one. The result is the same. For TxFM, in several processes.
    validate_every
        Epochs between validations; the last epoch is always validated.
    validate_start
        Whether to validate the initial weights too, before the first step. With `patience` they are
        kept if no later weights are better.
    monitor
        The validation score that early stopping monitors: its name among those that validation
        returns, with or without a ``validation_`` prefix.
    mode
        Whether the ``"min"`` or the ``"max"`` of it is best.
    patience
        Validations without improvement before training stops; the best weights are then
        restored. ``None`` trains all epochs and keeps the last weights.
    min_delta
        How much better a value must be to count as an improvement.
    checkpoint_every_epochs
        Epochs between checkpoints; the end of training is always saved.
    checkpoint_every_seconds
        Also save in the middle of an epoch when this much time has passed.
    keep_checkpoints
        How many checkpoints to keep, at least 2.
    log_every_steps
        Also log the mean over this many optimiser steps, as records of split ``"step"``.
    balance
        An obs column, such as cell types or batches, whose classes are drawn equally often, with
        replacement; used by whoever makes the sampler. ``None`` draws each cell once per epoch.
    seed
        Seed of the run's random numbers.
    progress
        Whether to show a progress bar.
    """

    max_epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    optimizer: Literal["adamw"] = "adamw"
    schedule: Literal["constant", "one_cycle"] = "constant"
    warmup: float = 0.1
    restart_at: float | tuple[float, ...] = 0.0
    accumulate: int = 1
    max_grad_norm: float | None = None
    precision: Literal["float32", "bf16"] = "float32"
    compile: bool = False
    shard: bool = False
    validate_every: int = 1
    validate_start: bool = False
    monitor: str = "validation_loss"
    mode: Literal["min", "max"] = "min"
    patience: int | None = None
    min_delta: float = 0.0
    checkpoint_every_epochs: int = 10
    checkpoint_every_seconds: float | None = None
    keep_checkpoints: int = 2
    log_every_steps: int | None = None
    balance: str | None = None
    seed: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        restart_at: object = self.restart_at
        if isinstance(restart_at, list):  # JSON has no tuples
            object.__setattr__(self, "restart_at", tuple(restart_at))
        check_fields(self)
        for name, low in {
            "max_epochs": 1,
            "batch_size": 1,
            "accumulate": 1,
            "validate_every": 1,
            "patience": 1,
            "checkpoint_every_epochs": 1,
            "keep_checkpoints": 2,
            "log_every_steps": 1,
        }.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < low):
                raise ConfigError(f"{name} is {value!r}: it must be an integer of at least {low}")
        for name in ("learning_rate", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value!r}: it must be above 0")
        for name in ("weight_decay", "min_delta", "checkpoint_every_seconds"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(f"{name} is {value!r}: it must be 0 or more")
        for name in ("warmup", "restart_at"):
            value = getattr(self, name)
            parts = value if isinstance(value, tuple) else (value,)
            if not all(isinstance(part, int | float) for part in parts):
                raise ConfigError(f"{name} is {value!r}: it is a number from 0 to 1")
        several = isinstance(self.restart_at, tuple)
        restarts = self.restart_at if isinstance(self.restart_at, tuple) else (self.restart_at,)
        for name, shares in (("warmup", (self.warmup,)), ("restart_at", restarts)):
            if not all(0 <= share <= 1 for share in shares):
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}: it is a fraction of all steps, from 0 to 1"
                )
        if several and not all(0 < a < b for a, b in pairwise((*restarts, 1.0))):
            raise ConfigError(
                f"restart_at is {restarts!r}: several fractions must rise, and lie between 0 and 1"
            )


@checked
def override(config: Config, **values: Any) -> Config:
    """Copy a dataclass of settings with some of them replaced.

    Parameters
    ----------
    config
        A dataclass instance.
    **values
        The settings to replace.

    Raises
    ------
    ConfigError
        If a name is not a setting of it; the nearest names are listed.
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ConfigError(f"expected a dataclass of settings, found {type(config).__name__}")
    names = [field.name for field in dataclasses.fields(config) if field.init]
    for name in values:
        if name not in names:
            raise ConfigError(
                f"{type(config).__name__} has no setting {name!r}; {closest(name, names)}"
            )
    return dataclasses.replace(config, **values)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings into one dict with dotted keys, such as ``train.batch_size``."""
    items: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            items.update(flat(value, f"{name}."))
        else:
            items[name] = value
    return items


def relevant(config: Mapping[str, Any], ignore: Collection[str] = COSMETIC) -> dict[str, Any]:
    """Flatten settings and leave out those whose last name is in `ignore`, or that are not set."""
    plain = flat(jsonable(config))
    return {
        key: value
        for key, value in plain.items()
        if _last(key) not in ignore and not (_last(key) in LATER and value == LATER[_last(key)])
    }


@checked
def config_hash(config: Mapping[str, Any], ignore: Collection[str] = COSMETIC) -> str:
    """Return the sha256 of the settings that change the result, in hexadecimal."""
    text = json.dumps(relevant(config, ignore), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@checked
def differences(
    saved: Mapping[str, Any], given: Mapping[str, Any], ignore: Collection[str] = COSMETIC
) -> list[str]:
    """Describe each setting in which two configurations differ.

    Parameters
    ----------
    saved
        The configuration of the run.
    given
        The one it is to be continued with.
    ignore
        Names of settings that may differ.

    Returns
    -------
    list of str
        Such as ``"train.batch_size was 128 and is now 64"``, sorted by name. A setting that
        follows from another that differs is left out.
    """
    before, after = relevant(saved, ()), relevant(given, ())

    def show(settings: Mapping[str, Any], key: str) -> str:
        return repr(settings[key]) if key in settings else "not set"

    differing = [
        key
        for key in sorted(before.keys() | after.keys())
        if key not in before or key not in after or before[key] != after[key]
    ]
    return [
        f"{key} was {show(before, key)} and is now {show(after, key)}"
        for key in differing
        if _last(key) not in ignore
        and not any(_beside(key, cause) in differing for cause in DERIVED.get(_last(key), ()))
    ]


def _last(key: str) -> str:
    """Return the setting's own name, of its dotted key."""
    return key.split(".")[-1]


def _beside(key: str, name: str) -> str:
    """Return the dotted key of another setting of the same part."""
    return ".".join([*key.split(".")[:-1], name])


def more_epochs(
    saved: Mapping[str, Any], given: Mapping[str, Any], *, by_total: bool
) -> str | None:
    """Say whether a run may be continued for more epochs than it was begun for."""
    before, now = saved.get("max_epochs"), given.get("max_epochs")
    if before == now or before is None or now is None:
        return None
    asked = f"max_epochs was {before} and is now {now}"
    if now < before:
        return f"{asked}, which is fewer: start a new run in another directory"
    laid_out = []
    if given.get("schedule") != "constant":
        laid_out.append("the learning rate goes through one cycle")
    if by_total:
        laid_out.append("the model's own schedules end with the last step")
    if saved.get("weight_decay") != given.get("weight_decay"):
        laid_out.append("the weight decay follows from the number of steps")
    if not laid_out:
        return None
    return (
        f"{asked}, but this run was planned for {before} epochs: {', and '.join(laid_out)}. "
        f"Finish it with max_epochs={before} and train its model further (fine-tune a TxFM, or "
        f"start another selection from this panel with start_from), or start a run of {now} "
        "epochs in another directory"
    )
