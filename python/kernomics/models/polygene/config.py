"""How PolyGene bins, masks and encodes: its settings and sizes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernomics._arguments import check_fields, checked
from kernomics.errors import ConfigError, closest
from kernomics.models.tasks import ClassWeights
from kernomics.nn.encoder import Recompute
from kernomics.train import TrainConfig

SIZES: dict[str, dict[str, Any]] = {
    "XXS": {"d_model": 64, "n_layers": 2, "n_heads": 2, "n_tokens": 256},
    "XS": {"d_model": 128, "n_layers": 4, "n_heads": 4, "n_tokens": 512},
    "S": {"d_model": 384, "n_layers": 6, "n_heads": 6, "n_tokens": 1024},
    "B": {"d_model": 768, "n_layers": 12, "n_heads": 12, "n_tokens": 2432},
}
"""B is the paper's width, blocks, heads and longest input; the others are ours."""

PAPER_EDGES = tuple(np.linspace(0.1, 9.0, 10).round(6).tolist())
"""Bin 0 lies below 0.1, nine bins of equal width reach to 9, and one holds what is above."""

NARROW = 128


@dataclass(frozen=True)
class PolyGeneConfig:
    """How PolyGene bins, masks and encodes.

    Attributes
    ----------
    d_model, n_layers, n_heads
        Width, blocks and attention heads.
    n_tokens
        The most genes of a cell that a training step shows. A cell that expresses more shows
        another random choice in each step. Predictions see all expressed genes, unless told
        otherwise.
    bins
        What becomes of expression, log(1 + target_sum·count/library): ``"binary"`` for expressed or
        not; the edges of the bins, ascending (the default is the paper's); or how many bins, whose
        edges are then quantiles of the non-zero expression of the training cells.
    target_sum
        What a cell's counts are scaled to sum to.
    gene_mask_rate
        How often an expressed gene is masked, for its bin to be predicted. (Paper: 0.15.)
    unexpressed_rate
        Of masked genes, the share replaced by a gene that the cell does not express, whose bin 0 is
        to be predicted: otherwise a mask would tell that a gene is expressed. (Ours: 0.5.)
    phenotype_mask_rate
        How often a phenotype is masked, for its value to be predicted. (Paper: 0.5.)
    gene_weight
        Weight of the genes' loss beside the mean of the phenotypes'. (Ours: 0.1.)
    label_smoothing
        Of both cross-entropies. (Paper: 0.5, which keeps probabilities near even. Ours: 0.1.)
    class_weights
        Of a phenotype's values: ``"balanced"``, ``"sqrt"`` or None; see `Task`.
    layer_scale
        Where LayerScale starts.
    recompute
        What is computed again in backward to save memory; see `kernomics.nn.Encoder`.
    """

    d_model: int = 64
    n_layers: int = 2
    n_heads: int = 2
    n_tokens: int = 256
    bins: str | int | tuple[float, ...] = PAPER_EDGES
    target_sum: float = 1e4
    gene_mask_rate: float = 0.15
    unexpressed_rate: float = 0.5
    phenotype_mask_rate: float = 0.5
    gene_weight: float = 0.1
    label_smoothing: float = 0.1
    class_weights: ClassWeights | None = "sqrt"
    layer_scale: float = 0.1
    recompute: Recompute = "nothing"

    @classmethod
    @checked
    def of_size(cls, size: str, **overrides: Any) -> PolyGeneConfig:
        """Return the settings of a size: ``"XXS"``, ``"XS"``, ``"S"`` or ``"B"``."""
        if size not in SIZES:
            raise ConfigError(f"size is {size!r}; {closest(size, SIZES)}")
        names = [field.name for field in dataclasses.fields(cls)]
        for name in overrides:
            if name not in names:
                raise ConfigError(f"PolyGeneConfig has no setting {name!r}; {closest(name, names)}")
        return cls(**{**SIZES[size], **overrides})

    def __post_init__(self) -> None:
        bins: Any = self.bins
        if isinstance(bins, list):  # as JSON has it
            object.__setattr__(self, "bins", tuple(bins))
        check_fields(self)
        for name in ("d_model", "n_layers", "n_heads", "n_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: at least 1 is needed")
        if self.d_model % self.n_heads:
            raise ConfigError(
                f"d_model is {self.d_model} and n_heads {self.n_heads}: the heads must divide it"
            )
        for name in ("target_sum", "layer_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be above 0")
        if not 0 <= self.gene_weight < math.inf:
            raise ConfigError(f"gene_weight is {self.gene_weight}: it must be 0 or more")
        for name in ("gene_mask_rate", "unexpressed_rate", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: it is a share, 0 to below 1")
        if not 0 < self.phenotype_mask_rate <= 1:
            raise ConfigError(
                f"phenotype_mask_rate is {self.phenotype_mask_rate}: a share above 0 is needed, as "
                "only masked phenotypes are learnt"
            )
        self._check_bins()

    def _check_bins(self) -> None:
        bins = self.bins
        if isinstance(bins, str) and bins != "binary":
            raise ConfigError(
                f"bins is {bins!r}: 'binary', a number of bins, or their edges are possible"
            )
        if isinstance(bins, int) and (isinstance(bins, bool) or not 2 <= bins <= 256):
            raise ConfigError(f"bins is {bins}: 2 to 256 bins are possible")
        if isinstance(bins, tuple):
            edges = np.asarray(bins, dtype=float)
            if not edges.size or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
                raise ConfigError(f"bins holds the edges {bins}: they must ascend and be finite")
            if edges[0] < 0:
                raise ConfigError(
                    f"the first edge of bins is {bins[0]}: expression is never below 0"
                )


def default_training(n_train: int, d_model: int) -> TrainConfig:
    """Training settings for a number of cells and a width.

    AdamW with one cosine cycle, a tenth of it to warm up (paper: warm-up 0.1, rates 2e-5 to 1e-4
    for the widths that others have pre-trained). Up to a width of 128 the rate is 2e-3, and the
    epochs are about 800 steps' worth, from 5 to 100.
    """
    batch = 32 if n_train < 20_000 else 128
    steps = max(1, math.ceil(n_train / batch))
    return TrainConfig(
        max_epochs=min(100, max(5, math.ceil(800 / steps))),
        batch_size=batch,
        learning_rate=2e-3 if d_model <= NARROW else 1e-4,
        weight_decay=0.01,
        schedule="one_cycle",
        warmup=0.1,
        max_grad_norm=1.0,
        validate_every=5,
    )
