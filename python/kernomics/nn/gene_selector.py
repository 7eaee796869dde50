"""GeneSelector: a learnable score per gene, and the panel it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kernomics._arguments import checked, require_least, rows_of
from kernomics.errors import ConfigError
from kernomics.ops import gumbel_topk
from kernomics.ops.gumbel_topk import Relaxation


class Selection(NamedTuple):
    """A panel chosen by a `GeneSelector`.

    Attributes
    ----------
    indices
        int64 [k], the chosen genes, ascending.
    mask
        [G], exactly 0 or 1, differentiable.
    """

    indices: Tensor
    mask: Tensor


class GeneSelector(nn.Module):
    """Choose k of G genes by learnable scores s (YOTO, arXiv 2512.17678).

    In training the scores are perturbed with Gumbel noise and the mask's gradient is that of a
    relaxation; see :func:`kernomics.ops.gumbel_topk`. One call draws one panel for all cells.

    Parameters
    ----------
    n_genes
        G.
    forced, forbidden
        Indices of genes that are always, never chosen. Their scores do not move.

    Attributes
    ----------
    scores
        Parameter [G], 0 at the start: all genes alike.
    bounds
        Buffer [G]: +inf for forced genes, −inf for forbidden ones, 0 for the others.
    free
        Buffer int64, not saved: the genes that are neither.
    penalty
        Buffer [G], or None for none: taken off the scores before genes are chosen, and constant
        to the gradient, such as a price times the genes' costs.
    """

    bounds: Tensor
    free: Tensor
    penalty: Tensor | None

    @checked
    def __init__(
        self, n_genes: int, *, forced: Sequence[int] = (), forbidden: Sequence[int] = ()
    ) -> None:
        super().__init__()
        require_least(1, n_genes=n_genes)
        for name, given in (("forced", forced), ("forbidden", forbidden)):
            rows_of(name, given, n_genes, least=0, what="genes")
        both = sorted(set(forced) & set(forbidden))
        if both:
            raise ConfigError(f"{len(both)} genes are both forced and forbidden, first {both[0]}")
        self.scores = nn.Parameter(torch.zeros(n_genes))
        bounds = torch.zeros(n_genes)
        bounds[list(forced)] = torch.inf
        bounds[list(forbidden)] = -torch.inf
        self.register_buffer("bounds", bounds)
        self.register_buffer("free", (bounds == 0).nonzero().squeeze(1), persistent=False)
        self.register_buffer("penalty", None)

    @property
    def bounded_scores(self) -> Tensor:
        """The scores [G] less the penalty, infinite where a gene is forced or forbidden."""
        scores = self.scores if self.penalty is None else self.scores - self.penalty
        return torch.where(self.bounds == 0, scores, self.bounds)

    def forward(
        self,
        k: int,
        *,
        tau: float = 1.0,
        relaxation: Relaxation = "softsort",
        noise: float = 0.0,
        seed: Tensor | None = None,
    ) -> Selection:
        """Choose k genes; parameters as in :func:`kernomics.ops.gumbel_topk`."""
        indices, mask = gumbel_topk(
            self.bounded_scores, k, tau=tau, relaxation=relaxation, noise=noise, seed=seed
        )
        return Selection(indices, mask)
