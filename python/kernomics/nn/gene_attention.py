r"""Attention from CLS to genes and their values, without writing a token.

A token is [E_i ; v], the embedding of gene i in d − 1 numbers and its value; CLS is one more gene,
whose value is its last number. With m_i the mean of E_i, C_i = E_i − m_i (and 0 in the last place),
S_i = |C_i|² and w = v − m_i, the token's norm is

.. math:: \hat x = r\,(C_i + w\,β), \quad β = e_d - \tfrac1d \mathbf 1, \quad
          r = \Bigl(\tfrac1d S_i + \tfrac{d-1}{d^2} w^2 + ε\Bigr)^{-1/2},

without the difference of two large numbers. As all cells share CLS they share each head's a, which
scores tokens by a·x̂ (`kernomics.nn.cls_attention`), here of mean 0, so

.. math:: a^T \hat x = r\,(a^T C_i + w\,a_d), \qquad
          \sum_k p_k \hat x_k = \sum_k u_k C_{i(k)} + β \sum_k u_k w_k, \quad u = p\,r.

What is as long as a cell's genes is a number a head, not d of them: B·H·K in place of B·K·d, and
aᵀC is a product of the table alone. On the CPU two kernels (csrc/cpu/gene_means.cpp) do all that
goes over tokens. On a GPU, and where torch's compiler looks, it is torch's operations: the sum over
k is an ``embedding_bag``, its gradient two products with the whole table, as long as that is not
much longer than a cell has genes; else the rows of C are gathered for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernomics.ops import _gene_means as kernels
from kernomics.ops import embed_tokens

LONGER = 8
"""How many times a cell's genes the table may have before its rows are gathered instead."""


def _sums_by_gene(numbers: Tensor, ids: Tensor, n: int, scatter: bool) -> Tensor:
    """Add up numbers [R, B, K] of the same gene, [R, n]; `scatter` where its order is fixed."""
    rows = len(numbers)
    if scatter:
        at = ids.reshape(1, -1).expand(rows, -1)
        return numbers.new_zeros(rows, n).scatter_add_(1, at, numbers.reshape(rows, -1))
    return _sums_of_rows(numbers.permute(1, 2, 0).contiguous(), ids, n).t()


def _sums_of_rows(rows: Tensor, ids: Tensor, n: int) -> Tensor:
    """Add up rows [B, K, R] of the same gene, [n, R], always in the same order."""
    return torch.ops.kernomics.embed_tokens_backward(  # type: ignore[no-any-return]
        rows, ids, n, False, False, False, True, False
    )[1]


def _centred(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return C, m and |C|² of the rows of a table that come one after the other."""
    centred = torch.cat(list(rows))
    means = centred[:, :-1].mean(1)
    centred.sub_(means[:, None])
    centred[:, -1].zero_()
    return centred, means, torch.linalg.vector_norm(centred, dim=1).square()


def _of_rows(
    of_centred: Tensor, of_scores: Tensor, of_means: Tensor, of_squares: Tensor,
    centred: Tensor, a: Tensor,
) -> Tensor:  # fmt: skip
    """Return the gradient of the table's rows, [n, d], from those of C, aᵀC [n, H], m, |C|²/d."""
    width = centred.shape[1]
    of_rows = torch.addmm(of_centred, of_scores, a)
    of_rows.addcmul_(centred, of_squares[:, None], value=2)
    of_rows[:, -1].zero_()
    of_rows += ((of_means - of_rows.sum(1)) / (width - 1))[:, None]
    of_rows[:, -1].zero_()
    return of_rows


class _SweptGeneMeans(torch.autograd.Function):
    """By the CPU's kernels."""

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        table: Tensor,
        cls: Tensor,
        gene_ids: Tensor,
        values: Tensor,
        padding: Tensor | None,
        eps: float,
    ) -> Tensor:
        centred, means, squares = _centred([table, cls[None]])
        a = a - a.mean(1, keepdim=True)
        ids = gene_ids.long()
        if padding is not None:
            ids = ids.masked_fill(padding, -1)
        out, kept = kernels.gene_means(
            a, centred, means, squares, ids, values.to(table.dtype), cls[-1:], eps
        )
        ctx.save_for_backward(a, centred, *kept)
        ctx.dtype, ctx.eps = values.dtype, eps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, delta: Tensor) -> Any:
        a, centred, *kept = ctx.saved_tensors
        of = kernels.gene_means_backward(delta, kernels.Attended(*kept), ctx.eps)
        of_a = of.scores.t() @ centred
        of_a[:, -1] = of.last
        of_a -= of_a.mean(1, keepdim=True)
        of_rows = _of_rows(of.centred, of.scores, of.means, of.squares, centred, a)
        of_cls = of_rows[-1].clone()
        of_cls[-1] = of.cls_value
        return of_a, of_rows[:-1], of_cls, None, of.values.to(ctx.dtype), None, None


