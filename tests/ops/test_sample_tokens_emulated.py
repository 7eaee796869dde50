"""sample_tokens' CUDA kernels, emulated on the host: the CPU's genes to the bit.

Tests of test_sample_tokens_cuda.py whose sizes the emulator can afford, as they are, and sizes that
the kernels divide differently.
"""

from __future__ import annotations

from typing import Any

import pytest
import test_sample_tokens_cuda as gpu
from emulated import Emulator
from hypothesis import given, settings
from hypothesis import strategies as st
from problems.sample_tokens import OPTIONS, draw

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("emulated_cuda")]

test_faults = gpu.test_a_cell_with_a_fault_gets_nan_and_genes_in_range
test_row_pointers = gpu.test_row_pointers_that_leave_the_entries_are_not_followed
test_values_of_any_scale = gpu.test_values_of_any_scale_equal_the_cpus
test_crowded_keys = gpu.test_crowded_keys_equal_the_cpus
test_a_wrong_guess_of_the_candidates = gpu.test_a_wrong_guess_of_the_candidates_changes_nothing


@settings(max_examples=150, deadline=None)
@given(
    cells=st.integers(0, 4),
    genes=st.one_of(st.integers(1, 40), st.integers(250, 1100), st.integers(4000, 5000)),
    share=st.none() | st.floats(0, 1.1),
    layout=st.sampled_from(["rows32", "rows64"]),
    ragged=st.booleans(),
    **OPTIONS,
)
def test_emulated_kernels_choose_the_cpus_genes(
    cells: int, genes: int, share: float | None, layout: str, ragged: bool, **options: Any
) -> None:
    n_tokens = None if share is None else max(1, round(share * genes))
    gpu.assert_as_cpu(draw(cells, genes, n_tokens, **options), layout=layout, ragged=ragged)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("candidates", ["observed", "expressed"])
@pytest.mark.parametrize("genes", [31, 32, 33, 127, 129, 2048, 4097])
def test_one_token_and_all_genes(genes: int, candidates: str, ragged: bool) -> None:
    for n_tokens in (1, genes - 1, genes):
        for weighted in (False, True):
            p = draw(3, genes, n_tokens, density=0.9, weighted=weighted, candidates=candidates)
            p.x[1] = 0  # a cell without entries
            gpu.assert_as_cpu(p, ragged=ragged)


@pytest.mark.parametrize("candidates", ["observed", "expressed"])
def test_long_rows(candidates: str) -> None:
    gpu.assert_as_cpu(draw(2, 60_001, 9000, weighted=True, candidates=candidates))
    gpu.assert_as_cpu(draw(2, 400_000, 5000, density=0.02, candidates=candidates))  # in scratch


def test_lengths_of_many_rows(emulated_cuda: Emulator) -> None:
    """More rows than the scan of lengths has threads."""
    gpu.assert_as_cpu(draw(1100, 40, 30, density=0.5, candidates="expressed"), ragged=True)
