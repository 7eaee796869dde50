"""TxFM: a masked autoencoder of counts whose CLS token represents a cell (arXiv 2605.31562)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer

from kernomics._arguments import checked
from kernomics._version import __version__
from kernomics.data import CellCollection, Loader, Split
from kernomics.data.readers.inputs import divided_options
from kernomics.data.row_numbers import parts
from kernomics.errors import ConfigError
from kernomics.models.base import (
    as_collection,
    checked_seed,
    draw_weights,
    require_arguments,
    sampler_of,
    train_module,
)
from kernomics.models.known_cells import require_counts
from kernomics.models.reading import library_share, read_as_trained
from kernomics.models.seen_cells import SeenCells
from kernomics.models.txfm.cell_encoder import CellEncoder
from kernomics.models.txfm.config import VOCABULARY, TxFMConfig
from kernomics.models.txfm.finetune import Pretrained, fine_tuned_config, fine_tuning
from kernomics.models.txfm.initialization import CELLS_AT_A_TIME, start_from
from kernomics.models.txfm.module import TxFMModule
from kernomics.models.txfm.options import TxFMOptions
from kernomics.models.txfm.vocabulary import (
    default_tokens,
    default_training,
    divide,
    require_masked,
)
from kernomics.models.vocabulary import over_vocabulary, warn_of_unseen
from kernomics.train import History, RowAdamW, override
from kernomics.train.device import usable_device
from kernomics.train.interfaces import Callback
from kernomics.train.skipping import Steps

if TYPE_CHECKING:
    from anndata import AnnData

VALIDATION_DRAW = -1


class TxFM:
    """Learn cell representations by reconstructing all genes from a random subset.

    Parameters
    ----------
    adata
        AnnData, path of an ``.h5ad`` file, or a `CellCollection`. It is not modified.
    size
        ``"XXS"`` or ``"XS"`` (ours, for laptops and a few thousand cells), ``"S"``, ``"B"`` or
        ``"L"`` (the paper's, for a GPU and many cells); see `TxFMConfig`.
    genes
        The vocabulary, by name.
    n_genes
        Instead, the number of genes: of those detected in at least `min_cells` training cells,
        those whose log expression varies most over them; all, if there are no more. By default
        4,000 for XXS and XS (ours), and all for the other sizes or with a `config`.
    min_cells
        Number of training cells in which a gene must be detected. (Paper: 1,000 of 1.4 million.)
    validation
        Fraction of the cells, or of the groups, used for validation.
    split_key
        obs column of groups, such as donors or batches; each group is on one side of the split
        only.
    split
        An existing split, instead of the two parameters before.
    seed
        Seed of the split, the initial weights, the order of the cells and the masks.
    config
        Settings.
    **options
        How to read the cells, as in `kernomics.data.ReadOptions`: `layer`, `use_raw`, `gene_names`,
        `library_key`, `allow_fractions`, `empty_cells`, `modality`, `all_features`; and single
        settings of `TxFMConfig`, which take precedence over `config` or `size`.

    Attributes
    ----------
    genes : numpy.ndarray
        The vocabulary.
    history : History
        One record per epoch and validation.
    encoder : CellEncoder
        The trained model.
    start : Pretrained or None
        What training starts from; see `from_pretrained`.

    Raises
    ------
    DataError, ConfigError
        The message says what was found, where, how many, and what to do.
    """

    @checked
    def __init__(
        self,
        adata: AnnData | str | Path | CellCollection,
        size: str = "XXS",
        *,
        genes: str | Sequence[str] | None = None,
        n_genes: int | None = None,
        min_cells: int = 1,
        validation: float = 0.1,
        split_key: str | None = None,
        split: Split | None = None,
        seed: int = 0,
        config: TxFMConfig | None = None,
        **options: Unpack[TxFMOptions],
    ) -> None:
        reading, settings = divided_options(options)
        require_arguments(type(self), settings, TxFMConfig)
        self.config = (
            TxFMConfig.of_size(size, **settings) if config is None else override(config, **settings)
        )
        self.seed = checked_seed(seed)
        collection = as_collection(adata, reading)
        collection.library_rule.tell()
        self.split = divide(collection, split, validation, split_key, self.seed)
        require_counts(collection, self.split)
        if genes is None and n_genes is None and config is None:
            n_genes = VOCABULARY.get(size)
        self.cells = over_vocabulary(collection, self.split.train, genes, n_genes, min_cells)
        self.genes: NDArray[Any] = self.cells.genes
        if config is None and "n_tokens" not in settings:
            self.config = override(
                self.config, n_tokens=default_tokens(self.cells, self.config.n_tokens)
            )
        require_masked(self.cells, self.config.n_tokens)
        self.start: Pretrained | None = None
        self.training = default_training(len(self.split.train), self.config.d_model)
        self.history = History()
        self.module: TxFMModule | None = None
        self.encoder: CellEncoder | None = None

    def __repr__(self) -> str:
        state = "untrained" if self.encoder is None else "trained"
        return f"{state} TxFM, width {self.config.d_model}, {len(self.genes):,} genes"

    @classmethod
    @checked
    def from_pretrained(
        cls,
        model: CellEncoder | TxFM | str | Path,
        adata: AnnData | str | Path | CellCollection,
        *,
        new_genes: int = 0,
        min_cells: int = 3,
        min_gene_overlap: float = 0.5,
        validation: float = 0.1,
        split_key: str | None = None,
        split: Split | None = None,
        seed: int = 0,
        **options: Unpack[TxFMOptions],
    ) -> TxFM:
        """Return a TxFM that continues training from a trained one: fine-tuning.

        Its vocabulary consists of the model's genes that the data have, in the model's order,
        followed by the requested number of genes new to the model. `Pretrained` describes what is
        copied and how new genes are initialised; `fine_tuning` describes the training settings.

        Parameters
        ----------
        model
            A trained TxFM, a run directory or a saved model. It is not modified.
        adata
            The cells to fine-tune on, as for `TxFM`. Genes are matched by name.
        new_genes
            How many genes unknown to the model to add: those whose log expression varies most over
            the training cells. (Our default: none.) `n_tokens` grows with them, so that as many
            known genes are revealed as before.
        min_cells
            Number of training cells in which a new gene must be detected. (Our default: 3.)
        min_gene_overlap
            The fraction of genes that must match, of the model's genes or of those in the data,
            whichever are fewer. (Our choice.)
        validation, split_key, split, seed
            As for `TxFM`.
        **options
            How to read the cells, as for `TxFM`, by default as the model's cells were; and
            settings of `TxFMConfig` on masks and loss. Settings of the network cannot be changed.

        Raises
        ------
        DataError
            If too few genes are known, with the likely cause; and as for `TxFM`.
        ConfigError
            If a setting of the network would change, or there are fewer new genes.
        CheckpointError
            If there is no model at a path.

        Warns
        -----
        UserWarning
            If fewer than 80 % of those genes are known, or library sizes are of another kind than
            those of the model's training.
        """
        encoder = model.trained if isinstance(model, TxFM) else model
        if not isinstance(encoder, CellEncoder):
            encoder = CellEncoder.load(encoder)
        reading, settings = divided_options(options)
        config = fine_tuned_config(encoder.config, **settings)
        cells = read_as_trained(adata, reading, encoder.info, encoder.genes, trained_further=True)
        split = divide(cells, split, validation, split_key, checked_seed(seed))
        start = Pretrained.match(
            encoder,
            cells,
            split.train,
            new_genes=new_genes,
            min_cells=min_cells,
            min_gene_overlap=min_gene_overlap,
        )
        cells.library_rule.tell(encoder.info.get("library"))
        if "n_tokens" not in settings:
            config = override(config, n_tokens=start.n_tokens)
        made = cls(cells, genes=start.genes, split=split, seed=seed, config=config)
        made.start, made.training = start, fine_tuning(split, made.config.d_model)
        return made

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
        metrics: Callable[[CellEncoder], Mapping[str, float]] | None = None,
        **overrides: Any,
    ) -> TxFM:
        """Train; `encoder` is then the trained model.

        Parameters
        ----------
        max_epochs
            Passes over the training cells; by default 100 up to a width of 128 and 200 beyond, or
            50 when fine-tuning.
        run_dir
            Where to keep checkpoints and history.
        resume
            Continue the run in `run_dir`; the result is the same as if it had never stopped. It is
            an error if there is none.
        device
            Where to train, ``"cpu"`` or ``"cuda"``.
        callbacks
            Called after each epoch with its number, from 0, and the module; returning True ends the
            training.
        loggers, log_dir
            Where else to log the history; see `kernomics.train.opened`.
        skip_steps
            Steps to pass over, as after a spike of the loss; see `kernomics.train.fit`.
        metrics
            Called at each validation with the current model; the values it returns are recorded in
            the history beside the validation loss, and `monitor` may name one of them.
        **overrides
            Settings of :class:`kernomics.train.TrainConfig`. `weight_decay` defaults to the
            paper's, 1/(learning rate · steps), or when fine-tuning to that of the original
            training.
        """
        usable_device(device)  # before the settings are changed
        if max_epochs is not None:
            overrides["max_epochs"] = max_epochs
        self.configure(**overrides)
        sampler = sampler_of(self.split, self.training, self.seed, self.cells)
        cells = self.cells.compact()
        module, self.history = train_module(
            self._begin,
            lambda _: Loader(cells, sampler),
            self.training,
            device,
            seed=self.seed,
            validate=lambda module: self._validation(module, metrics),
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
        self.encoder = CellEncoder(module.cpu(), self.genes.tolist(), info)
        return self

    def configure(self, **overrides: Any) -> None:
        """Change training settings, and with them the weight decay that depends on them.

        Parameters
        ----------
        **overrides
            Settings of :class:`kernomics.train.TrainConfig`.
        """
        overrides.setdefault("seed", self.seed)
        self.training = override(self.training, **overrides)
        draw_weights(self.cells, self.split.train, self.training.balance)  # or refuses
        if "weight_decay" not in overrides:
            n_batches = math.ceil(len(self.split.train) / self.training.batch_size)
            steps = self.training.max_epochs * math.ceil(n_batches / self.training.accumulate)
            decay = 1 / (self.training.learning_rate * max(1, steps))
            if self.start is not None:
                decay = self.start.weight_decay
            self.training = override(self.training, weight_decay=decay)

    def _begin(self) -> TxFMModule:
        self.module = self._module()  # which a training that is interrupted leaves there
        return self.module

    def _module(self) -> TxFMModule:
        module = TxFMModule(len(self.genes), self.config, self.seed)
        detected = start_from(module, self.cells, self.split.train)
        known = 0
        if self.start is not None:
            self.start.apply(module)
            known = len(self.start.kept)
        warn_of_unseen(self.genes, known, detected.numpy())
        return module

    def _optimizer(self, module: nn.Module) -> Optimizer:
        """AdamW as in the paper; vectors (norms, biases, scales) do not decay (ours)."""
        matrices = [p for p in module.parameters() if p.dim() > 1]
        vectors = [p for p in module.parameters() if p.dim() <= 1]
        groups: list[dict[str, Any]] = [
            {"params": matrices},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return RowAdamW(
            groups,
            lr=self.training.learning_rate,
            eps=1e-6,
            weight_decay=self.training.weight_decay,
        )

    def _validation(
        self, module: TxFMModule, metrics: Callable[[CellEncoder], Mapping[str, float]] | None
    ) -> Callable[[], dict[str, float]] | None:
        if metrics is None and not len(self.split.validation):
            return None

        def validate() -> dict[str, float]:
            found = self._validate(module) if len(self.split.validation) else {}
            if metrics is not None:
                found |= metrics(CellEncoder(module, self.genes.tolist(), self._info()))
            return found

        return validate

    def _validate(self, module: TxFMModule) -> dict[str, float]:
        rows, device = self.split.validation, next(module.parameters()).device
        total = 0.0
        for part in parts(len(rows), CELLS_AT_A_TIME):
            cells = self.cells.batch(rows[part]).to(device)
            total += float(module.reconstruction_loss(cells, VALIDATION_DRAW)) * len(cells)
        return {"loss": total / len(rows)}

    def _info(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "training": dataclasses.asdict(self.training),
            "split": {"how": self.split.how, "by": self.split.by, "seed": self.split.seed},
            "trained_on": {"cells": len(self.split.train), "genes": len(self.genes)},
            "library": self.cells.library_rule.description,
            "reading": self.cells.reading,
            "library_share": library_share(self.cells, self.split.train, self.genes),
            **({} if self.start is None else {"fine_tuned_from": self.start.description}),
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

    @checked
    def get_latent_representation(
        self, adata: AnnData | str | Path | CellCollection | None = None, **options: Any
    ) -> NDArray[np.float32]:
        """Return cells' representations, by default of the training data; see `CellEncoder`."""
        return self.trained.get_latent_representation(
            self.cells if adata is None else adata, **options
        )

    @checked
    def get_normalized_expression(
        self, adata: AnnData | str | Path | CellCollection | None = None, **options: Any
    ) -> NDArray[np.float32]:
        """Reconstruct expression, by default of the training data; see `CellEncoder`."""
        return self.trained.get_normalized_expression(
            self.cells if adata is None else adata, **options
        )

    def get_gene_embeddings(self, *args: Any) -> NDArray[np.float32]:
        """Return the model's gene embeddings; see `CellEncoder`."""
        return self.trained.get_gene_embeddings(*args)

    @checked
    def save(self, path: str | Path) -> None:
        """Save the model; see `CellEncoder.save`."""
        self.trained.save(path)

    @staticmethod
    @checked
    def load(path: str | Path) -> CellEncoder:
        """Load a saved model; see `CellEncoder.load`."""
        return CellEncoder.load(path)
