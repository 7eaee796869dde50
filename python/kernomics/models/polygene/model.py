"""PolyGene: a masked transformer that predicts any phenotype of a cell from its genes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
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
from kernomics._warnings import warn
from kernomics.data import CellCollection, Loader, Split
from kernomics.data.readers.inputs import divided_options
from kernomics.data.splits import How
from kernomics.data.trained_classes import trained_classes
from kernomics.errors import ConfigError, DataError
from kernomics.models.base import (
    as_collection,
    checked_seed,
    draw_weights,
    require_arguments,
    sampler_of,
    split_cells,
    train_module,
)
from kernomics.models.known_cells import require_counts
from kernomics.models.polygene.config import PolyGeneConfig, default_training
from kernomics.models.polygene.module import PolyGeneModule
from kernomics.models.polygene.options import PolyGeneOptions
from kernomics.models.polygene.phenotype_model import PhenotypeModel
from kernomics.models.reading import library_share
from kernomics.models.seen_cells import SeenCells
from kernomics.models.tasks import make_tasks
from kernomics.models.vocabulary import over_vocabulary, warn_of_unseen
from kernomics.train import History, RowAdamW, override
from kernomics.train.device import usable_device
from kernomics.train.interfaces import Callback, Validate
from kernomics.train.skipping import Steps

if TYPE_CHECKING:
    from anndata import AnnData

VALIDATION_DRAW = -1
CELLS_AT_A_TIME = 128
CELLS_FOR_BINS = 5000
"""Training cells whose expression gives the quantiles."""


class PolyGene:
    """Learn to predict each phenotype of a cell from its expressed genes and its other phenotypes.

    Parameters
    ----------
    adata
        AnnData, path of an ``.h5ad`` file, or a `CellCollection`. Never modified.
    labels_key
        obs column or columns of phenotypes, all of classes; cells may lack any of them.
    size
        ``"XXS"``, ``"XS"``, ``"S"`` (ours) or ``"B"`` (the paper's); see `PolyGeneConfig`.
    genes
        The vocabulary, by name; by default every gene that `min_cells` training cells have.
    n_genes
        Instead, how many: those whose log expression varies most over the training cells.
    min_cells
        How many training cells must have a gene.
    unlabelled_category
        A value that means "unknown".
    split, split_key, fractions
        How cells are divided to train, validate and test on; as for `YOTO`.
    task_weights
        Weight of each phenotype's loss, 1 where not given.
    seed
        Of the split, the initial weights, the order of the cells and the masks.
    config
        Settings.
    **options
        How to read the cells, as in `kernomics.data.ReadOptions`; and single settings of
        `PolyGeneConfig`, which take precedence over `config` or `size`.

    Attributes
    ----------
    genes : numpy.ndarray
        The vocabulary.
    tasks : list of Task
        The phenotypes.
    history : History
        One record per epoch and validation.
    model : PhenotypeModel
        The trained model.
    warnings : list of str
        What is weak in the division of the phenotypes, given as `UserWarning` too.

    Raises
    ------
    DataError, ConfigError
        Naming what was found, where, how many and the remedy.

    Warns
    -----
    UserWarning
        When a phenotype is missing in the cells of one class of another and known in those of
        another class: where it is shown, it gives that class away.

    Notes
    -----
    The model is POLYGENE's with gene identities as embeddings: a token for each phenotype, each of
    which can be masked, and one for each expressed gene, its embedding plus that of its expression
    bin. Genes and phenotypes are masked at rates of their own and predicted by cross-entropy.
    """

    @checked
    def __init__(
        self,
        adata: AnnData | str | Path | CellCollection,
        labels_key: str | Sequence[str] | None = None,
        size: str = "XXS",
        *,
        genes: str | Sequence[str] | None = None,
        n_genes: int | None = None,
        min_cells: int = 3,
        unlabelled_category: str | None = None,
        split: How | Split = "stratified",
        split_key: str | None = None,
        fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
        task_weights: Mapping[str, float] | None = None,
        seed: int = 0,
        config: PolyGeneConfig | None = None,
        **options: Unpack[PolyGeneOptions],
    ) -> None:
        reading, settings = divided_options(options)
        require_arguments(type(self), settings, PolyGeneConfig)
        self.config = (
            PolyGeneConfig.of_size(size, **settings)
            if config is None
            else override(config, **settings)
        )
        self.seed = checked_seed(seed)
        self.unlabelled_category = unlabelled_category
        more = {} if unlabelled_category is None else {"unlabelled_category": unlabelled_category}
        cells = as_collection(adata, reading, labels_key=labels_key, **more)
        if not cells.labels:
            raise ConfigError(
                "there are no phenotypes: name obs columns with labels_key, such as "
                "labels_key=['disease', 'cell_type']"
            )
        _require_classes(cells)
        cells.library_rule.tell()
        self.split = split_cells(cells, split, split_key, fractions, self.seed)
        require_counts(cells, self.split)
        labels, self.weak = trained_classes(cells.labels, self.split)
        cells = cells.with_labels(labels)
        self.weak = [note for note in (self.split.note, *self.weak) if note]
        self.weak += telling_gaps(cells, self.split.train)
        for weak in self.weak:
            warn(weak)
        self.warnings = list(self.weak)
        self.cells = over_vocabulary(cells, self.split.train, genes, n_genes, min_cells)
        self.genes: NDArray[Any] = self.cells.genes
        self.tasks = make_tasks(
            self.cells,
            self.split.train,
            dict(task_weights or {}),
            class_weights=self.config.class_weights,
        )
        self.training = default_training(len(self.split.train), self.config.d_model)
        self.history = History()
        self.module: PolyGeneModule | None = None
        self.model: PhenotypeModel | None = None

    def __repr__(self) -> str:
        state = "untrained" if self.model is None else "trained"
        phenotypes = ", ".join(task.name for task in self.tasks)
        return (
            f"{state} PolyGene, width {self.config.d_model}, {len(self.genes):,} genes, for "
            f"{phenotypes}"
        )

    # -- training --------------------------------------------------------------------------------

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
    ) -> PolyGene:
        """Train; afterwards `model` is there.

        Parameters
        ----------
        max_epochs
            Passes over the training cells; by default about 800 steps' worth.
        run_dir
            Where to keep checkpoints and history.
        resume
            Continue the run in `run_dir`; the result is the same as had it never stopped. Where
            there is none, that is an error.
        device
            Where to train, ``"cpu"`` or ``"cuda"``.
        callbacks
            Called after each epoch with its number, from 0, and the module; ``True`` ends the
            training.
        loggers, log_dir
            What else takes the records of the history; see `kernomics.train.opened`.
        skip_steps
            Steps to pass over, as after a spike of the loss; see `kernomics.train.fit`.
        **overrides
            Settings of :class:`kernomics.train.TrainConfig`.
        """
        usable_device(device)  # before the settings are changed
        if max_epochs is not None:
            overrides["max_epochs"] = max_epochs
        self.configure(**overrides)
        sampler = sampler_of(self.split, self.training, self.seed, self.cells)
        module, self.history = train_module(
            self._begin,
            lambda _: Loader(self.cells, sampler),
            self.training,
            device,
            seed=self.seed,
            validate=self._validation,
            optimizer=self._optimizer,
            run_dir=run_dir,
            resume=resume,
            callbacks=callbacks,
            loggers=loggers,
            log_dir=log_dir,
            skip_steps=skip_steps,
        )
        seen = SeenCells.of(self.cells, self.split.train).to_info()
        info = {**self._info(), "seen_cells": seen}
        self.model = PhenotypeModel(module.cpu(), self.genes.tolist(), info)
        return self

    def configure(self, **overrides: Any) -> None:
        """Change settings of the training, those of :class:`kernomics.train.TrainConfig`."""
        overrides.setdefault("seed", self.seed)
        self.training = override(self.training, **overrides)
        draw_weights(self.cells, self.split.train, self.training.balance)  # or refuses

    def _begin(self) -> PolyGeneModule:
        self.module = self._module()  # which a training that is interrupted leaves there
        return self.module

    def _module(self) -> PolyGeneModule:
        detected = self.cells.summary(self.split.train).n_expressing
        warn_of_unseen(self.genes, 0, np.asarray(detected))
        return PolyGeneModule(len(self.genes), self.tasks, self.config, self._edges(), self.seed)

    def _edges(self) -> list[float]:
        """Return the edges of the bins of expression."""
        bins = self.config.bins
        if isinstance(bins, tuple):
            return list(bins)
        if isinstance(bins, str):
            return [float(np.finfo(np.float32).tiny)]
        rows = self.split.train
        if len(rows) > CELLS_FOR_BINS:
            rows = np.sort(np.random.default_rng(self.seed).choice(rows, CELLS_FOR_BINS, False))
        return quantile_edges(self.cells, rows, bins, self.config.target_sum)

    def _optimizer(self, module: nn.Module) -> Optimizer:
        """AdamW; vectors (norms, biases, scales) do not decay."""
        groups: list[dict[str, Any]] = [
            {"params": [p for p in module.parameters() if p.dim() > 1]},
            {"params": [p for p in module.parameters() if p.dim() <= 1], "weight_decay": 0.0},
        ]
        return RowAdamW(
            groups, lr=self.training.learning_rate, weight_decay=self.training.weight_decay
        )

    def _validation(self, module: PolyGeneModule) -> Validate | None:
        return (lambda: self._validate(module)) if len(self.split.validation) else None

    def _validate(self, module: PolyGeneModule) -> dict[str, float]:
        """Losses under one draw of masks; balanced accuracies of phenotypes, all masked."""
        rows, device = self.split.validation, next(module.parameters()).device
        totals: dict[str, float] = {}
        for start in range(0, len(rows), CELLS_AT_A_TIME):
            cells = self.cells.batch(rows[start : start + CELLS_AT_A_TIME]).to(device)
            for name, value in module.losses(cells, VALIDATION_DRAW).items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(cells) / len(rows)
        model = PhenotypeModel(module, self.genes.tolist(), self._info())
        scores = model.evaluate_labels(self.cells, rows)
        return totals | {
            f"balanced_accuracy/{name}": score["balanced_accuracy"]
            for name, score in scores.items()
            if "balanced_accuracy" in score
        }

    def _info(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "training": dataclasses.asdict(self.training),
            "split": {"how": self.split.how, "by": self.split.by, "seed": self.split.seed},
            "trained_on": {"cells": len(self.split.train), "genes": len(self.genes)},
            "data_sha256": self.cells.fingerprint,
            "seed": self.seed,
            "unlabelled_category": self.unlabelled_category,
            "library": self.cells.library_rule.description,
            "reading": self.cells.reading,
            "library_share": library_share(self.cells, self.split.train, self.genes),
        }

    # -- afterwards ------------------------------------------------------------------------------

    @property
    def trained(self) -> PhenotypeModel:
        """The trained model.

        Raises
        ------
        ConfigError
            Before `train`.
        """
        if self.model is None:
            raise ConfigError("there is no model yet; call train() first")
        return self.model

    def test_metrics(self) -> dict[str, dict[str, float]]:
        """Score each phenotype, predicted from the genes alone, on the test cells.

        Raises
        ------
        ConfigError
            Before `train`, or when the split has no test cells.
        """
        if not len(self.split.test):
            raise ConfigError("the split has no test cells; give fractions a third share above 0")
        return self.trained.evaluate_labels(self.cells, self.split.test)

    @checked
    def predict(
        self,
        adata: AnnData | str | Path | CellCollection | None = None,
        target: str | Sequence[str] | None = None,
        **options: Any,
    ) -> pd.DataFrame:
        """Predict phenotypes, by default of the cells given; see `PhenotypeModel.predict`."""
        return self.trained.predict(self.cells if adata is None else adata, target, **options)

    @checked
    def evaluate(
        self,
        adata: AnnData | str | Path | CellCollection,
        target: str | Sequence[str] | None = None,
        **options: Any,
    ) -> dict[str, dict[str, float]]:
        """Score the predictions on other cells; see `PhenotypeModel.evaluate`."""
        return self.trained.evaluate(adata, target, **options)

    @checked
    def get_latent_representation(
        self, adata: AnnData | str | Path | CellCollection | None = None, **options: Any
    ) -> NDArray[np.float32]:
        """Represent cells, by default those given; see `PhenotypeModel`."""
        return self.trained.get_latent_representation(
            self.cells if adata is None else adata, **options
        )

    @checked
    def save(self, path: str | Path) -> None:
        """Save the model; see `PhenotypeModel.save`."""
        self.trained.save(path)

    @staticmethod
    @checked
    def load(path: str | Path) -> PhenotypeModel:
        """Load a saved model; see `PhenotypeModel.load`."""
        return PhenotypeModel.load(path)


def _require_classes(cells: CellCollection) -> None:
    for name, label in cells.labels.items():
        if label.kind != "categorical":
            raise DataError(
                f"phenotype {name!r} holds numbers, and PolyGene learns classes: cut them into "
                "classes, such as pandas.cut(adata.obs[...], 5), or leave it out of labels_key"
            )


MOST_KNOWN, LEAST_KNOWN = 0.5, 0.05


def telling_gaps(cells: CellCollection, train: NDArray[np.int64]) -> list[str]:
    """Say where a phenotype is missing in one class of another one, and known in the next."""
    found = []
    for name, label in cells.labels.items():
        known = label.labelled[train]
        if known.all():
            continue
        for other, classes in cells.labels.items():
            if other == name:
                continue
            codes = classes.values[train]
            share = {
                value: float(known[codes == code].mean())
                for code, value in enumerate(classes.categories)
                if (codes == code).any()
            }
            most, least = max(share, key=share.__getitem__), min(share, key=share.__getitem__)
            if share[most] >= MOST_KNOWN and share[least] <= LEAST_KNOWN:
                found.append(
                    f"{name!r} is known in {share[most]:.0%} of the training cells of {other!r} = "
                    f"{most!r} and in {share[least]:.0%} of {least!r}: where {name!r} is shown, it "
                    f"gives {other!r} away; leave it out of labels_key"
                )
    return found


def quantile_edges(
    cells: CellCollection, rows: NDArray[np.int64], n_bins: int, target_sum: float
) -> list[float]:
    """Return edges between which the non-zero expression of some cells is shared out evenly.

    Bin 0 is left for genes that are not expressed.
    """
    parts = []
    for start in range(0, len(rows), 1024):
        batch = cells.batch(rows[start : start + 1024])
        sizes = batch.values.new_tensor(0.0)
        if batch.library is not None:
            sizes = batch.library.repeat_interleave(batch.indptr.diff())
        parts.append(torch.log1p(batch.values * target_sum / sizes).numpy())
    shares = np.linspace(0, 1, n_bins)[1:-1]
    edges = np.unique(np.quantile(np.concatenate(parts), shares)).tolist()
    return [float(np.finfo(np.float32).tiny), *edges]
