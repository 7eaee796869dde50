"""Genes added to a trained panel under the frozen contract: no prediction without them changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kernomics.data import CellCollection, Cells, Loader
from kernomics.data.row_numbers import parts
from kernomics.data.splits import How
from kernomics.models.base import sampler_of, split_cells, train_module
from kernomics.models.tasks import mean_task_loss, task_losses
from kernomics.models.yoto.network import PanelNetwork, Transform, input_means, transformed
from kernomics.train import History, RowAdamW, TrainConfig

VALIDATION = 0.1


class AddedGenes(nn.Module):
    """What n added genes contribute to the first layer of a panel's network, A·(x − x̄).

    Each gene's mean over the cells that taught it is taken off, so that a gene that was not
    measured, and one at its mean, contribute exactly nothing.

    Attributes
    ----------
    genes
        Their names.
    weight
        A, [H, n], zeros at the start.
    means
        x̄, float32 [n].
    """

    means: Tensor

    def __init__(self, genes: Sequence[str], n_hidden: int, means: Tensor) -> None:
        super().__init__()
        self.genes = [str(gene) for gene in genes]
        self.weight = nn.Parameter(torch.zeros(n_hidden, len(self.genes)))
        self.register_buffer("means", means)

    @classmethod
    def from_weights(
        cls, genes: Sequence[str], weights: Mapping[str, Tensor], prefix: str
    ) -> AddedGenes:
        """Build what was saved, its tensors' names beginning with `prefix`."""
        weight = weights[f"{prefix}weight"]
        found = cls(genes, len(weight), weights[f"{prefix}means"])
        found.load_state_dict({"weight": weight, "means": weights[f"{prefix}means"]})
        return found.eval().requires_grad_(False)

    def forward(self, x: Tensor, measured: Tensor | None = None) -> Tensor:
        """Return the contribution [B, H] of inputs [B, n], those not measured left out."""
        centred = x - self.means
        if measured is not None:
            centred = centred.masked_fill(~measured, 0.0)
        return centred @ self.weight.T

    def shift(
        self, cells: CellCollection, rows: NDArray[np.int64], transform: Transform
    ) -> Tensor | None:
        """Return the contribution [b, H] for some cells of a collection; None where it has none."""
        here = set(map(str, cells.genes))
        if not here.intersection(self.genes):
            return None
        view = cells.with_genes(self.genes, 0.0, absent="unobserved")
        return self.forward(*inputs(view.batch(rows).to(self.weight.device), transform))


def inputs(cells: Cells, transform: Transform) -> tuple[Tensor, Tensor | None]:
    """Return the transformed counts [B, n] and which were measured, bool [B, n] or None for all."""
    measured = None
    if cells.observed is not None:
        measured = cells.observed.mask.bool()[cells.observed.panel_id.long()]
    return transformed(cells, transform).dense(), measured


class _Lesson(nn.Module):
    """What is trained: the added genes; the network, held as no part of it, stays as it is."""

    by_total_steps = False

    def __init__(self, network: PanelNetwork, before: Sequence[AddedGenes], new: AddedGenes):
        super().__init__()
        self.new = new
        self._held = (network, list(before))

    def on_step(self, step: int, total_steps: int) -> None:
        """Nothing hangs on the step."""

    def outputs(self, cells: Cells) -> list[Tensor]:
        """Return each task's output for cells over the panel's genes and all added ones."""
        network, before = self._held
        x, measured = inputs(cells, network.transform)
        start = network.first.in_features
        panel, shift = x[:, :start], torch.zeros((), device=x.device)
        for part in [*before, self.new]:
            stop = start + len(part.genes)
            known = None if measured is None else measured[:, start:stop]
            shift, start = shift + part(x[:, start:stop], known), stop
        return network.outputs(panel, shift)

    def training_loss(self, cells: Cells) -> dict[str, Tensor]:
        """Return the mean loss over the tasks."""
        outputs = zip(self._held[0].tasks, self.outputs(cells), strict=True)
        tasks, found = zip(*(pair for pair in outputs if pair[0].name in cells.labels), strict=True)
        return {"loss": mean_task_loss(tasks, task_losses(tasks, found, cells))}


def taught(
    network: PanelNetwork,
    before: Sequence[AddedGenes],
    genes: Sequence[str],
    cells: CellCollection,
    config: TrainConfig,
) -> tuple[AddedGenes, History]:
    """Learn what new genes contribute, from labelled cells over all genes, the panel's first."""
    key = next(iter(cells.labels))
    how: How = "stratified" if cells.labels[key].kind == "categorical" else "random"
    split = split_cells(cells, how, None, (1 - VALIDATION, VALIDATION, 0.0), config.seed)
    means = input_means(cells, split.train, network.transform)[-len(genes) :]
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    lesson, history = train_module(
        lambda: _Lesson(network, before, AddedGenes(genes, network.hidden[0], means)),
        lambda _: Loader(cells, sampler_of(split, config, config.seed, cells)),
        config,
        "cpu",
        seed=config.seed,
        validate=lambda lesson: lambda: _validated(lesson, cells, split.validation),
        optimizer=lambda lesson: RowAdamW(
            lesson.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        ),
        run_dir=None,
        resume=False,
        callbacks=(),
        loggers=(),
        log_dir=None,
    )
    return lesson.new.eval().requires_grad_(False), history


def _validated(lesson: _Lesson, cells: CellCollection, rows: NDArray[np.int64]) -> dict[str, float]:
    total = 0.0
    for some in parts(len(rows)):
        batch = cells.batch(rows[some])
        total += float(lesson.training_loss(batch)["loss"]) * len(batch) / len(rows)
    return {"loss": total}
