"""The genes a cell reveals, and their values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .._common import STREAM_TOKENS
from ..observed import ObservedGenes
from .philox import exponential_from_words, philox_words


def sample_tokens(
    counts: Tensor,
    n_tokens: int,
    *,
    cell_ids: Tensor | Sequence[int],
    seed: Tensor | Sequence[int],
    library: Tensor | None = None,
    observed: ObservedGenes | None = None,
    candidates: str = "observed",
    weights: Tensor | None = None,
    target_sum: float | None = 1e5,
    transform: str = "log1p",
    stream: int = STREAM_TOKENS,
) -> tuple[Tensor, Tensor]:
    r"""Draw n_tokens genes of each cell; see :func:`kernomics.ops.sample_tokens`.

    Every (cell id, gene) has a random word, and the candidates with the smallest words are drawn,
    or with weights those with the smallest E/w, E the exponential number of the word. The value is

    .. math:: x = \log(1 + \mathrm{count}·\mathrm{target\_sum} / \mathrm{library}).

    Parameters
    ----------
    counts
        [cells, genes], dense or sparse.
    n_tokens
        K.
    cell_ids, seed, stream
        What addresses the words; see :func:`philox_words`.
    library
        [cells], the cells' own sums by default.
    observed
        The panel of genes that each cell's data set observed; all genes by default.
    candidates
        "observed", or "expressed" for those of them with a count.
    weights
        [genes].
    target_sum
        What the counts are scaled to sum to; None leaves them.
    transform
        "log1p", or "counts" for the counts as they are.

    Returns
    -------
    gene_ids : int32 [cells, K]
        The drawn genes, ascending; −1 for those that a cell lacks.
    values : [cells, K]
        Their values, 0 at −1.
    """
    dense = counts.to_dense()
    cells, genes = dense.shape
    allowed = torch.ones((cells, genes), dtype=torch.bool)
    if observed is not None:
        allowed &= observed.mask.bool()[observed.panel_id.long()]
    if candidates == "expressed":
        allowed &= dense != 0
    if weights is not None:
        allowed &= weights > 0

    total = dense.sum(1) if library is None else library
    factor = torch.ones_like(total) if target_sum is None else target_sum / total
    factor = factor.where(total > 0, 0.0) if target_sum is not None else factor
    x = dense if transform == "counts" else torch.log1p(dense * factor[:, None])

    words = philox_words(seed, cell_ids, genes, stream)
    gene_ids = torch.full((cells, n_tokens), -1, dtype=torch.int32)
    values = torch.zeros((cells, n_tokens), dtype=dense.dtype)
    for b in range(cells):
        own = allowed[b].nonzero().flatten()
        keys = words[b, own].astype(np.float64)  # exact: 32 bits
        if weights is not None:
            keys = exponential_from_words(words[b, own]) / weights[own].numpy()
        first = np.argsort(keys, kind="stable")[:n_tokens]
        drawn = own[torch.from_numpy(first)].sort().values
        gene_ids[b, : len(drawn)] = drawn.int()
        values[b, : len(drawn)] = x[b, drawn]
    return gene_ids, values
