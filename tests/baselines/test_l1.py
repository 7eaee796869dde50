"""The L1 panel holds genes that tell the classes apart, each once."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from kernomics.baselines import Baseline, L1Baseline, l1_panel, random_panel
from kernomics.errors import ConfigError, DataError
from kernomics.metrics import evaluate_genes

pytest.importorskip("sklearn", reason="the report extra is not installed")

N_CLASSES, MARKERS_EACH, N_GENES = 4, 3, 60
MARKERS = set(range(N_CLASSES * MARKERS_EACH))


@pytest.fixture(scope="module")
def marked() -> tuple[sparse.csr_matrix, np.ndarray]:
    """160 cells × 60 genes; genes 3c, 3c+1, 3c+2 mark class c, the rest is noise."""
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(N_CLASSES), 40)
    rate = np.full((codes.size, N_GENES), 0.5)
    rate[:, 40:] = 30.0  # high and noisy, yet the same in all classes
    for c in range(N_CLASSES):
        rate[np.ix_(codes == c, range(MARKERS_EACH * c, MARKERS_EACH * (c + 1)))] = 4.0
    return sparse.csr_matrix(rng.poisson(rate)), codes


def test_the_markers_of_all_classes_are_found(marked: Any) -> None:
    assert set(l1_panel(*marked, len(MARKERS)).tolist()) == MARKERS


def test_every_class_has_a_marker_in_a_small_panel(marked: Any) -> None:
    panel = l1_panel(*marked, 6)
    assert set((panel // MARKERS_EACH).tolist()) == set(range(N_CLASSES))


def test_a_rare_class_has_its_marker_too() -> None:
    rng = np.random.default_rng(1)
    codes = np.repeat([0, 1, 2], [150, 150, 8])
    rate = np.full((codes.size, 30), 0.5)
    for c in range(3):
        rate[codes == c, c] = 5.0
    assert set(l1_panel(rng.poisson(rate), codes, 3).tolist()) == {0, 1, 2}


@pytest.mark.parametrize("k", [1, 7, N_GENES])
def test_the_panel_has_k_different_genes(marked: Any, k: int) -> None:
    panel = l1_panel(*marked, k)
    assert panel.dtype == np.int64
    assert panel.shape == (k,)
    assert len(set(panel.tolist())) == k
    assert panel.min() >= 0
    assert panel.max() < N_GENES


def test_one_gene_for_two_classes_is_the_one_that_separates_them() -> None:
    counts = np.array([[1, 0, 5], [2, 1, 5], [1, 6, 5], [2, 7, 5]])
    assert l1_panel(counts, [0, 0, 1, 1], 1).tolist() == [1]


def test_classes_need_neither_be_numbered_without_gaps_nor_more_than_one_cell(
    marked: Any,
) -> None:
    counts, codes = marked
    np.testing.assert_array_equal(l1_panel(counts, codes * 5 + 3, 9), l1_panel(counts, codes, 9))
    single = codes.copy()
    single[-1] = 7
    assert len(set(l1_panel(counts, single, 12).tolist()) & MARKERS) >= 10


def test_unlabelled_cells_are_left_out(marked: Any) -> None:
    counts, codes = marked
    kept = codes < 2
    some = np.where(kept, codes, -1)
    np.testing.assert_array_equal(
        l1_panel(counts, some, 20), l1_panel(counts[kept], codes[kept], 20)
    )
    assert set(l1_panel(counts, some, 6).tolist()) == set(range(6))


def test_constant_genes_come_last_in_the_order_of_their_columns(marked: Any) -> None:
    counts, codes = marked
    dull = counts.toarray()
    dull[:, [2, 41, 50]] = [0, 7, 3]
    ranked = l1_panel(dull, codes, N_GENES)
    assert ranked[-3:].tolist() == [2, 41, 50]
    assert sorted(ranked.tolist()) == list(range(N_GENES))


def test_cells_without_counts_are_accepted(marked: Any) -> None:
    counts, codes = marked
    emptied = counts.tolil()
    emptied[[0, 70]] = 0
    assert set(l1_panel(emptied.tocsr(), codes, 12).tolist()) == MARKERS


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16, np.float32, np.float64])
def test_the_type_of_the_counts_does_not_matter(marked: Any, dtype: type) -> None:
    counts, codes = marked
    expected = l1_panel(counts, codes, 9)
    np.testing.assert_array_equal(l1_panel(counts.astype(dtype), codes, 9), expected)
    np.testing.assert_array_equal(l1_panel(counts.toarray().astype(dtype), codes, 9), expected)


def test_long_indices_and_unsorted_ones_are_read(marked: Any) -> None:
    counts, codes = marked
    order = np.concatenate(
        [np.arange(a, b)[::-1] for a, b in zip(counts.indptr, counts.indptr[1:], strict=False)]
    )
    odd = sparse.csr_matrix(counts.shape, dtype=counts.dtype)
    odd.data, odd.indices = counts.data[order], counts.indices[order].astype(np.int64)
    odd.indptr = counts.indptr.astype(np.int64)
    before = odd.indices.copy()
    np.testing.assert_array_equal(l1_panel(odd, codes, 9), l1_panel(counts, codes, 9))
    np.testing.assert_array_equal(odd.indices, before)


def test_the_same_seed_gives_the_same_panel_whatever_ran_before(marked: Any) -> None:
    first = l1_panel(*marked, 9, seed=3)
    np.random.default_rng().random()
    l1_panel(*marked, 9, seed=4)
    np.testing.assert_array_equal(l1_panel(*marked, 9, seed=3), first)
    assert set(l1_panel(*marked, 12, seed=-1).tolist()) == MARKERS


def test_an_unfinished_fit_is_no_warning(marked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sklearn.linear_model

    whole = sklearn.linear_model.LogisticRegression

    class Hasty(whole):  # type: ignore[misc, valid-type]
        def fit(self, *data: Any) -> Any:
            with pytest.warns(sklearn.exceptions.ConvergenceWarning):
                whole(solver=self.solver, max_iter=1, tol=1e-12).fit(*data)
            return self.set_params(max_iter=1, tol=1e-12) and super().fit(*data)

    monkeypatch.setattr(sklearn.linear_model, "LogisticRegression", Hasty)
    assert len(set(l1_panel(*marked, 9).tolist())) == 9


def test_an_anndata_is_read_and_not_changed(marked: Any) -> None:
    anndata = pytest.importorskip("anndata")
    pandas = pytest.importorskip("pandas")
    counts, codes = marked
    names = pandas.Categorical.from_codes(codes, list("wxyz"))
    obs = pandas.DataFrame({"kind": names}, index=[f"c{i}" for i in range(codes.size)])
    cells = anndata.AnnData(sparse.csr_matrix(counts * 0.1), obs=obs, layers={"counts": counts})
    before = cells.copy()
    expected = l1_panel(counts, codes, 9)
    np.testing.assert_array_equal(l1_panel(cells, "kind", 9, layer="counts"), expected)
    assert (cells.X != before.X).nnz == 0
    assert (cells.layers["counts"] != before.layers["counts"]).nnz == 0
    assert cells.uns == {}
    with pytest.raises(DataError, match="no column 'kinds'; closest: 'kind'"):
        l1_panel(cells, "kinds", 9)
    with pytest.raises(DataError, match="no layer 'count'; closest: 'counts'"):
        l1_panel(cells, "kind", 9, layer="count")


def test_the_baseline_passes_its_seed_on(marked: Any) -> None:
    baseline = L1Baseline()
    assert isinstance(baseline, Baseline)
    np.testing.assert_array_equal(baseline.select(*marked, 9, seed=5), l1_panel(*marked, 9, seed=5))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros(160, dtype=np.int64), "two classes; found 1 among 160 labelled"),
        (np.full(160, -1), "two classes; found 0 among 0 labelled of 160 cells"),
        (np.zeros(159, dtype=np.int64), "159 labels were given for 160 cells"),
        (np.full(160, 0.5), "labels must be integer class codes, found dtype float64"),
    ],
)
def test_labels_that_do_not_fit_are_errors(marked: Any, codes: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        l1_panel(marked[0], codes, 5)


@pytest.mark.parametrize("k", [0, -1, N_GENES + 1])
def test_impossible_panel_sizes_are_errors(marked: Any, k: int) -> None:
    with pytest.raises(ConfigError, match=f"a panel of {k} genes was asked for, from 60 genes"):
        l1_panel(*marked, k)


def test_what_cannot_be_told_apart_is_an_error_that_says_why(marked: Any) -> None:
    counts, codes = marked
    with pytest.raises(DataError, match="none of 60 genes varies among the 160 labelled cells"):
        l1_panel(sparse.csr_matrix(counts.shape), codes, 5)
    with pytest.raises(ConfigError, match="the counts are a bare matrix"):
        l1_panel(counts, "kind", 5)
    with pytest.raises(ConfigError, match=r"layer='counts' was given, but .* a bare matrix"):
        l1_panel(counts, codes, 5, layer="counts")


def test_classes_with_the_same_means_still_give_a_panel() -> None:
    counts = np.array([[1, 0], [0, 1], [1, 0], [0, 1]])
    assert l1_panel(counts, [0, 0, 1, 1], 2).tolist() == [0, 1]


def test_missing_scikit_learn_names_the_extra(marked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ImportError, match=r"needs the package 'sklearn'.*'kernomics\[report\]'"):
        l1_panel(*marked, 5)


def test_on_blood_cells_it_is_far_above_a_random_panel() -> None:
    pytest.importorskip("scanpy")
    from kernomics.datasets import pbmc68k

    cells = pbmc68k()
    codes = cells.obs["bulk_labels"].cat.codes.to_numpy(np.int64)
    order = np.random.default_rng(0).permutation(codes.size)
    train, test = order[:490], order[490:]
    panels = [l1_panel(cells.X[train], codes[train], 16), random_panel(765, 16, seed=0)]
    chosen, drawn = (
        evaluate_genes(cells.X[train][:, p], codes[train], cells.X[test][:, p], codes[test])
        for p in panels
    )
    assert chosen.macro_f1 > drawn.macro_f1 + 0.2
