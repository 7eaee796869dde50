"""Negative binomial losses of counts, with and without zero inflation, element by element.

Counts are mostly zeros, and the gamma functions of a zero cancel: they are computed for the other
counts alone, when these are given as compressed sparse rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kernomics.ops._common import SparseRows, csr_parts

SERIES_FROM = 10.0
"""Where Stirling's series of five terms is exact to 2e-14."""


def negative_binomial_nll(
    mean: Tensor, counts: Tensor | SparseRows, inverse_dispersion: Tensor
) -> Tensor:
    r"""Return minus the logarithm of each count's negative binomial probability.

    A count c of mean μ and inverse dispersion θ has variance μ + μ²/θ and probability

    .. math:: P(c) = \frac{Γ(c + θ)}{Γ(θ)\,c!} \left(\frac{θ}{θ + μ}\right)^θ
                     \left(\frac{μ}{θ + μ}\right)^c,

    the Poisson distribution for θ → ∞. For a zero −log P = θ·log(1 + μ/θ). For other counts, with
    δ the error of Stirling's formula,

    .. math:: -\log P = c \log\frac{c\,(μ + θ)}{μ\,(c + θ)} - θ \log\frac{c + θ}{μ + θ}
                        + \frac12 \log\Bigl(2πc\Bigl(1 + \frac{c}{θ}\Bigr)\Bigr)
                        + δ(c) + δ(θ) - δ(c + θ).

    Here the large parts of the gamma functions have been cancelled by hand, as Loader (2000, *Fast
    and accurate computation of binomial probabilities*) does; differences of log Γ in float32 keep
    no digit when c or θ is large.

    Parameters
    ----------
    mean
        μ, [B, G], not negative; at 0 a zero costs 0 and any other count infinitely much.
    counts
        c, not negative: dense [B, G], or compressed sparse rows such as `Cells`, for which the
        logarithms above are taken of the non-zeros only. Receives no gradient.
    inverse_dispersion
        θ, [G] or [B, G], finite and above 0.

    Returns
    -------
    Tensor
        [B, G], of the dtype of `mean`.
    """
    zero = _nll_of_zero(mean, inverse_dispersion)

    def positive(mean: Tensor, count: Tensor, theta: Tensor) -> Tensor:
        return _nll_of_positive(mean, count, theta)

    return _replaced(zero, positive, counts, mean, inverse_dispersion)


def zinb_nll(
    mean: Tensor, counts: Tensor | SparseRows, inverse_dispersion: Tensor, dropout_logits: Tensor
) -> Tensor:
    r"""Return minus the logarithm of each count's zero-inflated negative binomial probability.

    With probability π = σ(d) the count is lost, and 0; else it is negative binomial with
    probability P. So

    .. math:: P'(0) = π + (1 - π)\,P(0), \quad P'(c) = (1 - π)\,P(c) \text{ for } c > 0.

    Parameters
    ----------
    mean, counts, inverse_dispersion
        As in :func:`negative_binomial_nll`; μ is the mean of counts that are not lost.
    dropout_logits
        d, [B, G].

    Returns
    -------
    Tensor
        [B, G], of the dtype of `mean`.
    """
    kept = F.softplus(dropout_logits)  # −log(1 − π)
    zero = kept - torch.logaddexp(dropout_logits, -_nll_of_zero(mean, inverse_dispersion))

    def positive(mean: Tensor, count: Tensor, theta: Tensor, kept: Tensor) -> Tensor:
        return kept + _nll_of_positive(mean, count, theta)

    return _replaced(zero, positive, counts, mean, inverse_dispersion, kept)


def stirling_error(x: Tensor) -> Tensor:
    """Return δ(x) = log Γ(x) − (x − ½)·log x + x − ½·log 2π, for x > 0."""
    small, large = x.clamp(max=SERIES_FROM), x.clamp(min=SERIES_FROM)
    direct = torch.lgamma(small) - (small - 0.5) * small.log() + small - 0.5 * math.log(2 * math.pi)
    square = large.square().reciprocal()
    series = 1 / 1188 * square - 1 / 1680
    for coefficient in (1 / 1260, -1 / 360, 1 / 12):
        series = series * square + coefficient
    return torch.where(x < SERIES_FROM, direct, series / large)


def _nll_of_zero(mean: Tensor, theta: Tensor) -> Tensor:
    return theta * torch.log1p(mean / theta)


def _nll_of_positive(mean: Tensor, count: Tensor, theta: Tensor) -> Tensor:
    above = count - mean
    both = count + theta
    log_both, log_total = both.log(), torch.log(mean + theta)
    deviance = count * _log_ratio(
        theta * above, mean * both, count.log() - mean.log() + log_total - log_both
    ) - theta * _log_ratio(above, mean + theta, log_both - log_total)
    spread = 0.5 * (torch.log(2 * math.pi * count) + torch.log1p(count / theta))
    errors = stirling_error(count) + stirling_error(theta) - stirling_error(both)
    return deviance + spread + errors


def _log_ratio(excess: Tensor, b: Tensor, logarithm: Tensor) -> Tensor:
    """Return log((b + excess)/b): from the excess where that is small, else the logarithm given.

    Logarithms of nearly equal numbers lose their difference, and a quotient may overflow.
    """
    near = excess.abs() < 0.5 * b
    small = torch.log1p(torch.where(near, excess, 0) / torch.where(near, b, 1))
    return torch.where(near, small, logarithm)


def _replaced(
    zero: Tensor,
    positive: Callable[..., Tensor],
    counts: Tensor | SparseRows,
    mean: Tensor,
    *others: Tensor,
) -> Tensor:
    """Put the loss of each count that is not 0 in the place of that of a zero."""
    if isinstance(counts, Tensor) and counts.layout == torch.strided:
        some = counts > 0
        count = torch.where(some, counts, 1).to(mean.dtype)
        # Where the count is 0 the mean may be too: a mean of 1 keeps infinity off the gradients.
        return torch.where(some, positive(torch.where(some, mean, 1), count, *others), zero)
    indptr, genes, values = csr_parts(counts, "counts")
    cells = torch.arange(len(mean), device=mean.device)
    # With its size given, repeat_interleave need not ask the device for it.
    rows = torch.repeat_interleave(cells, indptr.diff(), output_size=len(values))
    at = rows, genes.long()
    found = positive(
        mean[at],
        values.to(mean.dtype),
        *(other[at[1]] if other.dim() == 1 else other[at] for other in others),
    )
    return zero.index_put(at, found)
