"""Recall of known relationships by vectors of genes, against a literal implementation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from kernomics.errors import ConfigError, DataError
from kernomics.metrics import read_relations, relationship_recall
from kernomics.metrics.gene_pairs import match_pairs, random_pairs
from kernomics.metrics.relationships import (
    correlation_recall,
    principal_components,
    recall_of_components,
)


def names(n):
    return [f"G{i}" for i in range(n)]


def some_vectors(n, d, seed=0):
    """Vectors with structure: few directions, scales that differ, one constant dimension."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 4)) @ random.normal(size=(4, d)) + 0.3 * random.normal(size=(n, d))
    x = x * np.exp(random.normal(size=d)) + 5
    x[:, 0] = 2.5
    return x


def some_relations(n, seed=0, n_pairs=60):
    random = np.random.default_rng(seed)
    pairs = [(f"G{a}", f"G{b}") for a, b in random.integers(0, n + 5, (n_pairs, 2))]
    return {"first": pairs, "second": [*pairs[:9], ("G1", "G2"), ("G2", "G1"), ("G3", "G3")]}


def literal_recall(x, genes, relations, n_components, seed, n_draws, n_null):
    """What the paper says, one pair at a time."""
    n, d = x.shape
    columns = []
    for j in range(d):
        mean = sum(x[:, j]) / n
        deviation = math.sqrt(sum((v - mean) ** 2 for v in x[:, j]) / n)
        if deviation > 1e-12:
            columns.append([(v - mean) / deviation for v in x[:, j]])
    z = np.array(columns).T
    left, lengths, _ = np.linalg.svd(z, full_matrices=False)
    components = (left * lengths)[:, :n_components]

    def cosine(i, j):
        a, b = components[i].tolist(), components[j].tolist()
        dot = sum(p * q for p, q in zip(a, b, strict=True))
        return dot / math.sqrt(sum(p * p for p in a)) / math.sqrt(sum(q * q for q in b))

    def percentile(values, percent):
        values, place = sorted(values), (len(values) - 1) * percent / 100
        low = math.floor(place)
        high = min(low + 1, len(values) - 1)
        return values[low] + (place - low) * (values[high] - values[low])

    recalls = {database: [] for database in relations}
    for draw in range(n_draws):
        null = [cosine(i, j) for i, j in random_pairs(n, n_null, seed, draw)]
        low, high = percentile(null, 5), percentile(null, 95)
        for database, pairs in relations.items():
            seen, recalled = set(), 0
            for a, b in pairs:
                if a == b or a not in genes or b not in genes or frozenset((a, b)) in seen:
                    continue
                seen.add(frozenset((a, b)))
                c = cosine(genes.index(a), genes.index(b))
                recalled += c < low or c > high
            recalls[database].append(recalled / len(seen))
    return recalls


@pytest.mark.parametrize("n_components", [None, 2, 3, 11])
@pytest.mark.parametrize("seed", [0, 5])
def test_recall_is_that_of_the_literal_implementation(n_components, seed):
    x, genes, relations = some_vectors(40, 12, seed), names(40), some_relations(40, seed)
    found = relationship_recall(
        x, genes, relations, n_components=n_components, seed=seed, n_null_draws=3, n_null_pairs=333
    )
    expected = literal_recall(x, genes, relations, n_components, seed, 3, 333)
    for database, recalls in expected.items():
        row = found.table.loc[database]
        assert row["recall"] == np.mean(recalls)
        assert row["spread"] == np.std(recalls)
    assert found.mean == np.mean([np.mean(recalls) for recalls in expected.values()])
    assert found.n_components == (n_components or 11)  # the twelfth dimension is constant


def test_pairs_scored_are_those_present_once_and_of_two_genes():
    known = match_pairs(
        ["A", "B", "C"],
        {"d": [("A", "B"), ("B", "A"), ("A", "A"), ("C", "A"), ("C", "X"), ("X", "C"), ("X", "X")]},
    )
    assert known.pairs["d"].tolist() == [[0, 1], [0, 2]]
    assert known.n_given["d"] == 3


