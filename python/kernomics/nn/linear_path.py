"""LinearPath: a linear map of the genes that a cell shows, as a PCA is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kernomics._arguments import checked, require_least

EPSILON = 1e-6


class LinearPath(nn.Module):
    r"""A linear map of the expression of a cell's revealed genes, whatever their number.

    .. math:: r = u\Bigl(s \odot \sum_{j\ \text{revealed}} (x_j - \mu_j)\, w_j\Bigr), \quad
              u(y) = \frac{y}{\sqrt{\tfrac1d |y|^2 + ε}}

    With all genes revealed and w the loadings of the principal components of x, the sum is their
    scores. u gives each cell a mean square of 1: the sum over a random subset of genes is, in the
    mean, a share of that over all, and how far a cell is from the mean hangs on its depth.

    Parameters
    ----------
    n_genes, width
        G, and the width of what is returned.

    Attributes
    ----------
    weight
        Parameter [G, width], w; 0 before it is set.
    mean
        Buffer [G], μ, each gene's mean over the training cells.
    scale
        Buffer [width], s. With it the entries of w are about 1, of which a step of AdamW changes
        as small a share as of a gene embedding.
    """

    mean: Tensor
    scale: Tensor

    @checked
    def __init__(self, n_genes: int, width: int) -> None:
        super().__init__()
        require_least(1, n_genes=n_genes, width=width)
        self.weight = nn.Parameter(torch.zeros(n_genes, width))
        self.register_buffer("mean", torch.zeros(n_genes))
        self.register_buffer("scale", torch.ones(width))

    def forward(self, gene_ids: Tensor, x: Tensor, padding: Tensor | None) -> Tensor:
        """Return r, [B, width].

        Parameters
        ----------
        gene_ids
            int32 or int64 [B, K], each gene at most once a cell.
        x
            [B, K], the genes' expression.
        padding
            bool [B, K], True where there is no gene, whatever its id; None when there are all.
        """
        return self.of_sums(self.sums(gene_ids, x, padding))

    def sums(self, gene_ids: Tensor, x: Tensor, padding: Tensor | None) -> Tensor:
        """Return Σ (x_j − μ_j)·w_j of each cell, [B, width]; parameters as of `forward`."""
        ids = gene_ids.long()
        if padding is not None:
            ids = ids.masked_fill(padding, 0)
        centred = x - self.mean[ids]
        if padding is not None:
            centred = centred.masked_fill(padding, 0.0)
        shown = centred.new_zeros(len(ids), len(self.mean)).scatter_add_(1, ids, centred)
        found: Tensor = shown.to(self.weight.dtype) @ self.weight
        return found

    def of_genes(self, genes: Tensor, x: Tensor) -> Tensor:
        """Return the summands of genes, one beside the other, [T, width]."""
        summands: Tensor = (x - self.mean[genes])[:, None] * self.weight[genes]
        return summands

    def of_sums(self, sums: Tensor) -> Tensor:
        """Return r of the sums over genes, [B, width]."""
        return unit(sums * self.scale)


def unit(x: Tensor) -> Tensor:
    """Return rows of mean square 1, or 0 where they are 0."""
    found: Tensor = x * (x.square().mean(-1, keepdim=True) + EPSILON).rsqrt()
    return found
