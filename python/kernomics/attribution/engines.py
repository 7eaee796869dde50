"""The engines by name: the attribution of a model's output to the genes of pairs of cells.

All take a `Source`, blocks of pairs and the class whose output is attributed, and give for each
gene of each pair how much it moves that output from the one cell to the other.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kernomics.attribution.complete_engines import (
    deeplift_empty,
    deeplift_pairs,
    integrated_gradients,
)
from kernomics.attribution.gradient_engines import empty_baselines, grad_x_delta
from kernomics.attribution.pair_scores import Engine, PairScores
from kernomics.attribution.sources import Source

ENGINES: dict[str, Engine] = {
    "grad_x_delta": grad_x_delta,
    "deeplift": deeplift_pairs,
    "integrated_gradients": integrated_gradients,
}
COMPLETE = ("deeplift", "integrated_gradients")
"""Engines whose scores add up to the difference between the outputs."""
EMPTY: dict[str, Callable[[Source, NDArray[np.int64], NDArray[np.int64], int, int], PairScores]] = {
    "grad_x_delta": empty_baselines,
    "deeplift": deeplift_empty,
}
"""Those that compare each cell with a cell without genes."""
