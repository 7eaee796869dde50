"""CellEncoder: a trained TxFM, which turns counts into representations and expression."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from tqdm.auto import tqdm

from kernomics._arguments import checked
from kernomics.data import CellCollection, Cells
from kernomics.errors import ConfigError, DataError, closest
from kernomics.models.saved import read_saved
from kernomics.models.setup import as_collection
from kernomics.models.txfm_config import TxFMConfig
from kernomics.models.txfm_module import TxFMModule
from kernomics.nn import drawing_from
from kernomics.train import save_model_dir

if TYPE_CHECKING:
    from anndata import AnnData

FORMAT = "kernomics txfm 1"
NUMBERS_AT_A_TIME = 2**23
"""Token entries (cells × tokens × width) of a batch at inference: 32 MB a layer's activations."""


class CellEncoder:
    """A trained TxFM.

    Made by `TxFM.train` or `CellEncoder.load`.

    Attributes
    ----------
    module : TxFMModule
        The network.
    genes : numpy.ndarray
        The vocabulary, object array of str [G].
    info : dict
        How it came about: training settings, seed, version, cells.
    """

    @checked
    def __init__(self, module: TxFMModule, genes: Sequence[str], info: Mapping[str, Any]) -> None:
        self.module = module.eval()
        self.genes = np.array([str(gene) for gene in genes], dtype=object)
        self.info = dict(info)

    def __repr__(self) -> str:
        config = self.config
        blocks = f"{config.n_layers} block{'s' * (config.n_layers > 1)}"
        return f"TxFM of {blocks}, width {config.d_model}, {len(self.genes):,} genes"

    @property
    def config(self) -> TxFMConfig:
        """The settings of the network."""
        return self.module.config

    # -- inference -------------------------------------------------------------------------------

    @torch.inference_mode()
    @checked
    def get_latent_representation(
        self,
        adata: AnnData | str | Path | CellCollection,
        *,
        layer: str | None = None,
        library_key: str | None = None,
        rows: ArrayLike | None = None,
        n_tokens: int | None = None,
        n_draws: int = 1,
        at_layer: int | None = None,
        batch_size: int | None = None,
        min_gene_overlap: float = 0.8,
        progress: bool = False,
    ) -> NDArray[np.float32]:
        """Return each cell's CLS token after the last block.

        Parameters
        ----------
        adata
            AnnData, path of an ``.h5ad`` file of any size, or a collection; not modified. Its
            genes are matched by name; those of the vocabulary that it lacks are not revealed.
        layer
            Where the counts are; X by default.
        library_key
            obs column with each cell's total over all genes; the row total by default.
        rows
            Which cells, int [n]; all by default.
        n_tokens
            How many genes to reveal, chosen by the seed and the cell's number; None for all,
            whose time grows with their square.
        n_draws
            With `n_tokens`, how many choices of genes to average over.
        at_layer
            After which block, from 1; the last by default.
        batch_size
            Cells at a time; by default what keeps a layer's activations near 32 MB.
        min_gene_overlap
            The share of the vocabulary that the data must have.
        progress
            Whether to show a progress bar.

        Returns
        -------
        numpy.ndarray
            float32 [n, d]. The same for any batch size up to float rounding.

        Raises
        ------
        DataError
            When too few genes match, or the counts are none.
        ConfigError
            When a number makes no sense.
        """
        if n_draws < 1:
            raise ConfigError(f"n_draws is {n_draws}: at least 1 is needed")
        blocks = self.config.n_layers
        if at_layer is not None and not 1 <= at_layer <= blocks:
            raise ConfigError(f"at_layer is {at_layer}: this model has blocks 1 to {blocks}")
        parts = []
        for cells, padded in self._batches(
            adata, layer, library_key, rows, n_tokens, batch_size, min_gene_overlap, progress
        ):
            total: Tensor | None = None
            draws = n_draws if n_tokens is not None and n_tokens < len(self.genes) else 1
            for draw in range(draws):
                tokens = self.module.tokens(cells, n_tokens, -1 - draw)
                found = self.module.encode(*tokens, padded=padded, at_layer=at_layer)
                total = found if total is None else total + found
            assert total is not None
            parts.append((total / draws).float().cpu().numpy())
        if not parts:
            return np.empty((0, self.config.d_model), np.float32)
        return np.concatenate(parts)

    @torch.inference_mode()
    @checked
    def get_layer_representations(
        self,
        adata: AnnData | str | Path | CellCollection,
        *,
        layer: str | None = None,
        library_key: str | None = None,
        rows: ArrayLike | None = None,
        n_tokens: int | None = None,
        n_draws: int = 1,
        batch_size: int | None = None,
        min_gene_overlap: float = 0.8,
        progress: bool = False,
    ) -> list[NDArray[np.float32]]:
        """Return each cell's CLS token after each block, from one pass through the network.

        The parameters are those of `get_latent_representation`.

        Returns
        -------
        list of numpy.ndarray
            float32 [n, d] for each block; the last is what `get_latent_representation` returns.
        """
        if n_draws < 1:
            raise ConfigError(f"n_draws is {n_draws}: at least 1 is needed")
        draws = n_draws if n_tokens is not None and n_tokens < len(self.genes) else 1
        parts = []
        for cells, padded in self._batches(
            adata, layer, library_key, rows, n_tokens, batch_size, min_gene_overlap, progress
        ):
            total: Tensor | float = 0.0
            for draw in range(draws):
                tokens = self.module.tokens(cells, n_tokens, -1 - draw)
                total = total + torch.stack(self.module.encode_layers(*tokens, padded=padded))
            assert isinstance(total, Tensor)
            parts.append((total / draws).float().cpu().numpy())
        if not parts:
            return [np.empty((0, self.config.d_model), np.float32)] * self.config.n_layers
        return list(np.concatenate(parts, axis=1))

    @torch.inference_mode()
    @checked
    def get_normalized_expression(
        self,
        adata: AnnData | str | Path | CellCollection,
        *,
        layer: str | None = None,
        library_key: str | None = None,
        rows: ArrayLike | None = None,
        genes: Sequence[str] | None = None,
        n_tokens: int | None = None,
        batch_size: int | None = None,
        min_gene_overlap: float = 0.8,
        progress: bool = False,
    ) -> NDArray[np.float32]:
        """Return the reconstructed expression x̂ = log(1 + L·rate), float32 [n, genes].

        The rate is the count to expect as a share of the cell's counts, whatever the loss; of a
        zero-inflated one after the loss of counts.

        Parameters
        ----------
        genes
            Which genes of the vocabulary, by name; all by default.

        The other parameters are those of `get_latent_representation`.
        """
        columns = slice(None) if genes is None else self._columns(genes)
        parts = []
        for cells, padded in self._batches(
            adata, layer, library_key, rows, n_tokens, batch_size, min_gene_overlap, progress
        ):
            tokens = self.module.tokens(cells, n_tokens, -1)
            hidden = self.module.decoder.hidden(self.module.encode(*tokens, padded=padded))
            found = self.module.expression(hidden, cells.observed, columns)
            parts.append(found.float().cpu().numpy())
        n_columns = len(self.genes) if genes is None else len(genes)
        return np.concatenate(parts) if parts else np.empty((0, n_columns), np.float32)

    @checked
    def get_gene_embeddings(
        self, which: Literal["encoder", "decoder"] = "encoder"
    ) -> NDArray[np.float32]:
        """Return the encoder's token of each gene [G, d − 1], or the decoder's weights [G, d]."""
        if which not in ("encoder", "decoder"):
            raise ConfigError(f"which is {which!r}: it must be 'encoder' or 'decoder'")
        tensor = (
            self.module.embedding.gene_embeddings
            if which == "encoder"
            else self.module.decoder.genes.weight
        )
        return tensor.detach().float().cpu().numpy().copy()

    def _columns(self, genes: Sequence[str]) -> NDArray[np.int64]:
        columns: NDArray[np.int64] = pd.Index(self.genes).get_indexer(pd.Index(genes))
        absent = [gene for gene, column in zip(genes, columns, strict=True) if column < 0]
        if absent:
            raise DataError(
                f"{len(absent):,} of the {len(genes):,} genes asked for are not among the model's "
                f"{len(self.genes):,}, first {absent[0]!r}; {closest(absent[0], self.genes)}"
            )
        return columns

    def _batches(
        self,
        adata: AnnData | str | Path | CellCollection,
        layer: str | None,
        library_key: str | None,
        rows: ArrayLike | None,
        n_tokens: int | None,
        batch_size: int | None,
        min_gene_overlap: float,
        progress: bool,
    ) -> Iterator[tuple[Cells, bool]]:
        """Read cells over the vocabulary, and whether some have fewer genes than are revealed."""
        collection = as_collection(adata, layer=layer, library_key=library_key)
        if n_tokens is not None and n_tokens < 1:
            raise ConfigError(f"n_tokens is {n_tokens}: at least 1 is needed")
        view = collection.with_genes(self.genes, min_gene_overlap, absent="unobserved")
        wanted = np.arange(view.n_cells) if rows is None else np.asarray(rows, dtype=np.int64)
        observed = view.observed
        length = len(self.genes) if observed is None else observed.largest
        if n_tokens is not None:
            length = min(n_tokens, length)
        padded = observed is not None and observed.smallest < length
        size = batch_size or max(1, NUMBERS_AT_A_TIME // ((length + 1) * self.config.d_model))
        device = next(self.module.parameters()).device
        with tqdm(total=len(wanted), unit="cell", desc="cells", disable=not progress) as bar:
            for start in range(0, len(wanted), size):
                cells = view.batch(wanted[start : start + size]).to(device)
                yield cells, padded
                bar.update(len(cells))

    # -- saving ----------------------------------------------------------------------------------

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
    def load(cls, path: str | Path) -> CellEncoder:
        """Load what `save` wrote, or the ``model`` of a run directory.

        Raises
        ------
        CheckpointError
            If there is none, it is damaged, or it is no TxFM.
        """
        tensors, meta = read_saved(path, FORMAT)
        with drawing_from(0):  # overwritten at once, but the caller's generator must stay
            module = TxFMModule(len(meta["genes"]), TxFMConfig(**meta["config"]), meta["seed"])
        module.load_state_dict(tensors)
        return cls(module, meta["genes"], meta["info"])
