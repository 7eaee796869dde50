"""How far scores would move with other held-out cells of the same kind."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kernomics._arguments import checked, codes_of
from kernomics.errors import ConfigError, DataError
from kernomics.metrics.classification import confusion_matrix

K = TypeVar("K", bound=Hashable)
N_DRAWS = 200
"""Of the bootstrap: a standard error is then known to about 1/√(2·200) = 5 %."""


@checked
def bootstrap_scores(
    truth: ArrayLike,
    predicted: Mapping[K, ArrayLike],
    *,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> dict[K, dict[str, NDArray[np.float64]]]:
    """Score predictions on held-out cells drawn again with replacement.

    All predictions are scored on the same draws, so that differences between them are paired.

    Parameters
    ----------
    truth
        True class codes, integer [cells]; −1 marks an unlabelled cell, which is skipped.
    predicted
        Predicted class codes by name, integer [cells] each.
    n_draws
        How often to draw as many cells as are labelled.
    seed
        Of the draws.

    Returns
    -------
    dict
        By name ``accuracy`` and ``macro_f1``, float [n_draws]; the standard deviation over the
        draws is the score's standard error. A class of which a draw has no cell is left out of
        that draw's macro-F1.

    Raises
    ------
    ConfigError
        For fewer than two draws.
    DataError
        When no cell is labelled, or as in `confusion_matrix`.
    """
    if n_draws < 2:
        raise ConfigError(f"n_draws is {n_draws}: at least 2 are needed for a standard error")
    if seed < 0:
        raise ConfigError(f"seed is {seed}: it must be 0 or above")
    codes = codes_of("truth", truth)
    labelled = codes >= 0
    n = int(labelled.sum())
    if not n:
        raise DataError(f"none of the {codes.size:,} held-out cells is labelled")
    if not predicted:
        raise DataError("predicted names no predictions: at least one is needed")
    for name, values in predicted.items():
        codes_of(f"predicted[{name!r}]", values)
        confusion_matrix(codes, values)  # refuses what cannot be scored
    true = codes[labelled].astype(np.int64)
    guesses = {name: np.asarray(p)[labelled].astype(np.int64) for name, p in predicted.items()}
    n_classes = 1 + max(int(true.max()), *(int(p.max()) for p in guesses.values()))
    found = {name: (np.empty(n_draws), np.empty(n_draws)) for name in guesses}
    generator = np.random.default_rng(seed)
    for draw in range(n_draws):
        weights = np.bincount(generator.integers(0, n, n), minlength=n)
        in_truth = np.bincount(true, weights, n_classes)
        present = in_truth > 0
        for name, guess in guesses.items():
            same = guess == true
            right = np.bincount(true[same], weights[same], n_classes)
            in_guess = np.bincount(guess, weights, n_classes)
            f1 = 2 * right[present] / (in_truth + in_guess)[present]
            found[name][0][draw] = right.sum() / n
            found[name][1][draw] = f1.mean()
    return {name: {"accuracy": a, "macro_f1": f} for name, (a, f) in found.items()}


@checked
def proportion_error(share: float, n: int) -> float:
    """Return the standard error √(p(1 − p)/n) of a share of n independent cells.

    NaN for a share of 0 or 1, of which it would be 0 however few the cells are.
    """
    return float(np.sqrt(share * (1 - share) / n)) if n and 0 < share < 1 else float("nan")


def spread(draws: NDArray[np.float64]) -> float:
    """Return the standard deviation over draws, NaN where all are alike and so tell of none."""
    return float(draws.std(ddof=1)) if np.ptp(draws) > 0 else float("nan")
