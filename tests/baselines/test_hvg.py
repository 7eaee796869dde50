"""The highly variable genes are those that vary beyond what counting alone explains."""

from __future__ import annotations

import sys
from typing import Any, get_args

import numpy as np
import pytest
from scipy import sparse

from kernomics.baselines import Baseline, HVGBaseline, HVGFlavor, hvg_panel
from kernomics.errors import ConfigError, DataError

N_CELLS, N_GENES = 240, 60
VARIABLE = [7, 20, 33, 46]


@pytest.fixture(scope="module")
def counts() -> sparse.csr_matrix:
    """Poisson counts over a wide range of means; four genes differ between groups of cells."""
    pytest.importorskip("scanpy")
    rng = np.random.default_rng(0)
    rate = np.tile(np.geomspace(0.2, 20, N_GENES), (N_CELLS, 1))
    for group, gene in enumerate(VARIABLE):
        rate[:, gene] *= np.where(np.arange(N_CELLS) % 4 == group, 3.4, 0.2)
    depth = rng.uniform(0.5, 2, size=(N_CELLS, 1))
    return sparse.csr_matrix(rng.poisson(rate * depth))


def test_genes_that_differ_between_cells_come_before_those_that_are_merely_high(
    counts: Any,
) -> None:
    assert set(hvg_panel(counts, 4).tolist()) == set(VARIABLE)


def test_the_residuals_variance_decides_the_order() -> None:
    """By hand: totals are equal, so μ of a gene is its mean, and r = (n − μ)/√(μ + μ²/100)."""
    pytest.importorskip("scanpy")
    counts = np.array([[4, 0, 1, 5], [0, 4, 1, 5], [4, 0, 1, 5], [0, 2, 1, 7]])
    mean = counts.mean(axis=0)
    variance = ((counts - mean) ** 2 / (mean + mean**2 / 100)).mean(axis=0)
    expected = np.argsort(-variance, kind="stable")
    assert expected.tolist() == [0, 1, 3, 2]
    np.testing.assert_array_equal(hvg_panel(counts, 4), expected)


@pytest.mark.parametrize("k", [1, 5, N_GENES])
def test_panels_are_nested_and_hold_different_genes(counts: Any, k: int) -> None:
    panel = hvg_panel(counts, k)
    assert panel.dtype == np.int64
    assert len(set(panel.tolist())) == k
    np.testing.assert_array_equal(panel, hvg_panel(counts, N_GENES)[:k])


@pytest.mark.parametrize("flavor", get_args(HVGFlavor))
def test_every_flavour_ranks_all_genes_the_same_each_time(counts: Any, flavor: HVGFlavor) -> None:
    panel = hvg_panel(counts, N_GENES, flavor=flavor)
    assert sorted(panel.tolist()) == list(range(N_GENES))
    np.testing.assert_array_equal(panel, hvg_panel(counts, N_GENES, flavor=flavor))


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16, np.float32, np.float64])
def test_the_type_of_the_counts_does_not_matter(counts: Any, dtype: type) -> None:
    expected = hvg_panel(counts, 12)
    np.testing.assert_array_equal(hvg_panel(counts.astype(dtype), 12), expected)
    np.testing.assert_array_equal(hvg_panel(counts.toarray().astype(dtype), 12), expected)


def test_cells_without_counts_change_nothing_and_genes_without_counts_come_last(
    counts: Any,
) -> None:
    empty_cells = sparse.vstack([sparse.csr_matrix((3, N_GENES), dtype=np.int64), counts]).tocsr()
    np.testing.assert_array_equal(hvg_panel(empty_cells, 12), hvg_panel(counts, 12))
    unseen = sparse.hstack([sparse.csr_matrix((N_CELLS, 2), dtype=np.int64), counts]).tocsr()
    ranked = hvg_panel(unseen, N_GENES + 2)
    assert ranked[-2:].tolist() == [0, 1]
    np.testing.assert_array_equal(ranked[:-2] - 2, hvg_panel(counts, N_GENES))


def test_estimated_counts_are_accepted_without_a_warning(counts: Any) -> None:
    assert set(hvg_panel(counts * 0.9, 4).tolist()) == set(VARIABLE)


def test_an_anndata_is_read_and_not_changed(counts: Any) -> None:
    anndata = pytest.importorskip("anndata")
    cells = anndata.AnnData(sparse.csr_matrix(counts * 0.1), layers={"counts": counts})
    before = cells.copy()
    np.testing.assert_array_equal(hvg_panel(cells, 9, layer="counts"), hvg_panel(counts, 9))
    np.testing.assert_array_equal(hvg_panel(cells, 9), hvg_panel(counts * 0.1, 9))
    assert (cells.X != before.X).nnz == 0
    assert (cells.layers["counts"] != before.layers["counts"]).nnz == 0
    assert cells.uns == {}
    assert list(cells.var.columns) == []
    with pytest.raises(DataError, match="no layer 'count'; closest: 'counts'"):
        hvg_panel(cells, 9, layer="count")


def test_the_baseline_ignores_labels_and_seed(counts: Any) -> None:
    baseline = HVGBaseline()
    assert isinstance(baseline, Baseline)
    assert baseline.name == "HVG (Pearson residuals)"
    labels = np.arange(N_CELLS) % 4
    np.testing.assert_array_equal(
        baseline.select(counts, labels, 9, seed=1),
        baseline.select(counts, np.full(N_CELLS, -1), 9, seed=2),
    )
    by_dispersion = HVGBaseline(flavor="cell_ranger")
    assert by_dispersion.name == "HVG (Cell ranger)"
    np.testing.assert_array_equal(
        by_dispersion.select(counts, labels, 9, seed=0), hvg_panel(counts, 9, flavor="cell_ranger")
    )


@pytest.mark.parametrize("k", [0, -1, N_GENES + 1])
def test_impossible_panel_sizes_are_errors(counts: Any, k: int) -> None:
    with pytest.raises(ConfigError, match=f"a panel of {k} genes was asked for, from 60 genes"):
        hvg_panel(counts, k)


def test_what_cannot_be_measured_is_an_error_that_says_why(counts: Any) -> None:
    with pytest.raises(ConfigError, match="flavor is 'seurat_v3'; closest: 'seurat'"):
        hvg_panel(counts, 5, flavor="seurat_v3")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"layer='counts' was given, but .* a bare matrix"):
        hvg_panel(counts, 5, layer="counts")
    with pytest.raises(DataError, match="two cells with counts; found 1 among 240 cells"):
        hvg_panel(sparse.csr_matrix(([3], ([5], [2])), shape=(N_CELLS, N_GENES)), 5)


@pytest.mark.parametrize("counts", [np.tile([1, 2, 3, 4], (9, 1)), np.eye(4, dtype=int)])
def test_dispersions_that_bins_leave_undefined_are_an_error(counts: np.ndarray) -> None:
    pytest.importorskip("scanpy")
    with pytest.raises(DataError, match=r"cannot compare these 4 genes .*use flavor='pearson"):
        hvg_panel(counts, 2, flavor="cell_ranger")


def test_missing_scanpy_names_the_extra(counts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scanpy", None)
    with pytest.raises(ImportError, match=r"needs the package 'scanpy'.*'kernomics\[report\]'"):
        hvg_panel(counts, 5)
