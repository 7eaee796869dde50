"""`PhenotypeModel`: a trained PolyGene, which predicts phenotypes and represents cells."""

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
from kernomics.data import CellCollection, Cells
from kernomics.data.readers.inputs import ReadOptions, divided_options
from kernomics.data.row_numbers import row_numbers
from kernomics.models.base import checked_integer
from kernomics.models.known_cells import KnownCells
from kernomics.models.polygene.config import PolyGeneConfig
from kernomics.models.polygene.module import PolyGeneModule
from kernomics.models.polygene.phenotypes import (
    REST,
    Phenotypes,
    prediction_table,
    score_phenotype,
)
from kernomics.models.seen_cells import seen_among
from kernomics.models.tasks import Task, read_outputs
from kernomics.models.trained import TrainedModel, place_for

if TYPE_CHECKING:
    from anndata import AnnData

NUMBERS_AT_A_TIME = 8_000_000


class PhenotypeModel(TrainedModel):
    """A trained masked transformer of phenotypes and expressed genes.

    Parameters
    ----------
    module
        The network.
    genes
        The vocabulary.
    info
        How it was trained.
    """

    FORMAT = "kernomics polygene 1"
    EMBEDDINGS = "genes"

    module: PolyGeneModule

    def __repr__(self) -> str:
        config = self.config
        blocks = f"{config.n_layers} block{'s' * (config.n_layers > 1)}"
        return (
            f"PolyGene of {blocks}, width {config.d_model}, {len(self.genes):,} genes, for "
            f"{', '.join(task.name for task in self.tasks)}"
        )

    @property
    def config(self) -> PolyGeneConfig:
        """The settings of the network."""
        return self.module.config

    @property
    def tasks(self) -> list[Task]:
        """The phenotypes."""
        return self.module.tasks

    @checked
    def task(self, name: str) -> Task:
        """Return a phenotype by name, or say which there are."""
        return self.phenotypes.require(name)

    @property
    def phenotypes(self) -> Phenotypes:
        """How the phenotypes are found in the cells of a data set."""
        return Phenotypes(self.tasks, self.info.get("unlabelled_category"))

    @checked
    def cells_seen(
        self,
        adata: AnnData | str | Path | CellCollection,
        *,
        rows: ArrayLike | None = None,
        **reading: Unpack[ReadOptions],
    ) -> tuple[int, int]:
        """Return how many cells have the counts of cells of the training, and of how many told.

        As `CellEncoder.cells_seen`, with the same parameters.
        """
        return seen_among(self.info, self.genes, self.read(adata, **reading), rows)

    # -- inference -------------------------------------------------------------------------------

    @torch.inference_mode()
    @checked
    def probabilities(
        self,
        adata: AnnData | str | Path | CellCollection,
        target: str | Sequence[str] | None = None,
        *,
        given: str | Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        rows: ArrayLike | None = None,
        n_tokens: int | None = None,
        batch_size: int | None = None,
        min_gene_overlap: float = 0.8,
        progress: bool = False,
        **reading: Unpack[ReadOptions],
    ) -> dict[str, NDArray[np.float32]]:
        """Return each cell's probabilities of the values of phenotypes, float32 [n, classes].

        Parameters
        ----------
        adata
            AnnData, path of an ``.h5ad`` file of any size, or a collection; not modified. Genes
            are matched by name.
        target
            Which phenotypes to predict; all by default. They are masked.
        given
            Phenotypes that are shown to the model as they are; a cell may lack some. ``"rest"``
            shows all but the one that is predicted. None by default: what is predicted then comes
            from the genes alone.
        labels
            obs column of a phenotype, if its name differs from the one in training.
        rows
            Which cells, int [n] or bool [n_cells]; all by default.
        n_tokens
            The most expressed genes to show, chosen by the seed and the cell's name; all by
            default.
        batch_size
            Cells at a time; by default what keeps a layer's activations near 32 MB.
        min_gene_overlap
            The share of the vocabulary that the data must have.
        progress
            Whether to show a progress bar.
        **reading
            How to read an AnnData or a file, as in `kernomics.data.ReadOptions`; what is not given
            is as it was in training.

        Raises
        ------
        DataError
            When too few genes match, or a cell has no count of the vocabulary.
        ConfigError
            When a phenotype is not known, or both shown and predicted.
        """
        wanted = [t.name for t in self.tasks] if target is None else words_of("target", target)
        for name in [*wanted, *(labels or {})]:
            self.task(name)
        cells = self.read(adata, **reading)
        known = self._known(cells, rows, min_gene_overlap, reading)
        found: dict[str, NDArray[np.float32]] = {}
        rest = isinstance(given, str) and given == REST
        for names in [[name] for name in wanted] if rest else [wanted]:
            shown = self.phenotypes.shown(cells, given, names, labels)
            parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
            for _, states in self._states(known, shown, n_tokens, batch_size, progress):
                outputs = self.module.logits(states)
                for task, output in zip(self.tasks, outputs, strict=True):
                    if task.name in parts:
                        parts[task.name].append(read_outputs(task, output))
            for name in names:
                empty = np.empty((0, self.task(name).n_out), np.float32)
                found[name] = np.concatenate([empty, *parts[name]])
        return {name: found[name] for name in wanted}

    @checked
    def predict(
        self,
        adata: AnnData | str | Path | CellCollection,
        target: str | Sequence[str] | None = None,
        **options: Any,
    ) -> pd.DataFrame:
        """Predict phenotypes.

        Parameters
        ----------
        adata, target, **options
            As in `probabilities`.

        Returns
        -------
        pandas.DataFrame
            One row per cell: per phenotype a column of its name, ``<name>_probability`` of the
            value predicted, and ``<name>:<value>``, the probability of each value.
        """
        reading, others = _divided(options)
        cells = self.read(adata, **reading)
        found = self.probabilities(cells, target, **others)
        names = cells.cell_names.astype(str)
        if options.get("rows") is not None:
            names = names[row_numbers(options["rows"], cells.n_cells)]
        return prediction_table([self.task(name) for name in found], found, names.tolist())

    @checked
    def evaluate(
        self,
        adata: AnnData | str | Path | CellCollection,
        target: str | Sequence[str] | None = None,
        **options: Any,
    ) -> dict[str, dict[str, float]]:
        """Score the predictions on cells that have the phenotypes.

        Parameters
        ----------
        adata, target, **options
            As in `probabilities`; by default all phenotypes that the data have and `given` does
            not name are scored.

        Returns
        -------
        dict
            Per phenotype the number of cells, accuracy, balanced accuracy, F1 scores and AUPRC.

        Raises
        ------
        DataError
            When obs has none of the phenotypes.
        """
        reading, others = _divided(options)
        cells = self.read(adata, **reading)
        truth, found = self.labelled_outputs(cells, target, **others)
        return {name: score_phenotype(self.task(name), truth[name], found[name]) for name in found}

    def labelled_outputs(
        self,
        cells: CellCollection,
        target: str | Sequence[str] | None = None,
        *,
        given: str | Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        rows: ArrayLike | None = None,
        **options: Any,
    ) -> tuple[dict[str, NDArray[np.int64]], dict[str, NDArray[np.float32]]]:
        """Return what `evaluate` scores, with its parameters: codes int64 [n], and probabilities.

        A code of −1 stands for a missing value and for one that the model does not know.
        """
        some: Any = slice(None) if rows is None else row_numbers(rows, cells.n_cells)
        wanted = self.phenotypes.wanted(cells, target, given, labels)
        truth = {name: self.phenotypes.codes(cells, name, labels)[some] for name in wanted}
        return truth, self.probabilities(
            cells, wanted, given=given, labels=labels, rows=rows, **options
        )

    def evaluate_labels(
        self, cells: CellCollection, rows: NDArray[np.int64]
    ) -> dict[str, dict[str, float]]:
        """Score phenotypes, predicted from the genes alone, by the labels of a collection."""
        found = self.probabilities(cells, rows=rows, empty_cells="keep")
        return {
            name: score_phenotype(self.task(name), cells.labels[name].values[rows], outputs)
            for name, outputs in found.items()
        }

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
        """Return the mean of the masked phenotypes' states after the last block, float32 [n, d].

        Parameters
        ----------
        out
            An array [n, d] to which they are written as they come, and which is returned, such as a
            ``numpy.memmap`` or an h5py data set; nothing else is held of them.

        The other parameters are those of `probabilities`.
        """
        cells = self.read(adata, **reading)
        known = self._known(cells, rows, min_gene_overlap, reading)
        place: NDArray[np.float32] = place_for(out, (len(known.rows), self.config.d_model))
        shown = np.full((cells.n_cells, len(self.tasks)), -1, np.int64)
        done = 0
        for batch, states in self._states(known, shown, n_tokens, batch_size, progress):
            place[done : done + len(batch)] = states.mean(1).float().cpu().numpy()
            done += len(batch)
        return place

    def get_gene_embeddings(self) -> NDArray[np.float32]:
        """Return the embedding of each gene, float32 [G, d]."""
        return self.module.genes.detach().float().cpu().numpy().copy()

    def shown_codes(
        self, cells: CellCollection, given: str | Sequence[str], hidden: Sequence[str]
    ) -> NDArray[np.int64]:
        """Return the codes of the phenotypes as the model sees them, int64 [n_cells, P]."""
        return self.phenotypes.shown(cells, given, hidden)

    def _states(
        self,
        known: KnownCells,
        shown: NDArray[np.int64],
        n_tokens: int | None,
        batch_size: int | None,
        progress: bool,
    ) -> Iterator[tuple[Cells, Tensor]]:
        """Encode the cells in their order; see `PolyGeneModule.encode`."""
        if n_tokens is not None:
            n_tokens = checked_integer("n_tokens", n_tokens)
        if batch_size is not None:
            batch_size = checked_integer("batch_size", batch_size)
        device = next(self.module.parameters()).device
        size = batch_size or self._cells_at_a_time(known, n_tokens)
        done = 0
        with tqdm(total=len(known.rows), unit="cell", desc="cells", disable=not progress) as bar:
            for batch in known.batches(size):
                codes = shown[known.rows[done : done + len(batch)]]
                done += len(batch)
                cells = batch.to(device)
                tokens = self.module.gene_tokens(cells, n_tokens, -1)
                yield (
                    cells,
                    self.module.encode(
                        self.module.embed_phenotypes(torch.from_numpy(codes).to(device)),
                        self.module.embed_genes(tokens.gene_ids, tokens.bins),
                        tokens.lengths,
                    ),
                )
                bar.update(len(cells))

    def _cells_at_a_time(self, known: KnownCells, n_tokens: int | None) -> int:
        return max(1, NUMBERS_AT_A_TIME // (1024 * self.config.d_model))

    # -- saving ----------------------------------------------------------------------------------

    def _about(self) -> dict[str, Any]:
        return {"tasks": [dataclasses.asdict(task) for task in self.tasks]}

    @classmethod
    def _network(cls, meta: Mapping[str, Any], weights: Mapping[str, Tensor]) -> PolyGeneModule:
        tasks = [Task.from_dict(saved) for saved in meta["tasks"]]
        config, edges = PolyGeneConfig(**meta["config"]), weights["edges"].tolist()
        return PolyGeneModule(len(meta["genes"]), tasks, config, edges, meta["seed"])


def _divided(options: Mapping[str, Any]) -> tuple[ReadOptions, dict[str, Any]]:
    """Divide options into those of reading and what `probabilities` takes of cells read already."""
    reading, others = divided_options(options)
    if "empty_cells" in reading:
        others["empty_cells"] = reading["empty_cells"]
    return reading, others