def test_vectors_that_say_nothing_recall_one_in_ten():
    n, d, n_pairs, n_null = 3000, 16, 4000, 20_000
    x = np.random.default_rng(1).normal(size=(n, d))
    pairs = np.unique(np.sort(random_pairs(n, n_pairs, 99, 7), axis=1), axis=0)
    found = relationship_recall(
        x, names(n), {"chance": np.array(names(n))[pairs]}, n_null_pairs=n_null, seed=2
    )
    # The cosines of pairs of independent isotropic vectors are independent of each other, also
    # where pairs share a gene: known pairs outside are binomial, and the share outside a threshold
    # estimated from n_null pairs has the variance p(1 − p)/n_null as well, at most.
    p = 0.1
    deviation = math.sqrt(p * (1 - p) * (1 / len(pairs) + 1 / n_null))
    assert abs(found.mean - p) < 5 * deviation


def test_pairs_of_equal_and_of_opposite_vectors_are_recalled():
    half = np.random.default_rng(0).normal(size=(300, 20))
    x = np.concatenate([half, half, -half])
    genes = names(900)
    equal = [(genes[i], genes[i + 300]) for i in range(300)]
    opposite = [(genes[i], genes[i + 600]) for i in range(300)]
    found = relationship_recall(x, genes, {"equal": equal, "opposite": opposite})
    assert found.table["recall"].tolist() == [1.0, 1.0]
    assert found.table["spread"].tolist() == [0.0, 0.0]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_recall_depends_on_neither_scale_nor_origin_nor_order_of_dimensions(seed, scale, shift):
    x, genes, relations = some_vectors(60, 8, seed), names(60), some_relations(60, seed)
    moved = (x * scale + shift)[:, ::-1]
    options = {"n_components": 3, "n_null_pairs": 777, "seed": seed}
    first = relationship_recall(x, genes, relations, **options)
    second = relationship_recall(moved, genes, relations, **options)
    np.testing.assert_allclose(first.thresholds, second.thresholds, atol=1e-6)
    # A pair within rounding of a threshold may fall on its other side: at most one here.
    for database, row in first.table.iterrows():
        assert abs(row["recall"] - second.table.loc[database, "recall"]) <= 1.01 / row["n_pairs"]


def test_blocks_do_not_change_the_result(monkeypatch):
    x, genes, relations = some_vectors(50, 9), names(50), some_relations(50)
    whole = relationship_recall(x, genes, relations, n_null_pairs=1001)
    monkeypatch.setattr("kernomics.metrics.relationships.NUMBERS_AT_A_TIME", 100)
    parts = relationship_recall(x, genes, relations, n_null_pairs=1001)
    np.testing.assert_allclose(whole.thresholds, parts.thresholds, rtol=1e-12)
    assert whole.table.equals(parts.table)


def test_components_are_uncorrelated_and_no_more_than_the_rank():
    x = some_vectors(80, 6)
    found = principal_components(np.concatenate([x, x[:, 1:3]], axis=1), 80)
    assert found.shape == (80, 5)
    products = found.T @ found
    np.testing.assert_allclose(products, np.diag(np.diag(products)), atol=1e-9 * products[0, 0])
    assert np.all(np.diff(np.diag(products)) <= 0)


def test_numbers_of_components_that_the_rank_makes_equal_are_scored_once():
    known = match_pairs(names(30), some_relations(30))
    components = principal_components(some_vectors(30, 6), 30)
    found = recall_of_components(components, known, [2, 5, 32, None, 256], n_null_pairs=100)
    assert [recall.n_components for recall in found] == [2, 5]


def test_random_pairs_are_of_different_genes_and_uniform():
    pairs = random_pairs(5, 40_000, 3, 0)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    counts = np.bincount(pairs[:, 0] * 5 + pairs[:, 1], minlength=25).reshape(5, 5)
    p = 1 / 20
    bound = 5 * math.sqrt(40_000 * p * (1 - p))
    assert np.abs(counts[~np.eye(5, dtype=bool)] - 40_000 * p).max() < bound
    assert not np.array_equal(pairs, random_pairs(5, 40_000, 3, 1))
    np.testing.assert_array_equal(pairs, random_pairs(5, 40_000, 3, 0))


