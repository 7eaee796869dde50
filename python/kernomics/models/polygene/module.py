"""PolyGeneModule: what PolyGene trains, a masked transformer of phenotypes and expressed genes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernomics.data import Cells
from kernomics.models.polygene.config import PolyGeneConfig
from kernomics.models.tasks import Task, labelled_cells, mean_task_loss, task_loss
from kernomics.nn.packed_encoder import PackedEncoder, Packing
from kernomics.nn.philox import STREAM_MASKED_GENES, STREAM_MASKED_PHENOTYPES, uniforms, uniforms_at
from kernomics.nn.precision import widened
from kernomics.ops import embed_tokens, sample_tokens
from kernomics.train.distributed import over_ranks


class GeneTokens(NamedTuple):
    """The genes shown of B cells, cell by cell.

    Attributes
    ----------
    gene_ids
        int64 [N], ascending in each cell.
    bins
        int64 [N], the bin of each one's expression, or `n_bins` where that is masked.
    lengths
        int64 [B] on the CPU, genes of each cell.
    cells
        int64 [N], which cell each belongs to.
    """

    gene_ids: Tensor
    bins: Tensor
    lengths: Tensor
    cells: Tensor


class PolyGeneModule(nn.Module):
    """Phenotypes and expressed genes → transformer → values of masked phenotypes, masked bins.

    A gene's token is its embedding plus that of its bin; a phenotype's is its embedding plus that
    of its value, or of its mask. Nothing has a position, so that the length follows the cell.

    Parameters
    ----------
    n_genes
        G, the vocabulary.
    tasks
        The phenotypes, all of classes.
    config
        Settings.
    edges
        Of the bins of expression, ascending.
    seed
        Of the masks; weights come from torch's generator.

    Attributes
    ----------
    genes, bins, phenotypes, values
        Parameters [G, d], [n_bins + 1, d], [P, d] and [Σ (classes + 1), d]: the last row of the
        bins, and the last of each phenotype's values, are the masks.
    edges
        Buffer float32 [n_bins − 1].
    drawn_by
        Buffer int64 [2], not saved: the seed and the optimiser step, by which training draws.
    """

    by_total_steps = False

    edges: Tensor
    drawn_by: Tensor

    def __init__(
        self,
        n_genes: int,
        tasks: Sequence[Task],
        config: PolyGeneConfig,
        edges: Sequence[float],
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.tasks, self.config, self.seed = list(tasks), config, seed
        self.n_genes, self.n_bins = n_genes, len(edges) + 1
        width = config.d_model

        def table(rows: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(rows, width).normal_(std=0.1))

        self.genes, self.bins = table(n_genes), table(self.n_bins + 1)
        self.phenotypes = table(len(self.tasks))
        self.values = table(sum(task.n_out + 1 for task in self.tasks))
        self.encoder = PackedEncoder(
            width, config.n_layers, config.n_heads, layer_scale=config.layer_scale,
            recompute=config.recompute,
        )  # fmt: skip
        self.heads = nn.ModuleList(nn.Linear(width, task.n_out) for task in self.tasks)
        self.bin_head = nn.Linear(width, self.n_bins)
        self.register_buffer("edges", torch.tensor(list(edges), dtype=torch.float32))
        self.register_buffer("drawn_by", torch.tensor([seed, 0]), persistent=False)

    # -- tokens ----------------------------------------------------------------------------------

    def on_step(self, step: int, total_steps: int) -> None:
        """Note the optimiser step, which the masks depend on."""
        self.drawn_by[1].fill_(step)

    def seed_of(self, draw: int | None) -> Tensor:
        """Return (seed, draw), int64 [2]; without `draw` that of the step."""
        if draw is None:
            return self.drawn_by
        other = self.drawn_by.clone()
        other[1].fill_(draw)
        return other

    def gene_tokens(
        self, cells: Cells, n_tokens: int | None = None, draw: int | None = None
    ) -> GeneTokens:
        """Return the genes that each cell expresses, with their bins; `n_tokens` of them at most.

        Parameters
        ----------
        n_tokens
            The most of a cell; one that has more shows a choice by its id. None for all.
        draw
            By which to choose; that of the step by default.
        """
        gene_ids, values, offsets = sample_tokens(
            cells,
            n_tokens,
            cell_ids=cells.cell_ids,
            seed=self.seed_of(draw),
            library=cells.library,
            observed=cells.observed,
            candidates="expressed",
            target_sum=self.config.target_sum,
            ragged=True,
        )
        lengths = offsets.diff()
        total = int(offsets[-1])
        rows = torch.repeat_interleave(
            torch.arange(len(cells), device=gene_ids.device), lengths, output_size=total
        )
        bins = torch.bucketize(values[:total], self.edges, right=True)
        return GeneTokens(gene_ids[:total].long(), bins, lengths.cpu(), rows)

    def embed_genes(self, gene_ids: Tensor, bins: Tensor) -> Tensor:
        """Return the tokens of genes [N], each its embedding plus its bin's, [N, d]."""
        found: Tensor = embed_tokens(
            gene_ids[None], None, self.genes, combine="add",
            value_embedding=F.embedding(bins, self.bins)[None],
        )  # fmt: skip
        return found[0]

    def embed_phenotypes(self, codes: Tensor) -> Tensor:
        """Return the phenotypes' tokens [B · P, d] from the codes [B, P], −1 for the mask."""
        first = 0
        rows = []
        for i, task in enumerate(self.tasks):
            rows.append(first + torch.where(codes[:, i] < 0, task.n_out, codes[:, i]))
            first += task.n_out + 1
        values = F.embedding(torch.stack(rows, 1), self.values)
        return (self.phenotypes + values).flatten(0, 1)

    def encode(
        self,
        phenotypes: Tensor,
        genes: Tensor,
        lengths: Tensor,
        *,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Return the phenotypes' states after the last block, [B, P, d].

        Parameters
        ----------
        phenotypes
            [B · P, d], as of `embed_phenotypes`.
        genes
            [N, d], as of `embed_genes`.
        lengths
            int64 [B] on the CPU, genes of each cell.
        bias
            [N], what is added to the logits of the attention to each gene; 0 by default.
        """
        n_first = len(self.tasks)
        packing = Packing(n_first, lengths, genes.device)
        rows = torch.arange(len(phenotypes), device=genes.device)
        if bias is not None:
            bias = torch.cat([bias.new_zeros(len(phenotypes)), bias])
        none = torch.zeros_like(lengths)
        states = self.encoder(torch.cat([phenotypes, genes]), packing, rows, none, bias)
        return states.view(len(lengths), n_first, -1)  # type: ignore[no-any-return]

    def logits(self, states: Tensor) -> list[Tensor]:
        """Return each phenotype's logits [B, classes] from the states [B, P, d]."""
        return [head(states[:, i]) for i, head in enumerate(self.heads)]

    def codes_of(self, labels: Mapping[str, Tensor], n_cells: int) -> Tensor:
        """Return the phenotypes' codes, int64 [B, P], −1 where a cell has none."""
        unknown = torch.full((n_cells,), -1, device=self.edges.device)
        return torch.stack([labels.get(task.name, unknown) for task in self.tasks], 1)

    # -- training --------------------------------------------------------------------------------

    def losses(self, cells: Cells, draw: int | None = None) -> dict[str, Tensor]:
        """Return the loss of a batch, and its parts, for the masks of one draw."""
        config, seed = self.config, self.seed_of(draw)
        codes = self.codes_of(cells.labels, len(cells))
        drawn = uniforms(seed, cells.cell_ids, len(self.tasks), STREAM_MASKED_PHENOTYPES)
        masked = drawn < config.phenotype_mask_rate
        phenotypes = self.embed_phenotypes(codes.masked_fill(masked, -1))

        tokens, targets, hidden = self.mask_genes(
            cells, self.gene_tokens(cells, config.n_tokens, draw), seed
        )
        n_first = len(phenotypes)
        wanted = torch.nonzero(hidden).flatten()
        per_cell = torch.zeros(len(cells), dtype=torch.int64, device=wanted.device)
        per_cell.index_add_(0, tokens.cells[wanted], torch.ones_like(wanted))
        rows = torch.cat([torch.arange(n_first, device=wanted.device), n_first + wanted])
        states = self.encoder(
            torch.cat([phenotypes, self.embed_genes(tokens.gene_ids, tokens.bins)]),
            Packing(len(self.tasks), tokens.lengths, wanted.device),
            rows,
            per_cell.cpu(),
        )
        outputs = self.logits(states[:n_first].view(len(cells), len(self.tasks), -1))
        smoothing = config.label_smoothing
        asked = codes.masked_fill(~masked, -1).unbind(1)
        *over, n_wanted = over_ranks(*map(labelled_cells, self.tasks, outputs, asked), len(wanted))
        of_tasks = [
            task_loss(task, output, target, label_smoothing=smoothing, cells=n)
            for task, output, target, n in zip(self.tasks, outputs, asked, over, strict=True)
        ]
        total = F.cross_entropy(
            widened(self.bin_head(states[n_first:])), targets[wanted], reduction="sum",
            label_smoothing=smoothing,
        )  # fmt: skip
        of_genes = total / n_wanted
        loss = mean_task_loss(self.tasks, of_tasks) + config.gene_weight * of_genes
        named = zip(self.tasks, of_tasks, strict=True)
        parts = {f"loss/{task.name}": part for task, part in named}
        return {"loss": loss, "loss/genes": of_genes, **parts}

    def mask_genes(
        self, cells: Cells, tokens: GeneTokens, seed: Tensor
    ) -> tuple[GeneTokens, Tensor, Tensor]:
        """Mask some genes, and swap some of these for genes that the cell does not express.

        Returns
        -------
        tokens, targets, hidden
            The tokens as the network sees them; the true bin of each, int64 [N]; and which are
            masked, bool [N].
        """
        config = self.config
        ids = cells.cell_ids[tokens.cells]
        drawn = uniforms_at(seed, ids, tokens.gene_ids, STREAM_MASKED_GENES)
        hidden = drawn[:, 0] < config.gene_mask_rate
        other = (drawn[:, 2] * self.n_genes).long().clamp_max(self.n_genes - 1)
        swapped = hidden & (drawn[:, 1] < config.unexpressed_rate)
        swapped &= ~_has(cells, tokens.cells, other)
        if cells.observed is not None:
            panels = cells.observed.panel_id.long()[tokens.cells]
            swapped &= cells.observed.mask[panels, other] != 0
        targets = torch.where(swapped, 0, tokens.bins)
        gene_ids = torch.where(swapped, other, tokens.gene_ids)
        bins = torch.where(hidden, self.n_bins, tokens.bins)
        return tokens._replace(gene_ids=gene_ids, bins=bins), targets, hidden

    def training_loss(self, cells: Cells) -> dict[str, Tensor]:
        """Return the losses of a batch."""
        return self.losses(cells)


def _has(cells: Cells, rows: Tensor, genes: Tensor) -> Tensor:
    """Tell whether each cell, by its number in the batch, has a count of each gene, bool [N]."""
    width = cells.n_genes
    starts = torch.arange(len(cells), device=rows.device) * width
    known = cells.indices.long() + torch.repeat_interleave(
        starts, cells.indptr.diff(), output_size=len(cells.indices)
    )
    wanted = rows * width + genes
    at = torch.searchsorted(known, wanted).clamp_max(max(0, len(known) - 1))
    return known[at] == wanted if len(known) else torch.zeros_like(rows, dtype=torch.bool)
