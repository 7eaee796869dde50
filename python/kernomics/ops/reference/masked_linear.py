"""log1p of chosen genes through a linear layer."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_linear(
    x: Tensor,
    mask: Tensor,
    indices: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    grad_indices: Tensor | None = None,
) -> Tensor:
    r"""Let a linear layer see the chosen genes alone; see :func:`kernomics.ops.masked_linear`.

    .. math:: y_b = Σ_{j∈S} m_j x_{bj} W_j + \mathrm{bias}

    The gradient pretends that every gene took part: ∂y_b/∂m_j = x_bj W_j also for genes outside S
    (or for those in `grad_indices`), so that the mask learns what a gene would have added.

    Parameters
    ----------
    x
        [cells, genes], dense or sparse.
    mask
        m, [genes].
    indices
        S, the chosen genes.
    weight
        W, [genes, outputs].
    bias
        [outputs].
    grad_indices
        The genes whose mask gets a gradient, −1 being none; every gene when not given.

    Returns
    -------
    Tensor
        y, [cells, outputs].
    """
    chosen = torch.zeros_like(mask)
    chosen[indices] = 1
    learns = torch.ones_like(mask)
    if grad_indices is not None:
        learns = torch.zeros_like(mask)
        learns[grad_indices[grad_indices >= 0]] = 1
    change = mask - mask.detach()  # exactly 0, with gradient 1
    m = chosen * mask.detach() + learns * change
    y = (x.to_dense() * m) @ weight
    return y if bias is None else y + bias
