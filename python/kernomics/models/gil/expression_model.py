"""`ExpressionModel`: a trained GIL, which predicts expression and represents cells."""

from __future__ import annotations

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
from kernomics._warnings import warn
from kernomics.data import CellCollection
from kernomics.data.genes import places_of
from kernomics.data.readers.inputs import ReadOptions
from kernomics.errors import ConfigError, closest
from kernomics.models.base import checked_integer
from kernomics.models.gil.config import GILConfig
from kernomics.models.gil.module import GILModule
from kernomics.models.gil.tokens import expressed_genes, shown
from kernomics.models.known_cells import KnownCells
from kernomics.models.trained import TrainedModel, place_for

if TYPE_CHECKING:
    from anndata import AnnData

NUMBERS_AT_A_TIME = 8_000_000
INFERENCE_DRAW = -2


class ExpressionModel(TrainedModel):
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

    FORMAT = "kernomics gil 1"
    EMBEDDINGS = "genes"

    module: GILModule

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
        out: Any = None,
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
        out
            An array [n, d] to which the states are written as they come, and which is returned,
            such as a ``numpy.memmap`` or an h5py data set; nothing else is held of them.
        **reading
            How to read an AnnData or a file, as in `kernomics.data.ReadOptions`; what is not given
            is as it was in training.

        Raises
        ------
        DataError
            When too few genes match, or a cell has no count of the genes known.
        """
        known = self._known(self.read(adata, **reading), rows, min_gene_overlap, reading)
        place: NDArray[np.float32] = place_for(out, (len(known.rows), self.config.d_model))
        done = 0
        for cls, _ in self._states(known, None, n_tokens, batch_size, progress):
            place[done : done + len(cls)] = cls.float().cpu().numpy()
            done += len(cls)
        return place

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
            the model sees: with all at once it would see nothing, of which it warns.

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
        known = self._known(self.read(adata, **reading), rows, min_gene_overlap, reading)
        device = self.module.genes.device
        asked = torch.from_numpy(places_of(names, self.genes)).to(device)
        parts = [np.empty((0, len(names)), np.float32)]
        bare = [np.empty(0, np.bool_)]
        for cls, nothing_left in self._states(known, asked, n_tokens, batch_size, progress):
            bare.append(nothing_left)
            cells = torch.arange(len(cls), device=device).repeat_interleave(len(asked))
            outputs = self.module.ask(cls, cells, asked.repeat(len(cls)))
            values = self.module.predicted(outputs).view(len(cls), -1)
            parts.append(values.cpu().numpy())
        index = pd.Index(known.view.cell_names[known.rows].astype(str))
        without = np.flatnonzero(np.concatenate(bare))
        if without.size:
            warn(
                f"{without.size:,} of the {len(index):,} cells express none of the model's genes "
                f"beside the {len(set(names)):,} asked for, first cell {index[without[0]]!r}: what "
                "is predicted of such cells is the same for all; ask for fewer genes at a time"
            )
        return pd.DataFrame(np.concatenate(parts), index=index, columns=names)

    def get_gene_embeddings(self) -> NDArray[np.float32]:
        """Return the embedding of each gene, float32 [V, d]."""
        return self.module.genes.detach().float().cpu().numpy().copy()

    def _states(
        self,
        known: KnownCells,
        asked: Tensor | None,
        n_tokens: int | None,
        batch_size: int | None,
        progress: bool,
    ) -> Iterator[tuple[Tensor, NDArray[np.bool_]]]:
        """Yield the cells' states in their order, [B, d]; genes asked for are not shown.

        Beside them, which cells have nothing to show for that alone, bool [B].
        """
        if n_tokens is not None:
            n_tokens = checked_integer("n_tokens", n_tokens)
        if batch_size is not None:
            batch_size = checked_integer("batch_size", batch_size)
        module, device = self.module, self.module.genes.device
        size = batch_size or self._cells_at_a_time(known, n_tokens)
        with tqdm(total=len(known.rows), unit="cell", desc="cells", disable=not progress) as bar:
            for batch in known.batches(size):
                cells = batch.to(device)
                tokens = expressed_genes(cells, self.config.target_sum)
                before = tokens.lengths
                if asked is not None:
                    tokens = tokens.of(~torch.isin(tokens.gene_ids, asked))
                left_bare = ((before > 0) & (tokens.lengths == 0)).cpu().numpy()
                if n_tokens is not None:
                    share, draw = self.config.expression_share, module.at(INFERENCE_DRAW)
                    tokens = shown(tokens, cells.cell_ids, n_tokens, share, draw)
                yield module.encode(tokens)[0], left_bare
                bar.update(len(cells))

    def _cells_at_a_time(self, known: KnownCells, n_tokens: int | None) -> int:
        return max(1, NUMBERS_AT_A_TIME // (1024 * self.config.d_model))

    # -- saving ------------------------------------------------------------------------------------

    @classmethod
    def _network(cls, meta: Mapping[str, Any], weights: Mapping[str, Tensor]) -> GILModule:
        module = GILModule(len(meta["genes"]), GILConfig(**meta["config"]), meta["seed"])
        module.add_adapters_of(weights)
        return module
