"""Panel: the genes that a training selected, and the network that predicts from them alone."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from kernomics._arguments import checked, words_of
from kernomics._warnings import warn
from kernomics.data import CellCollection, Labels
from kernomics.data.labels import column
from kernomics.data.readers.inputs import ReadOptions
from kernomics.data.row_numbers import parts, row_numbers
from kernomics.errors import ConfigError, DataError, closest
from kernomics.models.extension import check_new
from kernomics.models.reading import read_as_trained
from kernomics.models.saved import describes, read_saved
from kernomics.models.seen_cells import SeenCells, seen_among
from kernomics.models.tasks import Task, read_outputs, score_task
from kernomics.models.yoto.added_genes import AddedGenes, taught
from kernomics.models.yoto.missing_genes import (
    checked_absent,
    missing_warning,
    panel_input,
    require_genes,
)
from kernomics.models.yoto.network import PanelNetwork
from kernomics.models.yoto.truths import truth_of
from kernomics.train import TrainConfig, save_model_dir

if TYPE_CHECKING:
    from anndata import AnnData

FORMAT = "kernomics panel 1"
STEPS_OF_EXTENSION = 2_000
EXTENSION: dict[str, Any] = {"batch_size": 128, "learning_rate": 3e-3, "patience": 10}


class Panel:
    """A trained panel: genes, scores, tasks and predictor.

    Made by `YOTO.train` or `Panel.load`. It reads only the k columns of its genes, unless its
    transform is ``"lognorm"``.

    Attributes
    ----------
    genes : list of str
        The panel, best first.
    ranking : pandas.DataFrame
        All candidate genes by score: columns ``score`` (+inf forced, −inf excluded), ``selected``,
        ``rank`` (from 1).
    tasks : tuple of Task
        What is predicted.
    info : dict
        How it was made: configuration, seed, version, split, kinds of labels, ``library`` (the rule
        for library sizes), ``reading`` (the options the cells were read with) and ``without`` (what
        each missing gene costs, `missing_genes.costs_without`).
    input_means : Tensor or None
        float32 [k], each gene's mean input over the training cells, which replaces genes missing
        from the data; None if unknown.
    added : list of AddedGenes
        What `extend` taught, one part for each call.
    """

    @checked
    def __init__(
        self,
        network: PanelNetwork,
        genes: Sequence[str],
        all_genes: Sequence[str],
        scores: ArrayLike,
        info: Mapping[str, Any],
        *,
        input_means: Tensor | None = None,
        added: Sequence[AddedGenes] = (),
    ) -> None:
        self.network = network
        self.added = list(added)
        self.input_means = input_means
        self.genes = [str(gene) for gene in genes]
        self.tasks = network.tasks
        self.info = dict(info)
        ranking = pd.DataFrame(
            {"score": np.asarray(scores, dtype=np.float32)},
            index=pd.Index([str(gene) for gene in all_genes], name="gene"),
        )
        ranking["selected"] = ranking.index.isin(self.genes)
        # Selected first, so that ties at the panel's edge stay on the side where they fell.
        ranking = ranking.sort_values(["selected", "score"], ascending=False, kind="stable")
        ranking["rank"] = np.arange(1, len(ranking) + 1)
        self.ranking = ranking

    def __repr__(self) -> str:
        tasks = ", ".join(task.name for task in self.tasks)
        return f"Panel of {len(self.genes)} genes for {tasks}: {', '.join(self.genes[:8])}" + (
            ", …" if len(self.genes) > 8 else ""
        )

    @property
    def added_genes(self) -> list[str]:
        """The genes that `extend` added, which data may lack."""
        return [gene for part in self.added for gene in part.genes]

    @property
    def base(self) -> Panel:
        """The panel without the genes that `extend` added."""
        return Panel(
            self.network,
            self.genes,
            self.ranking.index.tolist(),
            self.ranking["score"],
            {name: value for name, value in self.info.items() if name != "added"},
            input_means=self.input_means,
        )

    # -- prediction ------------------------------------------------------------------------------

    @checked
    def outputs(
        self,
        cells: CellCollection,
        rows: ArrayLike | None = None,
        *,
        allow_missing: bool = False,
    ) -> dict[str, NDArray[Any]]:
        """Predict every task for some cells of a collection.

        Parameters
        ----------
        cells
            A collection that has the panel's genes.
        rows
            Which cells, int [n] or bool [n_cells] (default: all).
        allow_missing
            As in `predict`, with the same errors and warnings.

        Returns
        -------
        dict
            For each task, probabilities float32 [n, classes] or numbers float32 [n].
        """
        absent = checked_absent(self.genes, cells, self.input_means, allow=allow_missing)
        if absent:
            warn(missing_warning(self.genes, absent, self.info))
        return self._outputs(cells, rows, absent)

    def _outputs(
        self, cells: CellCollection, rows: ArrayLike | None, absent: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        """Predict as `outputs` does, some genes being filled whether they are there or not."""
        present = np.flatnonzero([gene not in absent for gene in self.genes])
        view = cells.with_genes([self.genes[i] for i in present], min_gene_overlap=1.0)
        wanted = np.arange(cells.n_cells) if rows is None else row_numbers(rows, cells.n_cells)
        found: dict[str, list[NDArray[Any]]] = {task.name: [] for task in self.tasks}
        with torch.inference_mode():
            for part in parts(len(wanted)):
                x = panel_input(self.network, view, wanted[part], present, self.input_means)
                outputs = self.network.outputs(x, self._shift(cells, wanted[part]))
                for task, output in zip(self.tasks, outputs, strict=True):
                    found[task.name].append(read_outputs(task, output))
        empty = {
            task.name: np.empty((0, task.n_out) if task.classes else 0, np.float32)
            for task in self.tasks
        }
        return {name: np.concatenate(some) if some else empty[name] for name, some in found.items()}

    def _shift(self, cells: CellCollection, rows: NDArray[np.int64]) -> Tensor | None:
        """Return what the added genes contribute; None where the data have none of them."""
        total = None
        for part in self.added:
            shift = part.shift(cells, rows, self.network.transform)
            if shift is not None:
                total = shift if total is None else total + shift
        return total

    @checked
    def predict(
        self,
        adata: AnnData | str | Path | CellCollection,
        *,
        allow_missing: bool = False,
        **reading: Unpack[ReadOptions],
    ) -> pd.DataFrame:
        """Predict the labels of cells; only the panel's genes are needed.

        Parameters
        ----------
        adata
            AnnData, path of an ``.h5ad`` file or collection; not modified.
        allow_missing
            Continue if the data lack genes of the panel, or have not measured them in every cell:
            each is set there to its mean over the training cells, which carries no information
            about a cell.
        **reading
            How to read an AnnData or a file, as in `kernomics.data.ReadOptions`. Options not given
            are as in training, ``info["reading"]``. Options given take precedence, so
            ``layer=None`` is X and ``gene_names=None`` is ``var_names``, which is also used if it
            matches more of the panel's genes than the column does. `library_key` matters only for
            ``transform="lognorm"``. Cells without counts are kept by default.

        Returns
        -------
        pandas.DataFrame
            One row per cell: a column for each label, and for classes ``<label>_probability``.

        Raises
        ------
        DataError
            If genes of the panel are missing from the data and `allow_missing` is False, or all are
            missing; the message names them. If the data have no counts or gene names where those
            of the training had them, and no other place is given.

        Warns
        -----
        UserWarning
            If genes are filled: their names, and how much the score on the held-out cells of the
            training data falls without each.
        """
        cells = self.read(adata, **reading)
        table: dict[str, Any] = {}
        for task, output in zip(
            self.tasks, self.outputs(cells, allow_missing=allow_missing).values(), strict=True
        ):
            if task.kind == "categorical":
                codes = output.argmax(1)
                table[task.name] = pd.Categorical.from_codes(codes, pd.Index(task.classes))
                table[f"{task.name}_probability"] = output.max(1)
            else:
                table[task.name] = output
        return pd.DataFrame(table, index=pd.Index(cells.cell_names.astype(str)))

    @checked
    def evaluate(
        self,
        adata: AnnData | str | Path | CellCollection,
        *,
        labels: Mapping[str, str] | None = None,
        allow_missing: bool = False,
        **reading: Unpack[ReadOptions],
    ) -> dict[str, dict[str, float]]:
        """Score the predictions on labelled cells.

        Parameters
        ----------
        adata, allow_missing, **reading
            As in `predict`.
        labels
            obs column of a task, if its name differs from the one in training.

        Returns
        -------
        dict
            For each task found in the data, accuracy, macro-F1 and AUPRC, or R², MAE and Pearson.

        Raises
        ------
        DataError
            If none of the tasks' labels or a given column is not in the data, or no cell has a
            class known to the panel; or if genes are missing, as in `predict`.
        ConfigError
            If `labels` names something that is not a task.

        Warns
        -----
        UserWarning
            If cells have classes unknown to the panel, which are left out of the scores; if all
            that remain are of one class. When genes are filled, as in `predict`.
        """
        cells = self.read(adata, **reading)
        found = self.labelled_outputs(cells, labels, allow_missing=allow_missing)
        return {
            task.name: score_task(task, *found[task.name])
            for task in self.tasks
            if task.name in found
        }

    @checked
    def labelled_outputs(
        self,
        cells: CellCollection,
        labels: Mapping[str, str] | None = None,
        *,
        allow_missing: bool = False,
    ) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
        """Return what `evaluate` scores: the truth [n] and the outputs of each task.

        Parameters
        ----------
        cells, labels, allow_missing
            As in `evaluate`, with the same errors and warnings.

        Returns
        -------
        dict
            Per task found in the data the class int64 [n], −1 for cells without a class that the
            panel knows, or the number float [n], NaN without; and the outputs of all cells.
        """
        truths = self._truths(cells, labels)
        outputs = self.outputs(cells, allow_missing=allow_missing)
        return {
            task.name: (truths[task.name], outputs[task.name])
            for task in self.tasks
            if task.name in truths
        }

    def _truths(
        self, cells: CellCollection, labels: Mapping[str, str] | None
    ) -> dict[str, NDArray[Any]]:
        """Return the true labels of the tasks that the data have."""
        given = dict(labels or {})
        known = [task.name for task in self.tasks]
        for name in given:
            if name not in known:
                raise ConfigError(f"the panel has no task {name!r}; {closest(name, known)}")
        obs = cells.obs
        truths = {
            task.name: truth_of(task, column(obs, given.get(task.name, task.name)))
            for task in self.tasks
            if task.name in given or task.name in obs.columns
        }
        if not truths:
            raise DataError(
                f"obs has none of the panel's labels {known}; its columns are {list(obs.columns)}: "
                "name the column of a label with labels={label: column}"
            )
        return truths

    def read(
        self, adata: AnnData | str | Path | CellCollection, **reading: Unpack[ReadOptions]
    ) -> CellCollection:
        """Read cells as `predict` does, with the same parameters."""
        lognorm, known = self.network.transform == "lognorm", self.info.get("library", {})
        if not isinstance(adata, CellCollection):
            # A cell may have none of the panel's genes, and a panel-only data set such cells.
            reading = {"empty_cells": "keep", **reading}
        cells = read_as_trained(adata, reading, self.info, self.genes, library=lognorm)
        if lognorm:
            cells.library_rule.tell(known)
        return cells

    @checked
    def cells_seen(
        self,
        adata: AnnData | str | Path | CellCollection,
        *,
        rows: ArrayLike | None = None,
        **reading: Unpack[ReadOptions],
    ) -> tuple[int, int]:
        """Return how many cells have the counts of cells of the training, and of how many told.

        As `CellEncoder.cells_seen`, by the counts of all genes of the training data: in data that
        hold the panel's genes alone no cell is found.

        Parameters
        ----------
        adata, **reading
            As in `predict`.
        rows
            Which cells, int [n] or bool [n_cells] (default: all).

        Returns
        -------
        tuple of int
            Those found, and those that could be told.
        """
        return seen_among(self.info, sorted(self.ranking.index), self.read(adata, **reading), rows)

    # -- more genes ------------------------------------------------------------------------------

    @checked
    def extend(
        self,
        genes: str | Sequence[str],
        adata: AnnData | str | Path | CellCollection,
        *,
        labels: Mapping[str, str] | None = None,
        max_epochs: int | None = None,
        seed: int = 0,
        progress: bool = True,
        **reading: Unpack[ReadOptions],
    ) -> Panel:
        """Return a panel that also reads other genes; without them it predicts what this one does.

        Everything that this panel learnt is fixed. A new gene has weights of its own, A in
        W·x + b + A·(x_new − x̄_new), before the first activation of the shared encoder, learnt from
        labelled cells. Where the data lack all added genes nothing is added, and predictions are
        those of this panel to the bit; a gene that some cells lack adds exactly 0 there.

        Parameters
        ----------
        genes
            New ones, which `adata` has.
        adata
            Cells with the panel's genes, the new ones, and labels of at least one task; AnnData,
            path of an ``.h5ad`` file or collection, not modified. A tenth of the cells tells when
            to stop, and whose weights to keep.
        labels
            obs column of a task, if its name differs from the one in training.
        max_epochs
            Passes over the cells at most; by default about 2,000 steps.
        seed
            Of the division of the cells and their order.
        progress
            Whether to show a progress bar.
        **reading
            As in `predict`.

        Raises
        ------
        ConfigError
            If a gene is in the panel already or named twice.
        DataError
            If the data lack genes, or have no label of the panel; see `evaluate`.
        """
        names = words_of("genes", genes)
        check_new(names, [*self.genes, *self.added_genes])
        cells = self.read(adata, **reading)
        every = [*self.genes, *self.added_genes, *names]
        require_genes(every, cells, remedy="cells that teach new genes have all genes measured")
        view = cells.with_genes(every, 1.0)
        if view.observed is not None and not bool(view.observed.mask.all()):
            raise DataError(
                "not every data set of the collection has all genes of the panel and all new "
                "ones: give the data sets that have"
            )
        truths = self._truths(cells, labels)
        view = view.with_labels(
            {
                task.name: Labels(task.name, task.kind, truths[task.name], task.classes)
                for task in self.tasks
                if task.name in truths
            }
        )
        epochs = max(1, round(STEPS_OF_EXTENSION * EXTENSION["batch_size"] / cells.n_cells))
        config = TrainConfig(
            max_epochs=epochs if max_epochs is None else max_epochs,
            seed=seed, progress=progress, **EXTENSION,
        )  # fmt: skip
        part, history = taught(copy.deepcopy(self.network), self.added, names, view, config)
        return Panel(
            self.network, self.genes, self.ranking.index.tolist(), self.ranking["score"],
            {
                **self.info,
                "added": [
                    *self.info.get("added", []),
                    {"genes": names, "cells": cells.n_cells, "loss": history.best_value},
                ],
            },
            input_means=self.input_means, added=[*self.added, part],
        )  # fmt: skip

    # -- saving ----------------------------------------------------------------------------------

    @checked
    def save(self, path: str | Path) -> None:
        """Save as ``model.safetensors`` and ``model.json``, readable without kernomics.

        Parameters
        ----------
        path
            A directory: new, empty, or holding a saved model, which is replaced.

        Raises
        ------
        CheckpointError
            If the directory holds something else or cannot be written.
        """
        scores = self.ranking["score"].to_numpy()
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors["scores"] = torch.from_numpy(scores.copy())
        if self.input_means is not None:
            tensors["input_means"] = self.input_means
        for i, part in enumerate(self.added):
            tensors |= {f"added.{i}.{name}": value for name, value in part.state_dict().items()}
        save_model_dir(
            path,
            tensors,
            {
                "format": FORMAT,
                "genes": self.genes,
                "all_genes": self.ranking.index.tolist(),
                "tasks": [dataclasses.asdict(task) for task in self.tasks],
                "hidden": self.network.hidden,
                "transform": self.network.transform,
                "added": [part.genes for part in self.added],
                "info": self.info,
            },
        )

    @classmethod
    @checked
    def load(cls, path: str | Path) -> Panel:
        """Load what `save` wrote, or the ``model`` of a run directory.

        Raises
        ------
        CheckpointError
            If there is none, it is damaged, or it is not a panel.
        """
        tensors, meta = read_saved(path, FORMAT)
        with describes(path):
            return cls._of(tensors, meta)

    @classmethod
    def _of(cls, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Panel:
        tasks = [Task.from_dict(task) for task in meta["tasks"]]
        prefix = "network."
        weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        network = PanelNetwork.from_weights(weights, tasks, meta["hidden"], meta["transform"])
        if network.first.in_features != len(meta["genes"]):
            raise ValueError(
                f"{len(meta['genes']):,} genes are named for a network of "
                f"{network.first.in_features:,}"
            )
        return cls(
            network,
            meta["genes"],
            meta["all_genes"],
            tensors["scores"].numpy(),
            meta["info"],
            input_means=tensors.get("input_means"),
            added=[
                AddedGenes.from_weights(genes, tensors, f"added.{i}.")
                for i, genes in enumerate(meta.get("added", []))
            ],
        )


def seen_cells(cells: CellCollection, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Return what a panel keeps of its training cells, over all genes in alphabetical order."""
    return SeenCells.of(cells.with_genes(sorted(map(str, cells.genes)), 1.0), rows).to_info()


def require_base(panel: Panel, what: str) -> None:
    """Refuse a panel with added genes where these would be overlooked."""
    if panel.added:
        raise ConfigError(
            f"{what} looks at the panel's own genes alone, and {len(panel.added_genes):,} were "
            f"added to this one, first {panel.added_genes[0]!r}: give panel.base"
        )
