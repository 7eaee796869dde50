"""The random words are Philox4x32-10's, addressed by what is drawn and by nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernomics.ops import _native, reference

# The known-answer tests that Random123 publishes for philox4x32 with ten rounds.
PI = "243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0"
KNOWN = [
    ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (*PI, "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def hexadecimal(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN, ids=["zeros", "ones", "pi"])
def test_published_vectors_are_met(counter: str, key: str, words: str) -> None:
    c, k, expected = hexadecimal(counter), hexadecimal(key), hexadecimal(words)
    assert list(_native.cpu().philox4x32_10(*c, *k)) == expected
    found = reference.philox4x32_10(np.array(c, np.uint64), np.array(k, np.uint64))
    assert found.tolist() == expected


def test_kernel_and_reference_agree_on_random_counters() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        c, k = random.integers(0, 2**32, 4), random.integers(0, 2**32, 2)
        found = _native.cpu().philox4x32_10(*c.tolist(), *k.tolist())
        assert list(found) == reference.philox4x32_10(c.astype(np.uint64), k).tolist()


def test_a_word_is_addressed_by_seed_row_column_stream_and_step() -> None:
    key, step, row, stream = -(2**62) + 12345, 2**32 + 9, 2**47 + 2**32 + 77, 3
    words = reference.philox_words([key, step], [row], 11, stream)[0]
    for column in range(11):
        counter = (column >> 2, row & 0xFFFFFFFF, (row >> 32) | stream << 16, 9)
        k0, k1 = key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF
        block = _native.cpu().philox4x32_10(*counter, k0, k1)
        assert words[column] == block[column & 3]


def test_words_of_a_seed_tensor_equal_those_of_numbers() -> None:
    seed = torch.tensor([-5, 2**40 + 1])
    assert np.array_equal(
        reference.philox_words(seed, torch.arange(3), 9),
        reference.philox_words([-5, 1], [0, 1, 2], 9),
    )


def test_bits_are_balanced() -> None:
    words = reference.philox_words([1, 2], range(64), 4096)
    ones = ((words[..., None] >> np.arange(32, dtype=np.uint32)) & 1).mean((0, 1))
    # 262,144 fair coins per bit: six standard errors are 0.0059.
    assert np.abs(ones - 0.5).max() < 0.006
