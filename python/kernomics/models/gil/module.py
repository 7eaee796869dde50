"""GILModule: what GIL trains, a masked transformer that predicts the values of genes."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernomics.data import Cells
from kernomics.models.gil.adapters import Adaptation, StageAdapter
from kernomics.models.gil.config import GILConfig
from kernomics.models.gil.tokens import Tokens, expressed_genes, masked, shown, unexpressed
from kernomics.nn import drawing_from
from kernomics.nn.packed_encoder import PackedEncoder, Packing
from kernomics.nn.precision import widened
from kernomics.ops import embed_tokens
from kernomics.train.distributed import over_ranks

HIDDEN = -1.0
"""The value of a masked gene, which no gene has (the paper's)."""
STEPS_OF_A_STAGE = 2**24
SEEDS_OF_ADAPTERS = 2**40


class Outputs(NamedTuple):
    """What the network makes of B cells, M of whose tokens are masked.

    Attributes
    ----------
    cls
        [B, d], the state of each cell.
    tokens, queries
        [M], predicted values (log-normalised) of the masked genes: from their own tokens, and from
        the cell's state asked for the gene.
    losses_of_tokens, losses_of_queries
        [M], what is minimised.
    errors_of_detection, errors_of_absence
        [M] and [A], squared, of telling the hidden genes, by their values, from some that the cell
        does not express, by 0; None where none was asked.
    """

    cls: Tensor
    tokens: Tensor
    queries: Tensor
    losses_of_tokens: Tensor
    losses_of_queries: Tensor
    errors_of_detection: Tensor | None = None
    errors_of_absence: Tensor | None = None


class GILModule(nn.Module):
    """Expressed genes and their values → transformer → values of masked genes.

    A gene's token is its embedding with its value; in front of a cell's tokens stands CLS. Nothing
    has a position, so that the length follows the cell.

    Parameters
    ----------
    n_genes
        Genes known at the start; see `grow`.
    config
        Settings.
    seed
        Of the draws; weights come from torch's generator.

    Attributes
    ----------
    genes
        Parameter [V, d], a row for each gene known.
    adapters
        One of each stage that was given any; see `add_adapter`.
    drawn_by
        Buffer int64 [2], not saved: the seed and the step, by which training draws.
    """

    drawn_by: Tensor

    def __init__(self, n_genes: int, config: GILConfig, seed: int = 0) -> None:
        super().__init__()
        self.config, self.seed = config, seed
        width = config.d_model
        self.genes = nn.Parameter(self._rows(n_genes))
        self.cls = nn.Parameter(torch.empty(width).normal_(std=0.02))
        self.values = None
        if config.combine == "add":
            self.values = nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, width))
        self.encoder = PackedEncoder(
            width, config.n_layers, config.n_heads, layer_scale=config.layer_scale,
            recompute=config.recompute,
        )  # fmt: skip
        self.token_head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        self.query = nn.Sequential(nn.Linear(width, width), nn.Sigmoid())
        self.query_head = nn.Linear(width, width)
        self.query_bias = nn.Linear(width, 1)
        self.detection_head, self.detection_bias = nn.Linear(width, width), nn.Linear(width, 1)
        self.adapters = nn.ModuleList()
        self.register_buffer("drawn_by", torch.tensor([seed, 0]), persistent=False)

    # -- the vocabulary ----------------------------------------------------------------------------

    @property
    def n_genes(self) -> int:
        """V, the genes known."""
        return self.genes.shape[0]

    def _rows(self, n: int) -> Tensor:
        """Return new genes' embeddings; with concat the last column, the value's, is unused."""
        rows = torch.empty(n, self.config.d_model).normal_()
        if self.config.combine == "concat":
            rows[:, -1] = 0
        return rows

    def grow(self, n_genes: int) -> None:
        """Know more genes, `n_genes` in all; what the network knew stays as it is.

        New rows hang on the seed and their number, not on when they come.
        """
        known = self.n_genes
        if n_genes <= known:
            return
        with drawing_from(self.seed + known):
            new = self._rows(n_genes - known).to(self.genes)
        self.genes = nn.Parameter(torch.cat([self.genes.detach(), new]))

    def grown(self, sizes: list[int]) -> GILModule:
        """Return a copy that has grown to each size in turn, in evaluation mode."""
        other = copy.deepcopy(self).eval().requires_grad_(False)
        for size in sizes:
            other.grow(size)
        return other.requires_grad_(False)

    def add_adapter(self, rank: int, first: int) -> StageAdapter:
        """Give the genes from `first` on an adapter, which changes nothing until it learns.

        Cells that hold none of them skip it. Its weights hang on the seed and on `first`.
        """
        with drawing_from(self.seed + SEEDS_OF_ADAPTERS + first):
            adapter = self._adapter(rank, first, self.n_genes)
        self.adapters.append(adapter)
        return adapter

    def _adapter(self, rank: int, first: int, stop: int) -> StageAdapter:
        config = self.config
        return StageAdapter(config.d_model, config.n_layers, rank, first, stop).to(self.genes)

    def add_adapters_of(self, weights: Mapping[str, Tensor]) -> None:
        """Have as many adapters, of the same ranks, as there are among saved weights."""
        self.adapters = nn.ModuleList()
        while f"adapters.{len(self.adapters)}.span" in weights:
            name = f"adapters.{len(self.adapters)}"
            rank = len(weights[f"{name}.query.down.weight"])
            self.adapters.append(self._adapter(rank, 0, 0))

    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Take up saved weights, with as many adapters as there are among them."""
        with drawing_from(0):  # overwritten at once, but the caller's generator must stay
            self.add_adapters_of(weights)
        self.load_state_dict(weights)

    def place(self, first: int, rows: Tensor) -> None:
        """Start the genes from `first` on at given embeddings, [n, width of an embedding]."""
        with torch.no_grad():
            self.genes[first : first + len(rows), : rows.shape[1]] = rows.to(self.genes)

    @property
    def embedding_width(self) -> int:
        """How many numbers of a gene's row are learnt: with concat the last one's place is free."""
        return self.config.d_model - (self.config.combine == "concat")

    def start_from(self, value: float) -> None:
        """Let all predictions begin near a value, such as the mean of the training cells'."""
        if self.config.loss == "poisson":
            value = math.log(math.expm1(value))
        with torch.no_grad():
            for layer in (self.token_head[2], self.query_bias):
                assert isinstance(layer, nn.Linear)
                layer.bias.fill_(value)

    # -- tokens ------------------------------------------------------------------------------------

    def at(self, draw: int) -> Tensor:
        """Return (seed, draw), int64 [2]."""
        other = self.drawn_by.clone()
        other[1].fill_(draw)
        return other

    def tokens(self, cells: Cells, seed: Tensor) -> Tokens:
        """Return the genes that a step shows of each cell, some of them hidden."""
        config = self.config
        every = expressed_genes(cells, config.target_sum)
        some = shown(every, cells.cell_ids, config.n_tokens, config.expression_share, seed)
        some = masked(some, cells.cell_ids, config.mask_rate, seed)
        if not config.n_unexpressed:
            return some
        return some._replace(unexpressed=unexpressed(every, cells, config.n_unexpressed, seed))

    def embed(self, tokens: Tokens) -> Tensor:
        """Return the genes' tokens [N, d], without CLS."""
        values = tokens.values.masked_fill(tokens.hidden, HIDDEN)
        found: Tensor
        if self.values is None:
            found = embed_tokens(tokens.gene_ids[None], values[None], self.genes)
        else:
            encoded = self.values(values.to(self.genes.dtype)[:, None])
            found = embed_tokens(
                tokens.gene_ids[None], None, self.genes, combine="add",
                value_embedding=encoded[None],
            )  # fmt: skip
        return found[0]

    def encode(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Return the states of the cells [B, d] and of the hidden genes [M, d]."""
        n_cells = len(tokens.lengths)
        wanted = torch.nonzero(tokens.hidden).flatten()
        per_cell = torch.bincount(tokens.cells[wanted], minlength=n_cells).cpu()
        chosen = torch.cat([torch.arange(n_cells, device=wanted.device), n_cells + wanted])
        adapt = Adaptation(self.adapters, tokens, chosen)
        states = self.encoder(
            adapt(0, torch.cat([self.cls.expand(n_cells, -1), self.embed(tokens)])),
            Packing(1, tokens.lengths, wanted.device),
            chosen,
            per_cell,
            adapt=adapt,
        )
        return states[:n_cells], states[n_cells:]

    # -- predictions -------------------------------------------------------------------------------

    def ask(self, cls: Tensor, cells: Tensor, gene_ids: Tensor) -> Tensor:
        """Return the outputs [M] for genes asked of cells, both by number, int64 [M].

        A gene is asked by its embedding, whose row learns nothing from that.
        """
        return self._answers(cls, cells, gene_ids, self.query_head, self.query_bias)

    def _answers(
        self, cls: Tensor, cells: Tensor, gene_ids: Tensor, head: nn.Module, bias: nn.Module
    ) -> Tensor:
        rows = self.genes.detach()[gene_ids]
        for adapter in self.adapters:
            assert isinstance(adapter, StageAdapter)
            own = adapter.owns(gene_ids).nonzero().flatten()
            if len(own):
                rows = adapter.query(rows, own)
        query = self.query(rows)
        found = (head(cls)[cells] * query).sum(1) / math.sqrt(query.shape[1])
        return found + bias(query)[:, 0]  # type: ignore[no-any-return]

    def _detection(
        self, cls: Tensor, tokens: Tokens, cells: Tensor, genes: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor] | tuple[()]:
        """Return the errors of telling hidden genes, by their values, from genes at 0, if asked."""
        if tokens.unexpressed is None:
            return ()
        asked = tokens.unexpressed >= 0
        others = asked.nonzero()[:, 0], tokens.unexpressed[asked]
        heads = self.detection_head, self.detection_bias
        hidden = widened(self._answers(cls, cells, genes, *heads)) - values
        absent = widened(self._answers(cls, *others, *heads))
        return hidden.square(), absent.square()

    def predicted(self, outputs: Tensor) -> Tensor:
        """Return the values, log-normalised, that outputs stand for."""
        outputs = widened(outputs)
        return outputs if self.config.loss == "mse" else F.softplus(self._log_rate(outputs))

    def _log_rate(self, outputs: Tensor) -> Tensor:
        """Bound a log-rate smoothly: no gene has more counts than its cell."""
        top = math.log(self.config.target_sum)
        return top - F.softplus(top - outputs)

    def losses(self, outputs: Tensor, values: Tensor) -> Tensor:
        """Return the loss of each output, [M]."""
        outputs = widened(outputs)
        if self.config.loss == "mse":
            return (outputs - values) ** 2
        log_rate = self._log_rate(outputs)
        return log_rate.exp() - log_rate * torch.expm1(values)

    def forward(self, tokens: Tokens) -> Outputs:
        """Predict the values of the hidden genes."""
        cls, states = self.encode(tokens)
        cells, genes = tokens.cells[tokens.hidden], tokens.gene_ids[tokens.hidden]
        values = tokens.values[tokens.hidden]
        of_tokens, of_queries = self.token_head(states)[:, 0], self.ask(cls, cells, genes)
        return Outputs(
            cls,
            self.predicted(of_tokens),
            self.predicted(of_queries),
            self.losses(of_tokens, values),
            self.losses(of_queries, values),
            *self._detection(cls, tokens, cells, genes, values),
        )

    def value_losses(self, outputs: Outputs) -> dict[str, Tensor]:
        """Return the loss over the hidden genes, and its parts."""
        hidden, absent = outputs.errors_of_detection, outputs.errors_of_absence
        n, n_absent = over_ranks(len(outputs.tokens), 0 if absent is None else len(absent))
        parts = {
            "loss/tokens": outputs.losses_of_tokens.sum() / n,
            "loss/queries": outputs.losses_of_queries.sum() / n,
        }
        total = parts["loss/tokens"] + self.config.query_weight * parts["loss/queries"]
        if hidden is not None and absent is not None:
            # Both sides count the same, however many genes a cell expresses.
            parts["loss/detection"] = torch.stack(
                [hidden.sum() / n, absent.sum() / n_absent]
            ).mean()
            total = total + self.config.detection_weight * parts["loss/detection"]
        return {"loss": total, **parts}
