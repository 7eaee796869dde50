"""What can be attributed: a model's outputs as a function of the features of a cell's genes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernomics._arguments import checked, words_of
from kernomics.data import CellCollection, Cells
from kernomics.data.rng import keys_of_names
from kernomics.errors import ConfigError, DataError, closest
from kernomics.models import YOTO, CellEncoder, Panel, PhenotypeModel, PolyGene, TxFM
from kernomics.models.yoto.missing_genes import require_measured
from kernomics.models.yoto.network import transformed
from kernomics.models.yoto.panel import require_base
from kernomics.ops import sample_tokens

Output = str
"""``"logits"`` or ``"probabilities"``."""


@dataclass(frozen=True)
class Inputs:
    """The genes of B cells as a model sees them, cell by cell.

    Attributes
    ----------
    gene_ids
        int64 [N], ascending in each cell.
    lengths
        int64 [B] on the CPU.
    features
        float [N, w], what the model computes from; a pad is a row of zeros.
    expression
        float [N], log-normalised.
    rows
        int64 [B], which cells.
    """

    gene_ids: Tensor
    lengths: Tensor
    features: Tensor
    expression: Tensor
    rows: NDArray[np.int64]


class Source(Protocol):
    """A model with the cells to attribute it on."""

    genes: NDArray[np.object_]
    """The model's genes, [G]."""
    view: CellCollection
    """The cells over these genes."""
    has_all_genes: bool
    """Whether every cell has every gene, zeros included, as the input of a panel."""

    def inputs(self, rows: NDArray[np.int64]) -> Inputs:
        """Read cells."""

    def outputs(self, inputs: Inputs, features: Tensor, presence: Tensor | None = None) -> Tensor:
        """Return the outputs [B, n], differentiable in the features.

        Parameters
        ----------
        inputs
            The cells.
        features
            [N, w], in place of theirs.
        presence
            [N], the logarithm of how much of each gene is there; 0 by default. A source whose cells
            have all genes takes none.
        """


class PhenotypeSource:
    """The logits, or probabilities, of a phenotype that is masked.

    Parameters
    ----------
    model
        A trained PolyGene.
    cells
        The cells; their genes are matched by name.
    target
        The phenotype.
    given
        Phenotypes that are shown as they are; all others are masked.
    output
        ``"logits"`` or ``"probabilities"``.
    n_tokens
        The most genes of a cell, chosen by the cell's name; None for all.
    """

    has_all_genes = False

    @checked
    def __init__(
        self,
        model: PhenotypeModel | PolyGene,
        cells: CellCollection,
        target: str,
        given: str | Sequence[str] = (),
        *,
        output: Output = "logits",
        n_tokens: int | None = None,
        min_gene_overlap: float = 0.8,
    ) -> None:
        _require_output(output)
        model = model.trained if isinstance(model, PolyGene) else model
        self.model, self.output, self.n_tokens = model, output, n_tokens
        self.classes = list(model.task(target).classes)
        self.at = [task.name for task in model.tasks].index(target)
        self.genes = model.genes
        shown = [
            name for name in words_of("given", given) if name in [task.name for task in model.tasks]
        ]
        self.codes = model.shown_codes(cells, shown, [target])
        self.view = cells.with_genes(model.genes, min_gene_overlap, absent="unobserved")
        self.device = next(model.module.parameters()).device
        self.cut: set[int] = set()  # cells that have more genes than n_tokens

    def inputs(self, rows: NDArray[np.int64]) -> Inputs:
        """Read cells; parameters as of `Source`."""
        module = self.model.module
        with torch.no_grad():
            cells = _batch(self.view, rows).to(self.device)
            if self.n_tokens is not None:
                longer = (cells.indptr.diff() > self.n_tokens).cpu().numpy()
                self.cut.update(rows[longer].tolist())
            tokens = module.gene_tokens(cells, self.n_tokens, -1)
            features = module.embed_genes(tokens.gene_ids, tokens.bins)
            expression = _expression(cells, tokens.gene_ids, tokens.cells, module.config.target_sum)
        return Inputs(tokens.gene_ids, tokens.lengths, features, expression, rows)

    def outputs(self, inputs: Inputs, features: Tensor, presence: Tensor | None = None) -> Tensor:
        """Compute the outputs; parameters as of `Source`."""
        module = self.model.module
        codes = torch.from_numpy(self.codes[inputs.rows]).to(features.device)
        phenotypes = module.embed_phenotypes(codes)
        states = module.encode(phenotypes, features, inputs.lengths, bias=presence)
        logits: Tensor = module.heads[self.at](states[:, self.at])
        return logits if self.output == "logits" else logits.softmax(1)


