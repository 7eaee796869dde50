"""The pieces of YOTO: what a task is, how counts become input, and the network of a panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kernomics.data import CellCollection, Cells
from kernomics.data.gene_stats import ClassSums
from kernomics.data.row_numbers import parts
from kernomics.errors import DataError
from kernomics.models.saved import require_size
from kernomics.models.tasks import Task
from kernomics.nn import Draws, ReluDropout, drawing_from

Transform = Literal["log1p", "binary", "lognorm"]
LOGNORM_TARGET = 1e4
PRIVATE = "private."


def transformed(cells: Cells, transform: Transform) -> Cells:
    """Turn counts c into the network's input, from the non-zeros alone (0 stays 0).

    ``"log1p"``: log(1 + c). ``"binary"``: 1 where c > 0. ``"lognorm"``: log(1 + 10⁴ c / library),
    which needs each cell's library size, a total over all genes.
    """
    if transform == "binary":
        return cells.with_values((cells.values > 0).to(cells.values.dtype))
    if transform == "log1p":
        return cells.with_values(cells.values.log1p())
    if cells.library is None:
        raise DataError("transform='lognorm' needs each cell's library size, and there is none")
    per_cell = LOGNORM_TARGET / cells.library.clamp_min(1.0)
    per_value = torch.repeat_interleave(per_cell, cells.indptr.diff())
    return cells.with_values((cells.values * per_value).log1p())


class InputMeans:
    """Each gene's mean input over the cells that were added, zeros counted."""

    def __init__(self, n_genes: int, transform: Transform) -> None:
        self.transform = transform
        self._sums = ClassSums(1, n_genes)

    def add(self, batch: Cells) -> None:
        """Add cells."""
        all_alike = np.zeros(len(batch), np.int64)
        if self.transform == "log1p":
            self._sums.add(batch, all_alike, log=True)
        else:
            self._sums.add(transformed(batch, self.transform), all_alike)

    def found(self) -> Tensor:
        """Return them, float32 [G]."""
        return torch.from_numpy(self._sums.total[0] / max(1, self._sums.n_cells[0])).float()


def input_means(cells: CellCollection, rows: NDArray[np.int64], transform: Transform) -> Tensor:
    """Return `InputMeans` of some cells, which are read in parts."""
    means = InputMeans(cells.n_genes, transform)
    for part in parts(len(rows)):
        means.add(cells.batch(rows[part]))
    return means.found()


def encoder_layers(hidden: Sequence[int], dropout: float, draws: Draws) -> nn.Sequential:
    """Everything between the first layer and the heads.

    Weights are saved under the places of their layers, where ReLU and dropout had one each.
    """
    layers: list[nn.Module] = [ReluDropout(dropout, draws), nn.Identity()]
    for n_in, n_out in pairwise(hidden):
        layers += [nn.Linear(n_in, n_out), ReluDropout(dropout, draws), nn.Identity()]
    return nn.Sequential(*layers)


class PanelNetwork(nn.Module):
    """Shared encoder and one head per task, on the k genes of a panel.

    With private encoders, task t's head reads shared(x) + private_t(x), so that what the tasks have
    in common is learnt from all labels and what they have not does not stand in the way.
    """

    def __init__(
        self,
        n_genes: int,
        tasks: Sequence[Task],
        hidden: Sequence[int],
        transform: Transform,
        dropout: float = 0.0,
        draws: Draws | None = None,
        *,
        private_encoders: bool = False,
    ) -> None:
        super().__init__()
        self.tasks, self.transform, self.hidden = tuple(tasks), transform, tuple(hidden)
        draws = Draws() if draws is None else draws
        self.first = nn.Linear(n_genes, hidden[0])
        self.trunk = encoder_layers(hidden, dropout, draws)
        self.heads = nn.ModuleList(nn.Linear(hidden[-1], task.n_out) for task in tasks)
        self.private = nn.ModuleList(
            nn.Sequential(nn.Linear(n_genes, hidden[0]), *encoder_layers(hidden, dropout, draws))
            for _ in (tasks if private_encoders else ())
        )

    @classmethod
    def from_weights(
        cls,
        weights: Mapping[str, Tensor],
        tasks: Sequence[Task],
        hidden: Sequence[int],
        transform: Transform,
    ) -> PanelNetwork:
        """Build a trained network from its ``state_dict()``; no random number is drawn."""
        private = any(name.startswith(PRIVATE) for name in weights)
        n_genes = weights["first.weight"].shape[1]
        require_size(sum(a * b for a, b in pairwise([n_genes, *hidden])), weights)
        with drawing_from(0):  # overwritten at once, but the caller's generator must stay
            network = cls(n_genes, tasks, hidden, transform, private_encoders=private)
        network.load_state_dict(weights)
        return network.eval()

    def forward(self, cells: Cells) -> list[Tensor]:
        """Return each task's output [B, n_out] for cells over the panel's genes."""
        return self.outputs(transformed(cells, self.transform).dense())

    def outputs(self, x: Tensor, shift: Tensor | None = None) -> list[Tensor]:
        """Return each task's output [B, n_out] for transformed counts [B, k].

        What other genes add to the shared encoder's first layer may be given, [B, H].
        """
        first = self.first(x)
        shared = self.trunk(first if shift is None else first + shift)
        if not len(self.private):
            return [head(shared) for head in self.heads]
        return [
            head(shared + private(x))
            for head, private in zip(self.heads, self.private, strict=True)
        ]
