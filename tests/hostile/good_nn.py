"""Good calls of `kernomics.nn`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kernomics import nn

GOOD: dict[str, Callable[[], dict[str, Any]]] = {
    "nn.CountDecoder": lambda: {"d_model": 4, "n_genes": 3, "n_layers": 1},
    "nn.Draws": dict,
    "nn.Draws.begin": lambda: {"seed": 1, "device": torch.device("cpu")},
    "nn.Draws.of_part": lambda: {"start": 1, "n": 2, "whole": 4},
    "nn.Draws.dropped": lambda: {"x": torch.ones(3, 2), "p": 0.5},
    "nn.Draws.generator": dict,
    "nn.Draws.restore": lambda: {"state": nn.Draws(1).state()},
    "nn.Dropout": lambda: {"p": 0.5, "draws": nn.Draws(0)},
    "nn.ReluDropout": lambda: {"p": 0.5, "draws": nn.Draws(0)},
    "nn.Encoder": lambda: {"d_model": 8, "n_layers": 2, "n_heads": 2},
    "nn.GeneSelector": lambda: {"n_genes": 5, "forced": [1], "forbidden": [2]},
    "nn.MaskedLinear": lambda: {"n_genes": 5, "n_out": 3, "fan_in": 2},
    "nn.TokenEmbedding": lambda: {"n_genes": 5, "d_model": 4},
    "nn.drawing_from": lambda: {"seed": 1},
}

INSTANCES: dict[str, Callable[[], Any]] = {"nn.Draws": nn.Draws}
