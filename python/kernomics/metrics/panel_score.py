"""What one panel with one predictor reaches on held-out cells, and what repeats of it say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

DIGITS = 3
"""Of a gene's score that are shown; scores that agree in them are not shown as an order."""


@dataclass(frozen=True, kw_only=True)
class MethodScore:
    """The held-out scores of one panel with one predictor on one task.

    Attributes
    ----------
    method
        Who chose the genes, such as ``"YOTO"`` or ``"DE (Wilcoxon)"``.
    predictor
        Who predicted from them, such as ``"its own network"`` or ``"logistic regression"``.
    metrics
        Values by name; ``accuracy``, ``macro_f1`` and ``auprc`` for classes, ``r2``, ``mae`` and
        ``pearson`` for numbers. A metric that was not computed is left out or NaN.
    spread
        What stands behind ± for some of these metrics: the standard deviation over random panels,
        or the standard error over splits.
    n_panels
        Over how many panels of one split the scores are means.
    """

    method: str
    predictor: str = ""
    metrics: Mapping[str, float]
    spread: Mapping[str, float] = field(default_factory=dict)
    n_panels: int = 1


def shared_ranks(scores: ArrayLike) -> NDArray[np.int64]:
    """Rank scores from 1, the highest first; those that agree to three digits share a rank."""
    rounded = np.round(np.asarray(scores, dtype=np.float64), DIGITS)
    higher: NDArray[np.int64] = (rounded[None, :] > rounded[:, None]).sum(axis=1, dtype=np.int64)
    return higher + 1
