"""The Poisson loss of what a linear layer gives."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .poisson_nll import poisson_nll


def linear_poisson_nll(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, **options: Any
) -> Tensor:
    """Let a linear layer give the logits; see :func:`kernomics.ops.linear_poisson_nll`.

    z = h Wᵀ + bias, then :func:`poisson_nll` with its options. `hidden` is h [cells, H], `weight` W
    [genes, H].
    """
    logits = hidden @ weight.T
    return poisson_nll(logits if bias is None else logits + bias, target, **options)
