"""Cells, a mask and a layer of masked_linear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from problems.common import Movable, Results


@dataclass(frozen=True)
class Problem(Movable):
    x: Tensor
    mask: Tensor
    indices: Tensor
    weight: Tensor
    bias: Tensor | None
    delta: Tensor
    grad_indices: Tensor | None = None

    def absolute(self) -> Problem:
        floats = {n: v.abs() for n, v in vars(self).items() if v is not None and "indices" not in n}
        return replace(self, **floats)


def draw(
    cells: int,
    genes: int,
    outputs: int,
    k: int,
    *,
    density: float = 0.2,
    reach: int | None = None,
    bias: bool = True,
    seed: int = 0,
) -> Problem:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    def choose(count: int) -> Tensor:
        return torch.randperm(genes, generator=g)[:count].sort().values

    counts = torch.randint(1, 9, (cells, genes), generator=g).double()
    stored = torch.rand((cells, genes), generator=g, dtype=torch.float64) < density
    grad_indices = None
    if reach is not None:
        grad_indices = torch.cat([choose(reach), torch.full((3,), -1)])
    return Problem(
        counts * stored,
        normal(genes),
        choose(k),
        normal(genes, outputs),
        normal(outputs) if bias else None,
        normal(cells, outputs),
        grad_indices,
    )


def run(function: Callable[..., Tensor], p: Problem, x: Any = None) -> Results:
    """Compute y and all gradients."""
    leaves = {
        name: value.detach().requires_grad_()
        for name, value in (("mask", p.mask), ("weight", p.weight), ("bias", p.bias))
        if value is not None
    }
    y = function(
        p.x if x is None else x,
        leaves["mask"],
        p.indices,
        leaves["weight"],
        leaves.get("bias"),
        grad_indices=p.grad_indices,
    )
    y.backward(p.delta)
    grads = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    assert len(grads) == len(leaves)
    return {"y": y.detach(), **grads}
