"""Clusters against classes, and the mixing of batches against its formula."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

pytest.importorskip("scanpy")

from kernomics.errors import ConfigError, DataError
from kernomics.metrics import clustering, clustering_scores, ilisi


def groups(n=120, n_groups=3, d=5, apart=12.0, seed=0):
    random = np.random.default_rng(seed)
    codes = np.arange(n) % n_groups
    return random.normal(size=(n, d)) + apart * np.eye(n_groups, d)[codes], codes


# -- clusters --------------------------------------------------------------------------------------


def test_groups_far_apart_are_found_and_scored_as_by_sklearn():
    from sklearn.metrics import silhouette_score

    x, codes = groups()
    found = clustering_scores(x, codes, resolutions=(0.05, 0.5, 3.0))
    assert found.nmi == pytest.approx(1.0)
    assert found.ari == 1.0
    assert found.table["n_clusters"].is_monotonic_increasing
    assert found.table.loc[3.0, "n_clusters"] > 3
    assert found.table.loc[3.0, "nmi"] < 1
    assert found.resolution in (0.05, 0.5)
    assert found.asw == (silhouette_score(x, codes) + 1) / 2


def test_unlabelled_cells_are_left_out_and_the_seed_decides():
    x, codes = groups(apart=2.0)
    kept = codes.copy()
    kept[::5] = -1
    first = clustering_scores(x, kept, resolutions=(1.0,), seed=3)
    second = clustering_scores(x[kept >= 0], kept[kept >= 0], resolutions=(1.0,), seed=3)
    assert first.table.equals(second.table)
    assert first.asw == second.asw


def test_leiden_finds_groups_too():
    pytest.importorskip("igraph")
    x, codes = groups()
    found = clustering_scores(x, codes, resolutions=(0.5, 1.0), method="leiden")
    assert found.ari == 1.0


def test_what_cannot_be_clustered_is_named():
    x, codes = groups()
    with pytest.raises(
        ConfigError, match=r"method is 'leuven'.* it must be one of louvain, leiden"
    ):
        clustering_scores(x, codes, method="leuven")
    with pytest.raises(ConfigError, match="resolutions are \\[0\\]"):
        clustering_scores(x, codes, resolutions=[0])
    with pytest.raises(DataError, match="all 120 labelled cells are of one class"):
        clustering_scores(x, codes * 0)
    with pytest.raises(DataError, match="10 labelled cells are too few for 15 neighbours"):
        clustering_scores(x[:10], codes[:10])
    with pytest.raises(DataError, match="none of the 120 clustered cells has a label"):
        clustering_scores(x, codes * 0 - 1)


# -- mixing ----------------------------------------------------------------------------------------


def literal_lisi(x, codes, perplexity):
    """The definition, one cell at a time, the weights' width by another root finder."""
    n = len(x)
    perplexity = min(perplexity, (n - 1) / 3)
    k = min(n - 1, math.ceil(3 * perplexity))
    found = []
    for i in range(n):
        near = sorted((math.dist(x[i], x[j]), j) for j in range(n) if j != i)[:k]
        least = near[0][0]

        def weights(log_beta, near=near, least=least):
            p = np.array([math.exp(-math.exp(log_beta) * (d - least)) for d, _ in near])
            return p / p.sum()

        def surplus(log_beta, weights=weights):
            p = weights(log_beta)
            return -sum(q * math.log(q) for q in p if q > 0) - math.log(perplexity)

        p = weights(brentq(surplus, -20, 20, xtol=1e-13))
        shares = [sum(p[r] for r, (_, j) in enumerate(near) if codes[j] == b) for b in set(codes)]
        found.append(1 / sum(s * s for s in shares))
    return np.array(found)


@pytest.mark.parametrize("perplexity", [3.0, 10.0, 30.0])
def test_index_is_that_of_the_literal_formula(perplexity):
    random = np.random.default_rng(1)
    x = random.normal(size=(70, 4)) + 100
    batches = random.integers(0, 3, 70)
    x[:, 0] += batches
    found = clustering.lisi(x, batches, perplexity=perplexity)
    expected = literal_lisi(x, batches.tolist(), perplexity)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    score = ilisi(x, batches, perplexity=perplexity)
    assert score == pytest.approx((np.median(expected) - 1) / 2, rel=1e-7)


def test_blocks_of_cells_do_not_change_the_index(monkeypatch):
    x, codes = groups(60, 2, apart=1.0)
    whole = clustering.lisi(x, codes)
    monkeypatch.setattr(clustering, "PAIRS_AT_A_TIME", 500)
    np.testing.assert_allclose(clustering.lisi(x, codes), whole, rtol=1e-12)


def test_batches_apart_score_0_and_batches_mixed_nearly_1():
    x, codes = groups(400, 2, apart=100.0)
    assert ilisi(x, codes) == 0.0
    mixed = np.random.default_rng(3).permutation(np.arange(400) % 2)
    # With independent batches E[Σ_b s_b²] = ½ + ½·Σ p_j², and Σ p_j² lies near 1/perplexity: the
    # index is about 2/(1 + 1/30) and the score 0.935.
    assert 0.85 < ilisi(x, mixed) < 1.0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), n_batches=st.integers(2, 4), scale=st.floats(0.01, 100))
def test_score_lies_in_its_range_and_ignores_scale(seed, n_batches, scale):
    random = np.random.default_rng(seed)
    x, batches = random.normal(size=(40, 3)), np.arange(40) % n_batches
    found = clustering.lisi(x, batches)
    assert (found >= 1).all()
    assert (found <= n_batches + 1e-9).all()
    np.testing.assert_allclose(clustering.lisi(x * scale, batches), found, rtol=1e-6)


def test_cells_at_one_point_weigh_alike():
    batches = np.arange(20) % 2
    # Each of 20 cells sees 19 others, 9 of its own batch and 10 of the other.
    expected = 1 / ((9 / 19) ** 2 + (10 / 19) ** 2)
    np.testing.assert_allclose(clustering.lisi(np.zeros((20, 2)), batches), expected)


def test_what_cannot_mix_is_named():
    x, codes = groups(30)
    with pytest.raises(DataError, match="all 30 cells are of one batch"):
        ilisi(x, codes * 0)
    with pytest.raises(DataError, match="6 cells are too few"):
        ilisi(x[:6], codes[:6])
    with pytest.raises(ConfigError, match="perplexity is 1"):
        ilisi(x, codes, perplexity=1)
