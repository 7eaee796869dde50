"""`ExpressionModel`: a trained GIL, which predicts expression and represents cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from tqdm.auto import tqdm

from kernomics._arguments import checked, words_of
from kernomics.data import CellCollection
from kernomics.data.collection import require_empty_cells
from kernomics.data.genes import places_of
from kernomics.data.readers.inputs import ReadOptions
from kernomics.errors import ConfigError, closest
from kernomics.models.base import checked_integer
from kernomics.models.extension import new_rows
from kernomics.models.gil.config import GILConfig
from kernomics.models.gil.module import GILModule
from kernomics.models.gil.tokens import expressed_genes, shown
from kernomics.models.known_cells import KnownCells
from kernomics.models.reading import read_as_trained
from kernomics.models.saved import read_saved
from kernomics.nn import drawing_from
from kernomics.train import save_model_dir

if TYPE_CHECKING:
    from anndata import AnnData

FORMAT = "kernomics gil 1"
NUMBERS_AT_A_TIME = 8_000_000
INFERENCE_DRAW = -2


class ExpressionModel:
    """A trained masked model of expression.

    Parameters
    ----------
    module
        The network.
    genes
        The genes that it knows.
    info
        How it was trained.
    """

    @checked
    def __init__(self, module: GILModule, genes: Sequence[str], info: Mapping[str, Any]) -> None:
        self.module = module.eval()
        self.genes = np.array([str(gene) for gene in genes], dtype=object)
        self.info = dict(info)
        if len(self.genes) != module.n_genes:
            raise ConfigError(
                f"{len(self.genes):,} genes are named for a network that knows "
                f"{module.n_genes:,}: name each of its rows"
            )

    def __repr__(self) -> str:
        config = self.config
        blocks = f"{config.n_layers} block{'s' * (config.n_layers > 1)}"
        learnt = ", ".join(self.info.get("stages", []))
        return (
            f"GIL of {blocks}, width {config.d_model}, {len(self.genes):,} genes"
            + f", after {learnt}" * bool(learnt)
        )

    @property
    def config(self) -> GILConfig:
        """The settings of the network."""
        return self.module.config

    # -- inference ---------------------------------------------------------------------------------

    @torch.inference_mode()
    @checked
    def get_latent_representation(
        self,
        adata: AnnData | str | Path | CellCollection,
        *,
        rows: ArrayLike | None = None,
        n_tokens: int | None = None,
        batch_size: int | None = None,
        min_gene_overlap: float = 0.8,
        progress: bool = False,
        **reading: Unpack[ReadOptions],
    ) -> NDArray[np.float32]:
        """Return each cell's state after the last block, that of its CLS token, float32 [n, d].

        Parameters
        ----------
        adata
            AnnData, path of an ``.h5ad`` file of any size, or a collection; not modified. Genes
            are matched by name; of those that the model knows, all that a cell expresses are shown
            and none is hidden.
        rows
            Which cells, int [n] or bool [n_cells]; all by default.
        n_tokens
            The most genes of a cell to show, chosen as in training, by the seed and the cell's
            name; all by default.
        batch_size
            Cells at a time; by default what keeps a layer's activations near 32 MB.
        min_gene_overlap
            The share of the genes known that the data must have.
        progress
            Whether to show a progress bar.
        **reading
            How to read an AnnData or a file, as in `kernomics.data.ReadOptions`; what is not given
            is as it was in training.

        Raises
        ------
        DataError
            When too few genes match, or a cell has no count of the genes known.
        """
        known = self._known(adata, rows, min_gene_overlap, reading)
        parts = [np.empty((0, self.config.d_model), np.float32)]
        for cls in self._states(known, None, n_tokens, batch_size, progress):
            parts.append(cls.float().cpu().numpy())
        return np.concatenate(parts)

    @torch.inference_mode()
    @checked
    def predict(
        self,
        adata: AnnData | str | Path | CellCollection,
        genes: str | Sequence[str],
        *,
        rows: ArrayLike | None = None,
        n_tokens: int | None = None,
        batch_size: int | None = None,
        min_gene_overlap: float = 0.8,
        progress: bool = False,
        **reading: Unpack[ReadOptions],
    ) -> pd.DataFrame:
        """Predict the expression of genes from each cell's other genes.

        A value is log(1 + target_sum·count/library), *given that the cell expresses the gene*:
        the model learns from expressed genes alone, and says how much and not whether.

        Parameters
        ----------
        adata, rows, n_tokens, batch_size, min_gene_overlap, progress, **reading
            As in `get_latent_representation`.
        genes
            Which, of those that the model knows; the data may lack them. They are left out of what
            the model sees.

        Returns
        -------
        pandas.DataFrame
            float32, a row per cell and a column per gene.

        Raises
        ------
        ConfigError
            When a gene is not known.
        """
        names = words_of("genes", genes)
        if not names:
            raise ConfigError("genes is empty: name those to predict")
        known_genes = set(self.genes)
        unknown = [name for name in names if name not in known_genes]
        if unknown:
            raise ConfigError(
                f"{len(unknown):,} of the {len(names):,} genes are not known to the model, first "
                f"{unknown[0]!r}; {closest(unknown[0], self.genes)}"
            )
        known = self._known(adata, rows, min_gene_overlap, reading)
        device = self.module.genes.device
        asked = torch.from_numpy(places_of(names, self.genes)).to(device)
        parts = [np.empty((0, len(names)), np.float32)]
        for cls in self._states(known, asked, n_tokens, batch_size, progress):
            cells = torch.arange(len(cls), device=device).repeat_interleave(len(asked))
            outputs = self.module.ask(cls, cells, asked.repeat(len(cls)))
            values = self.module.predicted(outputs).view(len(cls), -1)
            parts.append(values.cpu().numpy())
        index = pd.Index(known.view.cell_names[known.rows].astype(str))
        return pd.DataFrame(np.concatenate(parts), index=index, columns=names)

    def get_gene_embeddings(self) -> NDArray[np.float32]:
        """Return the embedding of each gene, float32 [V, d]."""
        return self.module.genes.detach().float().cpu().numpy().copy()

    @checked
    def extend(
        self, genes: str | Sequence[str], init: str | Mapping[str, Any] | ArrayLike = "mean"
    ) -> ExpressionModel:
        """Return a model that also knows other genes; what this one knows stays as it is.

        Parameters
        ----------
        genes
            New ones, matched by name.
        init
            What their embeddings start from: ``"mean"`` of all; a mapping from each to a known
            gene, or to several whose mean is taken; or the embeddings, [n, d].

        Raises
        ------
        ConfigError
            If a gene is known already, or lacks a donor that the model knows.
        """
        names = words_of("genes", genes)
        module = self.module.grown([])
        rows = new_rows(self.genes, module.genes.detach(), names, init)
        module.genes = torch.nn.Parameter(torch.cat([module.genes.detach(), rows]))
        module.requires_grad_(True)
        added = [*self.info.get("added_genes", []), *names]
        return ExpressionModel(module, [*self.genes, *names], {**self.info, "added_genes": added})

    def read(
        self, adata: AnnData | str | Path | CellCollection, **reading: Unpack[ReadOptions]
    ) -> CellCollection:
        """Read cells as those of the training were read, but for what is given."""
        if isinstance(adata, CellCollection):  # whose cells without counts are told of elsewhere
            require_empty_cells(reading.pop("empty_cells", "error"))
        return read_as_trained(adata, reading, self.info, self.genes)

    def _known(
        self,
        adata: AnnData | str | Path | CellCollection,
        rows: ArrayLike | None,
        min_gene_overlap: float,
        reading: ReadOptions,
    ) -> KnownCells:
        empty = reading.get("empty_cells", "error")
        cells = self.read(adata, **reading)
        cells.library_rule.tell(self.info.get("library"))
        return KnownCells.of(
            cells, self.genes, rows=rows, min_gene_overlap=min_gene_overlap, empty_cells=empty
        )

    def _states(
        self,
        known: KnownCells,
        asked: Tensor | None,
        n_tokens: int | None,
        batch_size: int | None,
        progress: bool,
    ) -> Iterator[Tensor]:
        """Yield the states of the cells in their order, [B, d]; genes asked for are not shown."""
        if n_tokens is not None:
            n_tokens = checked_integer("n_tokens", n_tokens)
        if batch_size is not None:
            batch_size = checked_integer("batch_size", batch_size)
        module, device = self.module, self.module.genes.device
        size = batch_size or max(1, NUMBERS_AT_A_TIME // (1024 * self.config.d_model))
        with tqdm(total=len(known.rows), unit="cell", desc="cells", disable=not progress) as bar:
            for batch in known.batches(size):
                cells = batch.to(device)
                tokens = expressed_genes(cells, self.config.target_sum)
                if asked is not None:
                    tokens = tokens.of(~torch.isin(tokens.gene_ids, asked))
                if n_tokens is not None:
                    share, draw = self.config.expression_share, module.at(INFERENCE_DRAW)
                    tokens = shown(tokens, cells.cell_ids, n_tokens, share, draw)
                yield module.encode(tokens)[0]
                bar.update(len(cells))

    # -- saving ------------------------------------------------------------------------------------

    @checked
    def save(self, path: str | Path) -> None:
        """Save as ``model.safetensors`` and ``model.json``, readable without kernomics.

        Parameters
        ----------
        path
            A directory: new, empty, or one that holds a saved model, which is then replaced.

        Raises
        ------
        CheckpointError
            If the directory holds something else or cannot be written.
        """
        save_model_dir(
            path,
            dict(self.module.state_dict()),
            {
                "format": FORMAT,
                "genes": self.genes.tolist(),
                "config": dataclasses.asdict(self.config),
                "seed": self.module.seed,
                "info": self.info,
            },
        )

    @classmethod
    @checked
    def load(cls, path: str | Path) -> ExpressionModel:
        """Load what `save` wrote, or the ``model`` of a run directory.

        Raises
        ------
        CheckpointError
            If there is none, it is damaged, or it is no GIL.
        """
        tensors, meta = read_saved(path, FORMAT)
        with drawing_from(0):  # overwritten at once, but the caller's generator must stay
            module = GILModule(len(meta["genes"]), GILConfig(**meta["config"]), meta["seed"])
        module.take(tensors)
        return cls(module, meta["genes"], meta["info"])
