"""Tokens of genes and values, with a CLS token in front."""

from __future__ import annotations

import torch
from torch import Tensor


def embed_tokens(
    gene_ids: Tensor,
    values: Tensor | None,
    table: Tensor,
    *,
    combine: str = "concat",
    value_embedding: Tensor | None = None,
    cls: Tensor | None = None,
) -> Tensor:
    """Make tokens of genes and their values; see :func:`kernomics.ops.embed_tokens`.

    Concat: token = [E_i ; x_i], where E_i is row i of the table without its last column. Add: token
    = E_i + v_i. Id −1 is padding, a token of zeros. A CLS token goes in front of each cell's.

    Parameters
    ----------
    gene_ids
        i, [cells, tokens].
    values
        x, [cells, tokens], for concat.
    table
        E, [genes, d].
    combine
        "concat" or "add".
    value_embedding
        v, [cells, tokens, d], for add.
    cls
        [d].

    Returns
    -------
    Tensor
        [cells, tokens, d], or one token more per cell.
    """
    embedding = table[gene_ids.clamp(min=0)]
    if combine == "concat":
        assert values is not None
        tokens = torch.cat([embedding[..., :-1], values[..., None]], dim=-1)
    else:
        assert value_embedding is not None
        tokens = embedding + value_embedding
    tokens = torch.where(gene_ids[..., None] >= 0, tokens, 0.0)
    if cls is None:
        return tokens
    return torch.cat([cls.expand(len(tokens), 1, -1), tokens], dim=1)
