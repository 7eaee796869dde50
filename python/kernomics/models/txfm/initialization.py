"""Where TxFM's genes start: at the constants that fit the training cells best."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernomics.data import CellCollection, Cells
from kernomics.data.rng import Stream, permutation
from kernomics.data.row_numbers import parts
from kernomics.models.gene_components import gene_components
from kernomics.models.txfm.config import NEGATIVE_BINOMIALS, RECTIFIED, TxFMConfig
from kernomics.models.txfm.losses import BETA
from kernomics.models.txfm.module import DROPOUT_START, LINEAR_SUM, TxFMModule

CELLS_AT_A_TIME, FEW_CELLS = 1024, 64
DECODER_START = 0.05
INVERSE_DISPERSIONS = (0.01, 100.0)
"""Between these θ starts: beyond, log θ has hardly a gradient."""


@dataclass(frozen=True)
class Moments:
    """Of each gene's counts c in the training cells whose data set has it, float64 [G].

    With a cell's size factor s = library/L, or 1 where counts are not normalised.
    """

    cells: Tensor  # at least 1
    having: Tensor  # in how many c is above 0
    scaled: Tensor  # Σ c/s
    logarithms: Tensor  # Σ log(1 + c/s)
    linear: Tensor  # Σ of what a linear path takes, log(1 + 10⁴·c/library) or log(1 + c)
    counts: Tensor  # Σ c
    squares: Tensor  # Σ c²
    by_size: Tensor  # Σ s·c
    sizes: Tensor  # Σ s
    sizes_squared: Tensor  # Σ s²

    @property
    def pooled_rate(self) -> Tensor:
        """Σ c / Σ s, with half a count for a gene that no cell has."""
        return self.counts.clamp_min(0.5) / self.sizes

    @property
    def inverse_dispersion(self) -> Tensor:
        """θ by the method of moments, from Σ (c − s·m)² = m·Σ s + m²·Σ s²/θ, m the pooled rate.

        What the cells' states do to a gene counts as dispersion here, so θ starts low, where no
        count is a surprise, and rises as the model learns the states.
        """
        m, s2 = self.pooled_rate, self.sizes_squared
        spread = self.squares - 2 * m * self.by_size + m.square() * s2
        excess = (spread - m * self.sizes).clamp_min(0)
        return (m.square() * s2 / excess).clamp(*INVERSE_DISPERSIONS)


def moments(cells: CellCollection, rows: NDArray[np.int64], config: TxFMConfig) -> Moments:
    """Add up the training cells' counts, in one pass."""
    names = tuple(Moments.__dataclass_fields__)
    total = {name: np.zeros(cells.n_genes) for name in names}
    to_linear = LINEAR_SUM / config.target_sum if config.normalise else 1.0
    for some in parts(len(rows), CELLS_AT_A_TIME):
        part = cells.batch(rows[some])
        size = _sizes(part, config)
        of_count = np.repeat(size, part.indptr.diff().numpy())
        genes, c = part.indices.numpy(), part.values.double().numpy()
        for name, values in {
            "having": np.ones_like(c),
            "scaled": c / of_count,
            "logarithms": np.log1p(c / of_count),
            "linear": np.log1p(c / of_count * to_linear),
            "counts": c,
            "squares": c**2,
            "by_size": of_count * c,
        }.items():
            total[name] += np.bincount(genes, values, minlength=cells.n_genes)
        of_cell = {"cells": np.ones_like(size), "sizes": size, "sizes_squared": size**2}
        for name, values in of_cell.items():
            if part.observed is None:
                total[name] += values.sum()
            else:
                panels = part.observed
                in_panel = np.bincount(panels.panel_id, values, minlength=len(panels.mask))
                total[name] += in_panel @ panels.mask.numpy()
    unseen = total["cells"] == 0
    for name in ("cells", "sizes", "sizes_squared"):
        total[name][unseen] = 1  # as if one cell of library L had no count
    return Moments(**{name: torch.from_numpy(values) for name, values in total.items()})


