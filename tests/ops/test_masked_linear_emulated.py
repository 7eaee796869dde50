"""masked_linear's CUDA kernels, emulated on the host: the CPU's results within roundoff.

The bounds are those of test_masked_linear_cuda.py.
"""

from __future__ import annotations

import pytest
import test_masked_linear_cuda as gpu
import torch
from problems.common import FLOATS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("emulated_cuda")]

guarded_gradients = gpu.guarded_gradients
test_chosen_genes = gpu.test_a_chosen_gene_that_does_not_exist_makes_all_nan
test_reached_genes = gpu.test_a_reached_gene_that_does_not_exist_leaves_a_nan
test_rows_at_fault = gpu.test_rows_at_fault_are_not_followed

SIZES = [*gpu.SIZES[:4], (140, 70, 513, 66), (9, 300, 1100, 300)]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", ["dense", "columns_first", "csr32", "csr64"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_emulated_kernels_equal_the_cpu(
    sizes: tuple[int, int, int, int], name: str, dtype: torch.dtype
) -> None:
    for half_counts in (False, True):
        gpu.test_cuda_equals_the_cpu(sizes, name, dtype, half_counts)


@pytest.mark.parametrize("name", ["dense", "csr32"])
def test_grad_indices(name: str) -> None:
    gpu.test_grad_indices_give_their_share_of_the_gradient(name)


def test_faults_are_named_on_request(raise_data_errors: None) -> None:
    gpu.run(gpu.draw(4, 10, 3, 2), "cuda", "csr32")  # launches kernels where nothing is wrong
    gpu.test_faults_are_named_on_request(raise_data_errors)
