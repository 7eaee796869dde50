"""Genes of a panel that data lack: refused by name, or filled, and what that cost in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernomics import metrics
from kernomics._warnings import warn
from kernomics.data import CellCollection
from kernomics.data.expression import measured_everywhere
from kernomics.data.genes import mismatch_cause
from kernomics.data.row_numbers import parts
from kernomics.errors import ConfigError, DataError, closest
from kernomics.models.tasks import Task
from kernomics.models.yoto.network import PanelNetwork, transformed

COSTED_CELLS = 10_000
"""Held-out cells at most on which each gene's cost is measured, evenly spread over them."""
NAMES_SHOWN = 20
COSTS_SHOWN = 5
METRIC = {"categorical": "macro_f1", "continuous": "r2"}
IN_WORDS = {"macro_f1": "macro-F1", "r2": "R²"}


def absent_genes(genes: Sequence[str], cells: CellCollection) -> list[str]:
    """Return those of a panel's genes that the data lack."""
    known = set(map(str, cells.genes))
    return [gene for gene in genes if gene not in known]


def require_genes(genes: Sequence[str], cells: CellCollection, *, remedy: str = "") -> None:
    """Refuse data that lack genes of a panel."""
    absent = absent_genes(genes, cells)
    if absent:
        raise DataError(
            f"{len(absent):,} of the panel's {len(genes):,} genes {_are(absent)} missing from the "
            f"data: {listed(absent)}; {closest(absent[0], cells.genes)}"
            f"{mismatch_cause(genes, cells.genes, len(genes) - len(absent), cells.var)}"
            + (f"; {remedy}" if remedy else "")
        )


def _are(genes: Sequence[str]) -> str:
    return "is" if len(genes) == 1 else "are"


def listed(genes: Sequence[str]) -> str:
    """Name genes, the first twenty of many."""
    more = len(genes) - NAMES_SHOWN
    return ", ".join(map(repr, genes[:NAMES_SHOWN])) + (f" and {more:,} more" if more > 0 else "")


def checked_absent(
    genes: Sequence[str], cells: CellCollection, means: Tensor | None, *, allow: bool
) -> list[str]:
    """Return the genes to fill, if filling them is allowed and something else is known."""
    if not isinstance(allow, bool | np.bool_):
        raise ConfigError(f"allow_missing is {allow!r}: it must be True or False")
    absent = absent_genes(genes, cells)
    if len(absent) == len(genes):
        remedy = "without any of them there is nothing to predict from"
    elif means is None:
        remedy = "this panel does not hold their means; only a panel from training does"
    else:
        remedy = "allow_missing=True fills them with their mean over the training cells"
    if not allow or means is None or len(absent) == len(genes):
        require_genes(genes, cells, remedy=remedy)
        require_measured(genes, cells, remedy=remedy)
    elif partly := partly_measured(genes, cells):
        warn(
            f"{_partly(genes, partly)}, and filled there with "
            f"{'its' if len(partly) == 1 else 'their'} mean over the training cells"
        )
    return absent


def partly_measured(genes: Sequence[str], cells: CellCollection) -> list[str]:
    """Return those of a panel's genes that the data have, but have not measured in every cell."""
    partly = set(cells.genes[~measured_everywhere(cells)].tolist())
    return [gene for gene in genes if gene in partly]


def require_measured(
    genes: Sequence[str], cells: CellCollection, *, remedy: str = "leave out the cells without them"
) -> None:
    """Refuse genes of a panel that some cells have not measured."""
    partly = partly_measured(genes, cells)
    if partly:
        raise DataError(f"{_partly(genes, partly)}; {remedy}")


def _partly(genes: Sequence[str], partly: Sequence[str]) -> str:
    return (
        f"{len(partly):,} of the panel's {len(genes):,} genes {_are(partly)} not measured in every "
        f"cell: {listed(partly)}"
    )


def panel_input(
    network: PanelNetwork,
    view: CellCollection,
    rows: NDArray[np.int64],
    present: NDArray[np.int64],
    means: Tensor | None,
) -> Tensor:
    """Return the input [b, k] of a panel's network, with genes that are missing at their mean."""
    device = network.first.weight.device
    cells = view.batch(rows).to(device)
    x = transformed(cells, network.transform).dense()
    if means is not None and cells.observed is not None:
        measured = cells.observed.mask.bool()[cells.observed.panel_id.long()]
        x = torch.where(measured, x, means.to(device)[torch.from_numpy(present).to(device)])
    if means is None or len(present) == len(means):
        return x
    whole = means.to(device).expand(len(x), -1).clone()
    whole[:, torch.from_numpy(present).to(device)] = x
    return whole


