"""The fused kernels, for anyone's own models; needs only torch and numpy."""

from ._native import build_info
from .gumbel_topk import gumbel_topk, relaxed_mask
from .masked_linear import masked_linear

__all__ = ["build_info", "gumbel_topk", "masked_linear", "relaxed_mask"]
