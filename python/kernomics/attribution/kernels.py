"""Which of torch's kernels attribution runs on, and in what precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def no_kernel_per_shape() -> Iterator[None]:
    """Keep to kernels that are compiled once, for tensors of any shape.

    oneDNN, by which torch computes GELU on a CPU, compiles a kernel for each shape of its input and
    keeps the last 1,024. Pairs of cells have other numbers of genes in every pass, so that each
    pass leaves some small blocks behind, in the middle of the memory that its tensors had. The next
    pass, whose tensors are larger than what is left between them, takes new memory: memory grew
    with the pairs, by 700 MiB over 3,000 of them, though nothing was kept of any.
    """
    settings: Any = torch.backends.mkldnn
    before = settings.enabled
    settings.enabled = False  # flags() would set TF32 too, with a warning
    try:
        yield
    finally:
        settings.enabled = before


@contextmanager
def as_saved() -> Iterator[None]:
    """Compute in the weights' own precision, whatever autocast the caller is in."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield
