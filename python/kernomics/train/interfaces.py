"""What the loop asks of the data, of the model, its losses and draws, and of the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from kernomics.errors import ConfigError


class Batch(Protocol):
    """What the loop needs of a batch of cells."""

    @property
    def cell_ids(self) -> Tensor:
        """The cells' ids, int64 [B]."""

    def __len__(self) -> int: ...

    def to(self, device: torch.device, /) -> Batch:
        """Return the batch on a device."""


class Batches(Protocol):
    """The batches of each epoch, such as `kernomics.data.Loader`.

    Which cells are in one is a function of the epoch and the batch's number alone.
    """

    @property
    def n_batches(self) -> int:
        """Batches in an epoch."""

    def epoch(self, epoch: int, /, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from `start` on, both counted from 0."""


@runtime_checkable
class Ordered(Protocol):
    """Batches whose order has a version, which a checkpoint keeps."""

    @property
    def order(self) -> int:
        """The version of the order."""

    def use_order(self, version: int, /) -> None:
        """Go on under a version, that of a run to be resumed."""


FIRST_ORDER = 1
"""Of the runs that were begun before orders had versions."""


class Draws(Protocol):
    """Random numbers of a module's own, such as `kernomics.nn.Draws`."""

    def begin(self, seed: int, device: torch.device, /) -> None:
        """Begin anew, on a device."""

    def state(self) -> Tensor:
        """Return where the draws stand, a tensor on the CPU."""

    def restore(self, state: Tensor, /) -> None:
        """Go on from there."""

    def of_part(self, start: int, n: int, whole: int, /) -> None:
        """Draw for some cells of a batch, `n` from `start` on, as if for all `whole`; 0 for all."""


Validate = Callable[[], Mapping[str, float]]
OptimizerFactory = Callable[[nn.Module], Optimizer]
Callback = Callable[[int, nn.Module], bool | None]
"""Called after each epoch with its number (from 0) and the module; ``True`` ends the training."""


def check_losses(losses: Any) -> None:
    """Refuse what a module's `training_loss` returned unless it is a dict of scalar losses."""
    if not isinstance(losses, Mapping) or "loss" not in losses:
        found = sorted(losses) if isinstance(losses, Mapping) else type(losses).__name__
        raise ConfigError(f"training_loss must return a dict with the key 'loss', not {found}")
    for name, value in losses.items():
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
            raise ConfigError(
                f"training_loss returned a {type(value).__name__}{shape} as {name!r}: it must be "
                "a scalar tensor"
            )
    if not losses["loss"].requires_grad:
        raise ConfigError("the loss does not depend on any trainable parameter")


def device_of(module: nn.Module) -> torch.device:
    """Return where a module's parameters are."""
    for parameter in module.parameters():
        return parameter.device
    raise ConfigError(f"{type(module).__name__} has no parameters to train")


def draws_of(module: nn.Module) -> Draws | None:
    """Return the random numbers of the module's own, ``module.draws``, if it has some."""
    for name, layer in module.named_modules():
        if isinstance(layer, _DropoutNd) and layer.p > 0:
            raise ConfigError(
                f"the layer {name!r} is a torch.nn.{type(layer).__name__}, which draws from the "
                "process's global random numbers: use kernomics.nn.Dropout with the draws in "
                "module.draws"
            )
    return getattr(module, "draws", None)
