"""What a baseline is, and what a baseline with a predictor of its own gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class Baseline(Protocol):
    """A way to choose genes from labelled counts."""

    name: str

    def select(
        self, counts: Any, labels: NDArray[np.int64], n_genes: int, *, seed: int
    ) -> NDArray[np.int64]:
        """Choose genes.

        Parameters
        ----------
        counts
            Counts of the training cells, scipy CSR [cells, genes].
        labels
            Class codes, int64 [cells]; −1 marks an unlabelled cell.
        n_genes
            Size of the panel.
        seed
            Decides everything random.

        Returns
        -------
        ndarray
            int64 [n_genes], different gene indices, best first.
        """
        ...


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


@runtime_checkable
class PredictingBaseline(Baseline, Protocol):
    """A baseline that trains a predictor of its own beside choosing genes."""

    def train(
        self,
        counts: Any,
        labels: NDArray[np.int64],
        n_genes: int,
        *,
        seed: int,
        n_classes: int | None = None,
    ) -> TrainedBaseline:
        """Choose genes and train a predictor on them.

        Parameters
        ----------
        counts, labels, n_genes, seed
            As in `select`, which returns the `genes` of the same training.
        n_classes
            Classes to predict; by default as many as the largest code says.
        """
        ...
