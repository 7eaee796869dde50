"""How TxFM masks, encodes and decodes: its settings, sizes and their sources."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from kernomics._arguments import check_fields, checked
from kernomics.errors import ConfigError, closest
from kernomics.nn.encoder import Recompute

Activation = Literal["rectified_tanh", "relu", "clamped_relu", "softplus", "softmax"]
Loss = Literal["poisson", "mse", "smooth_l1", "negative_binomial", "zinb"]
GeneStart = Literal["random", "components"]

RECTIFIED = ("rectified_tanh", "relu", "clamped_relu")
NEGATIVE_BINOMIALS = ("negative_binomial", "zinb")

MOST_POWER = 4
"""Of the masking weights: a gene that one cell in a million has, the rarest told apart, then has
1e24 or 1e-24, within what a weighted draw tells apart in float32."""

SIZES: dict[str, dict[str, Any]] = {
    "XXS": {
        "d_model": 64,
        "n_layers": 1,
        "n_heads": 4,
        "n_tokens": 1024,
        "stochastic_depth": 0.0,
        "gene_start": "components",
        "linear_path": True,
    },
    "XS": {
        "d_model": 64,
        "n_layers": 2,
        "n_heads": 4,
        "n_tokens": 256,
        "stochastic_depth": 0.0,
        "gene_start": "components",
        "linear_path": True,
    },
    "S": {"d_model": 384, "n_layers": 12, "n_heads": 6, "stochastic_depth": 0.1},
    "B": {"d_model": 768, "n_layers": 12, "n_heads": 12, "stochastic_depth": 0.1},
    "L": {"d_model": 1024, "n_layers": 24, "n_heads": 16, "stochastic_depth": 0.3},
}
"""S, B and L as in the paper's table of sizes, but S with 12 blocks: with the 6 printed there it
has 46 M parameters at 44,349 genes, with 12 the 57 M printed beside them. XXS and XS are ours;
XXS is for some thousand cells, of which one block learns more in the same time than two."""

VOCABULARY = {"XXS": 4000, "XS": 4000}
"""How many genes a size knows if not told (ours); the other sizes know all."""


@dataclass(frozen=True)
class TxFMConfig:
    """Settings of how TxFM masks, encodes and decodes.

    Defaults are the paper's (arXiv 2605.31562) where it gives a value; the others are marked
    "ours". `of_size` gives the settings of a size.

    Attributes
    ----------
    d_model, n_layers, n_heads
        Width, blocks and attention heads of the encoder.
    n_tokens
        K, the number of genes revealed to the encoder; all others are masked. If not given, the
        size's, or half of the fewest genes that a data set has, if they are fewer.
    masking_power
        τ: a gene is drawn with weight m^τ, where m is the fraction of training cells in which it is
        detected (ablation); 0 draws uniformly, and −4 to 4 are possible (ours).
    target_sum
        L: counts are scaled to this total per cell before the logarithm.
    normalise
        Whether they are scaled at all (ablation: log(1 + count) of raw counts).
    decoder_layers
        Residual layers between the CLS token and the last linear layer; 0 for only that layer.
    activation
        From the decoder's output to log-normalised expression: ``"rectified_tanh"``,
        α·relu(tanh(z/4e)) with α = log(L + 1); ``"relu"``; ``"clamped_relu"``, at most α;
        ``"softmax"`` (ablations), log(1 + L·softmax(z)) over the genes of the cell's data set;
        ``"softplus"`` (ours), log(1 + e^z). None for the default of the loss: the rectified tanh,
        or softplus for the negative binomials, whose means must not be 0.
    loss
        ``"poisson"`` (Eq. 2); ``"mse"``, ``"smooth_l1"``, ``"negative_binomial"`` or ``"zinb"``
        (ablations). The last two are of raw counts with mean (library/L)·(e^x̂ − 1) and one inverse
        dispersion per gene; the last also learns the probability that each count is lost.
    stochastic_depth
        Rate of the last block's branches; earlier blocks have lower rates, linearly.
    gene_start
        How gene embeddings are initialised: ``"random"``, embeddings N(0, 1) and rows of the
        decoder N(0, 0.02²); or ``"components"`` (ours), both along the principal components of the
        training cells' log expression, which cannot be learnt from a few thousand cells; see
        `gene_components`.
    layer_scale
        Initial LayerScale. Ours: 0.1.
    linear_path
        Whether half of a representation is a linear map of the revealed genes' log expression
        that starts at their principal components (ours); see `kernomics.nn.linear_path`. From a
        few thousand cells, what is linear in expression cannot be learnt through attention.
    recompute
        What to recompute in the backward pass to save memory: ``"nothing"``, the ``"feed_forward"``
        layers, a twelfth of a step's products for two fifths of what blocks keep, or whole
        ``"blocks"``.
    """

    d_model: int = 384
    n_layers: int = 12
    n_heads: int = 6
    n_tokens: int = 2048
    masking_power: float = 0.0
    target_sum: float = 1e5
    normalise: bool = True
    decoder_layers: int = 4
    activation: Activation | None = None
    loss: Loss = "poisson"
    stochastic_depth: float = 0.1
    gene_start: GeneStart = "random"
    layer_scale: float = 0.1
    linear_path: bool = False
    recompute: Recompute = "nothing"

    @classmethod
    @checked
    def of_size(cls, size: str, **overrides: Any) -> TxFMConfig:
        """Return the settings of a size: ``"XXS"``, ``"XS"``, ``"S"``, ``"B"`` or ``"L"``."""
        if size not in SIZES:
            raise ConfigError(f"size is {size!r}; {closest(size, SIZES)}")
        names = [field.name for field in dataclasses.fields(cls)]
        for name in overrides:
            if name not in names:
                raise ConfigError(f"TxFMConfig has no setting {name!r}; {closest(name, names)}")
        return cls(**{**SIZES[size], **overrides})

    def __post_init__(self) -> None:
        check_fields(self)
        for name, low in {
            "d_model": 2,
            "n_layers": 1,
            "n_heads": 1,
            "n_tokens": 1,
            "decoder_layers": 0,
        }.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ConfigError(f"{name} is {value!r}: it must be an integer of at least {low}")
        for name in ("target_sum", "layer_scale"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 < value < math.inf:
                raise ConfigError(f"{name} is {value!r}: it must be a number above 0")
        if not _is_number(self.masking_power) or not abs(self.masking_power) <= MOST_POWER:
            raise ConfigError(
                f"masking_power is {self.masking_power!r}: it must be a number from "
                f"{-MOST_POWER} to {MOST_POWER}, beyond which the weights of rare genes are out "
                "of float32's range"
            )
        if not _is_number(self.stochastic_depth) or not 0 <= self.stochastic_depth < 1:
            raise ConfigError(
                f"stochastic_depth is {self.stochastic_depth!r}: it is a rate, 0 to below 1"
            )
        for name in ("normalise", "linear_path"):
            if not isinstance(value := getattr(self, name), bool):
                raise ConfigError(f"{name} is {value!r}: it must be true or false")
        if self.d_model % self.n_heads:
            raise ConfigError(
                f"d_model is {self.d_model} and n_heads {self.n_heads}: d_model must be a "
                "multiple of n_heads"
            )
        kinds = {
            "activation": Activation,
            "loss": Loss,
            "gene_start": GeneStart,
            "recompute": Recompute,
        }
        for name, kind in kinds.items():
            value, options = getattr(self, name), get_args(kind)
            if value not in options and not (name == "activation" and value is None):
                raise ConfigError(f"{name} is {value!r}; {closest(str(value), options)}")
        if self.loss in NEGATIVE_BINOMIALS and self.phi in RECTIFIED:
            raise ConfigError(
                f"loss is {self.loss!r} and activation {self.activation!r}, which can give "
                "counts a mean of 0, under which any count above 0 is impossible; set "
                "activation to 'softplus', 'softmax' or None"
            )
        if self.phi == "softmax" and not self.normalise:
            raise ConfigError(
                "activation is 'softmax' and normalise false: a softmax shares out target_sum, "
                "which counts add up to only when normalised; set normalise to true, or another "
                "activation"
            )

    @property
    def phi(self) -> Activation:
        """The activation, that of the loss if none was chosen."""
        if self.activation is not None:
            return self.activation
        return "softplus" if self.loss in NEGATIVE_BINOMIALS else "rectified_tanh"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
