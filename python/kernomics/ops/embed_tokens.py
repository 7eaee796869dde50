"""embed_tokens: genes and their values as the tokens of a transformer, written once."""

from __future__ import annotations

from typing import Any, Literal, NoReturn

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from . import _native
from ._common import LIBRARY, SCALAR_KINDS, Report, address, require_float, require_same_device
from ._derivatives import apply, call, differentiates, once, register
from ._kinds import require_given, require_tensors, require_words

Combine = Literal["concat", "add"]

# `values` are the public function's `values` [B, K], to be concatenated, or its `value_embedding`
# [B, K, d], to be added. Of the backward op's three gradients those not wanted are empty.
LIBRARY.define("embed_tokens(Tensor gene_ids, Tensor values, Tensor table, Tensor? cls) -> Tensor")
LIBRARY.define(
    "embed_tokens_backward(Tensor delta, Tensor gene_ids, SymInt genes, bool concat, "
    "bool with_cls, bool want_values, bool want_table, bool want_cls) "
    "-> (Tensor grad_values, Tensor grad_table, Tensor grad_cls)"
)


def _dense_columns(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _evenly_apart(delta: Tensor) -> tuple[Tensor, int]:
    """Return the gradient of tokens that all lie one stride apart, over cells too, and the stride.

    Where a cell has one token the stride between its tokens may be anything, whatever
    ``contiguous`` is asked for; that between cells counts.
    """
    delta = _dense_columns(delta)
    cells, tokens, _ = delta.shape
    if tokens == 1:
        return delta, delta.stride(0)
    if cells > 1 and delta.stride(0) != tokens * delta.stride(1):
        delta = delta.contiguous()
    return delta, delta.stride(1)


def _readable(
    gene_ids: Tensor, values: Tensor, table: Tensor, cls: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the inputs as the kernels read them."""
    return (
        gene_ids.contiguous(),
        values.contiguous() if values.dim() == 2 else _dense_columns(values),
        _dense_columns(table),
        None if cls is None else cls.contiguous(),
    )


def _shape(
    gene_ids: Tensor, genes: int, width: int, dtype: torch.dtype, concat: bool, with_cls: bool
) -> _native.Parameters:
    """Return what forward and backward share: EmbedShape in csrc/common/embed_tokens.h."""
    cells, tokens = gene_ids.shape
    return {
        "kind": SCALAR_KINDS[dtype],
        "gene_ids": gene_ids.data_ptr(),
        "wide_ids": gene_ids.dtype == torch.int64,
        "cells": cells,
        "tokens": tokens,
        "genes": genes,
        "width": width,
        "concat": concat,
        "with_cls": with_cls,
    }


def _tokens(gene_ids: Tensor, table: Tensor, cls: Tensor | None) -> Tensor:
    """Return room for the tokens."""
    cells, tokens = gene_ids.shape
    return table.new_empty((cells, tokens + (cls is not None), table.shape[1]))


def _gradients(
    delta: Tensor,
    gene_ids: Tensor,
    genes: int,
    concat: bool,
    want_values: bool,
    want_table: bool,
    want_cls: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return room for the gradients, empty for those that are not wanted."""
    width = delta.shape[2]
    values = gene_ids.shape if concat else (*gene_ids.shape, width)
    return (
        delta.new_empty(values if want_values else (0,)),
        delta.new_empty((genes, width) if want_table else (0, 0)),
        delta.new_empty((width,) if want_cls else (0,)),
    )


def _raise_fault(report: Report, genes: int) -> NoReturn:
    raise ValueError(
        f"gene_ids has {report.bad:,} ids that are neither −1 (padding) nor one of "
        f"{genes:,} genes, first {report.value:,} at [{report.row:,}, {report.position:,}]; ids "
        f"are rows of table, from 0 to {genes - 1:,}"
    )


def _forward_parameters(
    gene_ids: Tensor, values: Tensor, table: Tensor, cls: Tensor | None, out: Tensor
) -> _native.Parameters:
    genes, width = table.shape
    concat, with_cls = values.dim() == 2, cls is not None
    parameters = _shape(gene_ids, genes, width, table.dtype, concat, with_cls)
    cell_stride, token_stride = values.stride()[:2]
    parameters.update(
        table=table.data_ptr(),
        table_stride=table.stride(0),
        values=values.data_ptr(),
        cell_stride=cell_stride,
        token_stride=token_stride,
        cls=address(cls),
        out=out.data_ptr(),
    )
    return parameters


def _backward_parameters(
    delta: Tensor,
    token_stride: int,
    gene_ids: Tensor,
    grads: tuple[Tensor, Tensor, Tensor],
    genes: int,
    concat: bool,
    with_cls: bool,
) -> _native.Parameters:
    grad_values, grad_table, grad_cls = (address(g) if g.numel() else 0 for g in grads)
    parameters = _shape(gene_ids, genes, delta.shape[2], delta.dtype, concat, with_cls)
    parameters.update(
        delta=delta.data_ptr(),
        cell_stride=delta.stride(0),
        token_stride=token_stride,
        grad_table=grad_table,
        grad_values=grad_values,
        grad_cls=grad_cls,
    )
    return parameters


def _forward_cpu(gene_ids: Tensor, values: Tensor, table: Tensor, cls: Tensor | None) -> Tensor:
    gene_ids, values, table, cls = _readable(gene_ids, values, table, cls)
    tokens = _tokens(gene_ids, table, cls)
    parameters = _forward_parameters(gene_ids, values, table, cls, tokens)
    parameters["threads"] = torch.get_num_threads()
    report = _native.cpu().embed_tokens_forward(parameters)
    if report[0]:
        _raise_fault(Report(*report), table.shape[0])
    return tokens


def _backward_cpu(
    delta: Tensor,
    gene_ids: Tensor,
    genes: int,
    concat: bool,
    with_cls: bool,
    want_values: bool,
    want_table: bool,
    want_cls: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    delta, gene_ids = _dense_columns(delta), gene_ids.contiguous()
    grads = _gradients(delta, gene_ids, genes, concat, want_values, want_table, want_cls)
    parameters = _backward_parameters(
        delta, delta.stride(1), gene_ids, grads, genes, concat, with_cls
    )
    parameters["threads"] = torch.get_num_threads()
    _native.cpu().embed_tokens_backward(parameters)
    return grads


def _forward_cuda(gene_ids: Tensor, values: Tensor, table: Tensor, cls: Tensor | None) -> Tensor:
    gene_ids, values, table, cls = _readable(gene_ids, values, table, cls)
    genes = table.shape[0]
    if _native.checks_enabled():
        bad = ((gene_ids < -1) | (gene_ids >= genes)).nonzero()
        if len(bad):
            cell, token = bad[0].tolist()
            gene = int(gene_ids[cell, token])
            _raise_fault(Report(1, cell, token, gene, 0.0, len(bad)), genes)
    with torch.cuda.device(table.device):
        tokens = _tokens(gene_ids, table, cls)
        parameters = _forward_parameters(gene_ids, values, table, cls, tokens)
        _native.launch("embed_tokens_forward", parameters)
    return tokens


def _backward_cuda(
    delta: Tensor,
    gene_ids: Tensor,
    genes: int,
    concat: bool,
    with_cls: bool,
    want_values: bool,
    want_table: bool,
    want_cls: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    (delta, token_stride), gene_ids = _evenly_apart(delta), gene_ids.contiguous()
    with torch.cuda.device(delta.device):
        grads = _gradients(delta, gene_ids, genes, concat, want_values, want_table, want_cls)
        parameters = _backward_parameters(
            delta, token_stride, gene_ids, grads, genes, concat, with_cls
        )
        _native.launch("embed_tokens_backward", parameters, room=delta)
    return grads


def _forward_fake(gene_ids: Tensor, values: Any, table: Tensor, cls: Tensor | None) -> Tensor:
    return _tokens(gene_ids, table, cls)


def _backward_fake(
    delta: Tensor, gene_ids: Tensor, genes: int, concat: bool, with_cls: bool, *wanted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients(delta, gene_ids, genes, concat, *wanted)


register("embed_tokens", "embed_tokens", _forward_cpu, _forward_cuda, _forward_fake)
register("embed_tokens_backward", "embed_tokens", _backward_cpu, _backward_cuda, _backward_fake)


class _EmbedTokens(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gene_ids: Tensor, values: Tensor, table: Tensor, cls: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(gene_ids)
        ctx.layout = table.shape[0], values.dim() == 2, cls is not None
        tokens: Tensor = call(torch.ops.kernomics.embed_tokens, gene_ids, values, table, cls)
        return tokens

    @staticmethod
    @once("embed_tokens")  # linear: only what comes from above can make a second derivative
    def backward(ctx: Any, delta: Tensor) -> Any:
        wanted = ctx.needs_input_grad[1:]
        (gene_ids,) = ctx.saved_tensors
        grads = call(
            torch.ops.kernomics.embed_tokens_backward, delta, gene_ids, *ctx.layout, *wanted
        )
        return None, *(g if want else None for g, want in zip(grads, wanted, strict=True))


def _check(gene_ids: Tensor, table: Tensor, cls: Tensor | None) -> None:
    if gene_ids.dtype not in (torch.int32, torch.int64) or gene_ids.dim() != 2:
        raise ValueError(
            f"gene_ids are {gene_ids.dtype} of shape {tuple(gene_ids.shape)}; int32 or int64 "
            "[cells, tokens] are needed"
        )
    if max(gene_ids.shape) >= 2**31:
        raise ValueError(
            f"gene_ids has shape {tuple(gene_ids.shape)}; fewer than 2³¹ cells and tokens are "
            "possible"
        )
    if table.dim() != 2 or table.shape[1] == 0:
        raise ValueError(f"table has shape {tuple(table.shape)}; [genes, width] is needed")
    if table.dtype not in SCALAR_KINDS:
        raise TypeError(
            f"table has dtype {table.dtype}; float32, float64, bfloat16 or float16 is needed"
        )
    if cls is not None and cls.shape != table.shape[1:]:
        raise ValueError(f"cls has shape {tuple(cls.shape)}; [{table.shape[1]}] is needed")
    require_same_device(table, "table", gene_ids=gene_ids, cls=cls)
    if cls is not None:
        require_float(cls, "cls")


def _converted(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Return the tensor in the table's dtype if that holds its numbers; raise if it does not."""
    out = tensor.to(dtype)
    if torch.finfo(dtype).max >= torch.finfo(tensor.dtype).max or tensor.is_meta:
        return out
    if tensor.is_cuda and not _native.checks_enabled():
        return out
    if isinstance(tensor, FakeTensor) or torch.compiler.is_compiling():
        return out
    lost = out.detach().isinf() & tensor.detach().isfinite()
    if bool(lost.any()):
        first = lost.nonzero()[0].tolist()
        raise ValueError(
            f"{int(lost.sum()):,} numbers of {name} are beyond table's {dtype}, first "
            f"{float(tensor[tuple(first)]):g} at {first}; use a wider table or scale them down"
        )
    return out


def _combined(
    gene_ids: Tensor,
    values: Tensor | None,
    table: Tensor,
    combine: Combine,
    value_embedding: Tensor | None,
) -> Tensor:
    """Return what stands beside the embedding, or is added to it, after checking it."""
    if combine not in ("concat", "add"):
        raise ValueError(f"combine is {combine!r}; 'concat' or 'add' is possible")
    given = {"values": values, "value_embedding": value_embedding}
    needed, other = ("values", "value_embedding")[:: 1 if combine == "concat" else -1]
    tensor = given[needed]
    if tensor is None or given[other] is not None:
        found = [name for name, value in given.items() if value is not None]
        raise ValueError(
            f"combine={combine!r} takes {needed} and not {other}; given: "
            f"{' and '.join(found) or 'neither'}"
        )
    shape = (*gene_ids.shape, table.shape[1])[: 2 if combine == "concat" else 3]
    if tensor.shape != shape:
        raise ValueError(
            f"{needed} has shape {tuple(tensor.shape)} and gene_ids {tuple(gene_ids.shape)}; "
            f"{list(shape)} is needed"
        )
    require_float(tensor, needed)
    require_same_device(table, "table", **{needed: tensor})
    return _converted(tensor, table.dtype, needed)


def embed_tokens(
    gene_ids: Tensor,
    values: Tensor | None,
    table: Tensor,
    *,
    combine: Combine = "concat",
    value_embedding: Tensor | None = None,
    cls: Tensor | None = None,
) -> Tensor:
    r"""Make a transformer's tokens from each cell's genes and their values.

    .. math:: t_{bk} = [E_i ; x_{bk}] \text{ (concat, TxFM)} \quad \text{or} \quad
              t_{bk} = E_i + v_{bk} \text{ (add, POLYGENE and GIL)}

    for gene i at position k of cell b. The tokens are written once, the CLS token in front of them
    included. With δ the gradient of the tokens, backward gives

    .. math:: ∂E_i = Σ_{bk \text{ with gene } i} δ_{bk}, \quad ∂x_{bk} = δ_{bkd}, \quad
              ∂v_{bk} = δ_{bk}, \quad ∂\mathrm{cls} = Σ_b δ_{b,\mathrm{CLS}}.

    The sum of a gene runs over its positions in the order of the flattened `gene_ids`: the same
    input gives the same bits on every run, for any number of threads, and on CUDA.

    Parameters
    ----------
    gene_ids
        int32 or int64 [B, K], rows of `table`; −1 is padding, whose token is all zeros and gives no
        gradient. A gene may occur several times.
    values
        [B, K], x. For concat only, else None.
    table
        [V, d], E by gene, in float32, float64, bfloat16 or float16. For concat an embedding has
        d − 1 numbers; the table's last column is not used, and its gradient is zero.
    combine
        Whether the value is the token's last number or an embedding added to the gene's.
    value_embedding
        [B, K, d], v. For add only.
    cls
        [d], the token in front of every cell's; none when not given.

    Returns
    -------
    Tensor
        [B, K, d], or [B, K + 1, d] with `cls`, in the table's dtype, to which the other inputs are
        converted. Gradients are summed in float32, in float64 for float64, and rounded once.
        Autocast changes nothing.

    Raises
    ------
    ValueError
        Shapes, devices or dtypes of ids that do not fit, or ids outside −1 … V − 1. On CUDA ids
        are not looked at, unless KERNOMICS_CHECK=1 is set: the token of a bad one is NaN. Values
        or cls that the table's narrower dtype does not hold (on CUDA as for ids; else infinite).
        Sums beyond it are infinite, as torch's are.
    TypeError
        A table, values or cls of a dtype that is not possible.
    MemoryError
        No memory for the kernel's scratch, in backward.

    References
    ----------
    TxFM: arXiv 2605.31562.
    """
    require_given(gene_ids=gene_ids, table=table)
    require_tensors(values=values, value_embedding=value_embedding, cls=cls)
    require_words(combine=combine)
    _check(gene_ids, table, cls)
    arguments = (
        gene_ids,
        _combined(gene_ids, values, table, combine, value_embedding),
        table,
        None if cls is None else _converted(cls, table.dtype, "cls"),
    )
    tokens: Tensor
    if differentiates(*arguments):
        tokens = apply("embed_tokens", _EmbedTokens, *arguments)
    else:
        tokens = call(torch.ops.kernomics.embed_tokens, *arguments)
    return tokens
