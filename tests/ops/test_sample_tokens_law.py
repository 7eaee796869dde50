"""The drawn genes follow the stated law: uniform subsets, or torch.multinomial's with weights.

Every χ² statistic is compared with the quantile at 1 − 1e-6 of its distribution, and the seeds are
fixed: a right kernel passes always, and a wrong law of any size that matters never.
"""

from __future__ import annotations

from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import chi2
from torch import Tensor

from kernomics.ops import ObservedGenes, sample_tokens

CERTAIN = 1 - 1e-6


def no_counts(cells: int, genes: int) -> Tensor:
    empty = torch.zeros(0, dtype=torch.int64)
    return torch.sparse_csr_tensor(
        torch.zeros(cells + 1).long(), empty, torch.zeros(0), (cells, genes)
    )


def drawn(cells: int, genes: int, k: int, *, steps: int = 1, **options: Any) -> NDArray[np.bool_]:
    """Draw for many cells in some steps: which genes each draw holds, [steps · cells, genes]."""
    ids, counts = torch.arange(cells), no_counts(cells, genes)
    held = torch.zeros((steps * cells, genes), dtype=torch.bool)
    for step in range(steps):
        tokens = sample_tokens(counts, k, cell_ids=ids, seed=torch.tensor([12, step]), **options)[
            0
        ].long()
        assert bool((tokens >= 0).all())
        held[step * cells : (step + 1) * cells].scatter_(1, tokens, True)
    assert bool((held.sum(1) == k).all())
    return held.numpy()


def chi_square(found: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(((found - expected) ** 2 / expected).sum())


def subset_counts(held: NDArray[np.bool_], k: int) -> NDArray[np.int64]:
    genes = held.shape[1]
    codes = held @ (1 << np.arange(genes))
    subsets = [sum(1 << j for j in subset) for subset in combinations(range(genes), k)]
    return np.array([(codes == code).sum() for code in subsets])


def multinomial_law(weights: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """The probability of every subset of k, drawn one by one in proportion to the weights."""
    law = []
    for subset in combinations(range(len(weights)), k):
        total = 0.0
        for order in permutations(subset):
            left, probability = weights.sum(), 1.0
            for gene in order:
                probability *= weights[gene] / left
                left -= weights[gene]
            total += probability
        law.append(total)
    return np.array(law)


@pytest.mark.parametrize(("genes", "k"), [(4, 1), (6, 3), (7, 5)])
@pytest.mark.parametrize(("cells", "steps"), [(30_000, 1), (3, 3_000)])
def test_every_subset_is_drawn_equally_often(genes: int, k: int, cells: int, steps: int) -> None:
    found = subset_counts(drawn(cells, genes, k, steps=steps), k)
    expected = np.full(len(found), cells * steps / len(found))
    assert chi_square(found, expected) < chi2.ppf(CERTAIN, len(found) - 1)


@pytest.mark.parametrize("k", [1, 3, 4])
@pytest.mark.parametrize(
    "weights", [[1.0, 2.0, 3.0, 4.0, 10.0, 0.5], [1e-3, 1.0, 1.0, 5e-3, 2e-3, 0.02]]
)
def test_weighted_subsets_follow_successive_sampling(k: int, weights: list[float]) -> None:
    n = 60_000
    found = subset_counts(drawn(n, 6, k, weights=torch.tensor(weights)), k)
    expected = n * multinomial_law(np.array(weights), k)
    common = expected >= 5  # rarer subsets are counted as one
    found = np.append(found[common], found[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    found, expected = found[expected > 0], expected[expected > 0]
    assert chi_square(found, expected) < chi2.ppf(CERTAIN, len(found) - 1)


def test_the_law_is_that_of_torch_multinomial() -> None:
    weights, n, k = torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0, 0.5]), 60_000, 3
    generator = torch.Generator().manual_seed(0)
    theirs = torch.multinomial(weights.expand(n, 6), k, generator=generator)
    held = torch.zeros((n, 6), dtype=torch.bool).scatter_(1, theirs, True).numpy()
    expected = n * multinomial_law(weights.double().numpy(), k)
    assert chi_square(subset_counts(held, k), expected) < chi2.ppf(CERTAIN, 19)


@pytest.mark.parametrize("which", ["all", "panel"])
def test_genes_and_pairs_of_wide_rows_are_drawn_equally_often(which: str) -> None:
    cells, genes, k = 4_000, 2_000, 200
    options, own = {}, np.arange(genes)
    if which == "panel":
        own = np.flatnonzero(np.random.default_rng(0).random(genes) < 0.5)
        options["observed"] = ObservedGenes.from_lists([own], genes, torch.zeros(cells).int())
    held = drawn(cells, genes, k, **options)
    assert held[:, own].sum() == held.sum()
    held, n = held[:, own], len(own)
    # A gene is in a draw with p = k/n, and two genes' indicators have covariance −p(1 − p)/(n − 1):
    # scaled by (n − 1)/n, the squared deviations follow χ² with n − 1 degrees of freedom.
    p = k / n
    z2 = ((held.sum(0) - cells * p) ** 2 / (cells * p * (1 - p))).sum() * (n - 1) / n
    assert chi2.ppf(1e-6, n - 1) < z2 < chi2.ppf(CERTAIN, n - 1)
    # Pairs of neighbours, whose words mostly come from one counter, and of distant genes. Disjoint
    # pairs hardly depend on each other: the correlation is of the order 1/n.
    p = k * (k - 1) / (n * (n - 1))
    half = n // 2
    for first, second in ((held[:, 0 : 2 * half : 2], held[:, 1 : 2 * half : 2]),
                          (held[:, :half], held[:, half : 2 * half])):  # fmt: skip
        both = (first & second).sum(0)
        z2 = ((both - cells * p) ** 2 / (cells * p * (1 - p))).sum()
        assert chi2.ppf(1e-6, half) < z2 < chi2.ppf(CERTAIN, half)


def test_expressed_genes_are_drawn_equally_often() -> None:
    cells, genes, own, k = 20_000, 500, torch.tensor([3, 4, 5, 6, 250, 499]), 3
    counts = torch.sparse_csr_tensor(
        torch.arange(cells + 1) * 6, own.repeat(cells), torch.ones(6 * cells), (cells, genes)
    )
    tokens = sample_tokens(
        counts, k, cell_ids=torch.arange(cells), seed=torch.tensor([5, 0]), candidates="expressed"
    )[0]
    held = torch.zeros((cells, genes), dtype=torch.bool).scatter_(1, tokens.long(), True)
    found = subset_counts(held[:, own].numpy(), k)
    assert found.sum() == cells
    assert chi_square(found, np.full(20, cells / 20)) < chi2.ppf(CERTAIN, 19)
