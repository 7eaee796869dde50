"""A given list of genes is scored as the judge scores it, and bad lists are named."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from kernomics import baselines, datasets, metrics
from kernomics.data import CellCollection, Split, make_split
from kernomics.data.gene_columns import describe_missing
from kernomics.errors import ConfigError, DataError
from kernomics.evaluation.panels import evaluate_panel

pytest.importorskip("sklearn")

GENES = ["gene_0", "gene_5", "gene_10", "gene_15"]

FEW = pytest.mark.filterwarnings("ignore:label .* fewer than 5 training cells:UserWarning")


@pytest.fixture(scope="module")
def adata():
    adata = datasets.simulate(300, 40, 3, 5, seed=4)
    adata.obs["age"] = np.log1p(adata.X[:, :5].sum(axis=1)).A1 * 10 + 30
    adata.obs["donor"] = np.arange(300) % 10
    return adata


@pytest.fixture(scope="module")
def cells(adata):
    return CellCollection.from_anndata(adata, labels_key=["cell_type", "age"])


@pytest.fixture(scope="module")
def split(cells):
    return make_split(300, how="stratified", labels=cells.labels["cell_type"], seed=1)


def tiny(labels, counts=None):
    """Cells of two genes, the first six of them to train and the rest to test on."""
    n = len(labels)
    counts = np.arange(2 * n).reshape(n, 2) % 5 + 1 if counts is None else np.array(counts)
    obs = pd.DataFrame({"type": labels}, index=[f"c{i}" for i in range(n)])
    adata = AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs)
    adata.var_names = ["A", "B"]
    rows = np.arange(n)
    return (
        CellCollection.from_anndata(adata, labels_key="type"),
        Split(rows[:6], rows[:0], rows[6:], "random", None, 0),
    )


def test_scores_are_those_of_the_judge_on_the_panels_columns(adata, cells, split):
    found = evaluate_panel(cells, GENES, split)
    x = adata[:, GENES].X
    train, test = split.train, split.test
    codes = adata.obs["cell_type"].cat.codes.to_numpy().astype(int)
    score = metrics.evaluate_genes(x[train], codes[train], x[test], codes[test])
    assert found.scores["cell_type"] == {
        "accuracy": score.accuracy, "macro_f1": score.macro_f1, "auprc": score.auprc
    }  # fmt: skip
    age = adata.obs["age"].to_numpy().astype(np.float32)
    ridge = metrics.evaluate_genes_regression(x[train], age[train], x[test], age[test])
    assert found.scores["age"] == {"r2": ridge.r2, "mae": ridge.mae, "pearson": ridge.pearson}
    assert list(found.per_class) == ["cell_type"]
    assert found.per_class["cell_type"]["f1"].tolist() == score.f1.tolist()
    assert (found.n_train, found.n_test) == (len(train), len(test))
    assert (found.genes, found.missing, found.random) == (GENES, [], {})


@FEW
def test_per_class_scores_and_cells_are_right_by_hand():
    # Gene A tells x from y, apart from the last cell; one test cell of x is predicted y.
    labels = ["x", "x", "x", "y", "y", "y", "x", "y", "y", "x"]
    counts = [[9, 1]] * 3 + [[1, 1]] * 3 + [[9, 1], [1, 1], [1, 1], [1, 1]]
    found = evaluate_panel(*_order(tiny(labels, counts), ["A", "B"]))
    expected = pd.DataFrame(
        {"f1": [2 / 3, 4 / 5], "n_train": [3, 3], "n_test": [2, 2]},
        index=pd.Index(["x", "y"], name="class"),
    )
    pd.testing.assert_frame_equal(found.per_class["type"], expected)
    assert found.scores["type"]["accuracy"] == 0.75
    assert found.scores["type"]["macro_f1"] == pytest.approx(11 / 15)


def _order(made, genes):
    cells, split = made
    return cells, genes, split


def test_panel_of_one_gene_and_of_all_genes_are_scored(cells, split):
    one = evaluate_panel(cells, "gene_0", split)
    every = evaluate_panel(cells, cells.genes, split)
    assert one.genes == ["gene_0"]
    assert every.genes == cells.genes.tolist()
    assert every.scores["cell_type"]["accuracy"] > one.scores["cell_type"]["accuracy"]


@FEW
def test_unlabelled_cells_count_nowhere():
    labels = ["x", "x", None, "y", "y", "y", "x", None, "y"]
    cells, split = tiny(labels)
    found = evaluate_panel(cells, ["A"], split)
    assert found.per_class["type"]["n_train"].tolist() == [2, 3]
    assert found.per_class["type"]["n_test"].tolist() == [1, 1]
    assert (found.n_train, found.n_test) == (6, 3)


@FEW
def test_test_part_of_one_class_has_scores_and_no_f1_for_the_other_classes():
    cells, split = tiny(["x", "x", "y", "y", "z", "z", "y", "y"])
    with pytest.warns(UserWarning, match="all test cells that can be scored are of class 'y', so"):
        found = evaluate_panel(cells, ["A", "B"], split)
    table = found.per_class["type"]
    assert table["f1"].isna().tolist() == [True, False, True]
    assert table["n_test"].tolist() == [0, 2, 0]
    assert "auprc" not in found.scores["type"]  # any scores would have 1
    assert found.scores["type"]["macro_f1"] == table.loc["y", "f1"]


@FEW
def test_class_without_training_cells_is_left_out_of_the_scores():
    cells, split = tiny(["x", "x", "x", "z", "z", "z", "x", "z", "y"], [[9, 1]] * 3 + [[1, 1]] * 6)
    with pytest.warns(UserWarning, match=r"1 of 3 classes has no training cells .* 'y' \(1 test"):
        found = evaluate_panel(cells, ["A", "B"], split)
    table = found.per_class["type"]
    assert table.loc["y", ["n_train", "n_test"]].tolist() == [0, 1]
    assert table["f1"].isna().tolist() == [False, True, False]  # x, y, z
    # Of x and z: one x taken for z, and one z that is right; the y counts nowhere.
    assert table.loc["z", "f1"] == pytest.approx(2 / 3)
    assert found.scores["type"]["accuracy"] == 0.5


def test_cells_on_disk_give_the_same_scores(adata, cells, split, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    stored = CellCollection.from_anndata(tmp_path / "cells.h5ad", labels_key=["cell_type", "age"])
    assert stored.on_disk
    one, two = (evaluate_panel(c, GENES, split, n_random=2) for c in (cells, stored))
    assert one.scores == two.scores
    pd.testing.assert_frame_equal(one.random["age"], two.random["age"])


def test_reading_in_blocks_changes_nothing(cells, split, monkeypatch):
    whole = evaluate_panel(cells, GENES, split)
    monkeypatch.setattr("kernomics.data.row_numbers.CELLS_AT_A_TIME", 7)
    assert evaluate_panel(cells, GENES, split).scores == whole.scores


def test_random_panels_are_the_mean_and_sd_of_single_ones(cells, split):
    found = evaluate_panel(cells, GENES, split, n_random=3, seed=5)
    pool = cells.genes[cells.summary(split.train).n_expressing > 0]
    single = pd.DataFrame(
        evaluate_panel(cells, pool[baselines.random_panel(len(pool), 4, 5 + i)], split).scores[
            "cell_type"
        ]
        for i in range(3)
    )
    table = found.random["cell_type"]
    assert table.index.tolist() == ["accuracy", "macro_f1", "auprc"]
    np.testing.assert_allclose(table["mean"], single.mean())
    np.testing.assert_allclose(table["sd"], single.std())
    assert found.random["age"].index.tolist() == ["r2", "mae", "pearson"]
    assert evaluate_panel(cells, GENES, split, n_random=1).random["age"]["sd"].isna().all()


def test_genes_with_markers_beat_random_genes(cells, split, adata):
    markers = adata.var_names[adata.var["marker_of"].notna()][[0, 5, 10]].tolist()
    found = evaluate_panel(cells, markers, split, n_random=3)
    assert found.scores["cell_type"]["auprc"] > found.random["cell_type"].loc["auprc", "mean"]


# -- what is refused -------------------------------------------------------------------------------


def test_missing_genes_are_an_error_that_names_each_with_the_closest(cells, split):
    wrong = ["gene_0", "gene_111", "GENE_7"]
    with pytest.raises(DataError) as caught:
        evaluate_panel(cells, wrong, split)
    text = str(caught.value)
    assert text.startswith("2 of 3 genes are not in the data: 'gene_111' (closest: 'gene_11', ")
    assert "'GENE_7' (closest: 'gene_7'); correct the names, or continue" in text
    assert "allow_missing=True" in text


def test_closest_names_ignore_case_and_prefer_a_shared_beginning():
    known = np.array(["CHD3", "CDV3", "CD3D", "Cd3e", "CDK3", "CD3G"], dtype=object)
    said = describe_missing(["CD3X", "cd3d", "qqqq"], known)
    assert said == (
        "'CD3X' (closest: 'CD3G', 'Cd3e', 'CD3D'), 'cd3d' (closest: 'CD3D'), 'qqqq' (nothing "
        "similar)"
    )


def test_missing_genes_are_left_out_when_allowed(cells, split):
    found = evaluate_panel(cells, ["gene_0", "nope", "gene_5"], split, allow_missing=True)
    assert (found.genes, found.missing) == (["gene_0", "gene_5"], ["nope"])
    assert found.scores == evaluate_panel(cells, ["gene_0", "gene_5"], split).scores


def test_panel_without_any_gene_of_the_data_is_refused_even_then(cells, split):
    with pytest.raises(DataError, match=r"2 of 2 genes are not in .*; correct the names$"):
        evaluate_panel(cells, ["a", "b"], split, allow_missing=True)


def test_ensembl_ids_for_symbols_are_told_and_a_long_list_is_cut(cells, split):
    ids = [f"ENSG0000000000{i}" for i in range(8)]
    expected = r"'ENSG00000000004' and 3 more; the list has Ensembl ids .* name it with gene_names"
    with pytest.raises(DataError, match=expected):
        evaluate_panel(cells, ids, split)


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        (["gene_1", "gene_2", "gene_1"], "1 of 3 genes in the list repeat .* first 'gene_1'"),
        ([], "the list of genes is empty"),
    ],
)
def test_list_that_is_no_panel_is_refused(cells, split, genes, message):
    with pytest.raises(DataError, match=message):
        evaluate_panel(cells, genes, split)


@FEW
def test_what_cannot_be_scored_is_said(adata, cells, split):
    unread = CellCollection.from_anndata(adata)
    with pytest.raises(ConfigError, match="have no label to predict; read them with labels_key"):
        evaluate_panel(unread, GENES, split)
    none = Split(split.train, split.validation, split.test[:0], "random", None, 0)
    with pytest.raises(ConfigError, match="the split has no test cells"):
        evaluate_panel(cells, GENES, none)
    with pytest.raises(ConfigError, match="n_random is -1"):
        evaluate_panel(cells, GENES, split, n_random=-1)
    with pytest.raises(DataError, match=r"label 'type': .* and 0 of 2 test cells are labelled"):
        evaluate_panel(*_order(tiny(["x", "x", "x", "y", "y", "y", None, None]), ["A"]))


@FEW
def test_random_panels_larger_than_the_genes_there_are_refused():
    counts = [[1, 0]] * 6 + [[1, 1]] * 2
    cells, split = tiny(["x", "x", "x", "y", "y", "y", "x", "y"], counts)
    with pytest.raises(ConfigError, match="2 genes cannot be drawn from the 1 genes"):
        evaluate_panel(cells, ["A", "B"], split, n_random=1)


def test_known_markers_of_blood_cells_tell_their_types_apart(data_dir):
    cells = CellCollection.from_anndata(data_dir / "pbmc3k.h5ad", labels_key="cell_type")
    split = make_split(cells.n_cells, how="stratified", labels=cells.labels["cell_type"])
    markers = ["CD3D", "IL7R", "CD8A", "NKG7", "GNLY", "MS4A1", "CD79A", "LYZ", "FCGR3A", "PPBP"]
    found = evaluate_panel(cells, markers, split, n_random=2)
    better = pd.Series(found.scores["cell_type"]) - found.random["cell_type"]["mean"]
    assert (better > 0.3).all()
    f1 = found.per_class["cell_type"]["f1"]
    assert f1[["B", "CD14+ Mono", "NK", "Platelet"]].min() > 0.8  # their markers are in the panel
