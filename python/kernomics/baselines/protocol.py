"""What a baseline is."""

from __future__ import annotations

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
