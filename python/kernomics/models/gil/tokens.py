"""Which genes of a cell a step shows, which of these it hides, and which it asks for."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kernomics.data import Cells
from kernomics.nn.philox import (
    STREAM_MASKED_VALUES,
    STREAM_SHOWN_GENES,
    STREAM_UNEXPRESSED_GENES,
    uniforms,
    uniforms_at,
)
from kernomics.ops import sample_tokens


class Tokens(NamedTuple):
    """The genes shown of B cells, cell by cell.

    Attributes
    ----------
    gene_ids
        int64 [N], ascending in each cell.
    values
        float32 [N], the true values log(1 + target_sum·count/library).
    hidden
        bool [N], which values the network does not see.
    lengths
        int64 [B] on the CPU, genes of each cell.
    cells
        int64 [N], which cell each belongs to.
    unexpressed
        int64 [B, n], genes measured in each cell and without a count there; −1 for none.
    """

    gene_ids: Tensor
    values: Tensor
    hidden: Tensor
    lengths: Tensor
    cells: Tensor
    unexpressed: Tensor | None = None

    def of(self, kept: Tensor) -> Tokens:
        """Return some of the tokens, bool [N], of the same cells."""
        cells = self.cells[kept]
        lengths = torch.bincount(cells, minlength=len(self.lengths)).cpu()
        return Tokens(self.gene_ids[kept], self.values[kept], self.hidden[kept], lengths, cells)


def expressed_genes(cells: Cells, target_sum: float) -> Tokens:
    """Return all genes that each cell expresses and its data set has, none hidden."""
    gene_ids, values, offsets = sample_tokens(
        cells,
        None,
        cell_ids=None,
        seed=None,
        library=cells.library,
        observed=cells.observed,
        candidates="expressed",
        target_sum=target_sum,
        ragged=True,
    )
    lengths, total = offsets.diff(), int(offsets[-1])
    rows = torch.repeat_interleave(
        torch.arange(len(cells), device=gene_ids.device), lengths, output_size=total
    )
    nothing = torch.zeros(total, dtype=torch.bool, device=gene_ids.device)
    return Tokens(gene_ids[:total].long(), values[:total], nothing, lengths.cpu(), rows)


def shown(
    tokens: Tokens, cell_ids: Tensor, n_tokens: int, expression_share: float, seed: Tensor
) -> Tokens:
    """Leave each cell `n_tokens` genes at most: some by their values, the others evenly.

    Parameters
    ----------
    tokens
        All genes of the cells.
    cell_ids
        int64 [B]: a cell's choice hangs on its id and the seed, not on its company.
    n_tokens, expression_share
        As in `GILConfig`.
    seed
        int64 [2], (key, step).
    """
    if not bool((tokens.lengths > n_tokens).any()):
        return tokens
    long = (tokens.lengths > n_tokens).to(tokens.cells.device)[tokens.cells]
    some = tokens.of(long)
    drawn = uniforms_at(seed, cell_ids[some.cells], some.gene_ids, STREAM_SHOWN_GENES)
    # The k smallest E/w, E exponential: draws in proportion to w without replacement.
    n_weighted = round(expression_share * n_tokens)
    weighted = _ranks(-torch.log1p(-drawn[:, 0]) / some.values, some.cells) < n_weighted
    kept = ~long
    kept[long] = _ranks(torch.where(weighted, -1.0, drawn[:, 1]), some.cells) < n_tokens
    return tokens.of(kept)


def unexpressed(expressed: Tokens, cells: Cells, n: int, seed: Tensor) -> Tensor:
    """Draw n genes for each cell, int64 [B, n], and leave out (−1) those that are no answer.

    These are genes that the cell expresses, and those that were not measured in it.
    """
    width = cells.n_genes
    drawn = uniforms(seed, cells.cell_ids, n, STREAM_UNEXPRESSED_GENES)
    genes = (drawn * width).long().clamp_max(width - 1)
    rows = torch.arange(len(genes), device=genes.device)[:, None]
    there = expressed.cells * width + expressed.gene_ids  # ascending
    left_out = torch.zeros_like(genes, dtype=torch.bool)
    if len(there):
        keys = rows * width + genes
        place = torch.searchsorted(there, keys).clamp_max(len(there) - 1)
        left_out = there[place] == keys
    if cells.observed is not None:
        left_out |= ~cells.observed.mask.bool()[cells.observed.panel_id.long()[:, None], genes]
    return genes.masked_fill(left_out, -1)


def masked(tokens: Tokens, cell_ids: Tensor, mask_rate: float, seed: Tensor) -> Tokens:
    """Hide some values, each by its gene and its cell's id alone."""
    drawn = uniforms_at(seed, cell_ids[tokens.cells], tokens.gene_ids, STREAM_MASKED_VALUES)
    return tokens._replace(hidden=drawn[:, 0] < mask_rate)


def _ranks(keys: Tensor, cells: Tensor) -> Tensor:
    """Return the rank of each key among those of its cell, int64 [N]; equal ones by place."""
    order = torch.argsort(keys, stable=True)
    order = order[torch.argsort(cells[order], stable=True)]
    sizes = torch.bincount(cells)
    starts = sizes.cumsum(0) - sizes
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device) - starts[cells[order]]
    return ranks
