"""Encoder: a pre-norm transformer over unordered tokens, read out at its CLS token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kernomics._arguments import checked, require_least, require_rate
from kernomics.errors import ConfigError
from kernomics.nn.cls_attention import attend_from_cls, query_of, values_of
from kernomics.nn.gene_attention import attend_to_genes
from kernomics.nn.memory_efficient import feed_forward, fold_norm, fold_scale, standardise
from kernomics.nn.token_embedding import TokenEmbedding

Recompute = Literal["nothing", "feed_forward", "blocks"]


class EncoderBlock(nn.Module):
    """x + s₁·attention(LN(x)), then x + s₂·MLP(LN(x)), with a learnt scale s per channel.

    Norms and scales are folded into the layers beside them; `kernomics.nn.memory_efficient`
    says what that saves.

    Parameters
    ----------
    d_model
        Width d.
    n_heads
        Attention heads; a divisor of d.
    layer_scale
        Where the scales s start (LayerScale, arXiv 2103.17239).
    """

    def __init__(self, d_model: int, n_heads: int, layer_scale: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_1 = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.project = nn.Linear(d_model, d_model)
        self.scale_1 = nn.Parameter(torch.full((d_model,), float(layer_scale)))
        self.norm_2 = nn.LayerNorm(d_model)
        self.widen = nn.Linear(d_model, 4 * d_model)
        self.narrow = nn.Linear(4 * d_model, d_model)
        self.scale_2 = nn.Parameter(torch.full((d_model,), float(layer_scale)))

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        keep: Tensor | None,
        *,
        cls_only: bool = False,
        again: bool = False,
    ) -> Tensor:
        """Return x of the next layer [B, T, d], or with `cls_only` its first token [B, 1, d].

        Parameters
        ----------
        x
            [B, T, d], CLS first.
        mask
            [B, 1, 1, T], bool, False at padding, or float, what is added to the logits; None when
            there is none.
        keep
            [B, 2], what attention and MLP are multiplied by (stochastic depth); None for 1.
        cls_only
            Compute one query and one feed-forward row per cell. The result for CLS is the same.
        again
            Compute the feed-forward's widest layer in backward again, and do not keep it.
        """
        if cls_only:
            return self._rest(*attend_from_cls(x, self.norm_1, self.qkv, self.n_heads, mask), keep)
        rows, _, width = x.shape
        weight, bias = fold_norm(self.norm_1, self.qkv)
        q, k, v = F.linear(standardise(x, self.norm_1.eps), weight, bias).chunk(3, dim=-1)

        def heads(part: Tensor) -> Tensor:
            return part.view(rows, -1, self.n_heads, width // self.n_heads).transpose(1, 2)

        mixed = F.scaled_dot_product_attention(heads(q), heads(k), heads(v), attn_mask=mask)
        mixed = mixed.transpose(1, 2).reshape(rows, -1, width)
        attended = F.linear(mixed, *fold_scale(self.project, self.scale_1))
        x = x + (attended if keep is None else attended * keep[:, :1, None])
        changed = feed_forward(
            standardise(x, self.norm_2.eps),
            *fold_norm(self.norm_2, self.widen),
            *fold_scale(self.narrow, self.scale_2),
            again=again,
        )
        out: Tensor = x + (changed if keep is None else changed * keep[:, 1:, None])
        return out

    def of_genes(
        self,
        embedding: TokenEmbedding,
        gene_ids: Tensor,
        values: Tensor,
        padding: Tensor | None,
    ) -> Tensor:
        """Return what `forward` returns of the tokens' CLS, [B, 1, d], without writing tokens.

        Parameters
        ----------
        embedding
            Makes the tokens, by concat.
        gene_ids, values
            [B, K], as for `embedding`.
        padding
            bool [B, K], True where there is no token; None when there are all.
        """
        table, cls, norm = embedding.table, embedding.cls, self.norm_1
        with torch.autocast(table.device.type, enabled=False):  # nothing here is large
            a = query_of(standardise(cls[None], norm.eps), norm, self.qkv, self.n_heads)[:, 0]
            means = attend_to_genes(a, table, cls, gene_ids, values, padding, norm.eps)
            mixed = values_of(means, norm, self.qkv)
        return self._rest(cls.expand(len(mixed), -1), mixed, None)

    def _rest(self, x: Tensor, mixed: Tensor, keep: Tensor | None) -> Tensor:
        """Return CLS of the next layer, [B, 1, d], from CLS and what its attention found, [B, d].

        Norms and scales are not folded: these are fewer rows than the weights have.
        """
        attended = self.project(mixed) * self.scale_1
        x = x + (attended if keep is None else attended * keep[:, :1])
        changed = self.narrow(F.gelu(self.widen(self.norm_2(x)))) * self.scale_2
        x = x + (changed if keep is None else changed * keep[:, 1:])
        return x[:, None]


class Encoder(nn.Module):
    """A stack of `EncoderBlock`, of which only the CLS token is wanted at the end.

    Tokens carry no position, so their order does not matter. The last block computes the CLS row
    alone, without keys and values: at 2,048 tokens under a hundredth of its products is left.

    Parameters
    ----------
    d_model, n_heads, layer_scale
        As for `EncoderBlock`.
    n_layers
        Blocks.
    stochastic_depth
        The rate at which the last block's branches are left out in training; it rises linearly
        from 0 at the first (arXiv 1603.09382).
    recompute
        What is not kept for backward but computed again: ``"nothing"``; the ``"feed_forward"``'s
        widest layer, two fifths of what a block keeps, for a third of its forward products; or
        whole ``"blocks"``, of which the input alone is kept.
    """

    @checked
    def __init__(
        self,
        d_model: int,
        n_layers: int,
        n_heads: int,
        *,
        layer_scale: float = 0.1,
        stochastic_depth: float = 0.0,
        recompute: Recompute = "nothing",
    ) -> None:
        super().__init__()
        require_least(1, d_model=d_model, n_layers=n_layers, n_heads=n_heads)
        require_rate(stochastic_depth=stochastic_depth)
        if d_model % n_heads:
            raise ConfigError(
                f"d_model is {d_model} and n_heads {n_heads}: d_model must be a multiple of n_heads"
            )
        self.blocks = nn.ModuleList(
            EncoderBlock(d_model, n_heads, layer_scale) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.recompute = recompute
        self.rates = [stochastic_depth * i / max(1, n_layers - 1) for i in range(n_layers)]

    def forward(
        self,
        tokens: Tensor,
        padding: Tensor | None = None,
        uniform: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Return the CLS token after the last block, normalised, [B, d].

        Parameters
        ----------
        tokens
            [B, T, d], CLS first.
        padding
            bool [B, T], True where there is no token; None when there are all.
        uniform
            [B, 2·n_layers] in [0, 1): decides which branches are left out; None leaves out none.
        bias
            [B, T], what is added to the logits of the attention to each token; 0 by default.
        """
        mask = None if padding is None else ~padding[:, None, None, :]
        if bias is not None:
            added = bias[:, None, None, :].to(tokens.dtype)
            mask = added if mask is None else added.masked_fill(~mask, -torch.inf)
        x, last = tokens, len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            x = self._run(block, x, mask, self.keep(i, uniform), i == last)
        return self.norm(x[:, 0])  # type: ignore[no-any-return]

    def of_genes(
        self,
        embedding: TokenEmbedding,
        gene_ids: Tensor,
        values: Tensor,
        padding: Tensor | None = None,
        uniform: Tensor | None = None,
    ) -> Tensor:
        """Return what `forward` returns of the tokens of genes, [B, d].

        An encoder of one block makes no tokens for it (`kernomics.nn.gene_attention`).

        Parameters
        ----------
        embedding
            Makes the tokens.
        gene_ids, values
            As for `embedding`.
        padding
            bool [B, K], True where there is no gene; None when there are all.
        uniform
            As for `forward`.
        """
        if len(self.blocks) > 1 or embedding.combine != "concat":
            behind_cls = None if padding is None else F.pad(padding, (1, 0))
            return self(embedding(gene_ids, values), behind_cls, uniform)  # type: ignore[no-any-return]
        (block,) = self.blocks
        assert isinstance(block, EncoderBlock)  # its rate of stochastic depth is 0
        x = block.of_genes(embedding, gene_ids, values, padding)
        return self.norm(x[:, 0])  # type: ignore[no-any-return]

    def layers(self, tokens: Tensor, padding: Tensor | None = None) -> list[Tensor]:
        """Return the CLS token after each block, [B, d] each; the last one is `forward`'s."""
        mask = None if padding is None else ~padding[:, None, None, :]
        x, found = tokens, []
        for block in self.blocks:
            x = block(x, mask, None)
            found.append(x[:, 0])
        return [*found[:-1], self.norm(found[-1])]

    def _run(
        self, block: nn.Module, x: Tensor, mask: Tensor | None, keep: Tensor | None, last: bool
    ) -> Tensor:
        if self.recompute == "blocks" and torch.is_grad_enabled():
            # A block draws nothing from torch's generator, whose state a CUDA graph cannot read.
            return checkpoint(  # type: ignore[no-any-return]
                block, x, mask, keep, cls_only=last, use_reentrant=False, preserve_rng_state=False
            )
        again = self.recompute == "feed_forward"
        return block(x, mask, keep, cls_only=last, again=again)  # type: ignore[no-any-return]

    def keep(self, i: int, uniform: Tensor | None) -> Tensor | None:
        """Return what block i's branches are multiplied by, [B, 2]: 0, or 1/(1 − rate)."""
        rate = self.rates[i]
        if uniform is None or rate == 0:
            return None
        kept = uniform[:, 2 * i : 2 * i + 2] >= rate
        return kept / (1 - rate)


def cls_products(
    d_model: int, n_layers: int, n_heads: int, n_tokens: int, widths: Sequence[int] = ()
) -> int:
    """Count the floating-point operations of one cell's forward pass, products alone.

    2 a multiply-add. With T tokens, CLS included, and H heads a whole block has 24·T·d² + 4·T²·d,
    the last (CLS alone) 4·H·T·d + 24·d²; `widths` are those of further layers. One block of which
    no tokens are made (`Encoder.of_genes`) has other products.
    """
    d, t = d_model, n_tokens
    whole = 24 * t * d * d + 4 * t * t * d
    last = 4 * n_heads * t * d + 24 * d * d
    return (n_layers - 1) * whole + last + 2 * sum(widths)
