"""What is computed in which precision."""

from __future__ import annotations

import torch
from torch import Tensor


def widened(x: Tensor) -> Tensor:
    """Return x in float32, as losses are computed, or in float64 if that is what it is in."""
    return x if x.dtype == torch.float64 else x.float()
