"""YOTO: one training gives the gene panel and its predictor (arXiv 2512.17678)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import pandas as pd
import torch
from torch.optim import Optimizer

from kernomics._arguments import checked
from kernomics._warnings import warn
from kernomics.data import CellCollection, Split
from kernomics.data.labels import Kind
from kernomics.data.readers.inputs import ReadOptions, divided_options
from kernomics.data.splits import How
from kernomics.data.trained_classes import trained_classes
from kernomics.errors import ConfigError, DataError, closest
from kernomics.models.base import (
    checked_names,
    checked_seed,
    require_arguments,
    sampler_of,
    split_cells,
    train_module,
)
from kernomics.models.tasks import make_tasks, score_task
from kernomics.models.yoto import making
from kernomics.models.yoto.config import YOTOConfig, default_training
from kernomics.models.yoto.constraints import make_constraints, read_cells
from kernomics.models.yoto.diagnostics import TrainingWarning, training_warnings
from kernomics.models.yoto.module import YOTOModule
from kernomics.models.yoto.options import YOTOOptions
from kernomics.models.yoto.panel import Panel
from kernomics.models.yoto.panel_loader import PanelLoader
from kernomics.models.yoto.start_rankings import require_rankable
from kernomics.models.yoto.starts import Starts, planned, require_judged
from kernomics.models.yoto.warm_start import PanelSource
from kernomics.train import History, override
from kernomics.train.device import usable_device
from kernomics.train.interfaces import Callback
from kernomics.train.skipping import Steps

if TYPE_CHECKING:
    from anndata import AnnData


class YOTO:
    """Select a gene panel that predicts one or several labels, together with its predictor.

    Parameters
    ----------
    adata
        AnnData, MuData, path of an ``.h5ad`` or ``.h5mu`` file or a zarr store, or a
        `CellCollection`, which has its own labels and library sizes. It is not modified. Of data
        sets with different genes, joined by `kernomics.data.concat`, the genes that all have are
        chosen from.
    labels_key
        obs column or columns to predict; cells may lack any of them. For a `CellCollection`, which
        of its labels (default: all).
    n_genes
        k, the size of the panel, including forced genes.
    unlabelled_category, label_kinds
        As in `CellCollection.from_anndata`.
    split
        ``"stratified"`` (by the first categorical label), ``"random"``, ``"group"`` (each group of
        `split_key`, such as a donor, in one part only, and every class in training where possible),
        or a `Split`. Classes without training cells are left out with a warning, and their cells
        treated as unlabelled.
    split_key
        obs column of groups.
    fractions
        Fractions of cells for training, validation and testing. Genes are selected on the training
        cells.
    forced_genes, forbidden_genes
        Names of genes that are always, or never, in the panel.
    exclude_patterns
        Genes never in the panel unless forced: ``"mitochondrial"``, ``"ribosomal"``,
        ``"ribosomal_mitochondrial"``, ``"haemoglobin"``, or regular expressions, matched at the
        start of a name, ignoring case.
    min_detection, max_detection
        Genes detected in a smaller or larger fraction of the training cells are not used, unless
        forced.
    extend
        A panel to extend: all its genes are forced, and `n_genes` is the total size. A `Panel`,
        names of genes, or the path of a saved model, a ``panel.csv`` or a text file with one gene
        per line.
    start_from
        A panel to start from, given in the same way; its genes may be dropped. It provides the
        initial scores and, if labels and widths agree, the network; see `WarmStart`. The subset
        then starts with 4 k genes, unless `config` says otherwise.
    gene_costs, budget
        The cost of each gene, by name or as a var column, and the most the panel may cost in total.
        It still has `n_genes` genes; see `Budget`. Scores are then reduced by price times cost.
    n_markers_per_class
        Include this many markers for every class of every categorical label, the strongest on the
        training cells (`class_markers`): they are forced, and count towards `n_genes`. Forced genes
        that are such markers count too; a warning names classes with fewer.
    task_weights
        Weight of each label's loss (default: 1).
    seed
        Seed of the split, the initial weights, the order of the cells and the noise.
    config
        Settings.
    **options
        How to read the cells, as in `kernomics.data.ReadOptions`: `layer`, `use_raw`, `gene_names`,
        `library_key`, `allow_fractions`, `empty_cells`, `modality`, `all_features`; and single
        settings of `YOTOConfig`, which take precedence over `config`.

    Attributes
    ----------
    genes : list of str
        The panel, best first (after training).
    ranking : pandas.DataFrame
        All genes by score.
    history : History
        One record per epoch and validation.
    division : tuple or None
        How the split was drawn (how, split_key, fractions), so that others can be drawn in the same
        way; None if a split was given.
    options : dict
        The arguments on genes, costs, start and task weights, as read: with the same cells, split
        and config, ``YOTO(cells, seed=…, **options)`` is the same selection by another seed.
    panel : Panel
        The panel with its predictor (after training).
    starts : Starts or None
        What several starts (`YOTOConfig.n_starts`) say of the panel: each one's genes, how they
        were judged, each gene's inclusion (after training; None for a single start).
    warnings : list of str
        Weaknesses in how the labels are split (also raised as `UserWarning`), and what the monitors
        of scores and task losses noticed (`TrainingWarning`, in `train`).

    Raises
    ------
    DataError, ConfigError
        The message says what was found, where, how many, and what to do.
    """

    @checked
    def __init__(
        self,
        adata: AnnData | str | Path | CellCollection,
        labels_key: str | Sequence[str] | None = None,
        n_genes: int | None = None,
        *,
        unlabelled_category: str | None = None,
        label_kinds: Mapping[str, Kind] | None = None,
        split: How | Split = "stratified",
        split_key: str | None = None,
        fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
        forced_genes: str | Sequence[str] = (),
        forbidden_genes: str | Sequence[str] = (),
        exclude_patterns: str | Sequence[str] = (),
        min_detection: float = 0.0,
        max_detection: float = 1.0,
        extend: PanelSource | None = None,
        start_from: PanelSource | None = None,
        gene_costs: Mapping[str, float] | str | None = None,
        budget: float | None = None,
        n_markers_per_class: int = 0,
        task_weights: Mapping[str, float] | None = None,
        seed: int = 0,
        config: YOTOConfig | None = None,
        **options: Unpack[YOTOOptions],
    ) -> None:
        reading, settings = divided_options(options)
        require_arguments(type(self), settings, YOTOConfig)
        if n_genes is not None:
            settings["n_genes"] = n_genes
        self.config = override(config or YOTOConfig(), **settings)
        self.seed = checked_seed(seed)
        self.cells = read_cells(
            adata,
            reading,
            labels_key=labels_key,
            unlabelled_category=unlabelled_category,
            label_kinds=label_kinds,
        )
        self.split = split_cells(self.cells, split, split_key, fractions, self.seed)
        self.division = None if isinstance(split, Split) else (split, split_key, fractions)
        labels, self.weak = trained_classes(self.cells.labels, self.split)
        self.cells = self.cells.with_labels(labels)
        for weak in self.weak:
            warn(weak)
        weights = dict(task_weights or {})
        self.tasks = make_tasks(
            self.cells, self.split.train, weights, class_weights=self.config.class_weights
        )
        require_judged(self.config, self.tasks, self.cells, self.split)
        self.summary = self.cells.summary(self.split.train)
        self.constraints = make_constraints(
            self.cells,
            self.summary,
            self.config,
            tasks=self.tasks,
            train=self.split.train,
            adata=adata,
            reading=reading,
            forced_genes=forced_genes,
            forbidden_genes=forbidden_genes,
            exclude_patterns=exclude_patterns,
            min_detection=min_detection,
            max_detection=max_detection,
            extend=extend,
            start_from=start_from,
            gene_costs=gene_costs,
            budget=budget,
            n_markers_per_class=n_markers_per_class,
        )
        if start_from is not None and set(self.config.start_rankings) != {"markers"}:
            raise ConfigError(
                f"start_from and start_rankings={self.config.start_rankings!r} are given, and both "
                "say where the scores begin: leave one of them out"
            )
        for note in self.constraints.notes:
            warn(note)
        self.bounds = self.constraints.bounds
        self.options = {**self.constraints.options, "task_weights": weights}
        if self.constraints.start is not None:
            self.constraints.start.check(
                self.cells.genes,
                self.tasks,
                self.config.hidden,
                self.config.transform,
                self.cells.var,
            )
        if self.config.transform == "lognorm":
            self.cells.library_rule.tell()
        self.training = default_training(len(self.split.train))
        self.history = History()
        self.weak = [note for note in (self.split.note, *self.weak) if note]
        self.weak += self.constraints.notes
        self.warnings: list[str] = list(self.weak)
        self.module: YOTOModule | None = None
        self.panel: Panel | None = None
        self.starts: Starts | None = None

    # -- training --------------------------------------------------------------------------------

    def __repr__(self) -> str:
        state = "untrained" if self.panel is None else "trained"
        tasks = ", ".join(task.name for task in self.tasks)
        return f"{state} YOTO, {self.config.n_genes} of {self.cells.n_genes:,} genes for {tasks}"

    @checked
    def train(
        self,
        max_epochs: int | None = None,
        *,
        run_dir: str | Path | None = None,
        resume: bool = False,
        device: str | torch.device = "cpu",
        callbacks: Sequence[Callback] = (),
        loggers: Sequence[Any] = (),
        log_dir: str | Path | None = None,
        skip_steps: Steps = (),
        **overrides: Any,
    ) -> YOTO:
        """Train the panel and its predictor.

        Parameters
        ----------
        max_epochs
            Passes over the training cells; by default enough for about 2,500 steps. With several
            starts, those of a training with one: each further start adds the share of them that
            `YOTOConfig.fix_panel_at` says.
        run_dir
            Where to keep checkpoints and history.
        resume
            Continue the run in `run_dir`; the result is the same as if it had never stopped. It is
            an error if there is none.
        device
            Where to train, ``"cpu"`` or ``"cuda"``. On the CPU the same seed gives bit-identical
            results with the same number of threads; with another number torch's own matrix products
            may round differently.
        callbacks
            Called after each epoch with its number, from 0, and the module; returning True ends the
            training.
        loggers, log_dir
            Where else to log the history; see `kernomics.train.opened`.
        skip_steps
            Steps to pass over, as after a spike of the loss; see `kernomics.train.fit`.
        **overrides
            Settings of :class:`kernomics.train.TrainConfig`.
        """
        usable_device(device)  # before the settings are changed
        if max_epochs is not None:
            overrides["max_epochs"] = max_epochs
        overrides.setdefault("seed", self.seed)
        overrides.setdefault("restart_at", self.config.fix_panel_at)
        self.training = override(self.training, **overrides)
        sampler = sampler_of(self.split, self.training, self.seed, self.cells)
        self._plan, self._legs = planned(self.config, self.training, sampler.n_batches)
        self.module, self.history = train_module(
            self._begin,
            lambda module: PanelLoader(self.cells, sampler, module),
            self._plan,
            device,
            seed=self.seed,
            validate=lambda module: (
                partial(self._validate, module) if len(self.split.validation) else None
            ),
            optimizer=self._optimizer,
            run_dir=run_dir,
            resume=resume,
            callbacks=callbacks,
            loggers=loggers,
            log_dir=log_dir,
            skip_steps=skip_steps,
        )
        self.starts = making.starts_of(self, self.module)
        self.panel = self._panel()
        found = training_warnings(
            self.history, self.tasks, free=self.config.n_genes < self.bounds.usable
        )
        for warning in found:
            warn(warning, TrainingWarning)
        self.warnings = [*self.weak, *found]
        return self

    def _begin(self) -> YOTOModule:
        require_rankable(self.config.start_rankings, self.cells, self.split.train, self.tasks)
        self.module = self._module()  # which a training that is interrupted leaves there
        making.add_starts(self, self.module)
        return self.module

    def _module(self, start: int = 0) -> YOTOModule:
        return making.build_module(self, start)

    def _optimizer(self, module: YOTOModule) -> Optimizer:
        return making.make_optimizer(self, module)

    def _validate(self, module: YOTOModule) -> dict[str, float]:
        return making.validate(self, module)

    def _panel(self) -> Panel:
        assert self.module is not None
        return making.make_panel(self, self.module.cpu())

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
        return self._test_metrics(())

    def _test_metrics(self, absent: Sequence[str]) -> dict[str, dict[str, float]]:
        if not len(self.split.test):
            raise ConfigError("the split has no test cells; give fractions a third share above 0")
        outputs = self.trained._outputs(self.cells, self.split.test, absent)
        return {
            task.name: score_task(
                task, self.cells.labels[task.name].values[self.split.test], outputs[task.name]
            )
            for task in self.tasks
        }

    @checked
    def cost_of_missing(self, genes: str | Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
        """Score the panel on the test cells as if they lacked some of its genes.

        Parameters
        ----------
        genes
            Genes of the panel, all filled at once as by `predict` with ``allow_missing=True``.

        Returns
        -------
        dict
            For each label, the scores ``with`` all genes and ``without`` these.

        Raises
        ------
        DataError
            If one of them is not in the panel.
        ConfigError
            Before `train`, when the split has no test cells, or no gene is named.
        """
        names = checked_names(genes)
        absent = [name for name in names if name not in self.genes]
        if absent:
            raise DataError(
                f"{len(absent)} of {len(names)} genes are not in the panel, first {absent[0]!r}; "
                f"{closest(absent[0], self.genes)}"
            )
        if not names:
            raise ConfigError("no gene is named; give genes of the panel")
        scores = {"with": self._test_metrics(()), "without": self._test_metrics(names)}
        return {
            task.name: {case: found[task.name] for case, found in scores.items()}
            for task in self.tasks
        }

    @checked
    def predict(
        self,
        adata: AnnData | str | Path | CellCollection,
        *,
        allow_missing: bool = False,
        **reading: Unpack[ReadOptions],
    ) -> pd.DataFrame:
        """Predict the labels of other cells; see `Panel.predict`."""
        return self.trained.predict(adata, allow_missing=allow_missing, **reading)

    @checked
    def evaluate(
        self,
        adata: AnnData | str | Path | CellCollection,
        *,
        labels: Mapping[str, str] | None = None,
        allow_missing: bool = False,
        **reading: Unpack[ReadOptions],
    ) -> dict[str, dict[str, float]]:
        """Score the predictions on other labelled cells; see `Panel.evaluate`."""
        return self.trained.evaluate(adata, labels=labels, allow_missing=allow_missing, **reading)

    @checked
    def save(self, path: str | Path) -> None:
        """Save the panel and its predictor; see `Panel.save`."""
        self.trained.save(path)

    @staticmethod
    @checked
    def load(path: str | Path) -> Panel:
        """Load a saved panel, which predicts and evaluates; see `Panel.load`."""
        return Panel.load(path)
