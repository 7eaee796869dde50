"""The parts of a YOTO training: module, optimizer and validation, and the panel at its end."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kernomics._version import __version__
from kernomics.data.row_numbers import parts
from kernomics.models.tasks import mean_task_loss, read_outputs, score_task, task_loss
from kernomics.models.yoto.marker_prior import marker_scores
from kernomics.models.yoto.missing_genes import costs_without
from kernomics.models.yoto.module import YOTOModule
from kernomics.models.yoto.network import InputMeans
from kernomics.models.yoto.panel import Panel, seen_cells
from kernomics.models.yoto.start_rankings import ranked_genes
from kernomics.models.yoto.start_records import StartRecords
from kernomics.models.yoto.starts import Jury, Starts, built, with_starts
from kernomics.models.yoto.warm_start import START_FACTOR, WarmStart
from kernomics.train import RowAdamW, override

if TYPE_CHECKING:
    from kernomics.models.yoto.model import YOTO


def build_module(model: YOTO, number: int = 0) -> YOTOModule:
    """Return an untrained module, with the scores that a start's selection begins with."""
    config, start = model.config, model.constraints.start
    if start is not None and config.start_genes is None:
        config = override(config, start_genes=START_FACTOR * config.n_genes)
    module = YOTOModule(
        model.cells.n_genes,
        model.tasks,
        config.hidden,
        config.transform,
        config.schedule(model.bounds.usable),
        relaxation=config.relaxation,
        dropout=config.dropout,
        label_smoothing=config.label_smoothing,
        private_encoders=config.private_encoders,
        seed=model.seed,
        forced=model.bounds.forced.tolist(),
        forbidden=model.bounds.forbidden.tolist(),
        budget=model.constraints.budget,
    )
    means = InputMeans(model.cells.n_genes, config.transform)
    learnt = [task for task in model.tasks if task.weight]
    scores = marker_scores(
        model.cells, model.split.train, learnt, config.marker_prior, also=means.add
    )
    module.gene_means.copy_(means.found())
    with torch.no_grad():
        module.selector.scores.copy_(torch.from_numpy(scores))
    if start is None:
        start = ranked_start(model, number)
    if start is not None:
        start.apply(module, model.cells.genes)
    return module


def ranked_start(model: YOTO, number: int) -> WarmStart | None:
    """Return what a start begins with by `YOTOConfig.start_rankings`; None for the markers."""
    rankings = model.config.start_rankings
    ranking = rankings[number % len(rankings)]
    if ranking == "markers":
        return None
    usable = np.setdiff1d(np.arange(model.cells.n_genes), model.bounds.forbidden)
    found = ranked_genes(
        ranking, model.cells, model.split.train, model.tasks, usable, model.config.n_genes,
        model.seed,
    )  # fmt: skip
    return WarmStart(model.cells.genes[found].tolist())


def add_starts(model: YOTO, module: YOTOModule) -> None:
    """Let a module select as often as the configuration says."""
    config = model.config
    if config.n_starts == 1:
        return
    jury = Jury(
        model.cells,
        model.split,
        model.tasks,
        config.judge,
        lambda module: outputs_on(model, module),
    )
    module.schedule = with_starts(module.schedule, model._plan, model._legs)
    module.starts = StartRecords(
        model._legs,
        config.n_genes,
        model.cells.n_genes,
        jury,
        lambda start: built(start, model.seed, lambda: model._module(start)),
    )


def starts_of(model: YOTO, module: YOTOModule) -> Starts | None:
    """Return what a training's starts say; None for one, or if it ended before they did."""
    records = module.starts
    if records is None or not module.fixed:
        return None
    records.optimizer = None  # whose moments are as large as the network, twice
    return Starts.of(records, model.config.judge, model.cells.genes)


def make_optimizer(model: YOTO, module: YOTOModule) -> RowAdamW:
    """Return what steps a module's parameters."""
    rest = [*module.trunk.parameters(), *module.heads.parameters(), module.first.bias]
    if module.predictor is not None:
        rest += module.predictor.parameters()
    groups: list[dict[str, Any]] = [
        {
            "params": [module.selector.scores],
            "lr": model.config.score_learning_rate,
            "weight_decay": 0.0,
            "one_scale": True,  # how much a gene's gradient is counts, not its sign alone
        },
        {"params": [module.first.weight], "rows": lambda: module.first.touched},
        {"params": rest},
    ]
    optimizer = RowAdamW(
        groups,
        lr=model.training.learning_rate,
        weight_decay=model.training.weight_decay,
    )
    if module.starts is not None:
        module.starts.optimizer = optimizer
    return optimizer


def outputs_on(model: YOTO, module: YOTOModule) -> list[Tensor]:
    """Return each task's outputs for the validation cells, of the panel as it would be now."""
    module.set_prices()
    rows = model.split.validation
    device = next(module.parameters()).device
    found = [module(model.cells.batch(rows[part]).to(device)) for part in parts(len(rows))]
    return [torch.cat(output).float().cpu() for output in zip(*found, strict=True)]


def validate(model: YOTO, module: YOTOModule) -> dict[str, float]:
    """Losses and scores of the panel as it would be now, on the validation cells."""
    rows = model.split.validation
    figures, losses = {}, []
    for task, output in zip(model.tasks, outputs_on(model, module), strict=True):
        truth = model.cells.labels[task.name].values[rows]
        losses.append(task_loss(task, output, torch.from_numpy(truth)))
        figures[f"loss/{task.name}"] = float(losses[-1])
        for name, value in score_task(task, truth, read_outputs(task, output)).items():
            if name in ("accuracy", "macro_f1", "r2"):
                figures[f"{name}/{task.name}"] = value
    return {"loss": float(mean_task_loss(model.tasks, losses)), **figures}


def make_panel(model: YOTO, module: YOTOModule) -> Panel:
    """Return the panel that a module, on the CPU, has come to."""
    module.set_prices()
    with torch.no_grad():
        scores = module.selector.bounded_scores
        chosen = module.selector(model.config.n_genes).indices
        ranked = chosen[scores[chosen].argsort(descending=True, stable=True)]
        network = module.panel_network(ranked)
    genes, means = model.cells.genes[ranked.numpy()].tolist(), module.gene_means[ranked]
    return Panel(
        network,
        genes,
        model.cells.genes.tolist(),
        scores.numpy(),
        {
            "version": __version__,
            "seed": model.seed,
            "config": dataclasses.asdict(model.config),
            "training": dataclasses.asdict(model.training),
            "split": {"how": model.split.how, "by": model.split.by, "seed": model.split.seed},
            "trained_on": {"cells": len(model.split.train), "genes": model.cells.n_genes},
            "library": model.cells.library_rule.description,
            "reading": model.cells.reading,
            "labels": {
                name: {"kind": label.kind, "description": label.description}
                for name, label in model.cells.labels.items()
            },
            **model.constraints.outcome(ranked.numpy()),
            **({} if model.starts is None else {"starts": model.starts.to_dict()}),
            "seen_cells": seen_cells(model.cells, model.split.train),
            "without": costs_without(network, genes, means, model.cells, model.split.test),
        },
        input_means=means,
    )