class _GeneMeans(torch.autograd.Function):
    """By torch's operations."""

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        table: Tensor,
        cls: Tensor,
        gene_ids: Tensor,
        values: Tensor,
        padding: Tensor | None,
        eps: float,
    ) -> Tensor:
        genes, width = table.shape
        heads = len(a)
        # Row `genes` is CLS; padding has a row of its own.
        ids = gene_ids.long()
        if padding is not None:
            ids, padding = ids.masked_fill(padding, genes + 1), F.pad(padding, (1, 0))
        ids = F.pad(ids, (1, 0), value=genes)
        w = torch.cat([cls[-1:].expand(len(ids), 1), values.to(table.dtype)], 1)
        rows = [table, cls[None]]
        if padding is not None:
            rows.append(torch.zeros_like(cls)[None])
        centred, means, squares = _centred(rows)
        a = a - a.mean(1, keepdim=True)
        last = a[:, -1, None, None]

        of_genes = torch.cat([a @ centred.t(), means[None], squares[None]])
        picked = of_genes.index_select(1, ids.flatten()).view(-1, *ids.shape)
        w.sub_(picked[heads])
        r = w.square().mul_((width - 1) / width).add_(picked[heads + 1]).div_(width)
        r.add_(eps).rsqrt_()
        z = torch.addcmul(picked[:heads], w, last).mul_(r)
        if padding is not None:
            z.masked_fill_(padding, -torch.inf)
        p = z.softmax(-1)
        u = p * r
        bags = ids.expand(heads, -1, -1).reshape(-1, ids.shape[1])
        mixed = F.embedding_bag(bags, centred, mode="sum", per_sample_weights=u.view_as(bags))
        mixed = mixed.view(heads, len(ids), width)
        shift = (u * w).sum(-1)
        mixed.sub_(shift[..., None] / width)
        mixed[..., -1].add_(shift)
        if padding is not None:
            z.masked_fill_(padding, 0.0)
        ctx.save_for_backward(a, centred, ids, w, r, z, p)
        ctx.dtype, ctx.genes = values.dtype, genes
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, delta: Tensor) -> Any:
        a, centred, ids, w, r, z, p = ctx.saved_tensors
        heads, cells, length = p.shape
        n, width = centred.shape
        u = p * r
        of_shift = delta[..., -1] - delta.mean(-1)
        at = ids.expand(heads, -1, -1)
        whole = n <= LONGER * length
        if whole:
            of_u = (delta.reshape(-1, width) @ centred.t()).view(heads, cells, n).gather(2, at)
            of_rows = p.new_zeros(heads, cells, n).scatter_add_(2, at, u)
            of_centred = of_rows.view(-1, n).t() @ delta.reshape(-1, width)
        else:
            by_cell = delta.transpose(0, 1)
            rows = embed_tokens(ids, torch.zeros_like(w), centred)  # its last column is 0
            of_u = torch.bmm(by_cell, rows.mT).transpose(0, 1)
            of_rows = torch.bmm(u.permute(1, 2, 0), by_cell)
            of_centred = _sums_of_rows(of_rows, ids, n)
        of_u = torch.addcmul(of_u, w, of_shift[..., None])
        of_z = torch._softmax_backward_data(of_u * r, p, -1, p.dtype)
        # r·∂r, from u = p·r and from z, which is r times something.
        of_r = torch.addcmul(of_z * z, of_u, u).sum(0)
        of_z = of_z * r
        flat = of_z.view(heads, -1)
        of_variance = of_r.mul_(r.square()).mul_(-0.5)
        of_w = (a[:, -1] @ flat).view_as(w) + (u * of_shift[..., None]).sum(0)
        of_w.addcmul_(of_variance, w, value=2 * (width - 1) / width**2)
        sums = _sums_by_gene(
            torch.cat([of_z, of_w[None], of_variance[None]]), ids, n, p.device.type == "cpu"
        )
        of_scores, of_means, of_squares = sums[:heads], -sums[heads], sums[heads + 1] / width

        of_a = of_scores @ centred
        of_a[:, -1] = flat @ w.flatten()
        of_a -= of_a.mean(1, keepdim=True)
        of_centred = _of_rows(of_centred, of_scores.t(), of_means, of_squares, centred, a)
        of_cls = of_centred[ctx.genes].clone()
        of_cls[-1] = of_w[:, 0].sum()
        of_values = of_w[:, 1:].to(ctx.dtype)
        return of_a, of_centred[: ctx.genes], of_cls, None, of_values, None, None


def attend_to_genes(
    a: Tensor,
    table: Tensor,
    cls: Tensor,
    gene_ids: Tensor,
    values: Tensor,
    padding: Tensor | None,
    eps: float,
) -> Tensor:
    """Return Σ p x̂ of each head and cell, [H, B, d]: what CLS sees of the tokens.

    Parameters
    ----------
    a
        [H, d], what scores the normalised tokens (`kernomics.nn.cls_attention.query_of`).
    table, cls
        [G, d], whose last column is not used, and [d], as of `kernomics.nn.TokenEmbedding`.
    gene_ids
        int32 or int64 [B, K].
    values
        [B, K].
    padding
        bool [B, K], True where there is no token, whatever its id; None when there are all.
    eps
        Of the norm of the tokens.
    """
    alike = a.dtype == table.dtype == cls.dtype
    swept = alike and kernels.usable(a, table, cls)
    function = _SweptGeneMeans if swept else _GeneMeans
    found: Tensor = function.apply(  # type: ignore[no-untyped-call]
        a, table, cls, gene_ids, values, padding, eps
    )
    return found
