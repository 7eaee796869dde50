"""YOTO: one training gives the gene panel and its predictor (arXiv 2512.17678)."""

from __future__ import annotations

import dataclasses
import math
import operator
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.optim import Optimizer

from kernomics import __version__
from kernomics.data import CellCollection, Labels, Sampler, Split, make_split
from kernomics.data.labels import Kind, column
from kernomics.data.splits import How
from kernomics.errors import ConfigError, closest
from kernomics.models.device import usable_device
from kernomics.models.gene_bounds import gene_bounds
from kernomics.models.monitors import TrainingWarning, training_warnings
from kernomics.models.panel import CELLS_AT_A_TIME, Panel, read_outputs, score_task
from kernomics.models.panel_network import Task, YOTOModule, mean_task_loss, task_loss
from kernomics.models.yoto_config import YOTOConfig, default_training
from kernomics.train import History, RowAdamW, fit, override

if TYPE_CHECKING:
    from anndata import AnnData


class YOTO:
    """Select a gene panel that predicts one or several labels, together with its predictor.

    Parameters
    ----------
    adata
        AnnData, path of an ``.h5ad`` file, or a `CellCollection`, which has its own labels and
        library sizes. Never modified.
    labels_key
        obs column or columns to predict; cells may lack any of them.
    n_genes
        k, the size of the panel, forced genes included.
    layer, library_key, unlabelled_category, label_kinds
        As in `CellCollection.from_anndata`.
    split
        ``"stratified"`` (by the first categorical label), ``"random"``, ``"group"`` (no group of
        `split_key`, such as a donor, in two parts), or a `Split`.
    split_key
        obs column of the groups.
    fractions
        Shares of cells to train, validate and test on. Genes are chosen on the training cells.
    forced_genes, forbidden_genes
        Names of genes always, never in the panel.
    task_weights
        Weight of each label's loss, 1 where not given.
    seed
        Of the split, the initial weights, the order of the cells and the noise.
    config
        Settings; keyword arguments override single ones.

    Attributes
    ----------
    genes : list of str
        The panel, best first (after training).
    ranking : pandas.DataFrame
        All genes by score.
    history : History
        One record per epoch and validation.
    panel : Panel
        The panel with its predictor (after training).
    warnings : list of str
        What the monitors of scores and task losses noticed; `train` gives them as
        `TrainingWarning` too.

    Raises
    ------
    DataError, ConfigError
        Naming what was found, where, how many and the remedy.
    """

    def __init__(
        self,
        adata: AnnData | str | Path | CellCollection,
        labels_key: str | Sequence[str] | None = None,
        n_genes: int | None = None,
        *,
        layer: str | None = None,
        library_key: str | None = None,
        unlabelled_category: str | None = None,
        label_kinds: Mapping[str, Kind] | None = None,
        split: How | Split = "stratified",
        split_key: str | None = None,
        fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
        forced_genes: str | Sequence[str] = (),
        forbidden_genes: str | Sequence[str] = (),
        task_weights: Mapping[str, float] | None = None,
        seed: int = 0,
        config: YOTOConfig | None = None,
        **overrides: Any,
    ) -> None:
        if n_genes is not None:
            overrides["n_genes"] = n_genes
        self.config = override(config or YOTOConfig(), **overrides)
        try:
            self.seed = int(np.int64(operator.index(seed)))
        except (TypeError, OverflowError):
            raise ConfigError(f"seed is {seed!r}: it must be an integer of 64 bits") from None
        reading: dict[str, Any] = {
            "layer": layer,
            "labels_key": labels_key,
            "library_key": library_key,
            "unlabelled_category": unlabelled_category,
            "label_kinds": label_kinds,
        }
        if isinstance(adata, CellCollection):
            given = [name for name, value in reading.items() if value is not None]
            if given:
                raise ConfigError(
                    f"{given[0]} was given beside a CellCollection, which has been read already; "
                    "pass it to CellCollection.from_anndata"
                )
            self.cells = adata
        else:
            self.cells = CellCollection.from_anndata(adata, **reading)
        if not self.cells.labels:
            raise ConfigError(
                f"labels_key names nothing to predict; {closest('', self.cells.obs.columns)}"
            )
        self.split = self._split(split, split_key, fractions)
        self.tasks = self._tasks(dict(task_weights or {}))
        self.summary = self.cells.summary(self.split.train)
        self.bounds = gene_bounds(
            self.cells.genes,
            self.summary.n_expressing,
            n_genes=self.config.n_genes,
            min_cells=self.config.min_cells,
            forced=forced_genes,
            forbidden=forbidden_genes,
        )
        if self.config.transform == "lognorm" and self.cells.library_is_subset:
            warnings.warn(
                "transform='lognorm' divides by library sizes, and these are totals over a subset "
                "of the genes measured; pass library_key, the obs column of the whole totals",
                stacklevel=2,
            )
        self.training = default_training(len(self.split.train))
        self.history = History()
        self.warnings: list[str] = []
        self.module: YOTOModule | None = None
        self.panel: Panel | None = None

    # -- what is selected from, and for what -----------------------------------------------------

    def _split(
        self, split: How | Split, key: str | None, fractions: tuple[float, float, float]
    ) -> Split:
        if isinstance(split, Split):
            rows = np.concatenate([split.train, split.validation, split.test])
            if rows.size and not 0 <= rows.min() <= rows.max() < self.cells.n_cells:
                raise ConfigError(
                    f"the split names rows {rows.min():,} … {rows.max():,}, but there are "
                    f"{self.cells.n_cells:,} cells: was it made for other data?"
                )
            return split
        labels = next((v for v in self.cells.labels.values() if v.kind == "categorical"), None)
        if split == "stratified" and labels is None:
            split = "random"
        groups = None
        if split == "group":
            if key is None:
                raise ConfigError("split='group' needs split_key, the obs column of the groups")
            groups = Labels.from_series(column(self.cells.obs, key), key, kind="categorical")
        elif key is not None:
            raise ConfigError(f"split_key is {key!r}, but split={split!r} uses no groups")
        return make_split(
            self.cells.n_cells,
            how=split,
            fractions=fractions,
            labels=labels if split == "stratified" else None,
            groups=groups,
            seed=self.seed,
        )

    def _tasks(self, weights: dict[str, float]) -> list[Task]:
        for name, weight in weights.items():
            if name not in self.cells.labels:
                raise ConfigError(
                    f"task_weights names {name!r}, no label; {closest(name, self.cells.labels)}"
                )
            if not 0 <= weight < math.inf:
                raise ConfigError(f"the weight of task {name!r} is {weight}: 0 or more is needed")
        balanced = self.config.class_weights == "balanced"
        return [
            Task.from_labels(
                label, self.split.train, weight=weights.get(name, 1.0), balanced=balanced
            )
            for name, label in self.cells.labels.items()
        ]

    # -- training --------------------------------------------------------------------------------

    def train(
        self,
        max_epochs: int | None = None,
        *,
        run_dir: str | Path | None = None,
        resume: bool = False,
        device: str | torch.device = "cpu",
        **overrides: Any,
    ) -> YOTO:
        """Train; afterwards the panel and its predictor are there.

        Parameters
        ----------
        max_epochs
            Passes over the training cells; by default about 1,000 steps' worth.
        run_dir
            Where to keep checkpoints and history.
        resume
            Continue the run in `run_dir`; the result is the same as had it never stopped.
        device
            Where to train, ``"cpu"`` or ``"cuda"``. On the CPU the same seed gives the same bits at
            the same number of threads; at another number torch's own matrix products may round
            differently.
        **overrides
            Settings of :class:`kernomics.train.TrainConfig`.
        """
        device = usable_device(device)
        if max_epochs is not None:
            overrides["max_epochs"] = max_epochs
        overrides.setdefault("seed", self.seed)
        self.training = override(self.training, **overrides)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.module = self._module().to(device)
        # In runs of 64 cells wherever these are, so that a file gives the same batches as memory.
        sampler = Sampler(self.split.train, self.training.batch_size, self.seed, block_size=64)
        module = self.module
        self.history = fit(
            module,
            sampler,
            self.cells.batch,
            self.training,
            run_dir=run_dir,
            resume=resume,
            validate=(lambda: self._validate(module)) if len(self.split.validation) else None,
            optimizer_factory=self._optimizer,
        )
        self.panel = self._panel()
        self.warnings = training_warnings(
            self.history, self.tasks, free=self.config.n_genes < self.bounds.usable
        )
        for warning in self.warnings:
            warnings.warn(warning, TrainingWarning, stacklevel=2)
        return self

    def _module(self) -> YOTOModule:
        config = self.config
        return YOTOModule(
            self.cells.n_genes,
            self.tasks,
            config.hidden,
            config.transform,
            config.schedule(self.bounds.usable),
            relaxation=config.relaxation,
            dropout=config.dropout,
            seed=self.seed,
            forced=self.bounds.forced.tolist(),
            forbidden=self.bounds.never.tolist(),
        )

    def _optimizer(self, module: nn.Module) -> Optimizer:
        module = cast(YOTOModule, module)
        rest = [*module.trunk.parameters(), *module.heads.parameters(), module.first.bias]
        groups: list[dict[str, Any]] = [
            {
                "params": [module.selector.scores],
                "lr": self.config.score_learning_rate,
                "weight_decay": 0.0,
            },
            {"params": [module.first.weight], "rows": lambda: module.first.touched},
            {"params": rest},
        ]
        return RowAdamW(
            groups,
            lr=self.training.learning_rate,
            weight_decay=self.training.weight_decay,
        )

    def _validate(self, module: YOTOModule) -> dict[str, float]:
        """Losses and scores of the panel as it would be now, on the validation cells."""
        rows = self.split.validation
        device = next(module.parameters()).device
        parts: list[list[torch.Tensor]] = []
        for start in range(0, len(rows), CELLS_AT_A_TIME):
            cells = self.cells.batch(rows[start : start + CELLS_AT_A_TIME]).to(device)
            parts.append(module(cells))
        outputs = [torch.cat(output).float().cpu() for output in zip(*parts, strict=True)]
        figures, losses = {}, []
        for task, output in zip(self.tasks, outputs, strict=True):
            truth = self.cells.labels[task.name].values[rows]
            losses.append(task_loss(task, output, torch.from_numpy(truth)))
            figures[f"loss/{task.name}"] = float(losses[-1])
            for name, value in score_task(task, truth, read_outputs(task, output)).items():
                if name in ("accuracy", "macro_f1", "r2"):
                    figures[f"{name}/{task.name}"] = value
        return {"loss": float(mean_task_loss(self.tasks, losses)), **figures}

    def _panel(self) -> Panel:
        assert self.module is not None
        module = self.module.cpu()
        with torch.no_grad():
            scores = module.selector.bounded_scores
            chosen = module.selector(self.config.n_genes).indices
            ranked = chosen[scores[chosen].argsort(descending=True, stable=True)]
            network = module.panel_network(ranked)
        return Panel(
            network,
            self.cells.genes[ranked.numpy()].tolist(),
            self.cells.genes.tolist(),
            scores.numpy(),
            {
                "version": __version__,
                "seed": self.seed,
                "config": dataclasses.asdict(self.config),
                "training": dataclasses.asdict(self.training),
                "split": {"how": self.split.how, "by": self.split.by, "seed": self.split.seed},
                "trained_on": {"cells": len(self.split.train), "genes": self.cells.n_genes},
            },
        )

    # -- afterwards ------------------------------------------------------------------------------

    @property
    def trained(self) -> Panel:
        """The panel.

        Raises
        ------
        ConfigError
            Before `train`.
        """
        if self.panel is None:
            raise ConfigError("there is no panel yet; call train() first")
        return self.panel

    @property
    def genes(self) -> list[str]:
        """The panel, best first."""
        return self.trained.genes

    @property
    def ranking(self) -> pd.DataFrame:
        """All genes by score; see `Panel.ranking`."""
        return self.trained.ranking

    def test_metrics(self) -> dict[str, dict[str, float]]:
        """Score the panel's own predictor on the test cells, per label.

        Raises
        ------
        ConfigError
            Before `train`, or when the split has no test cells.
        """
        if not len(self.split.test):
            raise ConfigError("the split has no test cells; give fractions a third share above 0")
        outputs = self.trained.outputs(self.cells, self.split.test)
        return {
            task.name: score_task(
                task, self.cells.labels[task.name].values[self.split.test], outputs[task.name]
            )
            for task in self.tasks
        }

    def predict(self, adata: AnnData | str | Path | CellCollection, **options: Any) -> pd.DataFrame:
        """Predict the labels of other cells; see `Panel.predict`."""
        return self.trained.predict(adata, **options)

    def evaluate(
        self,
        adata: AnnData | str | Path | CellCollection,
        **options: Any,
    ) -> dict[str, dict[str, float]]:
        """Score the predictions on other labelled cells; see `Panel.evaluate`."""
        return self.trained.evaluate(adata, **options)

    def save(self, path: str | Path) -> None:
        """Save the panel and its predictor; see `Panel.save`."""
        self.trained.save(path)

    @staticmethod
    def load(path: str | Path) -> Panel:
        """Load a saved panel, which predicts and evaluates; see `Panel.load`."""
        return Panel.load(path)
