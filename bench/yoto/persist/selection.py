"""PERSIST-style selection (Covert et al. 2023): gates, then a concrete mask, then a classifier.

Written from the published description:

1. Binary gates with a penalty shut most genes; the penalty is searched for until about 500 are
   left (`persist.gates`).
2. A mask of k concrete picks, drawn for every cell, selects k of them while its temperature falls
   (`persist.mask`).
3. A new classifier is trained on the panel: the baseline's predictor.

I. Covert et al., "Predictive and robust gene selection for spatial transcriptomics", Nature
Communications 2023.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.yoto.persist.classifier import LabelledCells, fit_classifier
from bench.yoto.persist.config import PersistConfig
from bench.yoto.persist.gates import (
    Gates,
    Survivors,
    eliminate,
    train_gates,
)
from bench.yoto.persist.mask import distinct_picks, train_mask
from kernomics._arguments import checked


@dataclass(frozen=True, eq=False)
class TrainedBaseline:
    """A panel with the predictor that its method trained on it.

    Attributes
    ----------
    genes
        int64 [k], different gene indices, best first.
    predict
        From counts over all genes, CSR [n, G], to class probabilities float32 [n, n_classes].
    n_trainings
        How many networks were trained on the way.
    losses
        Mean loss of each epoch, by what was trained.
    info
        Whatever else is worth a report, JSON-able.
    """

    genes: NDArray[np.int64]
    predict: Callable[[Any], NDArray[np.float32]]
    n_trainings: int
    losses: Mapping[str, list[float]]
    info: dict[str, Any] = field(default_factory=dict)


class PersistBaseline:
    """PERSIST-style selection, a baseline with a predictor of its own.

    Parameters
    ----------
    config
        Budget and settings.
    """

    name = "PERSIST-style"

    @checked
    def __init__(self, config: PersistConfig | None = None) -> None:
        self.config = config or PersistConfig()

    @checked
    def train(
        self,
        counts: Any,
        labels: ArrayLike,
        n_genes: int,
        *,
        seed: int,
        n_classes: int | None = None,
    ) -> TrainedBaseline:
        """Choose genes and train the classifier on them.

        Parameters
        ----------
        counts
            Counts of the training cells, scipy sparse or an array [cells, genes]. Only non-zeros
            are ever held, but for batches over the genes that the gates left.
        labels
            Class codes, integer [cells]; −1 marks an unlabelled cell, which is left out.
        n_genes
            k, the size of the panel.
        seed
            Decides everything random. At one number of threads it gives the same bits again.
        n_classes
            Classes to predict; by default as many as the largest code says.

        Returns
        -------
        TrainedBaseline
            `losses` has ``"gates/1"``, ``"gates/2"``, … , ``"mask"``, ``"classifier"`` and
            ``"classifier/held_out"``. `info` has ``penalties`` (λs tried) and ``genes_left`` of
            each, ``gates_hit_target`` (False: the genes with the largest gate logits of the
            training that came closest were taken), ``candidates`` (genes that the mask chose
            from), ``epochs``, ``sharpness`` (mean largest probability of the picks at the end)
            and ``seconds`` per stage.

        Raises
        ------
        DataError, ConfigError
            As `LabelledCells.from_counts`.
        """
        config = self.config
        cells = LabelledCells.from_counts(counts, labels, n_genes, n_classes)
        start = time.perf_counter()
        survivors = self._survivors(cells, n_genes, seed)
        gated = time.perf_counter()
        mask = train_mask(
            cells.genes(survivors.genes),
            n_genes,
            config,
            seed=seed,
        )
        genes = survivors.genes[distinct_picks(mask.logits)]
        masked = time.perf_counter()
        predict = fit_classifier(cells, genes, config.classifier, seed=seed)
        done = time.perf_counter()
        losses = {
            **{f"gates/{i}": gates.losses for i, gates in enumerate(survivors.tried, 1)},
            "mask": mask.losses,
            "classifier": predict.losses,
            "classifier/held_out": predict.held_out_losses,
        }
        return TrainedBaseline(
            genes=genes,
            predict=predict,
            n_trainings=len(survivors.tried) + 2,
            losses=losses,
            info={
                "penalties": [gates.penalty for gates in survivors.tried],
                "genes_left": [int(gates.open.size) for gates in survivors.tried],
                "gates_hit_target": survivors.hit,
                "candidates": int(survivors.genes.size),
                "epochs": {name: len(values) for name, values in losses.items()},
                "sharpness": mask.sharpness[-1],
                "seconds": {
                    "gates": gated - start,
                    "mask": masked - gated,
                    "classifier": done - masked,
                },
            },
        )

    def _survivors(self, cells: LabelledCells, n_genes: int, seed: int) -> Survivors:
        config = self.config
        seen = np.unique(cells.values.indices).astype(np.int64)
        target = max(config.target_genes, 2 * n_genes)
        if seen.size <= max(config.skip_gates_at, target):
            return Survivors(seen, [], True)
        compact = cells.genes(seen)

        def train(penalty: float) -> Gates:
            return train_gates(compact, penalty, config, seed=seed)

        found = eliminate(
            train,
            target,
            first=config.first_penalty,
            tolerance=config.tolerance,
            max_trainings=config.max_gate_trainings,
        )
        return Survivors(seen[found.genes], found.tried, found.hit)

    @checked
    def select(
        self, counts: Any, labels: NDArray[np.int64], n_genes: int, *, seed: int
    ) -> NDArray[np.int64]:
        """Return the genes of `train`."""
        return self.train(counts, labels, n_genes, seed=seed).genes
