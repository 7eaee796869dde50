"""The fused kernels, for anyone's own models; needs only torch and numpy."""

from ._native import build_info
from .dropout import dropout
from .embed_tokens import embed_tokens
from .gumbel_topk import gumbel_topk, relaxed_mask
from .linear_poisson_nll import linear_poisson_nll
from .masked_linear import masked_linear
from .observed import ObservedGenes
from .poisson_nll import poisson_nll
from .sample_tokens import sample_tokens

__all__ = [
    "ObservedGenes",
    "build_info",
    "dropout",
    "embed_tokens",
    "gumbel_topk",
    "linear_poisson_nll",
    "masked_linear",
    "poisson_nll",
    "relaxed_mask",
    "sample_tokens",
]
