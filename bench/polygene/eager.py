"""PolyGene's network in plain eager torch, padded, on a PolyGeneModule's own parameters.

What ours is held against, in tests and in benchmarks: cells are padded to the longest of the batch,
and every block computes every token, layer after layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernomics.data import Cells
from kernomics.models.polygene.module import PolyGeneModule
from kernomics.models.tasks import mean_task_loss, task_loss
from kernomics.nn.encoder import EncoderBlock
from kernomics.nn.philox import STREAM_MASKED_PHENOTYPES, uniforms


def block(module: EncoderBlock, x: Tensor, mask: Tensor | None) -> Tensor:
    """Compute what a block does to [B, T, d]; mask is added to, or chosen among, the logits."""
    rows, length, width = x.shape
    q, k, v = module.qkv(module.norm_1(x)).chunk(3, dim=-1)

    def heads(part: Tensor) -> Tensor:
        return part.view(rows, length, module.n_heads, -1).transpose(1, 2)

    mixed = F.scaled_dot_product_attention(heads(q), heads(k), heads(v), attn_mask=mask)
    mixed = mixed.transpose(1, 2).reshape(rows, length, width)
    x = x + module.project(mixed) * module.scale_1
    changed: Tensor = module.narrow(F.gelu(module.widen(module.norm_2(x)))) * module.scale_2
    return x + changed


def padded(tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return tokens [N, ...] cell by cell as [B, longest, ...], and where there is one."""
    parts = torch.split(tokens, lengths.tolist())
    found = torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
    return found, torch.arange(found.shape[1]) < lengths[:, None]


def states(module: PolyGeneModule, phenotypes: Tensor, genes: Tensor, inside: Tensor) -> Tensor:
    """Return all tokens' states [B, P + longest, d] from [B, P, d] and padded genes."""
    n_first = phenotypes.shape[1]
    x = torch.cat([phenotypes, genes], 1)
    there = F.pad(inside, (n_first, 0), value=True)
    for one in module.encoder.blocks:
        assert isinstance(one, EncoderBlock)
        x = block(one, x, there[:, None, None, :])
    found: Tensor = module.encoder.norm(x)
    return found


def embed(module: PolyGeneModule, gene_ids: Tensor, bins: Tensor) -> Tensor:
    """Return the tokens of genes."""
    return F.embedding(gene_ids, module.genes) + F.embedding(bins, module.bins)


def training_loss(module: PolyGeneModule, cells: Cells) -> Tensor:
    """Compute what `PolyGeneModule.training_loss` computes, under the same masks."""
    config, seed, n_first = module.config, module.seed_of(None), len(module.tasks)
    codes = module.codes_of(cells.labels, len(cells))
    drawn = uniforms(seed, cells.cell_ids, n_first, STREAM_MASKED_PHENOTYPES)
    masked = drawn < config.phenotype_mask_rate
    phenotypes = module.embed_phenotypes(codes.masked_fill(masked, -1))
    shown = module.gene_tokens(cells, config.n_tokens)
    tokens, targets, hidden = module.mask_genes(cells, shown, seed)
    genes, inside = padded(embed(module, tokens.gene_ids, tokens.bins), tokens.lengths)
    found = states(module, phenotypes.view(len(cells), n_first, -1), genes, inside)
    smoothing = config.label_smoothing
    of_tasks = [
        task_loss(
            task, head(found[:, i]), codes[:, i].masked_fill(~masked[:, i], -1),
            label_smoothing=smoothing,
        )
        for i, (task, head) in enumerate(zip(module.tasks, module.heads, strict=True))
    ]  # fmt: skip
    of_genes = F.cross_entropy(
        module.bin_head(found[:, n_first:][inside])[hidden].float(), targets[hidden],
        label_smoothing=smoothing,
    )  # fmt: skip
    return mean_task_loss(module.tasks, of_tasks) + config.gene_weight * of_genes
