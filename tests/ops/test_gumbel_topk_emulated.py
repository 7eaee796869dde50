"""gumbel_topk's CUDA kernels, emulated on the host: the CPU's genes and scores to the bit.

Tests of test_gumbel_topk_cuda.py, where its tolerances are derived, at sizes that the emulator can
afford.
"""

from __future__ import annotations

import pytest
import test_gumbel_topk_cuda as gpu
import torch
from problems.gumbel_topk import RELAXATIONS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("emulated_cuda")]

SHAPES = [
    (1, 1, 1),
    (3, 31, 1),
    (3, 31, 31),
    (2, 1000, 64),
    (133, 31, 7),
    (530, 9, 3),  # more rows than persistent blocks
    (7, 3001, 64),
    (1, 20_000, 64),
    (1, 20_480, 600),
    (3, 20_482, 256),
    (1, 60_001, 64),
]

test_perturbed_scores = gpu.test_perturbed_scores_equal_the_cpus_to_the_bit
test_neuralsort_of_all_genes = gpu.test_neuralsort_can_choose_all_genes
test_temperatures = gpu.test_low_and_high_temperatures
test_relaxed_mask = gpu.test_relaxed_mask_equals_the_cpus
test_rows_at_any_address = gpu.test_rows_at_any_address
test_sorted_rows = gpu.test_scores_at_the_ends_of_a_sorted_row
test_messages = gpu.test_checks_raise_the_cpus_message
test_row_ids_out_of_range = gpu.test_row_ids_out_of_range_are_named


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("sizes", SHAPES)
def test_emulated_kernels_choose_the_cpus_genes(
    sizes: tuple[int, int, int], relaxation: str
) -> None:
    gpu.test_cuda_chooses_the_cpus_genes(sizes, relaxation)


def test_many_long_rows_of_one_chunk() -> None:
    """Only these are long enough for the short cut of the selection and not split."""
    gpu.assert_same(gpu.draw(132, 4100, 64), 64, seed=gpu.seed())


@pytest.mark.parametrize("relaxation", ["softsort", "softmax"])
@pytest.mark.parametrize("sizes", [(1, 1000, 1000), (2, 20_001, 20_001)])
def test_all_genes(sizes: tuple[int, int, int], relaxation: str) -> None:
    gpu.test_all_genes_can_be_chosen(sizes, relaxation)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("kind", gpu.KINDS)
@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [((3, 1000, 64), torch.float32), ((3, 1000, 64), torch.float64),
     ((132, 40, 9), torch.float32), ((1, 25_000, 300), torch.float32)],
)  # fmt: skip
def test_ties_forced_and_forbidden_genes(
    sizes: tuple[int, int, int], dtype: torch.dtype, kind: str, relaxation: str
) -> None:
    gpu.test_ties_forced_and_forbidden_genes(sizes, dtype, kind, relaxation)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize(("genes", "k"), [(1000, 64), (25_000, 64), (21_000, 3000)])
def test_rows_with_data_errors(genes: int, k: int, relaxation: str) -> None:
    gpu.test_rows_with_data_errors_get_nan_and_indices_in_range(genes, k, relaxation)
