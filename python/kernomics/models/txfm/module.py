"""TxFMModule: what TxFM trains, a masked autoencoder of counts (arXiv 2605.31562)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernomics.data import Cells
from kernomics.models.txfm import losses as txfm_losses
from kernomics.models.txfm.config import NEGATIVE_BINOMIALS, TxFMConfig
from kernomics.nn import CountDecoder, Encoder, TokenEmbedding
from kernomics.nn.encoder import cls_products
from kernomics.nn.linear_path import LinearPath, unit
from kernomics.nn.philox import STREAM_DEPTH, uniforms
from kernomics.ops import ObservedGenes, sample_tokens

LINEAR_SUM = 1e4
"""Counts per cell before the logarithm on the linear path, as in a PCA: at 10⁵ a first count would
weigh half as much as a hundred."""
DROPOUT_START = -3.0
"""Logit of the share of counts that are lost at first, 5 %: near no loss, where the gradient of the
logit is not small yet."""


class Tokens(NamedTuple):
    """What is revealed of B cells."""

    gene_ids: Tensor  # int32 [B, K], ascending in each cell; −1 is padding
    values: Tensor  # [B, K], log(1 + L·count/library); 0 at padding
    padding: Tensor | None  # bool [B, K]; None where no cell can have any


class TxFMModule(nn.Module):
    """Tokens of some genes → transformer → CLS → MLP → expression of all genes.

    `gene_weights` [G] are those of the draw, when `masking_power` is not 0; training draws by
    `drawn_by`, the seed and the optimiser's step; `log_inverse_dispersion` is log θ [G] of the
    negative binomials; `dropout` leads from the decoder's `hidden` to the logit of a count's loss,
    for ``"zinb"``.
    """

    by_total_steps = False  # a step's draws hang on its number alone

    gene_weights: Tensor
    drawn_by: Tensor
    log_inverse_dispersion: nn.Parameter | None
    dropout: nn.Linear | None
    linear: LinearPath | None
    read_out: nn.Linear | None

    def __init__(self, n_genes: int, config: TxFMConfig, seed: int = 0) -> None:
        super().__init__()
        self.config, self.seed = config, seed
        self.embedding = TokenEmbedding(n_genes, config.d_model)
        self.encoder = Encoder(
            config.d_model,
            config.n_layers,
            config.n_heads,
            layer_scale=config.layer_scale,
            stochastic_depth=config.stochastic_depth,
            recompute=config.recompute,
        )
        self.decoder = CountDecoder(config.d_model, n_genes, config.decoder_layers)
        self.linear = self.read_out = None
        if config.linear_path:
            half = config.d_model // 2
            self.linear = LinearPath(n_genes, half)
            self.read_out = nn.Linear(config.d_model, config.d_model - half)
        self.register_buffer("gene_weights", torch.ones(n_genes))
        self.register_buffer("drawn_by", torch.tensor([seed, 0]), persistent=False)
        self.log_inverse_dispersion = self.dropout = None
        if config.loss in NEGATIVE_BINOMIALS:
            self.log_inverse_dispersion = nn.Parameter(torch.zeros(n_genes))
        if config.loss == "zinb":
            self.dropout = nn.Linear(config.d_model, n_genes)
            nn.init.normal_(self.dropout.weight, std=0.02)
            nn.init.constant_(self.dropout.bias, DROPOUT_START)
        self.compiled: Callable[..., Tensor] | None = None

    def operations(self, cells: int) -> int:
        """Count the floating-point operations of a forward pass over cells in training."""
        config, tokens = self.config, self.config.n_tokens + 1
        d, genes = config.d_model, len(self.embedding.table)
        if config.n_layers == 1:  # no token is made: see `Encoder.of_genes`
            encoder = 4 * config.n_heads * tokens * d + 24 * d * d
        else:
            encoder = cls_products(d, config.n_layers, config.n_heads, tokens)
        if self.linear is not None:
            encoder += 2 * (d // 2) * genes + 2 * d * (d - d // 2)
        layers = 2 * config.decoder_layers + 2 if config.decoder_layers else 0
        return cells * (encoder + 2 * d * (layers * d + genes))

    def shards(self) -> list[nn.Module]:
        """Return the modules that are gathered one by one where ranks share out the weights."""
        blocks = list(self.encoder.blocks)
        return blocks if len(blocks) > 1 else []  # one alone is not called by itself

    # -- pieces ----------------------------------------------------------------------------------

    def on_step(self, step: int, total_steps: int) -> None:
        """Note the optimiser step, which the masks depend on."""
        self.drawn_by[1].fill_(step)  # where it lies: a captured CUDA graph reads it there

    def seed_of(self, draw: int | None) -> Tensor:
        """Return (seed, draw), int64 [2], on the module's device; without `draw` that of the step.

        Nothing is copied from the host, for which a device would have to be waited for.
        """
        if draw is None:
            return self.drawn_by
        other = self.drawn_by.clone()
        other[1].fill_(draw)
        return other

    def revealed(self, cells: Cells, n_tokens: int | None) -> int | None:
        """Return `n_tokens`, or None where that is as many genes as any cell can have: all."""
        most = cells.n_genes if cells.observed is None else cells.observed.largest
        return None if n_tokens is None or n_tokens >= most else n_tokens

    def tokens(self, cells: Cells, n_tokens: int | None, draw: int | None = None) -> Tokens:
        """Reveal some genes of each cell."""
        config, observed = self.config, cells.observed
        n_tokens = self.revealed(cells, n_tokens)
        gene_ids, values = sample_tokens(
            cells,
            n_tokens,
            cell_ids=cells.cell_ids,
            seed=self.seed_of(draw),
            library=cells.library,
            observed=observed,
            weights=self.gene_weights if config.masking_power else None,
            target_sum=config.target_sum if config.normalise else None,
        )
        # Told from numbers on the host: a device is not asked, and without a mask attention is
        # faster. A gene of weight 0 is never drawn.
        fewest = cells.n_genes if observed is None else observed.smallest
        full = fewest >= gene_ids.shape[1] and not config.masking_power
        return Tokens(gene_ids, values, None if full else gene_ids < 0)

    def encode(
        self,
        gene_ids: Tensor,
        values: Tensor,
        padding: Tensor | None,
        *,
        uniform: Tensor | None = None,
        block: int | None = None,
    ) -> Tensor:
        """Return each cell's representation, [B, d], from its tokens."""
        if block is not None:
            return self.encode_layers(gene_ids, values, padding)[block - 1]
        cls = self.encoder.of_genes(self.embedding, gene_ids, values, padding, uniform)
        return self._with_linear(cls, gene_ids, values, padding)

    def encode_layers(
        self,
        gene_ids: Tensor,
        values: Tensor,
        padding: Tensor | None,
    ) -> list[Tensor]:
        """Return each cell's representation after each block, [B, d] each, as `encode` does.

        A linear path joins the last.
        """
        tokens = self.embedding(gene_ids, values)
        found = self.encoder.layers(tokens, _behind_cls(padding))
        return [*found[:-1], self._with_linear(found[-1], gene_ids, values, padding)]

    def _with_linear(
        self,
        cls: Tensor,
        gene_ids: Tensor,
        values: Tensor,
        padding: Tensor | None,
    ) -> Tensor:
        if self.linear is None:
            return cls
        return self.joined(cls, self.linear(gene_ids, self.linear_values(values), padding))

    def joined(self, cls: Tensor, linear: Tensor) -> Tensor:
        """Return representations [B, d] of CLS [B, d] and what the linear path returns [B, d/2].

        Each half of a cell's has a mean square of 1.
        """
        assert self.read_out is not None
        return torch.cat([unit(self.read_out(cls)), linear], 1)

    def linear_values(self, values: Tensor) -> Tensor:
        """Return log(1 + 10⁴·count/library), as a PCA takes it, of the values of tokens."""
        if not self.config.normalise:
            return values
        return torch.log1p(torch.expm1(values) * (LINEAR_SUM / self.config.target_sum))

    @property
    def head(self) -> txfm_losses.Head:
        """The decoder's last parameters, and those of the counts' law."""
        genes, dropout = self.decoder.genes, self.dropout
        lost = (None, None) if dropout is None else (dropout.weight, dropout.bias)
        return txfm_losses.Head(genes.weight, genes.bias, self.log_inverse_dispersion, *lost)

    def expression(
        self, hidden: Tensor, observed: ObservedGenes | None = None, columns: Any = slice(None)
    ) -> Tensor:
        """Return x̂, log-normalised expression [B, genes], from the decoder's `hidden`."""
        whole = self.config.phi == "softmax"
        head = self.head if whole else self.head.of_genes(columns)
        found = txfm_losses.expression(
            self.config, head.outputs(hidden), observed, head.dropout_logits(hidden)
        )
        return found[:, columns] if whole else found

    # -- training --------------------------------------------------------------------------------

    def reconstruction_loss(self, cells: Cells, draw: int | None = None) -> Tensor:
        """Loss of all genes, revealed and masked, from those revealed in one draw.

        `draw` is as for `tokens`.
        """
        tokens = self.tokens(cells, self.config.n_tokens, draw)
        hidden_of = self.compiled if self.training and self.compiled is not None else self.hidden
        hidden = hidden_of(*tokens, self.depth_uniforms(cells, draw))
        return txfm_losses.reconstruction_loss(self.config, self.head, hidden, cells)

    def compile_step(self) -> None:
        """Compile what lies between tokens and genes, for training alone.

        The draw of tokens and the loss are single ops and take cells whose number of non-zeros
        differs from batch to batch, so they stay outside.
        """
        self.compiled = torch.compile(self.hidden, fullgraph=True)

    def depth_uniforms(self, cells: Cells, draw: int | None = None) -> Tensor | None:
        """Return the numbers that stochastic depth goes by, [B, 2·n_layers]; None without it."""
        if not self.training or not self.config.stochastic_depth:
            return None
        columns = 2 * self.config.n_layers
        return uniforms(self.seed_of(draw), cells.cell_ids, columns, STREAM_DEPTH)

    def hidden(
        self,
        gene_ids: Tensor,
        values: Tensor,
        padding: Tensor | None,
        uniform: Tensor | None,
    ) -> Tensor:
        """Return what the decoder's last layer takes, [B, d]: all between tokens and genes."""
        return self.decoder.hidden(self.encode(gene_ids, values, padding, uniform=uniform))

    def targets(self, cells: Cells) -> Cells:
        """Return the cells with log-normalised expression x in place of counts."""
        return txfm_losses.log_normalised(self.config, cells)

    def training_loss(self, cells: Cells) -> dict[str, Tensor]:
        """Return the loss of a batch."""
        return {"loss": self.reconstruction_loss(cells)}


def _behind_cls(padding: Tensor | None) -> Tensor | None:
    return None if padding is None else F.pad(padding, (1, 0))  # CLS is never padding
