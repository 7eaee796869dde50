"""A loss over cells computed a few at a time, so that cells × genes is never held at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernomics.ops._poisson_kernels import scaled

ENTRIES_AT_A_TIME = 2**22
"""Outputs (cells × genes) of a chunk: 16 MB in float32."""

LossOfCells = Callable[..., Tensor]


def sum_over_chunks(
    loss: LossOfCells, n_genes: int, hidden: Tensor, *parameters: Tensor | None
) -> Tensor:
    """Add up a loss over chunks of cells, and its gradients while a chunk's outputs are there.

    `loss` is called as ``loss(start, stop, hidden[start:stop], *parameters)`` and returns the part
    of these cells, one number; `hidden` is [B, H], n_genes how wide a cell's outputs are, and
    `parameters` are what all cells share. What the chunks need in between is gone when the next one
    begins; backward only multiplies by the gradient of the sum. Chunks are of cells, not of genes
    as in `linear_poisson_nll`: any loss of a cell's genes together, such as one with a softmax,
    works without a second pass. Autocast changes nothing.
    """
    size = max(1, ENTRIES_AT_A_TIME // max(1, n_genes))
    inputs = (hidden, *parameters)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        total: Tensor = _SumOverChunks.apply(loss, size, *inputs)  # type: ignore[no-untyped-call]
        return total
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        return _total(hidden, [loss(*part, *parameters) for part in _parts(hidden, size)])


def _parts(hidden: Tensor, size: int) -> list[tuple[int, int, Tensor]]:
    starts = range(0, len(hidden), size)
    return [(a, min(a + size, len(hidden)), hidden[a : a + size]) for a in starts]


def _total(hidden: Tensor, losses: list[Tensor]) -> Tensor:
    if not losses:
        return hidden.new_zeros(())
    return torch.stack(losses).double().sum().to(hidden.dtype)


class _SumOverChunks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, loss: LossOfCells, size: int, hidden: Tensor, *others: Tensor | None
    ) -> Tensor:
        wants_hidden, *wants = ctx.needs_input_grad[2:]
        leaves = [
            None if other is None else other.detach().requires_grad_(want)
            for other, want in zip(others, wants, strict=True)
        ]
        gradient = torch.zeros_like(hidden) if wants_hidden else None
        losses = []
        with torch.enable_grad(), torch.autocast(hidden.device.type, enabled=False):
            for start, stop, part in _parts(hidden, size):
                cells = part.detach().requires_grad_(wants_hidden)
                found = loss(start, stop, cells, *leaves)
                found.backward()  # type: ignore[no-untyped-call]
                if gradient is not None and cells.grad is not None:
                    gradient[start:stop] = cells.grad
                losses.append(found.detach())
        ctx.save_for_backward(gradient, *(None if leaf is None else leaf.grad for leaf in leaves))
        return _total(hidden, losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        gradients = (None if g is None else scaled(g, upstream) for g in ctx.saved_tensors)
        return None, None, *gradients
