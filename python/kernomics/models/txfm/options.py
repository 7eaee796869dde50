"""Keyword arguments that TxFM takes on top of those named, for editors and type checkers.

How cells are read and what the configuration sets go through one ``**options``.
"""

from __future__ import annotations

from kernomics.data.readers.inputs import ReadOptions
from kernomics.models.txfm.config import Activation, GeneStart, Loss
from kernomics.nn.encoder import Recompute


class TxFMOptions(ReadOptions, total=False):
    """`ReadOptions`, and the settings of `TxFMConfig`."""

    d_model: int
    n_layers: int
    n_heads: int
    n_tokens: int
    masking_power: float
    target_sum: float
    normalise: bool
    decoder_layers: int
    activation: Activation | None
    loss: Loss
    stochastic_depth: float
    gene_start: GeneStart
    layer_scale: float
    linear_path: bool
    recompute: Recompute
