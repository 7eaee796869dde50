"""Uniform numbers by torch: the words of the ops' Philox."""

import numpy as np
import pytest
import torch

from kernomics.nn.philox import STREAM_DEPTH, uniforms, uniforms_at
from kernomics.ops.reference import philox_words


@pytest.mark.parametrize("key", [0, 7, -1, -(2**63), 2**63 - 1])
@pytest.mark.parametrize("n_columns", [1, 4, 9])
def test_numbers_are_the_upper_bits_of_the_philox_words(key, n_columns):
    seed = torch.tensor([key, 2**32 + 5])
    rows = torch.tensor([0, 3, 2**32 + 1, 2**48 - 1])
    words = philox_words(seed, rows, n_columns, STREAM_DEPTH)
    found = uniforms(seed, rows, n_columns, STREAM_DEPTH)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), (words >> 8).astype(np.float32) / 2**24)


def test_a_negative_step_counts_modulo_two_to_the_32():
    rows = torch.arange(5)
    minus = uniforms(torch.tensor([1, -1]), rows, 3, STREAM_DEPTH)
    last = uniforms(torch.tensor([1, 2**32 - 1]), rows, 3, STREAM_DEPTH)
    assert torch.equal(minus, last)


def test_a_row_gets_the_same_numbers_in_any_batch():
    seed = torch.tensor([3, 1])
    whole = uniforms(seed, torch.arange(10), 6, STREAM_DEPTH)
    part = uniforms(seed, torch.tensor([7, 2]), 6, STREAM_DEPTH)
    assert torch.equal(part, whole[[7, 2]])


def test_numbers_at_pairs_are_those_of_the_columns():
    seed = torch.tensor([2**40 + 3, 7])
    rows = torch.tensor([0, 5, 2**47])
    table = uniforms(seed, rows, 40, 3)
    columns = torch.tensor([9, 0, 4])
    found = uniforms_at(seed, rows, columns, 3)
    for i, column in enumerate(columns.tolist()):
        assert torch.equal(found[i], table[i, 4 * column : 4 * column + 4])
