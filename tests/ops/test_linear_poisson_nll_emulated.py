"""linear_poisson_nll with CUDA kernels, emulated on the host: the reference's numbers.

The kernels are those of poisson_nll; the matrix products are torch's, on the CPU.
"""

from __future__ import annotations

import pytest
import test_linear_poisson_nll_cuda as gpu
import torch
from problems.linear_poisson_nll import REDUCTIONS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("emulated_cuda")]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize(("genes", "chunk_genes"), [(1, 7), (33, 7), (300, 130), (300, 10_000)])
def test_in_float64_it_is_the_reference(
    genes: int, chunk_genes: int, sparse: bool, reduction: str
) -> None:
    gpu.test_in_float64_it_is_the_reference(genes, chunk_genes, sparse, reduction)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_lower_precision(dtype: torch.dtype, sparse: bool, reduction: str) -> None:
    gpu.test_lower_precision_stays_within_its_bounds(
        sparse, reduction, "rectified_tanh", dtype, dtype
    )
