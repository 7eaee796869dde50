"""Gene blending: the genes of two cells at shared positions, padded where one lacks a gene."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Blend(NamedTuple):
    """The union of the genes of each pair of cells, pair by pair.

    Attributes
    ----------
    gene_ids
        int64 [U], ascending in each pair.
    pairs
        int64 [U], the pair that each gene belongs to.
    lengths
        int64 [P], how many genes each pair has.
    first, second
        int64 [U], which token of the first and of the second cells has this gene, numbered over
        all cells of that side; −1 (padding) where the cell lacks it.
    """

    gene_ids: Tensor
    pairs: Tensor
    lengths: Tensor
    first: Tensor
    second: Tensor


def blend(
    first_genes: Tensor,
    first_lengths: Tensor,
    second_genes: Tensor,
    second_lengths: Tensor,
    n_genes: int,
) -> Blend:
    """Blend pairs of cells.

    Parameters
    ----------
    first_genes, second_genes
        int64 [N₁] and [N₂], the genes of the cells of each side, cell by cell, ascending in each.
    first_lengths, second_lengths
        int64 [P], how many genes each cell has.
    n_genes
        G, the number of genes; every gene's index is below it.

    Returns
    -------
    Blend
        Every gene that either cell of a pair has, once.
    """
    n_pairs = len(first_lengths)
    keys = []
    for genes, lengths in ((first_genes, first_lengths), (second_genes, second_lengths)):
        pair = torch.repeat_interleave(torch.arange(n_pairs, device=genes.device), lengths)
        keys.append(pair * n_genes + genes)
    union = torch.unique(torch.cat(keys))
    pairs = torch.div(union, n_genes, rounding_mode="floor")
    found = []
    for own in keys:
        at = torch.searchsorted(own, union).clamp_max(max(0, len(own) - 1))
        there = own[at] == union if len(own) else torch.zeros_like(union, dtype=torch.bool)
        found.append(torch.where(there, at, -1))
    return Blend(union - pairs * n_genes, pairs, torch.bincount(pairs, minlength=n_pairs), *found)
