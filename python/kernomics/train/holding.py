"""`Holding`: where the weights of a training are, with their gradients and optimiser state."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer


class Holding:
    """All weights are here, in the module.

    `kernomics.train.distributed` has one whose weights are shared out over ranks; the loop goes
    the same way with both.

    Parameters
    ----------
    module, optimizer
        What is trained, and what moves it.

    Attributes
    ----------
    is_shared
        Whether each rank holds a part.
    loss_factor
        What the loss is multiplied by before backward.
    """

    is_shared = False
    loss_factor = 1.0

    def __init__(self, module: nn.Module, optimizer: Optimizer) -> None:
        self.module, self.optimizer = module, optimizer
        self.parameters: Sequence[nn.Parameter] = list(module.parameters())  # the walk is slow

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def take_gradients(self) -> None:
        """Let the optimizer have the gradients, when all are there."""

    def clip(self, most: float) -> float:
        """Return how long the gradient of all parameters together is, and shorten it to `most`."""
        return float(nn.utils.clip_grad_norm_(self.parameters, most))

    @contextlib.contextmanager
    def computing(self) -> Generator[None, None, None]:
        """While a loss and its gradients are computed."""
        yield

    @contextlib.contextmanager
    def gathered(self) -> Generator[None, None, None]:
        """Let the whole module be here inside the block, to be read and not changed."""
        yield

    def own(self, parameter: Tensor) -> Tensor:
        """Return what is here of a parameter."""
        return parameter

    def weights(self, *, keep: bool) -> dict[str, Any]:
        """Return the whole ``state_dict()``, on ranks that keep it; all must ask."""
        return self.module.state_dict()

    def optimizer_state(self, *, keep: bool) -> dict[str, Any]:
        """Return the optimizer's whole ``state_dict()``, on ranks that keep it; all must ask."""
        return self.optimizer.state_dict()

    def gather(self, weights: Mapping[str, Any], *, keep: bool) -> dict[str, Any]:
        """Return what a kept ``state_dict()`` is as a whole, on ranks that keep it."""
        return dict(weights)

    def share_out(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is to be kept here of a whole ``state_dict()``."""
        return dict(weights)

    def release(self) -> None:
        """Leave the module as a plain one, with all its weights."""
