"""TokenEmbedding: the genes of a cell and their values as a transformer's input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kernomics._arguments import checked, require_least
from kernomics.ops import embed_tokens
from kernomics.ops.embed_tokens import Combine


class TokenEmbedding(nn.Module):
    """A learnable embedding per gene, joined with the gene's value, behind a CLS token.

    With concat (TxFM, arXiv 2605.31562) the table has d columns so that its rows are aligned, but
    the last one, where the token holds the value, is unused: it starts at zero and stays there. Its
    gradient is zero, and weight decay, which scales it, leaves zero as it is.

    Parameters
    ----------
    n_genes, d_model
        V and the width d of a token.
    combine
        "concat": the value is the token's last number, the embedding its first d − 1. "add": an
        embedding of the value is added to the gene's.

    Attributes
    ----------
    table
        Parameter [V, d]. At the start N(0, 1) with concat, where layer normalisation sees it beside
        a value of up to log(L + 1) and a small one would be lost; N(0, 0.02²) with add.
    cls
        Parameter [d], at the start N(0, 0.02²).
    """

    @checked
    def __init__(self, n_genes: int, d_model: int, combine: Combine = "concat") -> None:
        super().__init__()
        require_least(1, n_genes=n_genes, d_model=d_model)
        self.combine: Combine = combine
        self.table = nn.Parameter(
            torch.empty(n_genes, d_model).normal_(std=1.0 if combine == "concat" else 0.02)
        )
        self.cls = nn.Parameter(torch.empty(d_model).normal_(std=0.02))
        if combine == "concat":
            with torch.no_grad():
                self.table[:, -1] = 0

    @property
    def gene_embeddings(self) -> Tensor:
        """What is learnt of each gene, a view of the table: concat [V, d − 1], add [V, d]."""
        return self.table[:, :-1] if self.combine == "concat" else self.table

    @property
    def n_parameters(self) -> int:
        """The number of parameters that are learnt, without the unused column."""
        return self.gene_embeddings.numel() + self.cls.numel()

    def forward(self, gene_ids: Tensor, values: Tensor) -> Tensor:
        """Return tokens [B, K + 1, d], CLS first.

        Parameters
        ----------
        gene_ids
            int32 or int64 [B, K]; −1 is padding, a token of zeros.
        values
            The genes' values [B, K] with concat, their embeddings [B, K, d] with add.
        """
        if self.combine == "concat":
            return embed_tokens(gene_ids, values, self.table, cls=self.cls)
        return embed_tokens(
            gene_ids, None, self.table, combine="add", value_embedding=values, cls=self.cls
        )
