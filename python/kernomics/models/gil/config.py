"""How GIL shows, masks and predicts expression: its settings and sizes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from kernomics._arguments import check_fields, checked
from kernomics.errors import ConfigError, closest
from kernomics.nn.encoder import Recompute
from kernomics.train import TrainConfig

SIZES: dict[str, dict[str, Any]] = {
    "laptop": {"d_model": 64, "n_layers": 2, "n_heads": 4, "n_tokens": 256},
    "paper": {"d_model": 256, "n_layers": 6, "n_heads": 8, "n_tokens": 512},
}
"""The paper's width, blocks, heads and longest input; and ours, for two cores."""

NARROW = 128


@dataclass(frozen=True)
class GILConfig:
    """How GIL shows, masks and predicts expression.

    Attributes
    ----------
    d_model, n_layers, n_heads
        Width, blocks and attention heads. (Paper: 256, 6, 8. Its feed-forward layers are as wide
        as the model, with dropout 0.15 and norms after each branch; ours are four times as wide,
        without dropout, and with norms before: the blocks of `PolyGene`.)
    n_tokens
        The most genes of a cell that a training step shows; a cell that expresses more shows
        another choice in each step. (Paper: 512.)
    expression_share
        The share of these that are drawn in proportion to their expression; the rest is drawn
        evenly from the others. (Paper: a half.)
    mask_rate
        How often a gene shown is masked, for its value to be predicted. (Paper: 0.4.)
    combine
        How a gene's embedding and its value make a token: ``"add"`` the encoding of the value by a
        network 1 → d → d (as the paper's code does), or ``"concat"``, the value as the token's
        last number.
    gene_start
        Where genes start: ``"components"``, at their places in the principal components of the
        first stage's training cells, genes that come later at those of their own stage's cells,
        mapped to what the known genes have become (ours); or ``"random"`` (as in the paper).
    loss
        ``"mse"`` of log-normalised values, or the ``"poisson"`` loss of normalised counts.
    query_weight
        Weight of the loss of what the cell's state predicts for a gene that is asked for, beside
        that of what the gene's own masked token predicts. (Paper: 1.)
    n_unexpressed, detection_weight
        How many genes of each cell to draw in a step that it may not express, and the weight of the
        loss by which the cell's state learns to tell these from its hidden genes (ours: values of
        expressed genes alone say little of a cell's type). (Paper: 0 genes.)
    target_sum
        What a cell's counts are scaled to sum to before the logarithm.
    layer_scale
        Where LayerScale starts.
    recompute
        What is computed again in backward to save memory; see `kernomics.nn.Encoder`.
    """

    d_model: int = 64
    n_layers: int = 2
    n_heads: int = 4
    n_tokens: int = 256
    expression_share: float = 0.5
    mask_rate: float = 0.4
    combine: Literal["add", "concat"] = "add"
    gene_start: Literal["components", "random"] = "components"
    loss: Literal["mse", "poisson"] = "mse"
    query_weight: float = 1.0
    n_unexpressed: int = 64
    detection_weight: float = 2.0
    target_sum: float = 1e4
    layer_scale: float = 0.1
    recompute: Recompute = "nothing"

    @classmethod
    @checked
    def of_size(cls, size: str, **overrides: Any) -> GILConfig:
        """Return the settings of a size, ``"laptop"`` or ``"paper"``."""
        if size not in SIZES:
            raise ConfigError(f"size is {size!r}; {closest(size, SIZES)}")
        names = [field.name for field in dataclasses.fields(cls)]
        for name in overrides:
            if name not in names:
                raise ConfigError(f"GILConfig has no setting {name!r}; {closest(name, names)}")
        return cls(**{**SIZES[size], **overrides})

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("d_model", "n_layers", "n_heads", "n_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: at least 1 is needed")
        if self.d_model % self.n_heads:
            raise ConfigError(
                f"d_model is {self.d_model} and n_heads {self.n_heads}: the heads must divide it"
            )
        if self.combine == "concat" and self.d_model < 2:
            raise ConfigError("d_model is 1: the value takes one number, so 2 are needed")
        for name in ("target_sum", "layer_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be above 0")
        for name in ("query_weight", "detection_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be 0 or more")
        if self.n_unexpressed < 0:
            raise ConfigError(f"n_unexpressed is {self.n_unexpressed}: it must be 0 or more")
        if not 0 <= self.expression_share <= 1:
            raise ConfigError(
                f"expression_share is {self.expression_share}: it is a share, from 0 to 1"
            )
        if not 0 < self.mask_rate < 1:
            raise ConfigError(
                f"mask_rate is {self.mask_rate}: a share above 0 and below 1 is needed, as only "
                "masked genes are learnt"
            )


def default_training(n_first: int, d_model: int) -> TrainConfig:
    """Training settings of every stage, for the number of cells of the first and a width.

    Adam without weight decay, and one cosine cycle a stage, with a warm-up in the first stage alone
    (the paper's). Up to a width of 128 the rate is 2e-3 and the epochs are about 600 steps' worth
    of the first stage, 5 to 60; above, the paper's 5e-4 and 5 epochs of batches of 128.
    """
    narrow = d_model <= NARROW
    batch = 64 if narrow else 128
    steps = max(1, math.ceil(n_first / batch))
    return TrainConfig(
        max_epochs=min(60, max(5, math.ceil(600 / steps))) if narrow else 5,
        batch_size=batch,
        learning_rate=2e-3 if narrow else 5e-4,
        schedule="one_cycle",
        warmup=0.1,
        max_grad_norm=1.0,
        validate_every=5,
    )
