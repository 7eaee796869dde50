"""What the tests of gumbel_topk and relaxed_mask share; they draw scores with a fixture."""

from __future__ import annotations

import torch

RELAXATIONS = ["softsort", "neuralsort", "softmax"]
SEED = torch.tensor([20, 4])
