"""The pieces of YOTO: what a task is, how counts become input, and the two forms of the network.

`YOTOModule` sees all genes and learns which k of them to keep; `PanelNetwork` is what is left of it
afterwards: a small network on the k genes of the panel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from kernomics.data import CellCollection, Cells, Labels
from kernomics.errors import DataError
from kernomics.models.gene_costs import EVERY, Budget
from kernomics.models.schedule import Schedule
from kernomics.nn import GeneSelector, MaskedLinear, Selection
from kernomics.ops.gumbel_topk import Relaxation

Transform = Literal["log1p", "binary", "lognorm"]
ClassWeights = Literal["sqrt", "balanced"]
LOGNORM_TARGET = 1e4
CELLS_AT_A_TIME = 8192


@dataclass(frozen=True)
class Task:
    """One label column to predict.

    Attributes
    ----------
    name, kind
        The obs column; ``"categorical"`` or ``"continuous"``.
    classes
        Class names by code; empty for a continuous task.
    weight
        Of this task's loss in the sum over tasks.
    class_weights
        Per class; empty for equal weights.
    mean, sd
        Of a continuous label over the training cells: the network predicts (y − mean)/sd.
    """

    name: str
    kind: Literal["categorical", "continuous"]
    classes: tuple[str, ...] = ()
    weight: float = 1.0
    class_weights: tuple[float, ...] = ()
    mean: float = 0.0
    sd: float = 1.0

    @property
    def n_out(self) -> int:
        """Outputs of the task's head."""
        return max(1, len(self.classes))

    @classmethod
    def from_labels(
        cls,
        labels: Labels,
        train: np.ndarray[Any, Any],
        *,
        weight: float,
        class_weights: ClassWeights | None,
    ) -> Task:
        """Describe a label column; statistics come from the training rows alone.

        With n_c training cells of class c, its weight is ∝ 1/n_c (``"balanced"``) or ∝ 1/√n_c
        (``"sqrt"``), scaled so that the mean over the labelled cells is 1.
        """
        part = labels.subset(train)
        try:
            part.require_usable()
        except DataError as error:
            raise DataError(f"among the training cells, {error}; or change the split") from None
        known = part.values[part.labelled]
        if labels.kind == "continuous":
            sd = float(known.std())
            return cls(labels.name, "continuous", weight=weight, mean=float(known.mean()), sd=sd)
        weights: tuple[float, ...] = ()
        if class_weights is not None:  # a class without training cells never enters the loss
            counts = np.bincount(known, minlength=labels.n_classes)
            power = {"sqrt": 0.5, "balanced": 1.0}[class_weights]
            share = np.where(counts > 0, np.maximum(counts, 1) ** -power, 0.0)
            weights = tuple((share * known.size / (share @ counts)).tolist())
        return cls(labels.name, "categorical", labels.categories, weight, weights)


