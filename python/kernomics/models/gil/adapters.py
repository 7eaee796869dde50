"""Adapters: small networks beside fixed weights, for the cells that hold genes of one stage."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernomics.models.gil.tokens import Tokens


class Bottleneck(nn.Module):
    """A correction of states, d → rank → d, which is nothing at first.

    Parameters
    ----------
    width
        d.
    rank
        Numbers in the middle.
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank)
        self.up = nn.Linear(rank, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, states: Tensor, rows: Tensor) -> Tensor:
        """Correct some rows, int64 [M] without repeats, of [N, d]; the others stay to the bit."""
        own = states.index_select(0, rows)
        added = self.up(F.gelu(self.down(F.layer_norm(own, own.shape[-1:]))))
        return states.index_copy(0, rows, (own + added).to(states.dtype))


class StageAdapter(nn.Module):
    """What the cells that hold a gene of one stage pass beside the fixed network.

    Parameters
    ----------
    width, n_layers
        Of the network.
    rank
        Of each bottleneck.
    first, stop
        The stage's genes in the vocabulary.

    Attributes
    ----------
    span
        Buffer int64 [2], first and stop.
    states
        Bottlenecks of all tokens of such cells: one of the embeddings, then one after each block.
    query
        A bottleneck of the embeddings by which the stage's genes are asked for.
    """

    span: Tensor

    def __init__(self, width: int, n_layers: int, rank: int, first: int, stop: int) -> None:
        super().__init__()
        self.register_buffer("span", torch.tensor([first, stop]))
        self.states = nn.ModuleList(Bottleneck(width, rank) for _ in range(n_layers + 1))
        self.query = Bottleneck(width, rank)

    def owns(self, gene_ids: Tensor) -> Tensor:
        """Tell which genes are the stage's, bool [N]."""
        return (gene_ids >= self.span[0]) & (gene_ids < self.span[1])


class Adaptation:
    """Where the adapters apply in one batch; nowhere for a cell without genes of their stages.

    Parameters
    ----------
    adapters
        Of the stages so far, in their order.
    tokens
        The batch.
    chosen
        int64 [W], the rows that leave the last block; among all, the cells' own stand first.
    """

    def __init__(self, adapters: Iterable[nn.Module], tokens: Tokens, chosen: Tensor) -> None:
        n_cells, device = len(tokens.lengths), tokens.cells.device
        self._places: list[tuple[StageAdapter, Tensor, Tensor]] = []
        for adapter in adapters:
            assert isinstance(adapter, StageAdapter)
            holders = torch.zeros(n_cells, dtype=torch.bool, device=device)
            holders[tokens.cells[adapter.owns(tokens.gene_ids)]] = True
            of_rows = torch.cat([holders, holders[tokens.cells]])
            every, last = of_rows.nonzero().flatten(), of_rows[chosen].nonzero().flatten()
            if len(every):
                self._places.append((adapter, every, last))

    def __call__(self, place: int, states: Tensor) -> Tensor:
        """Correct the embeddings (0), or what block `place` returns, counted from 1."""
        for adapter, every, last in self._places:
            rows = last if place == len(adapter.states) - 1 else every
            states = adapter.states[place](states, rows)
        return states
