"""CellEncoder: a trained TxFM, which turns counts into representations and expression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from tqdm.auto import tqdm

from kernomics._arguments import checked
from kernomics.data import CellCollection, Cells
from kernomics.data.readers.inputs import ReadOptions
from kernomics.errors import ConfigError, DataError, closest
from kernomics.models.base import checked_integer, checked_names
from kernomics.models.known_cells import KnownCells
from kernomics.models.seen_cells import seen_among
from kernomics.models.trained import TrainedModel, place_for
from kernomics.models.txfm.config import TxFMConfig
from kernomics.models.txfm.module import Tokens, TxFMModule

if TYPE_CHECKING:
    from anndata import AnnData

NUMBERS_AT_A_TIME = 2**23
"""Token entries (cells × tokens × width) of a batch at inference: 32 MB a layer's activations."""


class CellEncoder(TrainedModel):
    """A trained TxFM.

    Made by `TxFM.train` or `CellEncoder.load`.

    Attributes
    ----------
    module : TxFMModule
        The network.
    genes : numpy.ndarray
        The vocabulary, object array of str [G].
    info : dict
        How it was made: training settings, seed, version, cells, and ``reading``, the options
        they were read with.
    """

    FORMAT = "kernomics txfm 1"
    EMBEDDINGS = "embedding.table"

    module: TxFMModule

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
        rows: ArrayLike | None = None,
        n_tokens: int | None = None,
        n_draws: int = 1,
        block: int | None = None,
        batch_size: int | None = None,
        min_gene_overlap: float = 0.8,
        progress: bool = False,
        out: Any = None,
        **reading: Unpack[ReadOptions],
    ) -> NDArray[np.float32]:
        """Return each cell's CLS token after the last block.

        Parameters
        ----------
        adata
            AnnData, path of an ``.h5ad`` file of any size, or a collection; not modified. Genes are
            matched by name; genes of the vocabulary that are missing are not revealed.
        rows
            Which cells, int [n] in any order, or bool with one value per cell (default: all).
        n_tokens
            How many genes to reveal, drawn by the seed and the cell's name, whatever its position
            or file; cells with the same name get the same draw. None, or at least as many as a cell
            has, reveals all, in time that grows with the square of their number.
        n_draws
            With `n_tokens`, how many draws of genes to average over.
        block
            Take the representation after this block, counting from 1 (default: the last).
        batch_size
            Cells per batch; by default as many as keep a layer's activations near 32 MB.
        min_gene_overlap
            The fraction of the vocabulary that the data must have.
        progress
            Whether to show a progress bar.
        out
            An array [n, d] to which the representations are written as they come, and which is
            returned, such as a ``numpy.memmap`` or an h5py data set; nothing else is held of them.
        **reading
            How to read an AnnData or a file, as in `kernomics.data.ReadOptions`. Options not given
            are as in training, ``info["reading"]``. Options given take precedence, so
            ``layer=None`` is X and ``gene_names=None`` is ``var_names``, which is also used if it
            matches more of the vocabulary than the column does; ``library_key=None`` looks for the
            sizes in the data. `empty_cells` concerns cells without counts in the vocabulary:
            ``"keep"`` gives them all the same representation. It may also be given with a
            collection; one read with
            ``"keep"`` keeps them in either case.

        Returns
        -------
        numpy.ndarray
            float32 [n, d]. Independent of the batch size up to rounding.

        Raises
        ------
        DataError
            If too few genes match, the data are not counts, `rows` are not cells, or a cell has no
            counts in the vocabulary; or if the data have no counts, gene names or library sizes
            where those of the training had them, and no other place is given.
        ConfigError
            If a number is out of range.
        """
        n_draws = checked_integer("n_draws", n_draws)
        if block is not None:
            block = self.checked_block(block)
        cells = self.read(adata, **reading)
        known = self._known(cells, rows, min_gene_overlap, reading)
        place: NDArray[np.float32] = place_for(out, (len(known.rows), self.config.d_model))
        done = 0
        for batch in self._read(known, n_tokens, batch_size, progress):
            draws = self._draws(batch, n_tokens, n_draws)
            found = [self.module.encode(*tokens, block=block) for tokens in draws]
            place[done : done + len(batch)] = torch.stack(found).mean(0).float().cpu().numpy()
            done += len(batch)
        return place

    @torch.inference_mode()
    @checked
    def get_block_representations(
        self,
        adata: AnnData | str | Path | CellCollection,
        *,
        rows: ArrayLike | None = None,
        n_tokens: int | None = None,
        n_draws: int = 1,
        batch_size: int | None = None,
        min_gene_overlap: float = 0.8,
        progress: bool = False,
        **reading: Unpack[ReadOptions],
    ) -> list[NDArray[np.float32]]:
        """Return each cell's CLS token after each block, from one pass through the network.

        The parameters are those of `get_latent_representation`.

        Returns
        -------
        list of numpy.ndarray
            float32 [n, d] for each block; the last is what `get_latent_representation` returns.
        """
        n_draws = checked_integer("n_draws", n_draws)
        parts = [np.empty((self.config.n_layers, 0, self.config.d_model), np.float32)]
        for cells in self._batches(
            adata, reading, rows, n_tokens, batch_size, min_gene_overlap, progress
        ):
            draws = self._draws(cells, n_tokens, n_draws)
            found = [torch.stack(self.module.encode_layers(*tokens)) for tokens in draws]
            parts.append(torch.stack(found).mean(0).float().cpu().numpy())
        return list(np.concatenate(parts, axis=1))

    @torch.inference_mode()
    @checked
    def get_normalized_expression(
        self,
        adata: AnnData | str | Path | CellCollection,
        *,
        rows: ArrayLike | None = None,
        genes: str | Sequence[str] | None = None,
        n_tokens: int | None = None,
        batch_size: int | None = None,
        min_gene_overlap: float = 0.8,
        progress: bool = False,
        **reading: Unpack[ReadOptions],
    ) -> NDArray[np.float32]:
        """Return the reconstructed expression x̂ = log(1 + L·rate), float32 [n, genes].

        The rate is the expected count as a fraction of the cell's counts, whatever the loss; for a
        zero-inflated loss it includes the dropout of counts.

        Parameters
        ----------
        genes
            Which genes of the vocabulary, by name, or the name of one (default: all).

        The other parameters are those of `get_latent_representation`.
        """
        columns = np.arange(len(self.genes)) if genes is None else self._columns(genes)
        parts = [np.empty((0, len(columns)), np.float32)]
        for cells in self._batches(
            adata, reading, rows, n_tokens, batch_size, min_gene_overlap, progress
        ):
            for tokens in self._draws(cells, n_tokens, 1):
                hidden = self.module.decoder.hidden(self.module.encode(*tokens))
                wanted = slice(None) if genes is None else columns
                found = self.module.expression(hidden, cells.observed, wanted)
                parts.append(found.float().cpu().numpy())
        return np.concatenate(parts)

    @checked
    def cells_seen(
        self,
        adata: AnnData | str | Path | CellCollection,
        *,
        rows: ArrayLike | None = None,
        **reading: Unpack[ReadOptions],
    ) -> tuple[int, int]:
        """Return how many cells have the counts of cells of the training, and of how many told.

        The model keeps digests of the counts, over its genes, of at most 4,096 training cells; of
        a model trained on more, a sample of the cells asked about can be told, which is a fair one.
        Cells that express fewer than 20 of its genes cannot. Where the data lack some of its genes,
        only cells are found that had no counts of them in the training. A model that was fine-tuned
        knows the cells of the last training.

        Parameters
        ----------
        adata, rows
            Cells as for `get_latent_representation`.
        **reading
            How to read them, likewise.

        Returns
        -------
        tuple of int
            Those found, and those that could be told. 0 of 0 where the model was saved before it
            kept digests.
        """
        return seen_among(self.info, self.genes, self.read(adata, **reading), rows)

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

    def checked_block(self, block: int) -> int:
        """Return the number of a block, from 1, if this model has it.

        Raises
        ------
        ConfigError
            When it has not.
        """
        number, blocks = checked_integer("block", block, -1), self.config.n_layers
        if not 1 <= number <= blocks:
            raise ConfigError(f"block is {number}: this model has blocks 1 to {blocks}")
        return number

    def _columns(self, genes: str | Sequence[str]) -> NDArray[np.int64]:
        names = checked_names(genes)
        if not names:
            raise DataError("genes is empty: leave it out for all genes, or name some")
        columns: NDArray[np.int64] = pd.Index(self.genes).get_indexer(pd.Index(names))
        absent = [gene for gene, column in zip(names, columns, strict=True) if column < 0]
        if absent:
            raise DataError(
                f"{len(absent):,} of the {len(names):,} genes asked for are not among the model's "
                f"{len(self.genes):,}, first {absent[0]!r}; {closest(absent[0], self.genes)}"
            )
        return columns

    def _batches(
        self,
        adata: AnnData | str | Path | CellCollection,
        reading: ReadOptions,
        rows: ArrayLike | None,
        n_tokens: int | None,
        batch_size: int | None,
        min_gene_overlap: float,
        progress: bool,
    ) -> Iterator[Cells]:
        """Read cells over the vocabulary; their `cell_ids` are keys of their names."""
        collection = self.read(adata, **reading)
        known = self._known(collection, rows, min_gene_overlap, reading)
        return self._read(known, n_tokens, batch_size, progress)

    def _read(
        self, known: KnownCells, n_tokens: int | None, batch_size: int | None, progress: bool
    ) -> Iterator[Cells]:
        if n_tokens is not None:
            n_tokens = checked_integer("n_tokens", n_tokens)
        if batch_size is not None:
            batch_size = checked_integer("batch_size", batch_size)
        size = batch_size or self._cells_at_a_time(known, n_tokens)
        device = next(self.module.parameters()).device
        with tqdm(total=len(known.rows), unit="cell", desc="cells", disable=not progress) as bar:
            for cells in known.batches(size):
                yield cells.to(device)
                bar.update(len(cells))

    def _cells_at_a_time(self, known: KnownCells, n_tokens: int | None) -> int:
        length = known.most_genes if n_tokens is None else min(n_tokens, known.most_genes)
        numbers = (length + 1) * self.config.d_model
        if self.module.linear is not None:  # which makes a cell's genes dense
            numbers = max(numbers, len(self.genes))
        return max(1, NUMBERS_AT_A_TIME // numbers)

    def _draws(self, cells: Cells, n_tokens: int | None, n_draws: int) -> Iterator[Tokens]:
        """Reveal genes several times, or once where all are revealed."""
        for draw in range(1 if self.module.revealed(cells, n_tokens) is None else n_draws):
            yield self.module.tokens(cells, n_tokens, -1 - draw)

    # -- saving ----------------------------------------------------------------------------------

    @classmethod
    def _network(cls, meta: Mapping[str, Any], weights: Mapping[str, Tensor]) -> TxFMModule:
        return TxFMModule(len(meta["genes"]), TxFMConfig(**meta["config"]), meta["seed"])