class PanelSource:
    """The logits, or probabilities, of a task of a YOTO; the features are its panel's expression.

    Parameters
    ----------
    panel
        A trained panel.
    cells
        The cells, which must have all genes of the panel.
    target
        The task.
    output
        ``"logits"`` or ``"probabilities"``.
    """

    has_all_genes = True

    @checked
    def __init__(
        self, panel: Panel | YOTO, cells: CellCollection, target: str, *, output: Output = "logits"
    ) -> None:
        _require_output(output)
        own: Any = panel.trained if isinstance(panel, YOTO) else panel
        require_base(own, "attribution")
        names = [task.name for task in own.tasks]
        if target not in names:
            raise ConfigError(f"the panel has no task {target!r}; {closest(target, names)}")
        self.at = names.index(target)
        self.classes = list(own.tasks[self.at].classes)
        if not self.classes:
            raise ConfigError(f"task {target!r} is a number; attributions compare classes")
        self.panel, self.output = own, output
        self.genes = np.array(own.genes, dtype=object)
        require_measured(own.genes, cells)
        self.view = cells.with_genes(self.genes, 1.0)

    def inputs(self, rows: NDArray[np.int64]) -> Inputs:
        """Read cells; parameters as of `Source`."""
        network = self.panel.network
        values = transformed(self.view.batch(rows), network.transform).dense()
        k = values.shape[1]
        return Inputs(
            torch.arange(k).repeat(len(rows)),
            torch.full((len(rows),), k),
            values.reshape(-1, 1),
            values.flatten(),
            rows,
        )

    def outputs(self, inputs: Inputs, features: Tensor, presence: Tensor | None = None) -> Tensor:
        """Compute the outputs; parameters as of `Source`."""
        x = features.view(len(inputs.rows), -1)
        logits: Tensor = self.panel.network.outputs(x)[self.at]
        return logits if self.output == "logits" else logits.softmax(1)


