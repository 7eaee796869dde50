"""What the loop asks of the data, the model and the caller."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, device, nn
from torch.optim import Optimizer


class Batches(Protocol):
    """Which cells make up each batch: a function of the epoch and the batch's number alone."""

    @property
    def n_batches(self) -> int:
        """Batches in an epoch."""

    def batch(self, epoch: int, i: int, /) -> NDArray[np.int64]:
        """Return the rows of batch `i` of an epoch, both counted from 0."""


class Batch(Protocol):
    """What the loop needs of a batch of cells."""

    @property
    def cell_ids(self) -> Tensor:
        """The cells' ids, int64 [B]."""

    def __len__(self) -> int: ...

    def to(self, device: device, /) -> Batch:
        """Return the batch on a device."""


class Draws(Protocol):
    """Random numbers of a module's own, such as `kernomics.nn.Draws`."""

    def begin(self, seed: int, device: device, /) -> None:
        """Begin anew, on a device."""

    def state(self) -> Tensor:
        """Return where the draws stand, a tensor on the CPU."""

    def restore(self, state: Tensor, /) -> None:
        """Go on from there."""


Fetch = Callable[[NDArray[np.int64]], Batch]
Validate = Callable[[], Mapping[str, float]]
OptimizerFactory = Callable[[nn.Module], Optimizer]
Callback = Callable[[int, nn.Module], bool | None]
"""Called after each epoch with its number (from 0) and the module; ``True`` ends the training."""
