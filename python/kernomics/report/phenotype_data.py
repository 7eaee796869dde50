"""What the report of a PolyGene's training is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernomics.report.provenance import Provenance


@dataclass(frozen=True, kw_only=True)
class PhenotypeScores:
    """How well one phenotype is predicted on held-out cells, from the genes alone.

    Attributes
    ----------
    name, classes
        The phenotype and its values.
    metrics
        ``n_cells``, ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``auprc`` and so on.
    majority, majority_share
        The commonest value of the training cells, and the share of held-out cells that have it:
        the accuracy of who always names it.
    confusion
        int [C, C], row = truth, column = prediction.
    """

    name: str
    classes: Sequence[str]
    metrics: Mapping[str, float]
    majority: str
    majority_share: float
    confusion: NDArray[np.int64]

    def to_dict(self) -> dict[str, Any]:
        """Return a form for JSON."""
        return {
            **self.metrics,
            "majority": self.majority,
            "majority_share": self.majority_share,
            "classes": list(self.classes),
            "confusion": self.confusion.tolist(),
        }


@dataclass(frozen=True, kw_only=True)
class PhenotypeReport:
    """Everything that the report of a PolyGene's training shows. All names are escaped.

    Attributes
    ----------
    title
        The headline.
    head
        Terms and values below it.
    sentence
        How the cells were divided.
    scores
        Per phenotype; empty where no cells were held out.
    history
        Records of the training.
    warnings
        What a reader must know, one sentence each.
    provenance
        How to make it again.
    """

    title: str
    head: Sequence[tuple[str, str]]
    sentence: str
    scores: Sequence[PhenotypeScores]
    history: Sequence[Mapping[str, Any]]
    warnings: Sequence[str] = ()
    provenance: Provenance
