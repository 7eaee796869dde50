"""Correlations are Pearson's, groups hold together pair by pair, substitutes are left-out genes."""

import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from kernomics.data import CellCollection
from kernomics.errors import ConfigError, DataError
from kernomics.evaluation.panels import redundancy


def collection(columns, **options):
    """Cells from one list of counts per gene; an extra gene keeps every cell from being empty."""
    columns = {**columns, "filler": [1] * len(next(iter(columns.values())))}
    counts = sparse.csr_matrix(np.array(list(columns.values()), dtype=np.float32).T)
    adata = AnnData(counts, var=pd.DataFrame(index=list(columns)))
    adata.obs_names = [f"c{i}" for i in range(adata.n_obs)]
    return CellCollection.from_anndata(adata, **options)


# log1p of 0 and 3 is 0 and 2·log 2, so that r is that of 0 and 1: by hand.
ON_OFF = {
    "A": [0, 0, 3, 3, 0, 0, 3, 3],
    "same": [0, 0, 7, 7, 0, 0, 7, 7],
    "opposite": [3, 3, 0, 0, 3, 3, 0, 0],
    "half": [0, 0, 3, 3, 0, 3, 0, 3],
    "unrelated": [0, 3, 0, 3, 0, 3, 0, 3],
    "constant": [2] * 8,
    "absent": [0] * 8,
}


@pytest.fixture(scope="module")
def cells():
    return collection(ON_OFF)


def random_cells(n=200, n_genes=12, seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(1.0, 2.0, (n, 1)) * rng.uniform(0.1, 2.0, n_genes))
    return collection({f"g{i}": counts[:, i] for i in range(n_genes)}), counts


