"""What each gene of a trained panel does for each label and class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from kernomics._arguments import checked, rows_of
from kernomics._warnings import warn
from kernomics.data import CellCollection
from kernomics.data.row_numbers import parts
from kernomics.errors import DataError
from kernomics.models import Panel
from kernomics.models.tasks import Task
from kernomics.models.yoto.missing_genes import require_genes, require_measured
from kernomics.models.yoto.network import PanelNetwork, transformed
from kernomics.models.yoto.panel import require_base


@dataclass(frozen=True, eq=False, kw_only=True)
class Contributions:
    """How much the loss of the panel's own network rises when a gene is left out.

    Positive: the gene helps. Negative: these cells are predicted better without it.

    Attributes
    ----------
    loss_without
        float64 [gene, label]: increase in the mean loss of a label. NaN for a label that none of
        the cells has.
    by_class
        For each categorical label, float64 [gene, class]: increase in the mean loss of the cells of
        a class; NaN for a class without cells.
    """

    loss_without: pd.DataFrame
    by_class: dict[str, pd.DataFrame]


@checked
def contributions(
    panel: Panel, cells: CellCollection, rows: ArrayLike, *, background_rows: ArrayLike
) -> Contributions:
    """Measure what each gene of a panel contributes to its network's predictions.

    A gene is left out by setting its input, after the transform, to the mean over the background
    cells, in all cells; the network is not retrained. Its contribution is the mean over the cells
    of L(without it) − L(with it). L is the cross-entropy of the true class in nats, or, for a
    continuous label, the squared error in units of the training cells' standard deviation. The mean
    per label weights classes as in training (`Task.class_weights`), the mean per class does not.

    The contributions do not sum to the total. Of two redundant genes, each can be left out at
    little cost, so both show a small contribution although the pair matters; see `redundancy`. A
    gene that the network does not read contributes exactly 0.

    The first layer is computed once: leaving gene j out subtracts (x_j − mean_j)·w_j from it. The
    rest of the network runs k + 1 times over each block of 4,096 cells.

    Parameters
    ----------
    panel
        A trained panel.
    cells
        Cells that have the panel's genes and at least one of its labels.
    rows
        Held-out cells to measure on: int [n], or a mask over all.
    background_rows
        Cells whose mean replaces a gene left out: the training cells.

    Returns
    -------
    Contributions
        Per label and per class.

    Raises
    ------
    DataError
        If a gene of the panel is missing, `cells` have none of its labels or one of another kind,
        no cell of `rows` is labelled, or one of the two lists is empty.

    Warns
    -----
    UserWarning
        If cells have classes unknown to the panel; they are left out.
    """
    require_base(panel, "a gene's contribution")
    measured = rows_of("rows", rows, cells.n_cells)
    background = rows_of("background_rows", background_rows, cells.n_cells)
    require_genes(panel.genes, cells)
    require_measured(panel.genes, cells)
    view = cells.with_genes(panel.genes, min_gene_overlap=1.0)
    targets = _targets(panel, cells, measured)
    network = panel.network
    means = _mean_input(network, view, background)
    tasks = [(i, task) for i, task in enumerate(panel.tasks) if task.name in targets]
    # Sums of the rise over the cells of each class; a number counts as one class.
    rises = {task.name: np.zeros((len(panel.genes), task.n_out)) for _, task in tasks}
    with torch.inference_mode():
        for part in parts(len(measured)):
            x = _input(network, view, measured[part])
            truth = {name: target[part] for name, target in targets.items()}
            before = _losses(network, x, tasks, truth)
            for gene, mean in enumerate(means):
                without = x.clone()
                without[:, gene] = mean
                after = _losses(network, without, tasks, truth)
                for _, task in tasks:
                    rises[task.name][gene] += _sums(
                        task, truth[task.name], after[task.name] - before[task.name]
                    )
    names = pd.Index(panel.genes, name="gene")
    per_task, by_class = {}, {}
    for _, task in tasks:
        n = _sums(task, targets[task.name], np.ones(len(measured)))
        weights = np.array(task.class_weights or np.ones(task.n_out))
        total = rises[task.name]
        with np.errstate(invalid="ignore"):  # no cell: 0 / 0 = NaN
            per_task[task.name] = total @ weights / (n @ weights)
            if task.kind == "categorical":
                by_class[task.name] = pd.DataFrame(
                    total / n, index=names, columns=pd.Index(task.classes, name="class")
                )
    return Contributions(loss_without=pd.DataFrame(per_task, index=names), by_class=by_class)


def _targets(
    panel: Panel, cells: CellCollection, rows: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Return the labels of the cells as the network's outputs have them: codes, or sd units."""
    found: dict[str, NDArray[Any]] = {}
    n_labelled = 0
    for task in panel.tasks:
        if task.name not in cells.labels:
            continue
        label = cells.labels[task.name].subset(rows)
        if label.kind != task.kind:
            raise DataError(
                f"label {task.name!r} is {label.kind} in the cells and {task.kind} in the panel; "
                f"read them with label_kinds={{{task.name!r}: {task.kind!r}}}"
            )
        if task.kind == "continuous":
            found[task.name] = (label.values - task.mean) / task.sd
            n_labelled += int(label.labelled.sum())
            continue
        known = label.aligned(task.classes)
        n, n_known = int(label.labelled.sum()), int(known.labelled.sum())
        if n_known < n:
            warn(
                f"label {task.name!r}: {n - n_known:,} of {n:,} labelled cells have classes "
                "unknown to the panel; they are left out"
            )
        found[task.name] = known.values
        n_labelled += n_known
    if not found:
        raise DataError(
            f"the cells have none of the panel's labels {[task.name for task in panel.tasks]}; "
            f"they have {list(cells.labels)}: read them with labels_key"
        )
    if not n_labelled:
        raise DataError(
            f"none of the {len(rows):,} cells of rows has a label known to the panel, of "
            f"{list(found)}; choose other rows"
        )
    return found


