"""What a model predicts: a task per label, its loss, its scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kernomics import metrics
from kernomics.data import CellCollection, Cells, Labels
from kernomics.errors import ConfigError, DataError, closest
from kernomics.nn.precision import widened
from kernomics.train.distributed import over_ranks

ClassWeights = Literal["sqrt", "balanced"]


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
    def from_dict(cls, saved: Mapping[str, Any]) -> Task:
        """Return what ``dataclasses.asdict`` made of a task."""
        of_classes = {name: tuple(saved[name]) for name in ("classes", "class_weights")}
        return cls(**{**saved, **of_classes})

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
            known = known.astype(np.float64)  # large numbers that differ little
            sd = float(known.std())
            return cls(labels.name, "continuous", weight=weight, mean=float(known.mean()), sd=sd)
        weights: tuple[float, ...] = ()
        if class_weights is not None:  # a class without training cells never enters the loss
            counts = np.bincount(known, minlength=labels.n_classes)
            power = {"sqrt": 0.5, "balanced": 1.0}[class_weights]
            share = np.where(counts > 0, np.maximum(counts, 1) ** -power, 0.0)
            weights = tuple((share * known.size / (share @ counts)).tolist())
        return cls(labels.name, "categorical", labels.categories, weight, weights)


def make_tasks(
    cells: CellCollection,
    train: NDArray[np.int64],
    weights: Mapping[str, float],
    *,
    class_weights: ClassWeights | None,
) -> list[Task]:
    """Describe every label of the cells; the training rows give the statistics."""
    for name, weight in weights.items():
        if name not in cells.labels:
            raise ConfigError(
                f"task_weights names {name!r}, which is not a label; {closest(name, cells.labels)}"
            )
        if not 0 <= weight < math.inf:
            raise ConfigError(f"the weight of task {name!r} is {weight}: 0 or more is needed")
    return [
        Task.from_labels(label, train, weight=weights.get(name, 1.0), class_weights=class_weights)
        for name, label in cells.labels.items()
    ]


def labelled_cells(task: Task, output: Tensor, target: Tensor) -> Tensor:
    """Return over how many cells a task's loss is a mean: those with a label, by their weights."""
    if task.kind == "continuous":
        return target.isnan().logical_not().sum()
    labelled = target >= 0
    if not task.class_weights:
        return labelled.sum()
    weight = widened(output).new_tensor(task.class_weights)
    return weight[target[labelled]].sum()


def task_loss(
    task: Task, output: Tensor, target: Tensor, *, label_smoothing: float = 0.0, cells: Any = None
) -> Tensor:
    """Mean loss of a task over its labelled cells; 0 when the batch has none.

    `cells` is what to divide by, as of `over_ranks`; by default the cells of this batch.
    """
    output = widened(output)
    if cells is None:
        (cells,) = over_ranks(labelled_cells(task, output, target))
    if task.kind == "continuous":
        labelled = ~target.isnan()
        error = (output.squeeze(1) - (target - task.mean) / task.sd)[labelled]
        squares: Tensor = error.square().sum() / cells
        return squares
    weight = output.new_tensor(task.class_weights) if task.class_weights else None
    total: Tensor = F.cross_entropy(
        output,
        target,
        weight=weight,
        ignore_index=-1,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return total / cells  # type: ignore[no-any-return]


def task_losses(
    tasks: Sequence[Task], outputs: Sequence[Tensor], cells: Cells, *, label_smoothing: float = 0.0
) -> list[Tensor]:
    """Return each task's loss over a batch; see `task_loss`.

    Where the batch is one rank's part of a whole, that one's labels tell by what to divide.
    """
    targets = [cells.labels[task.name] for task in tasks]
    whole, exact = cells.whole, torch.empty(0, dtype=torch.float64)

    def of_whole() -> list[Tensor]:
        assert whole is not None
        return [labelled_cells(task, exact, whole.labels[task.name]) for task in tasks]

    own = map(labelled_cells, tasks, outputs, targets)
    over = over_ranks(*own, of_whole=None if whole is None else of_whole)
    return [
        task_loss(task, output, target, label_smoothing=label_smoothing, cells=n)
        for task, output, target, n in zip(tasks, outputs, targets, over, strict=True)
    ]


def mean_task_loss(tasks: Sequence[Task], losses: Sequence[Tensor]) -> Tensor:
    """Return L = (1/T) Σ_t w_t L_t."""
    weighted = [task.weight * loss for task, loss in zip(tasks, losses, strict=True)]
    return torch.stack(weighted).mean()


def read_outputs(task: Task, output: Tensor) -> NDArray[Any]:
    """Turn a head's output into class probabilities [B, C], or numbers [B] in the label's unit."""
    if task.kind == "categorical":
        return np.asarray(output.float().softmax(1).cpu())
    return np.asarray((output.float().squeeze(1) * task.sd + task.mean).cpu())


def score_task(task: Task, truth: NDArray[Any], output: NDArray[Any]) -> dict[str, float]:
    """Compute the metrics of one task from its true labels and `read_outputs`' result."""
    if task.kind == "continuous":
        return metrics.regression_metrics(truth, output)
    return metrics.classification_metrics(truth, output.argmax(1), output)