def test_profiles_are_compared_by_their_correlation():
    random = np.random.default_rng(4)
    dense = random.poisson(0.7, (40, 90)).astype(float)
    dense[7] = 0
    dense[8] = 3
    known = match_pairs(names(40), some_relations(40))
    found = correlation_recall(sparse.csr_matrix(dense), known, n_null_pairs=501, seed=1)
    with np.errstate(invalid="ignore"):
        r = np.nan_to_num(np.corrcoef(dense))
    for draw in range(3):
        i, j = random_pairs(40, 501, 1, draw).T
        low, high = np.percentile(r[i, j], [5, 95])
        np.testing.assert_allclose(found.thresholds[draw], [low, high], atol=1e-12)
    for database, pairs in known.pairs.items():
        c = r[pairs[:, 0], pairs[:, 1]]
        # A known pair may be the very pair at a threshold, where the last digit decides.
        inside, outside = (
            np.mean([np.mean((c < low - e) | (c > high + e)) for low, high in found.thresholds])
            for e in (1e-9, -1e-9)
        )
        assert inside <= found.table.loc[database, "recall"] <= outside
        assert outside - inside < 0.1


def test_result_as_plain_values():
    found = relationship_recall(some_vectors(30, 5), names(30), some_relations(30)).to_dict()
    assert found["n_genes"] == 30
    assert [row["database"] for row in found["databases"]] == ["first", "second"]
    assert found["mean"] == np.mean([row["recall"] for row in found["databases"]])


def test_relations_are_read_as_they_are_written(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("entity1,entity2,score\nNA, TP53,1\nMARCH1,nan,2\n")
    assert read_relations(path).tolist() == [["NA", "TP53"], ["MARCH1", "nan"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a table of pairs"),
        ("a,b\nX,Y\n", r"lacks \['entity1', 'entity2'\]: its first line must be"),
        ("entity1,entity2\n", "contains no pairs"),
        ("entity1,entity2\nA,B\nA,\n,B\n", "2 of 3 pairs in .* lack a name, first in line 3"),
    ],
)
def test_what_is_no_file_of_pairs_is_named(tmp_path, text, message):
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_relations(path)


ENSEMBL = [f"ENSG{i:011d}" for i in range(4)]


@pytest.mark.parametrize(
    ("genes", "relations", "message"),
    [
        (
            ENSEMBL,
            {"d": [("TP53", "MDM2")]},
            "name gene symbols .*genes are Ensembl ids .*same kind of name",
        ),
        (["Tp53", "Mdm2", "X"], {"d": [("TP53", "MDM2")]}, "2 genes would match .* case"),
        (["A", "B", "C"], {"d": [("X", "Y")]}, "none of the 1 pairs .* begin with 'X'"),
        (["A", "B", "C"], {"d": [("A", "A")]}, "none of the 0 pairs"),
        (["A", "B", "A"], {"d": [("A", "B")]}, "1 of 3 genes are named twice"),
        (["A", "B", "C"], {}, "no database"),
        (["A", "B", "C"], {"d": ["AB"]}, r"shape \(1,\)"),
    ],
)
def test_relations_that_do_not_fit_are_named(genes, relations, message):
    x = np.random.default_rng(0).normal(size=(len(genes), 2))
    with pytest.raises(DataError, match=message):
        relationship_recall(x, genes, relations)


def test_vectors_that_do_not_fit_are_named():
    relations = {"d": [("G0", "G1")]}
    x = np.random.default_rng(0).normal(size=(5, 2))
    with pytest.raises(DataError, match=r"shape \(5, 2\) for 4 genes"):
        relationship_recall(x, names(4), relations)
    with pytest.raises(DataError, match="vectors of all 5 genes are the same"):
        relationship_recall(np.full((5, 2), 0.1), names(5), relations)
    with pytest.raises(ConfigError, match="n_components is 1: at least 2"):
        relationship_recall(x, names(5), relations, n_components=1)
    with pytest.raises(DataError, match="differ in one direction alone"):
        relationship_recall(x[:, :1], names(5), relations)
    with pytest.raises(ConfigError, match="n_null_draws is 0"):
        relationship_recall(x, names(5), relations, n_null_draws=0)
    x[3, 1] = np.nan
    with pytest.raises(DataError, match=r"1 of 5 genes have a vector that is not finite.*number 3"):
        relationship_recall(x, names(5), relations)
