"""MaskedLinear: the first layer of a network that sees only the genes of a panel."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kernomics._arguments import checked, require_least
from kernomics.nn.gene_selector import Selection
from kernomics.ops import masked_linear
from kernomics.ops._common import SparseRows, csr_parts


class MaskedLinear(nn.Module):
    """y = (x ∘ mask)·W + b, computed from the chosen genes alone.

    Parameters
    ----------
    n_genes, n_out
        G and H.
    fan_in
        How many genes are seen at once; sets the scale of the initial weights, which would be too
        small by √(G/k) with G.

    Attributes
    ----------
    weight
        Parameter [G, H], stored by gene.
    bias
        Parameter [H].
    touched
        int64 [k], the rows of `weight` that the last call used, for an optimiser that updates
        these alone (:class:`kernomics.train.RowAdamW`); None before the first call.
    """

    @checked
    def __init__(self, n_genes: int, n_out: int, *, fan_in: int, sparse_grad: bool = False) -> None:
        super().__init__()
        require_least(1, n_genes=n_genes, n_out=n_out, fan_in=fan_in)
        self.fan_in, self.sparse_grad = fan_in, sparse_grad
        bound = 1 / math.sqrt(fan_in)
        self.weight = nn.Parameter(torch.empty(n_genes, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n_out).uniform_(-bound, bound))
        self.touched: Tensor | None = None

    def forward(
        self, x: Tensor | SparseRows, selection: Selection, means: Tensor | None = None
    ) -> Tensor:
        """Apply to x [B, G], dense, sparse CSR or `Cells`; returns [B, H].

        With `means` [G] to (x − means): since ((x − μ) ∘ m)·W = (x ∘ m)·W − (μ ∘ m)·W, x stays
        sparse, and the means are one row more of it.
        """
        indices, mask = selection
        self.touched = indices
        if means is None:
            return masked_linear(
                x, mask, indices, self.weight, self.bias, sparse_grad=self.sparse_grad
            )
        y = masked_linear(
            _with_row(x, means), mask, indices, self.weight, sparse_grad=self.sparse_grad
        )
        return y[:-1] - y[-1] + self.bias


class _Rows(NamedTuple):
    """Compressed sparse rows; see `SparseRows`."""

    indptr: Tensor
    indices: Tensor
    values: Tensor
    shape: tuple[int, int]


def _with_row(x: Tensor | SparseRows, row: Tensor) -> Tensor | SparseRows:
    """Return x [B, G] with one row [G] more at its end."""
    if isinstance(x, Tensor) and x.layout == torch.strided:
        return torch.cat((x, row[None].to(x.dtype)))
    indptr, indices, values = csr_parts(x, "x")
    genes = torch.arange(len(row), dtype=indices.dtype, device=indices.device)
    return _Rows(
        torch.cat((indptr, indptr[-1:] + len(row))),
        torch.cat((indices, genes)),
        torch.cat((values, row.to(values.dtype))),
        (x.shape[0] + 1, x.shape[1]),
    )