def task_loss(
    task: Task, output: Tensor, target: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """Mean loss of a task over its labelled cells; 0 when the batch has none.

    Parameters
    ----------
    task
        Which task.
    output
        [B, n_out], logits or the standardised prediction; the loss is float32 whatever its dtype.
    target
        Codes int64 [B], −1 unlabelled; or float [B], NaN unlabelled.
    label_smoothing
        Share of a class label that is spread evenly over all classes.
    """
    output = output.float()
    if task.kind == "continuous":
        labelled = ~target.isnan()
        error = (output.squeeze(1) - (target - task.mean) / task.sd)[labelled]
        return error.square().sum() / labelled.sum().clamp_min(1)
    labelled = target >= 0
    weight = output.new_tensor(task.class_weights) if task.class_weights else None
    total = F.cross_entropy(
        output,
        target,
        weight=weight,
        ignore_index=-1,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    cells = labelled.sum() if weight is None else weight[target[labelled]].sum()
    return total / cells.clamp_min(torch.finfo(output.dtype).tiny)


def mean_task_loss(tasks: Sequence[Task], losses: Sequence[Tensor]) -> Tensor:
    """Return L = (1/T) Σ_t w_t L_t."""
    weighted = [task.weight * loss for task, loss in zip(tasks, losses, strict=True)]
    return torch.stack(weighted).mean()


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


def input_means(cells: CellCollection, rows: NDArray[np.int64], transform: Transform) -> Tensor:
    """Return each gene's mean input over some cells, float32 [G], zeros counted; in one pass."""
    sums = np.zeros(cells.n_genes)
    for start in range(0, len(rows), CELLS_AT_A_TIME):
        part = transformed(cells.batch(rows[start : start + CELLS_AT_A_TIME]), transform)
        sums += np.bincount(part.indices.numpy(), part.values.numpy(), minlength=cells.n_genes)
    return torch.from_numpy(sums / max(1, len(rows))).float()


def _trunk(hidden: Sequence[int], dropout: float) -> nn.Sequential:
    """Everything between the first layer and the heads."""
    layers: list[nn.Module] = [nn.ReLU(), nn.Dropout(dropout)]
    for n_in, n_out in pairwise(hidden):
        layers += [nn.Linear(n_in, n_out), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


class PanelNetwork(nn.Module):
    """Shared encoder and one head per task, on the k genes of a panel.

    Parameters
    ----------
    n_genes
        k, the genes of the panel.
    tasks
        What to predict.
    hidden
        Widths of the encoder's layers.
    transform
        From counts to input.
    dropout
        In training.
    """

    def __init__(
        self,
        n_genes: int,
        tasks: Sequence[Task],
        hidden: Sequence[int],
        transform: Transform,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.tasks, self.transform, self.hidden = tuple(tasks), transform, tuple(hidden)
        self.first = nn.Linear(n_genes, hidden[0])
        self.trunk = _trunk(hidden, dropout)
        self.heads = nn.ModuleList(nn.Linear(hidden[-1], task.n_out) for task in tasks)

    @classmethod
    def from_weights(
        cls,
        weights: Mapping[str, Tensor],
        tasks: Sequence[Task],
        hidden: Sequence[int],
        transform: Transform,
    ) -> PanelNetwork:
        """Build a trained network from its ``state_dict()``; no random number is drawn."""
        with torch.random.fork_rng(devices=[]):
            network = cls(weights["first.weight"].shape[1], tasks, hidden, transform)
        network.load_state_dict(weights)
        return network.eval()

    def forward(self, cells: Cells) -> list[Tensor]:
        """Return each task's output [B, n_out] for cells over the panel's genes."""
        x = transformed(cells, self.transform).dense()
        hidden = self.trunk(self.first(x))
        return [head(hidden) for head in self.heads]


class YOTOModule(nn.Module):
    """What YOTO trains.

    Gene scores, and a network over all genes (first layer, shared encoder, heads) to learn them
    with; then, from the step at which the panel is fixed, a network of its own for the panel,
    `predictor`. A step trains one of the two.

    Parameters
    ----------
    n_genes
        G, the genes to choose from.
    tasks, hidden, transform
        As for `PanelNetwork`.
    schedule
        Of subset size, temperature and noise.
    relaxation, dropout, label_smoothing, seed
        As in `YOTOConfig`.
    forced, forbidden
        Gene indices.
    budget
        Limit on what the panel costs, if there is one.

    Attributes
    ----------
    predictor
        `PanelNetwork` on the genes of `fixed_panel`; None when all steps select.
    fixed_panel
        Buffer, int64 [k], ascending: the panel once it is fixed, −1 before.
    gene_means
        Buffer [G], taken off the input before the first layer while genes are selected; zeros
        unless set. Without it a gene that is high in all cells acts as a second bias, and its
        score's gradient is mostly noise.
    """

    fixed_panel: Tensor
    gene_means: Tensor

    def __init__(
        self,
        n_genes: int,
        tasks: Sequence[Task],
        hidden: Sequence[int],
        transform: Transform,
        schedule: Schedule,
        *,
        relaxation: Relaxation = "softsort",
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        seed: int = 0,
        forced: Sequence[int] = (),
        forbidden: Sequence[int] = (),
        budget: Budget | None = None,
    ) -> None:
        super().__init__()
        self.tasks, self.transform, self.hidden = tuple(tasks), transform, tuple(hidden)
        self.budget = budget
        self.schedule = schedule
        self.relaxation: Relaxation = relaxation
        self.label_smoothing = label_smoothing
        self.seed = seed
        self.selector = GeneSelector(n_genes, forced=forced, forbidden=forbidden)
        self.first = MaskedLinear(n_genes, hidden[0], fan_in=schedule.n_genes)
        self.trunk = _trunk(hidden, dropout)
        self.heads = nn.ModuleList(nn.Linear(hidden[-1], task.n_out) for task in tasks)
        self.predictor = (
            PanelNetwork(schedule.n_genes, tasks, hidden, transform, dropout)
            if 0 < schedule.fix_at < 1
            else None
        )
        self.register_buffer("fixed_panel", torch.full((schedule.n_genes,), -1))
        self.register_buffer("gene_means", torch.zeros(n_genes))
        self.on_step(0, 1)

    def on_step(self, step: int, total_steps: int) -> None:
        """Set subset size, temperature and noise for an optimiser step; fix the panel in time."""
        self.step = step
        self.subset_size, self.tau, self.noise = self.schedule.at(step, total_steps)
        selecting = self.schedule.selection_steps(total_steps)
        if step == selecting or step % EVERY == 0:
            self.set_prices()
        if step == selecting:
            self.fixed_panel.copy_(self._best_panel().indices)

    @property
    def fixed(self) -> bool:
        """Whether the panel is fixed, and `predictor` the network in use."""
        return bool(self.fixed_panel[0] >= 0)

    def _select(self, cells: Cells) -> Selection:
        if not self.training:
            return self._best_panel()
        # One panel per optimiser step: every batch that is accumulated sees the same.
        seed = torch.tensor([self.seed, self.step], device=cells.device)
        drawn: Selection = self.selector(
            self.subset_size,
            tau=self.tau,
            relaxation=self.relaxation,
            noise=self.noise,
            seed=seed,
        )
        return drawn

    def _best_panel(self) -> Selection:
        chosen: Selection = self.selector(self.schedule.n_genes)
        return chosen

    def set_prices(self) -> None:
        """Bring the panel that the scores stand for within the budget, if there is one."""
        if self.budget is not None:
            self.selector.penalty = self.budget.penalty(self.selector.scores)

    def forward(self, cells: Cells) -> list[Tensor]:
        """Return each task's output [B, n_out]; noise and schedules apply in training alone."""
        if self.fixed and self.predictor is not None:
            if cells.n_genes != len(self.fixed_panel):  # the panel's genes alone may be given
                cells = cells.select_genes(self.fixed_panel)
            outputs: list[Tensor] = self.predictor(cells)
            return outputs
        selection = self._select(cells)
        x = transformed(cells, self.transform)
        hidden = self.trunk(self.first(x, selection, self.gene_means))
        return [head(hidden) for head in self.heads]

    def task_losses(self, cells: Cells) -> dict[str, Tensor]:
        """Return the weighted mean over tasks as ``"loss"``, and ``"loss/<task>"`` for each."""
        outputs = self(cells)
        losses = {
            f"loss/{task.name}": task_loss(
                task, output, cells.labels[task.name], label_smoothing=self.label_smoothing
            )
            for task, output in zip(self.tasks, outputs, strict=True)
        }
        return {"loss": mean_task_loss(self.tasks, list(losses.values())), **losses}

    def training_loss(self, cells: Cells) -> dict[str, Tensor]:
        """Losses of a batch, and the monitors that the history keeps."""
        losses = self.task_losses(cells)
        scores = self.selector.scores
        free = scores.detach()[self.selector.bounds == 0]
        return {
            **losses,
            "temperature": scores.new_tensor(self.tau),
            "subset_size": scores.new_tensor(float(self.subset_size)),
            "noise": scores.new_tensor(self.noise),
            "score_variance": free.var(correction=0) if len(free) else scores.new_zeros(()),
        }

    def panel_network(self, ranked: Tensor) -> PanelNetwork:
        """Return the network on some genes, int64 [k], in that order.

        Once the panel is fixed these must be its genes.
        """
        if self.fixed and self.predictor is not None:
            weights = dict(self.predictor.state_dict())
            columns = torch.searchsorted(self.fixed_panel, ranked)
            weights["first.weight"] = weights["first.weight"][:, columns]
        else:
            weights = {
                name: tensor
                for name, tensor in self.state_dict().items()
                if name.startswith(("first.", "trunk.", "heads."))
            }
            weights["first.weight"] = weights["first.weight"][ranked].T
            offset = weights["first.weight"] @ self.gene_means[ranked]
            weights["first.bias"] = weights["first.bias"] - offset
        return PanelNetwork.from_weights(weights, self.tasks, self.hidden, self.transform)
