"""How well a sampler mixes sorted cells: the labels of its batches beside a true shuffle's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernomics._arguments import checked
from kernomics.data.balance import labels_given
from kernomics.data.labels import Labels
from kernomics.data.row_numbers import spread
from kernomics.data.sampler import Sampler
from kernomics.errors import ConfigError, DataError


@dataclass(frozen=True)
class ShuffleQuality:
    """The entropy of the labels in a batch, mean over batches, in bits.

    Attributes
    ----------
    entropy
        Of the sampler's batches.
    shuffled
        Of batches of as many cells of a shuffle of all rows, one by one.
    in_order
        Of batches of the rows as they lie.
    n_batches
        How many batches of an epoch were looked at.
    """

    entropy: float
    shuffled: float
    in_order: float
    n_batches: int

    @property
    def share(self) -> float:
        """The share of a true shuffle's entropy, 1 where it mixes as well; NaN of one class."""
        return self.entropy / self.shuffled if self.shuffled else float("nan")

    def __str__(self) -> str:
        return (
            f"{self.entropy:.3f} bits of label entropy per batch, {self.share:.1%} of a true "
            f"shuffle's {self.shuffled:.3f}; rows in order {self.in_order:.3f} "
            f"({self.n_batches:,} batches)"
        )


@checked
def shuffle_quality(
    sampler: Sampler, labels: Labels | npt.ArrayLike, *, epoch: int = 0, n_batches: int = 200
) -> ShuffleQuality:
    """Measure how well a sampler mixes labels, beside a true shuffle of the same rows.

    Nothing is read but the labels. Unlabelled cells are left out.

    Parameters
    ----------
    sampler
        The batches to look at, those of all ranks together.
    labels
        [n_cells], by the numbers that are the sampler's rows: categorical `Labels`, or one value
        per cell.
    epoch
        Which epoch, from 0.
    n_batches
        At most how many batches, spread over the epoch.

    Raises
    ------
    ConfigError
        If the labels are continuous, or `epoch` or `n_batches` is too small.
    DataError
        If there are fewer labels than the rows need.
    """
    if n_batches < 1:
        raise ConfigError(f"n_batches is {n_batches}: at least 1 is needed")
    labels = labels_given(labels)
    if labels.kind != "categorical":
        raise ConfigError(
            f"labels {labels.name!r} are continuous: the entropy is that of classes; bin them first"
        )
    last = sampler.last
    if last >= len(labels):
        raise DataError(
            f"labels has {len(labels):,} entries, but the sampler draws row {last:,}: give one "
            "for each cell"
        )
    some = spread(np.arange(sampler.n_batches), n_batches)

    def mean_entropy(how: Sampler) -> float:
        found = [_entropy(labels.values[how.global_batch(epoch, int(i))]) for i in some]
        return float(np.mean(found))

    def other(*, shuffle: bool) -> Sampler:
        return Sampler(sampler.rows, sampler.batch_size, sampler.seed, shuffle=shuffle)

    return ShuffleQuality(
        mean_entropy(sampler),
        mean_entropy(other(shuffle=True)),
        mean_entropy(other(shuffle=False)),
        len(some),
    )


def _entropy(codes: npt.NDArray[np.int64]) -> float:
    counts = np.bincount(codes[codes >= 0])
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares * np.log2(shares)).sum()) + 0.0
