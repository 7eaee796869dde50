"""TxFM's step in plain eager torch, on a TxFMModule's own parameters: what ours is held against.

The blocks are the same, the last one for CLS alone too. What differs is how they are computed:
LayerNorm, Linear, GELU and LayerScale one after the other, tokens by embedding and cat, and the
logits of all genes at once.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernomics.data import Cells
from kernomics.models.txfm.losses import BETA
from kernomics.models.txfm.module import TxFMModule
from kernomics.nn.encoder import EncoderBlock


def block(
    module: EncoderBlock, x: Tensor, mask: Tensor | None, keep: Tensor | None, cls_only: bool
) -> Tensor:
    """Compute what `EncoderBlock` computes, [B, T, d] or [B, 1, d]."""
    rows, _, width = x.shape
    normed = module.norm_1(x)
    if cls_only:
        x = x[:, :1]
        weight, bias = module.qkv.weight, module.qkv.bias
        q = F.linear(normed[:, :1], weight[:width], bias[:width])
        k, v = F.linear(normed, weight[width:], bias[width:]).chunk(2, dim=-1)
    else:
        q, k, v = module.qkv(normed).chunk(3, dim=-1)

    def heads(part: Tensor) -> Tensor:
        return part.view(rows, -1, module.n_heads, width // module.n_heads).transpose(1, 2)

    mixed = F.scaled_dot_product_attention(heads(q), heads(k), heads(v), attn_mask=mask)
    attended = module.project(mixed.transpose(1, 2).reshape(rows, -1, width)) * module.scale_1
    x = x + (attended if keep is None else attended * keep[:, :1, None])
    changed = module.narrow(F.gelu(module.widen(module.norm_2(x)))) * module.scale_2
    out: Tensor = x + (changed if keep is None else changed * keep[:, 1:, None])
    return out


def training_loss(module: TxFMModule, cells: Cells) -> Tensor:
    """Compute what `TxFMModule.training_loss` computes, by the Poisson loss of counts."""
    gene_ids, values, _ = module.tokens(cells, module.config.n_tokens)
    table = module.embedding.table
    tokens = torch.cat((F.embedding(gene_ids, table)[..., :-1], values[..., None]), -1)
    x = torch.cat((module.embedding.cls.expand(len(cells), 1, -1), tokens), 1)
    uniform = module.depth_uniforms(cells)
    last = len(module.encoder.blocks) - 1
    for i, one in enumerate(module.encoder.blocks):
        assert isinstance(one, EncoderBlock)
        x = block(one, x, None, module.encoder.keep(i, uniform), i == last)
    states = module.encoder.norm(x[:, 0])
    if module.linear is not None:
        ids = gene_ids.long()
        shown = module.linear_values(values) - module.linear.mean[ids]
        sums = torch.einsum("bk,bkw->bw", shown, module.linear.weight[ids])
        states = module.joined(states, module.linear.of_sums(sums))
    outputs = nn.functional.linear(
        module.decoder.hidden(states).float(),
        module.decoder.genes.weight,
        module.decoder.genes.bias,
    ).float()
    found = math.log(module.config.target_sum + 1) * F.relu(torch.tanh(outputs / BETA))
    return (found.exp() - found * module.targets(cells).dense().exp()).mean()