# -- what it costs ---------------------------------------------------------------------------------


def costs_without(
    network: PanelNetwork,
    genes: Sequence[str],
    means: Tensor,
    cells: CellCollection,
    rows: NDArray[np.int64],
) -> dict[str, Any]:
    """Score a panel with each gene filled in turn, on held-out cells of its training."""
    if not len(rows):
        return {}
    if len(rows) > COSTED_CELLS:
        rows = rows[np.linspace(0, len(rows) - 1, COSTED_CELLS).round().astype(np.int64)]
    view, every = cells.with_genes(genes, 1.0), np.arange(len(genes))
    # [1 + k] guesses of every cell and task: with all genes, then without each.
    guesses: list[list[NDArray[Any]]] = []
    with torch.inference_mode():
        for part in parts(len(rows)):
            x = panel_input(network, view, rows[part], every, means)
            guesses.append(_guesses(network, x, means.to(x.device)))
    scores: dict[str, Any] = {}
    for i, task in enumerate(network.tasks):
        truth = cells.labels[task.name].values[rows]
        found = [_score(task, truth, one) for one in np.concatenate([g[i] for g in guesses], 1)]
        scores[task.name] = {
            "metric": METRIC[task.kind],
            "with": found[0],
            "without": dict(zip(genes, found[1:], strict=True)),
        }
    return {"cells": len(rows), "tasks": scores}


def _guesses(network: PanelNetwork, x: Tensor, means: Tensor) -> list[NDArray[Any]]:
    """Return per task what is predicted [1 + k, b], first from all genes."""
    rows = []
    for gene in range(-1, x.shape[1]):
        given = x
        if gene >= 0:
            given = x.clone()
            given[:, gene] = means[gene]
        rows.append(
            [
                np.asarray((out.argmax(1) if task.classes else out.squeeze(1).double()).cpu())
                for task, out in zip(network.tasks, network.outputs(given), strict=True)
            ]
        )
    return [np.stack(of_task) for of_task in zip(*rows, strict=True)]


def _score(task: Task, truth: NDArray[Any], guess: NDArray[Any]) -> float | None:
    if task.classes:
        found = metrics.macro_f1(truth, guess)
    else:
        found = metrics.r2(truth, guess * task.sd + task.mean)
    return None if np.isnan(found) else round(float(found), 6)


def missing_warning(genes: Sequence[str], absent: Sequence[str], info: Mapping[str, Any]) -> str:
    """Say which genes are filled, and what that cost on the held-out cells of the training."""
    said = (
        f"{len(absent):,} of the panel's {len(genes):,} genes "
        f"{_are(absent)} missing from the data and filled with "
        f"{'its' if len(absent) == 1 else 'their'} mean over the training cells: {listed(absent)}"
    )
    known = info.get("without", {})
    changes = [
        (after - task["with"], _change(name, task, gene, after))
        for name, task in known.get("tasks", {}).items()
        for gene in absent
        if task["with"] is not None and (after := task["without"].get(gene)) is not None
    ]
    if not changes:
        return f"{said}; the cost of that on held-out cells of the training data is not known"
    changes.sort(key=lambda change: change[0])
    shown = "; ".join(text for _, text in changes[:COSTS_SHOWN])
    more = len(changes) - COSTS_SHOWN
    shown += f"; and {more:,} smaller changes" if more > 0 else ""
    said = f"{said}. On {known['cells']:,} held-out cells of the training data, {shown}"
    if len(absent) > 1:
        said += (
            ". That is for each gene alone; together it may be more, which the model's "
            "cost_of_missing computes from the training data in Python"
        )
    return said


def _change(name: str, task: Mapping[str, Any], gene: str, after: float) -> str:
    before, metric = task["with"], IN_WORDS[task["metric"]]
    verb = "falls" if after < before else "rises"
    how = f"{verb} from {before:.3f} to {after:.3f}"
    if f"{before:.3f}" == f"{after:.3f}":
        how = f"stays at {before:.3f}"
    return f"{metric} of {name} {how} without {gene}"
