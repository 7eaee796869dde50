"""embed_tokens' CUDA kernels, emulated on the host: the CPU's bits."""

from __future__ import annotations

from typing import Any

import pytest
import test_embed_tokens_cuda as gpu
from hypothesis import given, settings
from hypothesis import strategies as st
from problems.embed_tokens import OPTIONS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("emulated_cuda")]

test_inputs_at_any_address_and_stride = gpu.test_inputs_at_any_address_and_stride
test_ids_out_of_range = gpu.test_ids_out_of_range_give_nan_or_are_named


@settings(max_examples=150, deadline=None)
@given(
    cells=st.integers(0, 20),
    tokens=st.integers(0, 50),
    genes=st.integers(1, 60),
    width=st.sampled_from([1, 2, 7, 8, 16, 33, 129, 384, 1100]),
    **OPTIONS,
)
def test_emulated_kernels_equal_the_cpu_to_the_bit(
    cells: int, tokens: int, genes: int, width: int, **options: Any
) -> None:
    gpu.assert_as_cpu(gpu.draw(cells, tokens, genes, width, **options))


@pytest.mark.parametrize("sizes", [(4, 500, 2, 24), (90, 20, 3, 8), (2, 900, 700, 40)])
def test_long_lists_and_many_genes(sizes: tuple[int, int, int, int]) -> None:
    gpu.assert_as_cpu(gpu.draw(*sizes))
