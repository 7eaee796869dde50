"""TxFM: a masked autoencoder of counts whose CLS token represents a cell (arXiv 2605.31562)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim import AdamW, Optimizer

from kernomics import __version__
from kernomics.data import CellCollection, Sampler, Split, make_split
from kernomics.data.labels import Labels, column
from kernomics.errors import ConfigError, DataError
from kernomics.models.device import usable_device
from kernomics.models.txfm_config import TxFMConfig, default_training
from kernomics.models.txfm_model import CellEncoder
from kernomics.models.txfm_module import TxFMModule
from kernomics.models.txfm_start import start_from
from kernomics.models.yoto_setup import checked_seed
from kernomics.train import History, fit, override

if TYPE_CHECKING:
    from anndata import AnnData

VALIDATION_DRAW = -1
CELLS_AT_A_TIME = 1024


class TxFM:
    """Learn to represent cells by reconstructing all genes from a random few.

    Parameters
    ----------
    adata
        AnnData, path of an ``.h5ad`` file, or a `CellCollection`. Never modified.
    size
        ``"XS"`` (ours, for laptops), ``"S"``, ``"B"`` or ``"L"``; see `TxFMConfig`.
    layer, library_key
        As in `CellCollection.from_anndata`.
    genes
        The vocabulary, by name; by default every gene that `min_cells` training cells have.
    min_cells
        How many training cells must have a gene. (Paper: 1,000 of 1.4 million.)
    validation
        Share of the cells, or of the groups, to validate on.
    split_key
        obs column of groups, such as donors or batches, none of which is on both sides.
    split
        A division made already, instead of the two before.
    seed
        Of the division, the initial weights, the order of the cells and the masks.
    config
        Settings; keyword arguments override single ones.

    Attributes
    ----------
    genes : numpy.ndarray
        The vocabulary.
    history : History
        One record per epoch and validation.
    encoder : CellEncoder
        The trained model.

    Raises
    ------
    DataError, ConfigError
        Naming what was found, where, how many and the remedy.
    """

    def __init__(
        self,
        adata: AnnData | str | Path | CellCollection,
        size: str = "S",
        *,
        layer: str | None = None,
        library_key: str | None = None,
        genes: Sequence[str] | None = None,
        min_cells: int = 1,
        validation: float = 0.1,
        split_key: str | None = None,
        split: Split | None = None,
        seed: int = 0,
        config: TxFMConfig | None = None,
        **overrides: Any,
    ) -> None:
        self.config = (
            TxFMConfig.of_size(size, **overrides)
            if config is None
            else override(config, **overrides)
        )
        self.seed = checked_seed(seed)
        collection = (
            adata
            if isinstance(adata, CellCollection)
            else CellCollection.from_anndata(adata, layer=layer, library_key=library_key)
        )
        self.split = split or _divide(collection, validation, split_key, self.seed)
        self.cells = _over_vocabulary(collection, self.split.train, genes, min_cells)
        self.genes: NDArray[Any] = self.cells.genes
        _require_masked(self.cells, self.config.n_tokens)
        self.training = default_training(len(self.split.train))
        self.history = History()
        self.module: TxFMModule | None = None
        self.encoder: CellEncoder | None = None

    # -- training --------------------------------------------------------------------------------

    def train(
        self,
        max_epochs: int | None = None,
        *,
        run_dir: str | Path | None = None,
        resume: bool = False,
        device: str | torch.device = "cpu",
        **overrides: Any,
    ) -> TxFM:
        """Train; afterwards `encoder` is there.

        Parameters
        ----------
        max_epochs
            Passes over the training cells, 200 by default.
        run_dir
            Where to keep checkpoints and history.
        resume
            Continue the run in `run_dir`; the result is the same as had it never stopped.
        device
            Where to train, ``"cpu"`` or ``"cuda"``.
        **overrides
            Settings of :class:`kernomics.train.TrainConfig`. Without `weight_decay` it is the
            paper's, 1/(learning rate · steps).
        """
        device = usable_device(device)
        if max_epochs is not None:
            overrides["max_epochs"] = max_epochs
        self.configure(**overrides)
        sampler = self._sampler()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.module = self._module().to(device)
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
        self.encoder = CellEncoder(module.cpu(), self.genes.tolist(), self._info())
        return self

    def configure(self, **overrides: Any) -> None:
        """Change settings of the training, and with them the weight decay that follows from them.

        Parameters
        ----------
        **overrides
            Settings of :class:`kernomics.train.TrainConfig`.
        """
        overrides.setdefault("seed", self.seed)
        self.training = override(self.training, **overrides)
        if "weight_decay" not in overrides:
            steps = self.training.max_epochs * math.ceil(
                self._sampler().n_batches / self.training.accumulate
            )
            decay = 1 / (self.training.learning_rate * max(1, steps))
            self.training = override(self.training, weight_decay=decay)

    def _sampler(self) -> Sampler:
        # In runs of 64 cells wherever these are, so that a file gives the same batches as memory.
        return Sampler(self.split.train, self.training.batch_size, self.seed, block_size=64)

    def _module(self) -> TxFMModule:
        module = TxFMModule(len(self.genes), self.config, self.seed)
        start_from(module, self.cells, self.split.train)
        return module

    def _optimizer(self, module: nn.Module) -> Optimizer:
        """AdamW as in the paper; vectors (norms, biases, scales) do not decay (ours)."""
        matrices = [p for p in module.parameters() if p.dim() > 1]
        vectors = [p for p in module.parameters() if p.dim() <= 1]
        groups: list[dict[str, Any]] = [
            {"params": matrices},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return AdamW(
            groups,
            lr=self.training.learning_rate,
            eps=1e-6,
            weight_decay=self.training.weight_decay,
        )

    def _validate(self, module: TxFMModule) -> dict[str, float]:
        rows, device = self.split.validation, next(module.parameters()).device
        total = 0.0
        for start in range(0, len(rows), CELLS_AT_A_TIME):
            cells = self.cells.batch(rows[start : start + CELLS_AT_A_TIME]).to(device)
            total += float(module.reconstruction_loss(cells, VALIDATION_DRAW)) * len(cells)
        return {"loss": total / len(rows)}

    def _info(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "training": dataclasses.asdict(self.training),
            "split": {"how": self.split.how, "by": self.split.by, "seed": self.split.seed},
            "trained_on": {"cells": len(self.split.train), "genes": len(self.genes)},
        }

    # -- afterwards ------------------------------------------------------------------------------

    @property
    def trained(self) -> CellEncoder:
        """The trained model.

        Raises
        ------
        ConfigError
            Before `train`.
        """
        if self.encoder is None:
            raise ConfigError("there is no model yet; call train() first")
        return self.encoder

    def get_latent_representation(
        self, adata: AnnData | str | Path | CellCollection | None = None, **options: Any
    ) -> NDArray[np.float32]:
        """Represent cells, by default those trained on; see `CellEncoder`."""
        return self.trained.get_latent_representation(
            self.cells if adata is None else adata, **options
        )

    def get_normalized_expression(
        self, adata: AnnData | str | Path | CellCollection | None = None, **options: Any
    ) -> NDArray[np.float32]:
        """Reconstruct expression, by default of the cells trained on; see `CellEncoder`."""
        return self.trained.get_normalized_expression(
            self.cells if adata is None else adata, **options
        )

    def get_gene_embeddings(self, *args: Any) -> NDArray[np.float32]:
        """Return what the model knows of each gene; see `CellEncoder`."""
        return self.trained.get_gene_embeddings(*args)

    def save(self, path: str | Path) -> None:
        """Save the model; see `CellEncoder.save`."""
        self.trained.save(path)

    @staticmethod
    def load(path: str | Path) -> CellEncoder:
        """Load a saved model, which represents and reconstructs; see `CellEncoder.load`."""
        return CellEncoder.load(path)


# -- before training -------------------------------------------------------------------------------


def _divide(cells: CellCollection, validation: float, key: str | None, seed: int) -> Split:
    if not 0 <= validation < 1:
        raise ConfigError(f"validation is {validation}: it is a share, 0 to below 1")
    groups = None
    if key is not None:
        groups = Labels.from_series(column(cells.obs, key), key, kind="categorical")
    if validation == 0:
        nobody = np.array([], np.int64)
        return Split(np.arange(cells.n_cells), nobody, nobody, "random", None, seed)
    return make_split(
        cells.n_cells,
        how="random" if groups is None else "group",
        fractions=(1 - validation, validation, 0.0),
        groups=groups,
        seed=seed,
    )


def _over_vocabulary(
    cells: CellCollection,
    train: NDArray[np.int64],
    genes: Sequence[str] | None,
    min_cells: int,
) -> CellCollection:
    if min_cells < 1:
        raise ConfigError(f"min_cells is {min_cells}: a gene no cell has says nothing")
    if genes is not None:
        if len(set(genes)) < len(genes):
            raise DataError(f"genes names {len(genes) - len(set(genes))} genes twice")
        return cells.with_genes(list(genes), 1.0)
    seen = cells.summary(train).n_expressing >= min_cells
    if not seen.any():
        raise DataError(
            f"no gene is in {min_cells:,} of the {len(train):,} training cells; lower min_cells"
        )
    return cells if seen.all() else cells.with_genes(cells.genes[seen], 1.0)


def _require_masked(cells: CellCollection, n_tokens: int) -> None:
    """Refuse to reveal all genes of a cell: nothing would be left to learn from."""
    observed = cells.observed
    fewest = cells.n_genes if observed is None else observed.smallest
    if n_tokens >= fewest:
        whose = "the vocabulary" if observed is None else "the smallest data set"
        raise ConfigError(
            f"n_tokens is {n_tokens:,}, and {whose} has {fewest:,} genes: none would be masked; "
            f"set n_tokens to about {max(1, fewest // 4):,}, a quarter"
        )
