"""How well a sampler mixes cells that lie sorted by their labels."""

import math

import numpy as np
import pytest

from kernomics.data import Labels, Sampler, shuffle_quality
from kernomics.errors import ConfigError, DataError

SORTED = np.repeat(np.arange(16), 2000)  # as cells of 16 batches, one after the other


def measured(labels=SORTED, **how):
    return shuffle_quality(Sampler(range(len(SORTED)), 128, 1, **how), labels)


def test_entropies_of_known_batches():
    labels = [0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 2, 3]
    found = shuffle_quality(Sampler(range(12), 4, shuffle=False), labels)
    assert found.entropy == found.in_order == pytest.approx((1 + 0 + 2) / 3)
    assert found.n_batches == 3
    quarter = [0, 1, 1, 1, None, None, None, None]
    found = shuffle_quality(Sampler(range(8), 8), quarter)
    expected = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert found.entropy == found.shuffled == found.in_order == pytest.approx(expected)
    assert found.share == 1


def test_a_shuffle_of_all_rows_has_the_entropy_of_a_true_shuffle():
    found = measured()
    assert found.share == 1
    # A batch of n cells of k classes has log2 k − (k − 1) / (2 n ln 2) bits, nearly.
    assert found.shuffled == pytest.approx(4 - 15 / (2 * 128 * math.log(2)), abs=0.01)
    assert found.in_order < 0.1


def test_the_default_of_trainings_mixes_sorted_labels_nearly_as_well():
    found = measured(block_size=64)
    # 64 runs of 16 classes are a sample of classes by themselves, and a batch one of theirs.
    assert 0.94 < found.share < 0.98
    assert found.share == pytest.approx(1 - 15 / (2 * 64 * math.log(2)) / found.shuffled, abs=0.02)


def test_larger_blocks_and_fewer_of_them_mix_worse():
    shares = [
        measured(block_size=size, buffer_blocks=blocks).share
        for size, blocks in ((16, 256), (64, 64), (256, 16), (1024, 4), (2000, 1))
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.98
    assert shares[-1] < 0.02


def test_only_some_batches_of_a_long_epoch_are_made():
    made, rows = [], range(10**6)

    class Counted(Sampler):
        def global_batch(self, epoch, i):
            made.append(i)
            return super().global_batch(epoch, i)

    labels = Labels("batch", "categorical", np.arange(10**6) // 10**5, tuple("abcdefghij"))
    found = shuffle_quality(Counted(rows, 100, block_size=64), labels, n_batches=50)
    assert len(made) == found.n_batches == 50
    assert (made[0], made[-1]) == (0, 9_999)
    assert "of a true shuffle's" in str(found)


def test_one_class_has_no_share():
    found = measured(np.zeros(len(SORTED)))
    assert (found.entropy, found.shuffled) == (0, 0)
    assert math.isnan(found.share)


def test_labels_that_do_not_fit_are_refused():
    sampler = Sampler(range(10), 4)
    with pytest.raises(DataError, match="labels has 9 entries, but the sampler draws row 9"):
        shuffle_quality(sampler, np.zeros(9))
    with pytest.raises(ConfigError, match="labels 'age' are continuous"):
        shuffle_quality(sampler, Labels("age", "continuous", np.zeros(10, np.float32)))
    with pytest.raises(ConfigError, match="n_batches is 0"):
        shuffle_quality(sampler, np.zeros(10), n_batches=0)
