"""A panel drawn at random: the floor that any selection must clear."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernomics._arguments import checked, shown
from kernomics.errors import ConfigError, DataError


@checked
def random_panel(n_genes_total: int, k: int, seed: int) -> NDArray[np.int64]:
    """Draw k different genes uniformly.

    Parameters
    ----------
    n_genes_total
        Number of genes to draw from.
    k
        Size of the panel.
    seed
        The same seed gives the same panel.

    Returns
    -------
    ndarray
        int64 [k], gene indices in the order drawn. The first j of them are the panel of size j.

    Raises
    ------
    ConfigError
        If k is not between 1 and ``n_genes_total``.
    """
    if not 1 <= k <= n_genes_total:
        raise ConfigError(f"a panel of {k} genes was asked for, from {n_genes_total:,} genes")
    order = np.random.default_rng(seed % 2**64).permutation(n_genes_total)
    return order[:k].astype(np.int64, copy=False)


class RandomBaseline:
    """`random_panel` as a `Baseline`."""

    name = "random"

    @checked
    def select(
        self, counts: Any, labels: NDArray[np.int64], n_genes: int, *, seed: int
    ) -> NDArray[np.int64]:
        """Draw ``n_genes`` of the columns of ``counts``; the values and labels play no part."""
        shape: tuple[int, ...] = getattr(counts, "shape", ())
        if len(shape) != 2:
            raise DataError(f"counts is {shown(counts)}: a matrix [cells, genes] is needed")
        return random_panel(shape[1], n_genes, seed)
