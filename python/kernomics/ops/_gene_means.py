"""The CPU kernels of the attention from CLS to genes; see `kernomics.nn.gene_attention`."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _native
from ._common import SCALAR_KINDS

FLOATS = 16
HEADS = 4
"""Rows and heads are padded to multiples of these."""


class Attended(NamedTuple):
    """What backward needs of forward, as `GeneTokens` in csrc/common/gene_means.h."""

    gene_ids: Tensor  # int64 [B, K], −1 for padding
    values: Tensor  # [B, K]
    centred: Tensor  # [G + 1, stride]
    scores: Tensor  # [G + 1, head stride]
    means: Tensor  # [G + 1]
    squares: Tensor  # [G + 1]
    last: Tensor  # [head stride]
    cls_value: Tensor  # [1]
    p: Tensor  # [B, H, K + 1]
    r: Tensor  # [B, K + 1]


class Gradients(NamedTuple):
    """Gradients of the tables and of the values."""

    centred: Tensor  # [G + 1, d], without what comes by the scores and the squares
    scores: Tensor  # [G + 1, H]
    means: Tensor  # [G + 1]
    squares: Tensor  # [G + 1]
    last: Tensor  # [H]
    values: Tensor  # [B, K]
    cls_value: Tensor  # []


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels take these: on the CPU, and nothing is being compiled around them."""
    return not torch.compiler.is_compiling() and all(
        t.device.type == "cpu" and t.dtype in (torch.float32, torch.float64) for t in tensors
    )


def _padded(x: Tensor, multiple: int) -> Tensor:
    return F.pad(x, (0, -x.shape[-1] % multiple)).contiguous()


def _parameters(kept: Attended, width: int, eps: float) -> dict[str, int | float]:
    cells, tokens = kept.gene_ids.shape
    given: dict[str, int | float] = {
        name: tensor.data_ptr() for name, tensor in kept._asdict().items()
    }
    given.update(
        kind=SCALAR_KINDS[kept.centred.dtype],
        cells=cells,
        tokens=tokens,
        genes=len(kept.centred) - 1,
        width=width,
        stride=kept.centred.shape[1],
        heads=kept.p.shape[1],
        head_stride=kept.scores.shape[1],
        eps=eps,
        threads=torch.get_num_threads(),
    )
    return given


def gene_means(
    a: Tensor,
    centred: Tensor,
    means: Tensor,
    squares: Tensor,
    gene_ids: Tensor,
    values: Tensor,
    cls_value: Tensor,
    eps: float,
) -> tuple[Tensor, Attended]:
    """Return Σ p x̂ of each head and cell, [H, B, d], and what backward needs.

    Parameters
    ----------
    a
        [H, d], of mean 0.
    centred, means, squares
        C [G + 1, d], m and |C|² [G + 1] of the genes and of CLS, the last row.
    gene_ids, values
        int64 [B, K], −1 at padding, and [B, K].
    cls_value
        CLS's last number, [1].
    eps
        Of the norm.
    """
    heads, width = a.shape
    cells, tokens = gene_ids.shape
    kept = Attended(
        gene_ids=gene_ids.contiguous(),
        values=values.contiguous(),
        centred=_padded(centred, FLOATS),
        scores=_padded(centred @ a.t(), HEADS),
        means=means.contiguous(),
        squares=squares.contiguous(),
        last=_padded(a[:, -1], HEADS),
        cls_value=cls_value,
        p=a.new_empty(cells, heads, tokens + 1),
        r=a.new_empty(cells, tokens + 1),
    )
    out = a.new_empty(heads, cells, width)
    given = _parameters(kept, width, eps)
    report = _native.cpu().gene_means_forward({**given, "out": out.data_ptr()})
    if report[0]:
        _, cell, token, gene, *_ = report
        raise ValueError(
            f"gene_ids[{cell:,}, {token:,}] = {gene:,} is not one of {len(centred) - 1:,} genes"
        )
    return out, kept


def gene_means_backward(delta: Tensor, kept: Attended, eps: float) -> Gradients:
    """Return the gradients, from that of the means, [H, B, d]."""
    heads, _, width = delta.shape
    delta = delta.contiguous()
    new = kept.centred.new_empty
    rows, stride = kept.centred.shape
    found = Gradients(
        new(rows, stride), new(kept.scores.shape), new(rows), new(rows), new(kept.last.shape),
        new(kept.values.shape), new(()),
    )  # fmt: skip
    given = _parameters(kept, width, eps)
    given.update({f"of_{name}": tensor.data_ptr() for name, tensor in found._asdict().items()})
    _native.cpu().gene_means_backward({**given, "delta": delta.data_ptr()})
    return found._replace(
        centred=found.centred[:, :width],
        scores=found.scores[:, :heads],
        last=found.last[:heads],
    )
