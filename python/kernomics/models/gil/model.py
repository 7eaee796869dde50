"""GIL: a masked model of expression that learns new genes stage by stage."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer

from kernomics._arguments import checked
from kernomics._version import __version__
from kernomics.data import CellCollection, Loader, Sampler, Stages
from kernomics.data.balance import class_weights_of
from kernomics.data.readers.inputs import divided_options
from kernomics.data.stage_checks import UNTRAINED
from kernomics.data.staged import staged_cells
from kernomics.errors import ConfigError, closest
from kernomics.models.base import (
    as_collection,
    balanced_by,
    checked_seed,
    draw_weights,
    require_arguments,
    sampler_of_rows,
    train_module,
)
from kernomics.models.gene_components import gene_components, mapped
from kernomics.models.gil.config import GILConfig, default_training
from kernomics.models.gil.expression_model import ExpressionModel
from kernomics.models.gil.lesson import Lesson
from kernomics.models.gil.memory import ReplayLoader
from kernomics.models.gil.methods import Method, Situation, as_methods
from kernomics.models.gil.module import GILModule
from kernomics.models.gil.options import GILOptions
from kernomics.models.gil.record import StageRecord
from kernomics.models.gil.scoring import (
    CELLS_AT_A_TIME,
    SCORING_DRAW,
    GeneErrors,
    gene_errors,
    tell_of_untested,
)
from kernomics.models.gil.tokens import expressed_genes
from kernomics.nn import drawing_from
from kernomics.train import History, RowAdamW, override
from kernomics.train.device import usable_device
from kernomics.train.distributed import own_device, ranks
from kernomics.train.interfaces import Batches, Validate
from kernomics.train.skipping import Steps

if TYPE_CHECKING:
    from anndata import AnnData

CELLS_FOR_MEAN = 1024


class GIL:
    """Learn the expression of genes that become known stage by stage, without forgetting the old.

    Parameters
    ----------
    adata
        AnnData, path of an ``.h5ad`` file, or a `CellCollection`. Never modified.
    stages
        Which genes and cells belong to which stage, from `kernomics.data.gene_stages`, or the path
        of the file that it was saved to.
    size
        ``"laptop"`` (ours) or ``"paper"``; see `GILConfig`.
    method
        Against forgetting: a name (``"naive"``, ``"joint"``, ``"freezing"``, ``"adapters"``,
        ``"replay"``, ``"distillation"``, …), a method with settings of its own, such as
        ``kernomics.models.gil.methods.Replay(memory=200)``, or a list of those that go together.
    seed
        Of the initial weights, the order of the cells, the masks and the cells kept.
    config
        Settings.
    **options
        How to read the cells, as in `kernomics.data.ReadOptions`; and single settings of
        `GILConfig`, which take precedence over `config` or `size`.

    Attributes
    ----------
    stages : Stages
        The stages.
    staged : StagedCells
        The cells, each with the genes of its own stage.
    methods : list of Method
        The methods.
    history : History
        The records of all stages' trainings; ``stage`` says of which.
    scores : dict of str to GeneErrors
        Per stage, after it, the errors on the test cells; ``"start"`` is the untrained network.
    model : ExpressionModel
        The model after the last stage.

    Raises
    ------
    DataError, ConfigError
        Naming what was found, where, how many and the remedy.

    Notes
    -----
    The base genes are in every stage, specific genes in the cells of one. The vocabulary grows by
    stage; each has an optimiser of its own (Gene Incremental Learning, arXiv 2511.13762).
    """

    @checked
    def __init__(
        self,
        adata: AnnData | str | Path | CellCollection,
        stages: Stages | str | Path,
        size: str = "laptop",
        *,
        method: str | Method | Sequence[str | Method] = "naive",
        seed: int = 0,
        config: GILConfig | None = None,
        **options: Unpack[GILOptions],
    ) -> None:
        reading, settings = divided_options(options)
        require_arguments(type(self), settings, GILConfig)
        self.config = (
            GILConfig.of_size(size, **settings) if config is None else override(config, **settings)
        )
        self.seed = checked_seed(seed)
        self.methods = as_methods(method)
        self.stages = stages if isinstance(stages, Stages) else Stages.load(stages)
        cells = as_collection(adata, reading)
        cells.library_rule.tell()
        self.staged = staged_cells(cells, self.stages)
        self.cells = cells
        tell_of_untested(self.staged)
        for one in self.methods:
            one.check(self.staged)
            one.check_network(self.config)
        self.plan = self.methods[0].plan(len(self.stages))
        self.training = default_training(len(self.staged.rows(0)), self.config.d_model)
        self.history = History()
        self.scores: dict[str, GeneErrors] = {}
        self.model: ExpressionModel | None = None
        self._after: dict[str, ExpressionModel] = {}

    def __repr__(self) -> str:
        state = "untrained" if self.model is None else "trained"
        return (
            f"{state} GIL, width {self.config.d_model}, {self.stages.n_known[-1]:,} genes in "
            f"{len(self.stages)} stages, {' + '.join(one.name for one in self.methods)}"
        )

    # -- training ----------------------------------------------------------------------------------

    @checked
    def train(
        self,
        max_epochs: int | None = None,
        *,
        run_dir: str | Path | None = None,
        resume: bool = False,
        device: str | torch.device = "cpu",
        log_dir: str | Path | None = None,
        skip_steps: Steps = (),
        **overrides: Any,
    ) -> GIL:
        """Train through all stages; afterwards `model` and `scores` are there.

        Parameters
        ----------
        max_epochs
            Passes over the training cells of each stage; see `default_training` for the default.
        run_dir
            Where to keep the stages, and of each its checkpoints, history, weights and scores.
        resume
            Continue the training in `run_dir`, in the middle of whichever stage it is; the result
            is the same as had it never stopped.
        device
            Where to train, ``"cpu"`` or ``"cuda"``.
        log_dir
            A directory for TensorBoard, a subdirectory per stage.
        skip_steps
            Steps to pass over of the stage that is resumed, or of the first; see
            `kernomics.train.fit`.
        **overrides
            Settings of :class:`kernomics.train.TrainConfig`, for every stage.

        Raises
        ------
        CheckpointError, ConfigError
            If `run_dir` holds the training of other stages or settings.
        """
        where = own_device(usable_device(device))
        if max_epochs is not None:
            overrides["max_epochs"] = max_epochs
        self.configure(**overrides)
        record = StageRecord(run_dir, resume, self.stages, self.settings())
        self.history, self.scores, self._after, self.model = History(), {}, {}, None
        known = self.stages.n_known
        with drawing_from(self.seed):
            module = GILModule(known[0], self.config, self.seed)
        module.start_from(self._mean_value())
        self._place_genes(module, 0, np.sort(self.staged.rows(0)))
        module.to(where)
        self.scores[UNTRAINED] = gene_errors(module, self.staged, "test")
        previous = None
        for i, together in enumerate(self.plan):
            number = together[-1]
            n_before = module.n_genes
            for stage in range(number + 1):
                module.grow(known[stage])
            rows = np.sort(np.concatenate([self.staged.rows(stage) for stage in together]))
            situation = Situation(number, module, previous, self.staged, rows, self.seed)
            name = self.stages.names[number]
            if record.finished(i):
                self.scores[name], history = record.restore(i, name, module, self.methods)
            else:
                if self.training.progress and ranks().first:
                    which = f"stage {i + 1} of {len(self.plan)}, {name}"
                    at_once = f"all {len(together)} stages at once"
                    print(at_once if len(together) > 1 else which, file=sys.stderr)
                self._place_genes(module, n_before, rows)
                history = self._teach(situation, together, i, record, where, log_dir, skip_steps)
                skip_steps = ()
                self.scores[name] = gene_errors(module, self.staged, "test")
                states = [method.state() for method in self.methods]
                record.keep(i, module.state_dict(), states, {name: self.scores[name]})
            self._remember(history, name)
            previous = module.grown([])
            self._after[name] = self._model_of(module.grown([]).cpu(), number)
        self.model = self._after[name]
        return self

    def configure(self, **overrides: Any) -> None:
        """Change settings of the training, those of :class:`kernomics.train.TrainConfig`."""
        overrides.setdefault("seed", self.seed)
        self.training = override(self.training, **overrides)
        every = [self.staged.rows(stage) for stage in range(len(self.stages))]
        draw_weights(self.staged.cells, np.concatenate(every), self.training.balance)  # or refuses

    def settings(self) -> dict[str, Any]:
        """Return all that decides the result of a training beside the stages."""
        return {
            "model": dataclasses.asdict(self.config),
            "methods": [method.settings() for method in self.methods],
            "seed": self.seed,
            "data_sha256": self.staged.cells.fingerprint,
            "train": dataclasses.asdict(self.training),
        }

    def _place_genes(self, module: GILModule, first: int, rows: NDArray[np.int64]) -> None:
        """Start new genes, those from `first` on, where the cells that bring them say.

        A network with known genes holds them where training left them: components of the cells at
        hand are mapped to these by a ridge regression over the genes that the cells have. Where
        they have none of the known genes, the components are taken as they are.
        """
        n_genes = module.n_genes
        if self.config.gene_start == "random" or first == n_genes:
            return
        view = self.staged.cells.with_genes(self.stages.vocabulary[:n_genes], 1.0)
        found = gene_components(view, rows, module.embedding_width, self.seed)
        if first:
            here = torch.from_numpy(view.summary(rows).n_expressing[:first] > 0)
            learnt = module.genes.detach().cpu()[:first, : found.shape[1]]
            if here.any():
                found[first:] = mapped(found[first:], found[:first][here], learnt[here])
        module.place(first, found[first:])

    def _mean_value(self) -> float:
        """Return the mean value of the genes expressed by the first cells of the first stage."""
        cells = self.staged.cells.batch(self.staged.rows(0)[:CELLS_FOR_MEAN])
        return float(expressed_genes(cells, self.config.target_sum).values.double().mean())

    def _teach(
        self,
        situation: Situation,
        together: Sequence[int],
        i: int,
        record: StageRecord,
        device: torch.device,
        log_dir: str | Path | None,
        skip_steps: Steps,
    ) -> History:
        """Train one part of the plan."""
        situation.module.zero_grad(
            set_to_none=True
        )  # of the stage before, which clipping would count
        for method in self.methods:
            method.begin(situation)
        config = self.training if i == 0 else override(self.training, warmup=0.0)
        weights = None
        if config.balance is not None:  # one class in a stage is drawn evenly
            by = balanced_by(self.staged.cells, config.balance).subset(situation.train)
            weights = class_weights_of(by)[0]
        sampler = sampler_of_rows(situation.train, config, self.seed, weights, version=record.order)
        _, history = train_module(
            lambda: Lesson(situation, self.methods),
            lambda _: self._batches(situation, sampler),
            config,
            device,
            seed=self.seed,
            validate=lambda lesson: self._validation(lesson, together),
            optimizer=self._optimizer,
            run_dir=record.folder(i),
            resume=record.begun(i),
            callbacks=(),
            loggers=(),
            log_dir=None if log_dir is None else Path(log_dir) / str(i),
            skip_steps=skip_steps,
        )
        for method in self.methods:
            method.end(situation)
        return history

    def _batches(self, situation: Situation, sampler: Sampler) -> Batches:
        """Return the batches of a stage, with cells kept of earlier ones where a method has any."""
        for method in self.methods:
            kept, share = method.replayed(situation)
            if kept:
                return ReplayLoader(self.staged.cells, sampler, kept, share, self.seed)
        return Loader(self.staged.cells, sampler)

    def _optimizer(self, lesson: nn.Module) -> Optimizer:
        """AdamW; neither the genes' embeddings nor vectors decay, so absent genes stay as they are.

        A row without gradient has no moments in a fresh optimiser, and Adam leaves it to the bit.
        """
        assert isinstance(lesson, Lesson)
        genes = lesson.module.genes
        learn = [p for p in lesson.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in learn if p.dim() > 1 and p is not genes]},
            {"params": [p for p in learn if p.dim() <= 1 or p is genes], "weight_decay": 0.0},
        ]
        return RowAdamW(
            [group for group in groups if group["params"]],
            lr=self.training.learning_rate,
            weight_decay=self.training.weight_decay,
        )

    def _validation(self, lesson: Lesson, together: Sequence[int]) -> Validate | None:
        rows = np.concatenate([self.staged.rows(stage, "validation") for stage in together])
        return (lambda: self._validate(lesson.module, rows)) if len(rows) else None

    def _validate(self, module: GILModule, rows: NDArray[np.int64]) -> dict[str, float]:
        """Return the losses on this stage's validation cells, under one draw of masks."""
        totals: dict[str, float] = {}
        for start in range(0, len(rows), CELLS_AT_A_TIME):
            cells = self.staged.cells.batch(rows[start : start + CELLS_AT_A_TIME])
            tokens = module.tokens(cells.to(module.genes.device), module.at(SCORING_DRAW))
            for name, value in module.value_losses(module(tokens)).items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(cells) / len(rows)
        return totals

    def _remember(self, history: History, name: str) -> None:
        """Add a stage's records, their steps counted on from those before."""
        step = max((record["step"] for record in self.history), default=0)
        self.history.extend(
            {**record, "step": record["step"] + step, "stage": name} for record in history
        )

    def _model_of(self, module: GILModule, number: int) -> ExpressionModel:
        genes = self.stages.vocabulary[: module.n_genes]
        return ExpressionModel(module, genes, self._info(number))

    def _info(self, number: int) -> dict[str, Any]:
        return {
            "version": __version__,
            "stages": self.stages.names[: number + 1],
            "stages_sha256": self.stages.fingerprint,
            "genes_to_come": self.stages.vocabulary[self.stages.n_known[number] :],
            "methods": self.settings()["methods"],
            "training": dataclasses.asdict(self.training),
            "trained_on": {
                "cells": sum(len(self.staged.rows(stage)) for stage in range(number + 1)),
                "genes": self.stages.n_known[number],
            },
            "data_sha256": self.staged.cells.fingerprint,
            "seed": self.seed,
            "library": self.cells.library_rule.description,
            "reading": self.cells.reading,
        }

    # -- afterwards --------------------------------------------------------------------------------

    @property
    def trained(self) -> ExpressionModel:
        """The model after the last stage.

        Raises
        ------
        ConfigError
            Before `train`.
        """
        if self.model is None:
            raise ConfigError("there is no model yet; call train() first")
        return self.model

    @checked
    def after(self, stage: str) -> ExpressionModel:
        """Return the model after a stage, by its name.

        Raises
        ------
        ConfigError
            If no training ended with it: that of ``"joint"`` ends with the last alone.
        """
        if stage not in self._after:
            raise ConfigError(
                f"no training ended with stage {stage!r}; {closest(stage, self._after)}"
            )
        return self._after[stage]

    @checked
    def losses(self, of: str = "tokens") -> pd.DataFrame:
        """Return the mean squared error of hidden values on the test cells, stage by group.

        Parameters
        ----------
        of
            ``"tokens"``: predicted from masked tokens; ``"queries"``: from the cell's state.

        Returns
        -------
        pandas.DataFrame
            A row after each stage, the untrained network's first; a column for the genes of each
            stage, scored in the test cells of that stage.

        Raises
        ------
        ConfigError
            Before `train`.
        """
        if of not in ("tokens", "queries"):
            raise ConfigError(f"of is {of!r}: 'tokens' or 'queries' are possible")
        if not self.scores:
            raise ConfigError("there are no losses yet; call train() first")
        group, n_groups = self.stages.group_of_gene(), len(self.stages)
        rows = {name: errors.of_groups(group, n_groups)[of] for name, errors in self.scores.items()}
        table = pd.DataFrame.from_dict(rows, orient="index", columns=self.stages.names)
        return table.rename_axis(index="after", columns="genes of")

    @checked
    def get_latent_representation(
        self, adata: AnnData | str | Path | CellCollection | None = None, **options: Any
    ) -> NDArray[np.float32]:
        """Represent cells, by default those given; see `ExpressionModel`."""
        return self.trained.get_latent_representation(
            self.cells if adata is None else adata, **options
        )

    @checked
    def predict(
        self,
        adata: AnnData | str | Path | CellCollection,
        genes: str | Sequence[str],
        **options: Any,
    ) -> pd.DataFrame:
        """Predict genes' expression; see `ExpressionModel.predict`."""
        return self.trained.predict(adata, genes, **options)

    @checked
    def save(self, path: str | Path) -> None:
        """Save the model; see `ExpressionModel.save`."""
        self.trained.save(path)

    @staticmethod
    @checked
    def load(path: str | Path) -> ExpressionModel:
        """Load a saved model; see `ExpressionModel.load`."""
        return ExpressionModel.load(path)