def _input(network: PanelNetwork, view: CellCollection, rows: NDArray[np.int64]) -> Tensor:
    device = network.first.weight.device
    return transformed(view.batch(rows).to(device), network.transform).dense()


def _mean_input(network: PanelNetwork, view: CellCollection, rows: NDArray[np.int64]) -> Tensor:
    """Return the mean input of each gene, float32 [k]."""
    total = torch.zeros(view.n_genes, dtype=torch.float64, device=network.first.weight.device)
    for part in parts(len(rows)):
        total += _input(network, view, rows[part]).sum(0, dtype=torch.float64)
    return (total / len(rows)).float()


def _losses(
    network: PanelNetwork,
    x: Tensor,
    tasks: list[tuple[int, Task]],
    truth: dict[str, NDArray[Any]],
) -> dict[str, NDArray[np.float64]]:
    """Return each cell's loss per label, float64 [b], from their input [b, k]."""
    outputs = network.outputs(x)
    losses = {}
    for i, task in tasks:
        output = outputs[i].double()
        target = torch.from_numpy(truth[task.name]).to(output.device)
        if task.kind == "categorical":
            # An unlabelled cell's loss is 0, and `_sums` leaves it out.
            loss = F.cross_entropy(output, target, ignore_index=-1, reduction="none")
        else:
            loss = (output.squeeze(1) - target).square()
        losses[task.name] = np.asarray(loss.cpu())
    return losses


def _sums(
    task: Task,
    truth: NDArray[Any],
    values: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Sum over the labelled cells: of each class, or of all for a number."""
    if task.kind == "continuous":
        return np.array([values[~np.isnan(truth)].sum()])
    labelled = truth >= 0
    sums = np.bincount(truth[labelled], weights=values[labelled], minlength=task.n_out)
    return sums.astype(np.float64, copy=False)
