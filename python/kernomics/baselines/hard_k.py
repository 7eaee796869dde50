"""Hard-k selection and YOTO without its noise: two settings of YOTO, for comparison.

Both are trained by `kernomics.models.YOTO` itself, so network, optimiser, batches and number of
steps are the same, and a difference in their scores is one of the selection.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from kernomics._arguments import checked
from kernomics._warnings import quietly
from kernomics.baselines.classifier import CELLS_AT_A_TIME, checked_codes
from kernomics.baselines.protocol import TrainedBaseline
from kernomics.data import CellCollection, Cells, Labels, Split
from kernomics.data.csr import Rows, canonical
from kernomics.data.readers.sources import CsrSource
from kernomics.models import YOTO
from kernomics.models.yoto.diagnostics import TrainingWarning
from kernomics.models.yoto.network import PanelNetwork

TASK = "label"

HARD_K_OVERRIDES: dict[str, Any] = {
    "relaxation": "softmax",
    "tau_start": 1.0,
    "tau_end": 1.0,
    "noise_start": 0.0,
    "noise_end": 0.0,
    "start_genes": None,
    "shrink_until": 0.3,
}
"""Settings that make `YOTO` the hard-k selector; use them with one label.

A score per gene, the k largest make a 0/1 mask, its gradient goes straight through a softmax over
the scores: no noise, no relaxed permutation. Within that definition it is as strong as we could
make it. Mean macro-F1 of the own network on inner validation cells of sorted blood cells (10 types;
k = 16 and 32; 8 trainings each, 4 where marked *; one standard error is about 0.01):

================================  ======  ============================
gradient                          F1      subset size
================================  ======  ============================
softmax, τ = 1                    0.711   64 k → k in 30 % of the steps
softmax, τ = 1                    0.706   64 k → k in 50 %
softmax, τ = 1                    0.684   4 k → k in 50 %
softmax, τ = 1                    0.682   always k
softmax, τ = 3 → 0.3              0.682   always k
softmax, τ = 1                    0.689*  all genes → k in 50 %
identity                          0.619*  always k
identity                          0.583*  64 k → k in 50 %
================================  ======  ============================

(The identity was softmax at τ = 100, whose gradient is the identity's less its mean, but for a
factor that Adam does not see.)
"""

TOP_K_OVERRIDES: dict[str, Any] = {"noise_start": 0.0, "noise_end": 0.0}
"""Settings that take the noise away from `YOTO` and nothing else, for one label or several.

All scores start alike, and there SoftSort's gradient is 0, so that without noise they may never
part: the ablation shows what the noise is for. `TrainedBaseline.info` has the scores' variance.
"""


def cells_of(counts: Any, codes: NDArray[np.int64], n_classes: int) -> CellCollection:
    """Wrap counts and class codes as the cells that `YOTO` takes, genes and classes by number."""
    csr = sparse.csr_matrix(counts)
    rows = canonical(Rows(csr.indptr, csr.indices, csr.data), csr.shape[1])
    names = np.array([str(row) for row in range(csr.shape[0])], dtype=object)
    classes = tuple(str(code) for code in range(n_classes))
    return CellCollection(
        CsrSource(rows, csr.shape[1]),
        genes=np.array([str(gene) for gene in range(csr.shape[1])], dtype=object),
        cell_names=names,
        obs=pd.DataFrame(index=pd.Index(names)),
        labels={TASK: Labels(TASK, "categorical", codes, classes)},
        library=rows.totals(),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class PanelPredictor:
    """A panel's network as a function of counts over all genes.

    Attributes
    ----------
    genes
        int64 [k], the columns it reads.
    network
        The panel's network, with one task, whose classes are numbers.
    n_classes
        How many there are; one that no training cell has is never predicted.
    """

    genes: NDArray[np.int64]
    network: PanelNetwork
    n_classes: int

    def __call__(self, counts: Any) -> NDArray[np.float32]:
        """Return class probabilities, float32 [n, n_classes], for counts [n, G]."""
        panel = sparse.csr_matrix(counts)[:, self.genes]
        known = [int(code) for code in self.network.tasks[0].classes]
        parts = [np.empty((0, self.n_classes), np.float32)]
        with torch.inference_mode():
            for start in range(0, panel.shape[0], CELLS_AT_A_TIME):
                cells = Cells.from_scipy(panel[start : start + CELLS_AT_A_TIME])
                parts.append(np.zeros((len(cells), self.n_classes), np.float32))
                parts[-1][:, known] = self.network(cells)[0].float().softmax(1).numpy()
        return np.concatenate(parts)


class _YOTOBaseline:
    """YOTO for one label with some settings changed."""

    name: str
    overrides: ClassVar[Mapping[str, Any]]

    def __init__(self, **overrides: Any) -> None:
        self.settings = {**self.overrides, **overrides}

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
        """Train once: genes and predictor come from the same training.

        Parameters
        ----------
        counts
            Counts of the training cells, scipy sparse or an array [cells, genes].
        labels
            Class codes, integer [cells]; −1 marks an unlabelled cell, which is left out.
        n_genes
            k, the size of the panel.
        seed
            Decides everything random.
        n_classes
            Classes to predict; by default as many as the largest code says.

        Returns
        -------
        TrainedBaseline
            `losses` has ``"training"``; `info` has ``config``, ``epochs``, ``score_variance``,
            ``seconds`` and ``warnings``, what YOTO's monitors noticed.

        Raises
        ------
        DataError, ConfigError
            When the labels do not fit the cells or have one class only, or the panel does not fit
            the genes.
        """
        codes, n_classes = checked_codes(counts, labels, n_genes, n_classes)
        labelled = codes >= 0
        cells = cells_of(sparse.csr_matrix(counts)[labelled], codes[labelled], n_classes)
        none = np.empty(0, dtype=np.int64)
        split = Split(np.arange(cells.n_cells, dtype=np.int64), none, none, "random", None, seed)
        start = time.perf_counter()
        model = YOTO(cells, n_genes=n_genes, split=split, seed=seed, **self.settings)
        with quietly(TrainingWarning):  # they are in info
            model.train(progress=False)
        genes = np.array([int(gene) for gene in model.genes], dtype=np.int64)
        epochs = [record for record in model.history if record["split"] == "train"]
        return TrainedBaseline(
            genes=genes,
            predict=PanelPredictor(genes, model.trained.network, n_classes),
            n_trainings=1,
            losses={"training": [float(record["loss"]) for record in epochs]},
            info={
                "config": dataclasses.asdict(model.config),
                "epochs": {"training": len(epochs)},
                "score_variance": float(epochs[-1]["score_variance"]),
                "seconds": {"training": time.perf_counter() - start},
                "warnings": model.warnings,
            },
        )

    @checked
    def select(
        self, counts: Any, labels: NDArray[np.int64], n_genes: int, *, seed: int
    ) -> NDArray[np.int64]:
        """Return the genes of `train`."""
        return self.train(counts, labels, n_genes, seed=seed).genes


class HardKBaseline(_YOTOBaseline):
    """A deterministic hard top-k selector trained for one label; see `HARD_K_OVERRIDES`.

    Parameters
    ----------
    **overrides
        Settings of `YOTOConfig`.
    """

    name = "hard-k"
    overrides = HARD_K_OVERRIDES


class TopKBaseline(_YOTOBaseline):
    """YOTO's own selection without its noise; see `TOP_K_OVERRIDES`.

    Parameters
    ----------
    **overrides
        Settings of `YOTOConfig`.
    """

    name = "YOTO without noise"
    overrides = TOP_K_OVERRIDES
