"""What models reconstruct of cells, scored: how far a representation can be inverted."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernomics.data import CellCollection
from kernomics.data.expression import as_csr, log_expression
from kernomics.data.rng import Stream, permutation
from kernomics.metrics import spearman_inversion, structural_integrity
from kernomics.models import CellEncoder


def reconstructed_rows(
    controls: NDArray[np.bool_], batches: NDArray[np.int64], n: int, seed: int
) -> NDArray[np.int64]:
    """Draw n cells, with a control of each batch among them; all where there are no more."""
    if len(controls) <= n:
        return np.arange(len(controls))
    order = permutation(len(controls), seed, Stream.RECONSTRUCTED_CELLS)
    drawn = order[controls[order]]
    first = drawn[np.unique(batches[drawn], return_index=True)[1]]
    rest = order[~np.isin(order, first)]
    return np.sort(np.concatenate([first, rest[: max(n - len(first), 0)]]))


class Reconstruction:
    """Scores of what models make of some cells, on the genes that data and model share.

    `alike` are the cells over the genes that all of them have measured, which alone are scored.
    """

    def __init__(
        self,
        cells: CellCollection,
        alike: CellCollection,
        rows: NDArray[np.int64],
        controls: NDArray[np.bool_],
        batches: NDArray[np.int64],
        model: CellEncoder | None,
    ) -> None:
        self.cells, self.rows, self.model = cells, rows, model
        self.controls, self.batches = controls, batches
        self.alike = np.isin(cells.genes, alike.genes)
        of_model = True if model is None else np.isin(cells.genes, model.genes)
        self.columns = np.flatnonzero(self.alike & of_model)

    def of_model(self, n_tokens: int | None, min_gene_overlap: float) -> tuple[float, float]:
        """Return Spearman's correlation and structural integrity of a TxFM's reconstruction.

        The parameters are those of `CellEncoder.get_normalized_expression`.
        """
        assert self.model is not None
        config = self.model.config
        if not len(self.columns):
            return float("nan"), float("nan")
        genes = self.cells.genes[self.columns].tolist()
        predicted = self.model.get_normalized_expression(
            self.cells,
            rows=self.rows,
            genes=genes,
            n_tokens=n_tokens,
            min_gene_overlap=min_gene_overlap,
        )
        return self._scores(predicted, config.target_sum if config.normalise else None)

    def of_pca(
        self,
        rows: NDArray[np.int64],
        scores: NDArray[Any],
        components: NDArray[Any],
        mean: NDArray[Any],
        target_sum: float,
    ) -> tuple[float, float]:
        """Return them of PCA's, from the scores [N, k] of cells `rows` [N], ascending.

        The PCA is of the genes that all cells have measured.
        """
        own = scores[np.searchsorted(rows, self.rows)]
        columns = np.cumsum(self.alike)[self.columns] - 1
        predicted = own @ components[:, columns] + mean[columns]
        return self._scores(predicted, target_sum)

    def _scores(self, predicted: NDArray[Any], target_sum: float | None) -> tuple[float, float]:
        if target_sum is None:
            found = self.cells.batch(self.rows)
            observed = as_csr(found, np.log1p(found.values.numpy()))
        else:
            observed = log_expression(self.cells.batch(self.rows), target_sum)
        observed = observed[:, self.columns]
        return (
            spearman_inversion(predicted, observed),
            structural_integrity(predicted, observed, self.batches, self.controls),
        )