def _sizes(part: Cells, config: TxFMConfig) -> NDArray[np.float64]:
    if not config.normalise:
        return np.ones(len(part))
    assert part.library is not None
    return part.library.double().clamp_min(1.0).numpy() / config.target_sum


@torch.no_grad()
def start_from(module: TxFMModule, cells: CellCollection, rows: NDArray[np.int64]) -> Tensor:
    """Set what a module learns of each gene, and the weights of its masks, from training cells.

    Biases are at each gene's best constant. With ``gene_start="components"`` the gene embeddings
    are the genes' places in the cells' principal components, and so are the decoder's rows, at
    0.05 of them: z then starts near its bias and moves with what genes share.
    """
    config = module.config
    found = moments(cells, rows, config)
    detected = (found.having / found.cells).float()
    if config.masking_power:
        module.gene_weights.copy_(detected.clamp_min(1e-6) ** config.masking_power)
    module.decoder.genes.bias.copy_(starting_bias(found, config))
    if module.log_inverse_dispersion is not None:
        module.log_inverse_dispersion.copy_(found.inverse_dispersion.log())
    table, weight = module.embedding.gene_embeddings, module.decoder.genes.weight
    if config.gene_start == "components" or module.linear is not None:
        components = gene_components(cells, rows, table.shape[1], module.seed)
        if config.gene_start == "components":
            table.copy_(components)
            weight[:, : table.shape[1]] = DECODER_START * components
        if module.linear is not None:
            start_linear_path(module, found, components, cells, rows)
    return detected


def start_linear_path(
    module: TxFMModule,
    found: Moments,
    components: Tensor,
    cells: CellCollection,
    rows: NDArray[np.int64],
) -> None:
    """Let a linear path start at the cells' principal components, of which there may be more.

    The scores are divided by the root of their standard deviation, then all by one number, so that
    their mean square is 1: on their own scale the first few would hide the others from distances,
    and made all alike the last, which are noise, would weigh as much (ours).
    """
    linear = module.linear
    assert linear is not None
    loadings = components[:, : linear.weight.shape[1]]
    loadings = loadings / loadings.square().mean(0).sqrt().clamp_min(1e-12)
    linear.weight.copy_(loadings)
    linear.mean.copy_(found.linear / found.cells)
    drawn = np.sort(rows[permutation(len(rows), module.seed, Stream.COMPONENTS)[:CELLS_AT_A_TIME]])
    sums = []
    for some in parts(len(drawn), FEW_CELLS):
        tokens = module.tokens(cells.batch(drawn[some]), None)
        values = module.linear_values(tokens.values)
        sums.append(linear.sums(tokens.gene_ids, values, tokens.padding))
    scores = torch.cat(sums)
    scale = scores.var(0, correction=0).clamp_min(1e-12) ** -0.25
    linear.scale.copy_(scale / (scores * scale).square().mean().sqrt().clamp_min(1e-6))


def starting_bias(found: Moments, config: TxFMConfig) -> Tensor:
    """Return z = φ⁻¹(x₀) of the best constant expression x₀ of each gene, float32 [G].

    The loss e^φ − φ·e^x of a constant φ is least at φ = log(mean of e^x), so that no gene starts
    where a rectified activation has no gradient; the squared error at the mean of x, where the
    smooth absolute error starts too: its own optimum, near the median, is 0 for most genes. The
    negative binomials start at the pooled rate, an unbiased moment for any dispersion; where counts
    may be lost, what remains of them is to be that rate.
    """
    floor = 0.5 / found.sizes  # half a count: e^z must not be 0
    if config.loss in NEGATIVE_BINOMIALS:
        rate = found.pooled_rate
        if config.loss == "zinb":
            rate = rate * (1 + math.exp(DROPOUT_START))  # over 1 − π
        return rate.log().float()
    if config.loss == "poisson":
        expression = torch.log1p(found.scaled / found.cells)
    else:
        expression = found.logarithms / found.cells
    if config.phi not in RECTIFIED:
        return expression.expm1().clamp_min(floor).log().float()
    if config.phi == "rectified_tanh":
        share = expression / math.log(config.target_sum + 1)
        return (BETA * share.clamp(max=1 - 1e-6).atanh()).float()
    return expression.float()
