"""Gene ids, values and tables that embed_tokens makes tokens of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from problems.common import FLOATS, Movable, Results

OPTIONS: dict[str, Any] = {
    "combine": st.sampled_from(["concat", "add"]),
    "cls": st.booleans(),
    "padding": st.sampled_from([0.0, 0.3, 1.0]),
    "ids": st.sampled_from([torch.int32, torch.int64]),
    "dtype": st.sampled_from(FLOATS),
    "seed": st.integers(0, 2**20),
}
"""Of `draw`, as hypothesis varies them."""


@dataclass(frozen=True)
class Problem(Movable):
    gene_ids: Tensor
    values: Tensor  # [B, K] or, to be added, [B, K, d]
    table: Tensor
    cls: Tensor | None
    delta: Tensor

    @property
    def combine(self) -> str:
        return "concat" if self.values.dim() == 2 else "add"


def draw(
    cells: int,
    tokens: int,
    genes: int,
    width: int,
    *,
    combine: str = "concat",
    cls: bool = True,
    padding: float = 0.2,
    ids: torch.dtype = torch.int64,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Problem:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)

    gene_ids = torch.randint(0, genes, (cells, tokens), generator=g)
    gene_ids[torch.rand((cells, tokens), generator=g) < padding] = -1
    shape = (cells, tokens) if combine == "concat" else (cells, tokens, width)
    return Problem(
        gene_ids.to(ids),
        normal(*shape),
        normal(genes, width),
        normal(width) if cls else None,
        normal(cells, tokens + cls, width),
    )


def call(
    function: Callable[..., Tensor],
    p: Problem,
    values: Tensor,
    table: Tensor,
    cls: Tensor | None = None,
) -> Tensor:
    concat = p.combine == "concat"
    return function(
        p.gene_ids,
        values if concat else None,
        table,
        combine=p.combine,
        value_embedding=None if concat else values,
        cls=cls,
    )


def run(function: Callable[..., Tensor], p: Problem) -> Results:
    """Compute the tokens and all gradients."""
    leaves = {
        name: value.detach().requires_grad_()
        for name, value in (("values", p.values), ("table", p.table), ("cls", p.cls))
        if value is not None
    }
    tokens = call(function, p, leaves["values"], leaves["table"], leaves.get("cls"))
    tokens.backward(p.delta)
    grads = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    assert len(grads) == len(leaves)
    return {"tokens": tokens.detach(), **grads}
