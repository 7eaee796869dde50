"""What TxFM's decoder says of a cell's counts, and how far off that is.

With x = log(1 + L·c/library) of a count c, the decoder's output z of a gene gives x̂ = φ(z):

================== =================================================================================
``rectified_tanh`` log(L + 1)·relu(tanh(z/4e)) (arXiv 2605.31562, Eq. 1)
``relu``           relu(z)
``clamped_relu``   min(relu(z), log(L + 1))
``softplus``       log(1 + e^z): the gene's share of the cell's counts is e^z/L, never 0
``softmax``        log(1 + L·softmax(z)), over the genes of the cell's data set: their shares add up
                   to 1, so that Σ(e^x̂ − 1) = L, as library normalisation makes of the counts
================== =================================================================================

The counts of a negative binomial have the mean μ = (library/L)·(e^x̂ − 1), the share times the
library size. With ``softplus`` that is (library/L)·e^z, a logarithmic link, whose gradient
θ(μ − c)/(θ + μ) vanishes only where μ = c. With ``softmax`` it is scVI's mean (Lopez et al. 2018).
The rectified activations have μ = 0 for all z ≤ 0, and there a count above 0 costs infinitely much;
the paper does not say how its negative binomial got around that.

With zero inflation a count is lost with probability π, and the expression read out is that of the
counts to expect, x̂ = log(1 + (1 − π)·e^z): the same quantity as with the other losses. (scVI reads
out the expression before the loss.)
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kernomics.data import Cells
from kernomics.models.txfm.config import NEGATIVE_BINOMIALS, RECTIFIED, TxFMConfig
from kernomics.nn.chunked import sum_over_chunks
from kernomics.nn.count_losses import negative_binomial_nll, zinb_nll
from kernomics.nn.precision import widened
from kernomics.ops import ObservedGenes, linear_poisson_nll

BETA = 4 * math.e


class Head(NamedTuple):
    """The decoder's last parameters; those that a loss does not have are None."""

    weight: Tensor  # [G, H], from `hidden` to the outputs z
    bias: Tensor
    log_inverse_dispersion: Tensor | None = None  # log θ [G], of the negative binomials
    dropout_weight: Tensor | None = None  # [G, H], from `hidden` to the logit of π
    dropout_bias: Tensor | None = None

    def outputs(self, hidden: Tensor) -> Tensor:
        """Return z, [B, G]."""
        return F.linear(hidden, self.weight, self.bias)

    def dropout_logits(self, hidden: Tensor) -> Tensor | None:
        """Return the logit of π, [B, G], if counts may be lost."""
        if self.dropout_weight is None:
            return None
        return F.linear(hidden, self.dropout_weight, self.dropout_bias)

    def of_genes(self, columns: Any) -> Head:
        """Return the parameters of some genes, by index or slice."""
        return Head(*(None if part is None else part[columns] for part in self))  # type: ignore[arg-type]


def expression(
    config: TxFMConfig,
    outputs: Tensor,
    observed: ObservedGenes | None = None,
    dropout_logits: Tensor | None = None,
) -> Tensor:
    """Return x̂, log-normalised expression."""
    top = math.log(config.target_sum + 1)
    if config.phi == "rectified_tanh":
        return top * F.relu(torch.tanh(outputs / BETA))
    if config.phi in RECTIFIED:
        positive = F.relu(outputs)
        return positive.clamp(max=top) if config.phi == "clamped_relu" else positive
    log_rate = _log_rate(config, outputs, observed)
    if dropout_logits is not None:
        log_rate = log_rate + F.logsigmoid(-dropout_logits)
    return F.softplus(log_rate)


def _log_rate(config: TxFMConfig, outputs: Tensor, observed: ObservedGenes | None) -> Tensor:
    """Return log(e^x̂ − 1) for the activations under which it is finite."""
    if config.phi == "softplus":
        return outputs
    there = outputs
    if observed is not None:
        there = outputs.masked_fill(~_seen(observed), -math.inf)
    total = there.logsumexp(-1, keepdim=True)
    return outputs - total + math.log(config.target_sum)


def log_normalised(config: TxFMConfig, cells: Cells) -> Cells:
    """Return the cells with log-normalised expression x in place of counts."""
    values = cells.values
    if config.normalise:
        # With its size given, repeat_interleave need not ask the device for it.
        of_each = torch.repeat_interleave(
            _units(config, cells), cells.indptr.diff(), output_size=len(values)
        )
        values = values * of_each
    return cells.with_values(values.log1p())


def _units(config: TxFMConfig, cells: Cells) -> Tensor:
    """Return what a count is worth in each cell, L/library, or 1 if counts stay as they are."""
    if not config.normalise:
        return cells.values.new_ones(len(cells))
    assert cells.library is not None
    return config.target_sum / cells.library.clamp_min(1.0)


def reconstruction_loss(config: TxFMConfig, head: Head, hidden: Tensor, cells: Cells) -> Tensor:
    """Return the mean over cells of each cell's mean loss over the genes of its data set."""
    hidden = widened(hidden)
    if config.loss == "poisson" and config.phi in RECTIFIED:
        loss: Tensor = linear_poisson_nll(
            hidden,
            head.weight,
            head.bias,
            cells if config.normalise else cells.with_values(cells.values.log1p()),
            activation=config.phi,
            target_kind="counts" if config.normalise else "log1p",
            library=cells.library if config.normalise else None,
            observed=cells.observed,
            target_sum=config.target_sum,
        )
        return loss
    n_genes = hidden.new_full((len(cells),), cells.n_genes)
    if cells.observed is not None:
        n_genes = cells.observed.counts[cells.observed.panel_id.long()].to(hidden)
    weights = 1 / (n_genes.clamp_min(1) * len(cells))

    def part(start: int, stop: int, hidden: Tensor, *parameters: Any) -> Tensor:
        some = cells.slice(start, stop)
        each = losses(config, Head(*parameters), hidden, some)
        if some.observed is not None:
            each = each.masked_fill(~_seen(some.observed), 0)
        return each.sum(1) @ weights[start:stop]

    return sum_over_chunks(part, cells.n_genes, hidden, *head)


def losses(config: TxFMConfig, head: Head, hidden: Tensor, cells: Cells) -> Tensor:
    """Return the loss of each cell and gene, [B, G], observed or not."""
    outputs = head.outputs(hidden)
    if config.loss in NEGATIVE_BINOMIALS:
        assert head.log_inverse_dispersion is not None
        mean = _log_rate(config, outputs, cells.observed).exp() / _units(config, cells)[:, None]
        theta = head.log_inverse_dispersion.exp()
        lost = head.dropout_logits(hidden)
        if lost is None:
            return negative_binomial_nll(mean, cells, theta)
        return zinb_nll(mean, cells, theta, lost)
    found = expression(config, outputs, cells.observed)
    target = log_normalised(config, cells).dense()
    if config.loss == "poisson":
        return found.exp() - target.exp() * found
    measure = F.mse_loss if config.loss == "mse" else F.smooth_l1_loss
    return measure(found, target, reduction="none")


def _seen(observed: ObservedGenes) -> Tensor:
    return observed.mask[observed.panel_id.long()] != 0
