"""Keyword arguments that GIL takes on top of those named, for editors and type checkers."""

from __future__ import annotations

from typing import Literal

from kernomics.data.readers.inputs import ReadOptions
from kernomics.nn.encoder import Recompute


class GILOptions(ReadOptions, total=False):
    """`ReadOptions`, and the settings of `GILConfig`."""

    d_model: int
    n_layers: int
    n_heads: int
    n_tokens: int
    expression_share: float
    mask_rate: float
    combine: Literal["add", "concat"]
    gene_start: Literal["components", "random"]
    loss: Literal["mse", "poisson"]
    query_weight: float
    n_unexpressed: int
    detection_weight: float
    target_sum: float
    layer_scale: float
    recompute: Recompute