def test_correlations_are_those_worked_out_by_hand(cells):
    found = redundancy(cells, ["A", "opposite", "half", "unrelated", "constant"], np.arange(8))
    expected = [
        [1, -1, 0.5, 0, 0],
        [-1, 1, -0.5, 0, 0],
        [0.5, -0.5, 1, 0.5, 0],
        [0, 0, 0.5, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    np.testing.assert_allclose(found.correlation, expected, atol=1e-12)
    names = ["A", "opposite", "half", "unrelated", "constant"]
    assert found.correlation.index.tolist() == found.correlation.columns.tolist() == names


def test_exchangeable_genes_are_one_group_whatever_their_sign(cells):
    genes = ["half", "same", "unrelated", "A", "opposite", "constant", "absent"]
    found = redundancy(cells, genes, np.arange(8))
    assert found.groups == [["same", "A", "opposite"]]
    np.testing.assert_allclose(
        found.correlation.loc["A", ["same", "opposite"]], [1, -1], atol=1e-12
    )


def test_a_chain_of_neighbours_is_no_group(cells):
    # A–half and half–unrelated reach 0.5, A–unrelated has 0: only two of the three go together.
    (group,) = redundancy(cells, ["A", "half", "unrelated"], np.arange(8), threshold=0.5).groups
    assert len(group) == 2
    assert "half" in group


def test_substitutes_are_the_best_left_out_genes_with_their_sign(cells):
    found = redundancy(cells, ["A", "unrelated"], np.arange(8), n_substitutes=3).substitutes
    assert found["gene"].tolist() == ["A", "A", "A", "unrelated"]
    assert found["substitute"].tolist() == ["same", "opposite", "half", "half"]
    np.testing.assert_allclose(found["correlation"], [1, -1, 0.5, 0.5], atol=1e-12)
    assert len(redundancy(cells, ["A"], np.arange(8), n_substitutes=0).substitutes) == 0


def test_constant_gene_has_correlation_0_and_no_substitute(cells):
    found = redundancy(cells, ["constant", "absent"], np.arange(8))
    np.testing.assert_array_equal(found.correlation, np.eye(2))
    assert found.groups == []
    assert len(found.substitutes) == 0


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_equals_numpy_over_the_dense_matrix_in_any_blocks(block, monkeypatch):
    monkeypatch.setattr("kernomics.data.row_numbers.CELLS_AT_A_TIME", block)
    cells, counts = random_cells()
    rows = np.arange(0, 200, 2)
    found = redundancy(cells, ["g3", "g0", "g7"], rows, n_substitutes=9)
    expected = np.corrcoef(np.log1p(counts[rows]).T)
    np.testing.assert_allclose(found.correlation, expected[np.ix_([3, 0, 7], [3, 0, 7])], rtol=1e-9)
    for _, row in found.substitutes.iterrows():
        r = expected[int(row["gene"][1:]), int(row["substitute"][1:])]
        assert row["correlation"] == pytest.approx(r, abs=1e-12)
    first = found.substitutes[found.substitutes["gene"] == "g0"]["substitute"]
    left_out = [i for i in range(12) if i not in (0, 3, 7)]
    best = sorted(left_out, key=lambda i: -abs(expected[0, i]))
    assert first.tolist() == [f"g{i}" for i in best]


def test_deep_counts_lose_no_digits():
    rng = np.random.default_rng(1)
    counts = rng.poisson(40_000, (500, 4))
    counts[:, 1] = counts[:, 0] + rng.integers(-5, 6, 500)
    found = redundancy(
        collection({f"g{i}": counts[:, i] for i in range(4)}), ["g0", "g1"], np.arange(500)
    )
    expected = np.corrcoef(np.log1p(counts[:, :2]).T)
    np.testing.assert_allclose(found.correlation, expected, atol=1e-8)


def test_panel_of_one_gene_has_no_groups_and_of_all_genes_no_substitutes(cells):
    one = redundancy(cells, "A", np.arange(8))
    assert one.groups == []
    assert one.correlation.to_numpy().tolist() == [[1.0]]
    every = redundancy(cells, cells.genes, np.arange(8))
    assert every.correlation.shape == (8, 8)
    assert list(every.substitutes.columns) == ["gene", "substitute", "correlation"]
    assert len(every.substitutes) == 0


def test_a_mask_of_cells_means_the_cells_it_marks(cells):
    mask = np.array([True, False, True, True, True, True, False, True])
    one = redundancy(cells, ["A", "half"], mask)
    two = redundancy(cells, ["A", "half"], np.flatnonzero(mask))
    pd.testing.assert_frame_equal(one.correlation, two.correlation)


def test_cells_on_disk_give_the_same_answer(tmp_path):
    cells, counts = random_cells()
    adata = AnnData(sparse.csr_matrix(counts.astype(np.float32)))
    adata.var_names = [f"g{i}" for i in range(12)]
    adata.obs_names = [f"c{i}" for i in range(200)]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with warnings.catch_warnings():
        stored = CellCollection.from_anndata(tmp_path / "cells.h5ad", empty_cells="keep")
    rows = np.arange(200)[::-1]
    one, two = (redundancy(c, ["g1", "g2"], rows) for c in (cells, stored))
    pd.testing.assert_frame_equal(one.correlation, two.correlation)
    assert one.substitutes["substitute"].tolist() == two.substitutes["substitute"].tolist()


def test_bad_questions_are_refused(cells):
    rows = np.arange(8)
    with pytest.raises(DataError, match=r"1 of 2 genes are not in the data: 'sane' \(closest: 'sa"):
        redundancy(cells, ["A", "sane"], rows)
    with pytest.raises(DataError, match="repeat an earlier one, first 'A'"):
        redundancy(cells, ["A", "A"], rows)
    with pytest.raises(DataError, match="a correlation needs at least two"):
        redundancy(cells, ["A"], [3])
    with pytest.raises(DataError, match="rows names no cell"):
        redundancy(cells, ["A"], [])
    with pytest.raises(DataError, match=r"mask of shape \(3,\) for 8 cells"):
        redundancy(cells, ["A"], np.array([True, False, True]))
    with pytest.raises(ConfigError, match="threshold is 0"):
        redundancy(cells, ["A"], rows, threshold=0)
    with pytest.raises(ConfigError, match="n_substitutes is -1"):
        redundancy(cells, ["A"], rows, n_substitutes=-1)


def test_b_cell_markers_of_blood_are_exchangeable(data_dir):
    cells = CellCollection.from_anndata(data_dir / "pbmc3k.h5ad")
    rows = np.arange(0, cells.n_cells, 2)
    found = redundancy(cells, ["MS4A1", "LYZ", "CD79A", "CST3"], rows, threshold=0.5)
    assert found.groups == [["MS4A1", "CD79A"], ["LYZ", "CST3"]]
    best = found.substitutes.groupby("gene")["substitute"].apply(list)
    assert "CD79B" in best["CD79A"]
