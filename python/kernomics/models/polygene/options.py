"""Keyword arguments that PolyGene takes on top of those named, for editors and type checkers."""

from __future__ import annotations

from kernomics.data.readers.inputs import ReadOptions
from kernomics.models.tasks import ClassWeights
from kernomics.nn.encoder import Recompute


class PolyGeneOptions(ReadOptions, total=False):
    """`ReadOptions`, and the settings of `PolyGeneConfig`."""

    d_model: int
    n_layers: int
    n_heads: int
    n_tokens: int
    bins: str | int | tuple[float, ...]
    target_sum: float
    gene_mask_rate: float
    unexpressed_rate: float
    phenotype_mask_rate: float
    gene_weight: float
    label_smoothing: float
    class_weights: ClassWeights | None
    layer_scale: float
    recompute: Recompute
