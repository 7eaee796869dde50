"""CountDecoder: from a cell's representation to one output for each gene."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kernomics._arguments import checked, require_least


class ResidualLayer(nn.Module):
    """h + W₂·GELU(W₁·LN(h))."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.first = nn.Linear(d_model, d_model)
        self.second = nn.Linear(d_model, d_model)

    def forward(self, h: Tensor) -> Tensor:
        """Return the next h, [B, d]."""
        change: Tensor = self.second(F.gelu(self.first(self.norm(h))))
        return h + change


class CountDecoder(nn.Module):
    """A residual MLP on [B, d], and a linear layer to all genes.

    The linear layer's weight [G, d] is what `kernomics.ops.linear_poisson_nll` takes: `hidden`
    gives its input, so that the outputs of all genes need never be held at once.

    Parameters
    ----------
    d_model
        Width d.
    n_genes
        G.
    n_layers
        Residual layers; 0 leaves the linear layer alone.
    """

    @checked
    def __init__(self, d_model: int, n_genes: int, n_layers: int = 4) -> None:
        super().__init__()
        require_least(1, d_model=d_model, n_genes=n_genes)
        require_least(0, n_layers=n_layers)
        self.layers = nn.Sequential()
        if n_layers:
            self.layers = nn.Sequential(
                nn.Linear(d_model, d_model),
                *(ResidualLayer(d_model) for _ in range(n_layers)),
                nn.LayerNorm(d_model),
                nn.Linear(d_model, d_model),
            )
        self.genes = nn.Linear(d_model, n_genes)
        nn.init.normal_(self.genes.weight, std=0.02)
        nn.init.zeros_(self.genes.bias)

    def hidden(self, representation: Tensor) -> Tensor:
        """Return what the last linear layer takes, [B, d]."""
        return self.layers(representation)  # type: ignore[no-any-return]

    def forward(self, representation: Tensor) -> Tensor:
        """Return one output per gene, [B, G]."""
        return self.genes(self.hidden(representation))  # type: ignore[no-any-return]
