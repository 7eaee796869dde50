"""What the training loop asks of a module and of its losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kernomics.errors import ConfigError


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
        raise ConfigError("the loss does not depend on any parameter that is to be trained")


def device_of(module: nn.Module) -> torch.device:
    """Return where a module's parameters are."""
    for parameter in module.parameters():
        return parameter.device
    raise ConfigError(f"{type(module).__name__} has no parameters to train")


@contextmanager
def own_random_state(module: nn.Module) -> Iterator[None]:
    """Give the run random numbers of its own, and the caller's back at the end."""
    device = device_of(module)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