class ReconstructionSource:
    """What a TxFM reconstructs of a gene, or a weighted sum of its representation.

    Parameters
    ----------
    encoder
        A trained TxFM.
    cells
        The cells.
    gene
        The gene whose expression is reconstructed.
    weights
        Instead, float [d], the weights of the CLS token's numbers.
    n_tokens
        How many genes are revealed, chosen by the cell's name; None for all.
    """

    has_all_genes = False

    @checked
    def __init__(
        self,
        encoder: CellEncoder | TxFM,
        cells: CellCollection,
        *,
        gene: str | None = None,
        weights: NDArray[np.float32] | None = None,
        n_tokens: int | None = None,
        min_gene_overlap: float = 0.8,
    ) -> None:
        if (gene is None) == (weights is None):
            raise ConfigError("give the gene that is reconstructed, or weights of the latent")
        encoder = encoder.trained if isinstance(encoder, TxFM) else encoder
        self.encoder, self.n_tokens = encoder, n_tokens
        self.genes = encoder.genes
        self.column = None
        if gene is not None:
            found = np.flatnonzero(self.genes == gene)
            if not len(found):
                raise DataError(
                    f"the model has no gene {gene!r}; {closest(gene, self.genes.tolist())}"
                )
            self.column = found
        elif weights is not None and np.asarray(weights).shape != (encoder.config.d_model,):
            raise ConfigError(
                f"weights has shape {np.asarray(weights).shape}: [{encoder.config.d_model}] is "
                "needed"
            )
        self.weights = None if weights is None else torch.as_tensor(weights, dtype=torch.float32)
        self.classes = [gene or "weighted sum"]
        self.view = cells.with_genes(self.genes, min_gene_overlap, absent="unobserved")

    def inputs(self, rows: NDArray[np.int64]) -> Inputs:
        """Read cells; parameters as of `Source`."""
        module, cells = self.encoder.module, _batch(self.view, rows)
        with torch.no_grad():
            ids, values, offsets = sample_tokens(
                cells,
                module.revealed(cells, self.n_tokens),
                cell_ids=cells.cell_ids,
                seed=module.seed_of(-1),
                library=cells.library,
                observed=cells.observed,
                weights=module.gene_weights if module.config.masking_power else None,
                target_sum=module.config.target_sum if module.config.normalise else None,
                ragged=True,
            )
            total = int(offsets[-1])
            genes, values = ids[:total].long(), values[:total]
            features = module.embedding(genes[None], values[None])[0, 1:]
        return Inputs(genes, offsets.diff(), features, values, rows)

    def outputs(self, inputs: Inputs, features: Tensor, presence: Tensor | None = None) -> Tensor:
        """Compute the outputs; parameters as of `Source`."""
        module = self.encoder.module
        rows = torch.split(features, inputs.lengths.tolist())
        tokens = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
        cls = module.embedding.cls.expand(len(rows), 1, -1)
        longest = tokens.shape[1]
        inside = torch.arange(longest + 1) <= inputs.lengths[:, None]
        padding = None if bool(inside.all()) else ~inside
        bias = None
        if presence is not None:
            parts = torch.split(presence, inputs.lengths.tolist())
            bias = torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
            bias = torch.cat([bias.new_zeros(len(rows), 1), bias], 1)
        states = module.encoder(torch.cat([cls, tokens], 1), padding, bias=bias)
        if module.linear is not None:
            states = module.joined(states, self._linear(inputs, features, presence))
        if self.weights is not None:
            weighted: Tensor = states @ self.weights
            return weighted[:, None]
        return module.expression(module.decoder.hidden(states), columns=self.column)

    def _linear(self, inputs: Inputs, features: Tensor, presence: Tensor | None) -> Tensor:
        """Return what the linear path says of each cell; tokens end with their genes' values.

        Where genes are partly there, by e^presence, they count as much.
        """
        module, lengths = self.encoder.module, inputs.lengths
        assert module.linear is not None
        summands = module.linear.of_genes(inputs.gene_ids, module.linear_values(features[:, -1]))
        if presence is not None:
            summands = summands * presence.exp()[:, None]
        rows = torch.split(summands, lengths.tolist())
        sums = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True).sum(1)
        return module.linear.of_sums(sums)


def _batch(cells: CellCollection, rows: NDArray[np.int64]) -> Cells:
    """Read cells whose ids are keys of their names, by which genes are chosen."""
    keys = keys_of_names(cells.cell_names[rows])
    return replace(cells.batch(rows), cell_ids=torch.from_numpy(keys))


def _require_output(output: str) -> None:
    if output not in ("logits", "probabilities"):
        raise ConfigError(f"output is {output!r}: 'logits' or 'probabilities' are possible")


def _expression(cells: Cells, genes: Tensor, rows: Tensor, target_sum: float) -> Tensor:
    """Return the log-normalised expression of each token's gene."""
    width = cells.n_genes
    starts = torch.repeat_interleave(
        torch.arange(len(cells), device=genes.device) * width, cells.indptr.diff()
    )
    at = torch.searchsorted(cells.indices.long() + starts, rows * width + genes)
    counts = cells.values[at]
    if cells.library is None:
        return torch.log1p(counts)
    return torch.log1p(counts * target_sum / cells.library[rows])
