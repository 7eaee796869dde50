"""How far float32 may be from the formulas in float64, counted from the operations it takes.

ε is float32's. A sum of n products is off by at most (n + 2)·ε·Σ|terms| in any order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

EPS = 2.0**-23
ALPHA, BETA = math.log(1e5 + 1), 4 * math.e  # of the rectified tanh
STEEP = ALPHA / BETA  # its largest slope
LOSS, SLOPE = 256, 96
"""ε of a loss and its slope, of e^η + (1 + η)·e^x.

tanh is off by 5 ε, so η by 5·ALPHA ≈ 58 ε, which e^η has as its relative error; e^x by 8 ε. The
slope adds 8 ε of φ'; a sum in blocks 64 ε.
"""


def product(left: Tensor, right: Tensor) -> Tensor:
    """Bound the error of ``left @ right``."""
    return (left.shape[-1] + 2) * EPS * (left.abs() @ right.abs())


def poisson(z: Tensor, x: Tensor, z_error: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Bound the errors of the mean Poisson loss and its slope, the logits off by z_error."""
    n = z.numel()
    eta = ALPHA * torch.relu(torch.tanh(z / BETA))
    rates = eta.exp() + x.exp()
    moved = torch.as_tensor(STEEP * z_error).exp() * z_error * (z > -z_error)  # else flat
    loss = LOSS * EPS * (rates + eta * x.exp()) + STEEP * rates * moved
    slope = SLOPE * EPS * STEEP * rates + (STEEP**2 + STEEP / BETA) * rates * moved
    kink = z.abs() < z_error  # on either side of relu's corner
    return loss.mean(), (slope + torch.where(kink, STEEP * rates, 0.0)) / n


def differs(
    names: Sequence[str],
    found: Sequence[Tensor],
    expected: Sequence[Tensor],
    bounds: Sequence[Tensor | float],
) -> str | None:
    """Say which result is farther from the reference than its bound, how often and where first."""
    for name, mine, right, bound in zip(names, found, expected, bounds, strict=True):
        if mine.shape != right.shape:
            return f"{name} has shape {list(mine.shape)}, the reference {list(right.shape)}"
        near = (mine.double() - right.double()).abs() <= torch.as_tensor(bound).to(mine.device)
        if bool(near.all()):
            continue
        at = tuple((~near).nonzero()[0].tolist())
        return (
            f"{name} differs from the reference at {int((~near).sum()):,} of {near.numel():,} "
            f"numbers, first at {list(at)}: {float(mine[at]):.7g}, not {float(right[at]):.7g}"
        )
    return None
