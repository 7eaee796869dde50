r"""What each op means, in plain torch and numpy: read this to learn the mathematics.

The functions follow the papers' formulas literally, with the papers' symbols and without regard to
speed or memory; the tests hold the fused kernels to them. Everything is differentiable by autograd.
"""

from .dropout import dropout, dropout_kept
from .embed_tokens import embed_tokens
from .gumbel_topk import gumbel_topk, neuralsort_mask, relaxed_mask, softmax_mask, softsort_mask
from .linear_poisson_nll import linear_poisson_nll
from .masked_linear import masked_linear
from .philox import (
    exponential_from_words,
    gumbel_from_words,
    gumbel_noise,
    philox4x32_10,
    philox_words,
)
from .poisson_nll import log_rate, poisson_nll, reduce_loss, target_rate
from .sample_tokens import sample_tokens

__all__ = [
    "dropout",
    "dropout_kept",
    "embed_tokens",
    "exponential_from_words",
    "gumbel_from_words",
    "gumbel_noise",
    "gumbel_topk",
    "linear_poisson_nll",
    "log_rate",
    "masked_linear",
    "neuralsort_mask",
    "philox4x32_10",
    "philox_words",
    "poisson_nll",
    "reduce_loss",
    "relaxed_mask",
    "sample_tokens",
    "softmax_mask",
    "softsort_mask",
    "target_rate",
]
