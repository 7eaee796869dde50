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
    """How well one phenotype is predicted.

    Attributes
    ----------
    name, classes
        The phenotype and its values.
    metrics
        ``n_cells``, ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``auprc`` and so on.
    majority, majority_share
        The commonest value of the training cells, or of the cells scored where those are not
        known, and the share of the cells scored that have it: the accuracy of always naming it.
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
    """Everything that the report of a PolyGene's training or evaluation shows; names are escaped.

    Attributes
    ----------
    title
        The headline.
    head
        Terms and values below it.
    sentence
        How the cells were divided, or which are scored.
    scores
        Per phenotype; empty where no cells were held out.
    history
        Records of the training; empty for an evaluation.
    warnings
        What a reader must know, one sentence each.
    provenance
        How to make it again.
    scored, shown, majority_of
        What a cell scored is called, what predictions are made from, and whose commonest value the
        majority is.
    """

    title: str
    head: Sequence[tuple[str, str]]
    sentence: str
    scores: Sequence[PhenotypeScores]
    history: Sequence[Mapping[str, Any]]
    warnings: Sequence[str] = ()
    provenance: Provenance
    scored: str = "held-out cell"
    shown: str = "the genes alone"
    majority_of: str = "the training cells"
