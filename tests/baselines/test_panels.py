"""Baselines choose the genes that they promise to choose."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from kernomics.baselines import (
    Baseline,
    DEBaseline,
    RandomBaseline,
    de_panel,
    random_panel,
    round_robin,
)
from kernomics.errors import ConfigError, DataError

N_CLASSES, MARKERS_EACH = 4, 3


@pytest.fixture(scope="module")
def marked() -> tuple[sparse.csr_matrix, np.ndarray]:
    """240 cells × 60 genes; genes 3c, 3c+1, 3c+2 mark class c, the rest is noise."""
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(N_CLASSES), 60)
    rate = np.full((codes.size, 60), 0.5)
    for c in range(N_CLASSES):
        rate[np.ix_(codes == c, range(MARKERS_EACH * c, MARKERS_EACH * (c + 1)))] = 6.0
    return sparse.csr_matrix(rng.poisson(rate)), codes


def test_random_panel_is_different_genes_fixed_by_the_seed_and_nested_in_k() -> None:
    panel = random_panel(100, 30, seed=4)
    assert panel.dtype == np.int64
    assert len(set(panel.tolist())) == 30
    np.testing.assert_array_equal(panel[:10], random_panel(100, 10, seed=4))
    assert set(random_panel(100, 30, seed=5)) != set(panel.tolist())


def test_random_panel_takes_every_gene_equally_often() -> None:
    drawn = np.bincount(
        np.concatenate([random_panel(20, 5, seed) for seed in range(2000)]), minlength=20
    )
    # 500 expected each; the variance of a draw without replacement is 2000·¼·¾ = 375.
    assert abs(drawn - 500).max() < 5 * np.sqrt(375)


@pytest.mark.parametrize("k", [0, 101, -1])
def test_impossible_panel_sizes_are_errors(k: int) -> None:
    with pytest.raises(ConfigError, match=f"a panel of {k} genes was asked for, from 100"):
        random_panel(100, k, seed=0)


def test_round_robin_takes_turns_and_skips_repeats() -> None:
    rankings = [[5, 1, 2, 3], [5, 7, 1], [9, 5, 8]]
    assert round_robin(rankings, 6).tolist() == [5, 9, 1, 7, 2, 8]


def test_round_robin_says_when_genes_run_out() -> None:
    with pytest.raises(ConfigError, match="the 2 rankings hold 2 distinct genes"):
        round_robin([[1, 2], [2, 1]], 3)


def test_de_panel_finds_the_markers_and_its_first_round_has_one_of_each_class(marked: Any) -> None:
    pytest.importorskip("scanpy")
    counts, codes = marked
    panel = de_panel(counts, codes, N_CLASSES * MARKERS_EACH)
    assert set(panel.tolist()) == set(range(N_CLASSES * MARKERS_EACH))
    assert sorted((panel[:N_CLASSES] // MARKERS_EACH).tolist()) == list(range(N_CLASSES))


def test_de_panel_can_rank_every_gene(marked: Any) -> None:
    pytest.importorskip("scanpy")
    counts, codes = marked
    assert sorted(de_panel(counts, codes, 60).tolist()) == list(range(60))


def test_de_panel_leaves_out_unlabelled_cells_and_classes_of_one(marked: Any) -> None:
    pytest.importorskip("scanpy")
    counts, codes = marked
    kept = codes < 2
    some = np.where(kept, codes, -1)
    np.testing.assert_array_equal(
        de_panel(counts, some, 20), de_panel(counts[kept], codes[kept], 20)
    )
    single = some.copy()
    single[-1] = 7
    assert set(de_panel(counts, single, 6).tolist()) == set(range(6))


def test_de_panel_reads_an_anndata_without_changing_it(marked: Any) -> None:
    anndata = pytest.importorskip("anndata")
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("scanpy")
    counts, codes = marked
    names = pandas.Categorical.from_codes(codes, list("wxyz"))
    obs = pandas.DataFrame({"kind": names}, index=[f"c{i}" for i in range(codes.size)])
    cells = anndata.AnnData(sparse.csr_matrix(counts * 0.1), obs=obs, layers={"counts": counts})
    before = cells.copy()
    expected = de_panel(counts, codes, 9)
    np.testing.assert_array_equal(de_panel(cells, "kind", 9, layer="counts"), expected)
    assert (cells.X != before.X).nnz == 0
    assert cells.uns == {}
    with pytest.raises(DataError, match="no column 'kinds'; closest: 'kind'"):
        de_panel(cells, "kinds", 9)
    with pytest.raises(DataError, match="no layer 'count'; closest: 'counts'"):
        de_panel(cells, "kind", 9, layer="count")


def test_de_panel_accepts_a_cell_without_counts(marked: Any) -> None:
    pytest.importorskip("scanpy")
    counts, codes = marked
    emptied = counts.tolil()
    emptied[0] = 0
    assert set(de_panel(emptied.tocsr(), codes, 12).tolist()) == set(range(12))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros(240, dtype=np.int64), "found 1 among 1 classes"),
        (np.full(240, -1), "found 0 among 0 classes and 0 labelled cells"),
    ],
)
def test_de_panel_needs_two_classes(marked: Any, codes: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        de_panel(marked[0], codes, 5)


def test_de_panel_names_what_does_not_fit(marked: Any) -> None:
    counts, codes = marked
    with pytest.raises(DataError, match="239 labels were given for 240 cells"):
        de_panel(counts, codes[1:], 5)
    with pytest.raises(ConfigError, match="a panel of 61 genes"):
        de_panel(counts, codes, 61)
    with pytest.raises(ConfigError, match="the counts are a bare matrix"):
        de_panel(counts, "kind", 5)


@pytest.mark.parametrize("baseline", [RandomBaseline(), DEBaseline()])
def test_every_baseline_returns_ranked_different_genes(baseline: Baseline, marked: Any) -> None:
    pytest.importorskip("scanpy")
    assert isinstance(baseline, Baseline)
    panel = baseline.select(*marked, 17, seed=3)
    assert panel.dtype == np.int64
    assert len(set(panel.tolist())) == 17
    np.testing.assert_array_equal(panel, baseline.select(*marked, 17, seed=3))


def test_missing_scanpy_names_the_extra(marked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scanpy", None)
    with pytest.raises(ImportError, match=r"needs the package 'scanpy'.*'kernomics\[report\]'"):
        de_panel(*marked, 5)
