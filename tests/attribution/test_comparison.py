"""What attributions are compared with: DE, plain statistics, gene sets, other attributions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from phenotyped_cells import collection, conditions
from scipy.stats import ranksums

from kernomics.attribution import (
    gene_statistics,
    overlap,
    read_gene_sets,
    recall_of_sets,
    recurring,
    top_genes,
)
from kernomics.attribution.attribution import Attribution
from kernomics.data import CellCollection, concat
from kernomics.errors import ConfigError, DataError


def statistics(**options):
    cells = collection()
    return cells, gene_statistics(
        cells, cells.genes, cells.labels["treatment"], "drug", "control", np.arange(200), **options
    )


def expression(cells, rows):
    batch = cells.batch(rows)
    return np.log1p(batch.dense().numpy() * 1e4 / batch.library.numpy()[:, None])


def test_statistics_are_those_of_their_definitions():
    cells, found = statistics()
    x, codes = expression(cells, np.arange(200)), cells.labels["treatment"].values[:200]
    expected = [ranksums(x[codes == 1, g], x[codes == 0, g]).statistic for g in range(60)]
    np.testing.assert_allclose(found["DE"], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found["|DE|"], np.abs(found["DE"]))
    np.testing.assert_allclose(found["mean"], x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["HVG"], x.var(0), rtol=1e-4)
    np.testing.assert_allclose(found["dropout"], (x == 0).mean(0))
    assert "DE within strata" not in found


def test_the_test_within_strata_sees_no_difference_between_strata():
    cells = collection()
    types = cells.labels["cell_type"]
    _, found = statistics(controlled=[types])
    x, codes = expression(cells, np.arange(200)), cells.labels["treatment"].values[:200]
    total, size = np.zeros(60), 0
    for code in range(3):
        own = types.values[:200] == code
        z = [ranksums(x[own & (codes == 1), g], x[own & (codes == 0), g]).statistic
             for g in range(60)]  # fmt: skip
        total += np.sqrt(own.sum()) * np.array(z)
        size += own.sum()
    np.testing.assert_allclose(
        found["DE within strata"], total / np.sqrt(size), rtol=1e-2, atol=1e-2
    )


def test_a_gene_is_scored_over_the_cells_that_measured_it():
    adata = conditions()
    parts = [adata[:120][:, :50].copy(), adata[120:].copy()]
    read = [CellCollection.from_anndata(a) for a in parts]
    cells = concat({"one": read[0], "two": read[1]}, labels_key=["treatment", "cell_type"])
    found = gene_statistics(
        cells, cells.genes, cells.labels["treatment"], "drug", "control", np.arange(240)
    )
    alone = gene_statistics(
        cells, cells.genes[50:], cells.labels["treatment"], "drug", "control", np.arange(120, 240)
    )
    for name in ("DE", "dropout", "mean"):
        np.testing.assert_allclose(found[name][50:], alone[name], rtol=1e-5, atol=1e-6)


def test_one_cell_of_a_side_has_no_differential_expression():
    cells = collection()
    codes = cells.labels["treatment"].values
    rows = np.concatenate([np.flatnonzero(codes == 1)[:1], np.flatnonzero(codes == 0)])
    with pytest.warns(UserWarning, match="60 genes were measured in 1 case and"):
        found = gene_statistics(
            cells, cells.genes, cells.labels["treatment"], "drug", "control", rows
        )
    assert (found["DE"] == 0).all()


def test_gene_sets_are_read(tmp_path):
    path = tmp_path / "sets.gmt"
    path.write_text("one\thttp://x\tA\tB\n\ntwo\t\tC\n")
    assert read_gene_sets(path) == {"one": ["A", "B"], "two": ["C"]}
    path.write_text("one\tA\n")
    with pytest.raises(DataError, match="line 1: a gene set is a name, a description and genes"):
        read_gene_sets(path)
    path.write_text("one\tx\tA\none\tx\tB\n")
    with pytest.raises(DataError, match="line 2: a second gene set is called 'one'"):
        read_gene_sets(path)
    path.write_text("")
    with pytest.raises(DataError, match="holds no gene set"):
        read_gene_sets(path)
    with pytest.raises(DataError, match="there is no file"):
        read_gene_sets(tmp_path / "nothing.gmt")


def test_recall_of_a_set_by_hand():
    scores = pd.Series([5.0, 4.0, 3.0, 2.0, 1.0], index=list("abcde"))
    found = recall_of_sets({"s": scores}, {"set": ["a", "c", "z"]}, n=2).iloc[0]
    assert found["genes"] == 2
    assert found["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["by_chance"] == pytest.approx(0.4)
    assert found["in_top_2"] == 1
    with pytest.warns(UserWarning, match="1 gene sets have no gene in the data, first 'none'"):
        table = recall_of_sets({"s": scores}, {"set": ["a"], "none": ["z"]})
    assert table["set"].tolist() == ["set"]
    with pytest.raises(DataError, match="none of the 1 gene sets has a gene in the data"):
        recall_of_sets({"s": scores}, {"none": ["z"]})
    with pytest.raises(ConfigError, match="n is 0"):
        recall_of_sets({"s": scores}, {"set": ["a"]}, n=0)


def test_tops_and_what_they_share():
    one = pd.Series([3.0, 2.0, 1.0], index=list("abc"))
    tops = top_genes({"one": one, "two": -one}, 2)
    assert tops["one"].tolist() == ["a", "b"]
    assert tops["two"].tolist() == ["c", "b"]
    assert overlap(tops).to_numpy().tolist() == [[2, 1], [1, 2]]


def test_genes_that_recur_over_targets():
    def attribution(values):
        table = pd.DataFrame({"absolute": values}, index=list("abcd"))
        return Attribution(table, {}, None, {}, np.zeros(1))

    found = recurring(
        {"x": attribution([4, 3, 2, 1]), "y": attribution([1, 4, 3, 2]),
         "z": attribution([1, 4, 2, 3])}, n=2,
    )  # fmt: skip
    assert found.index.tolist() == ["b"]
    assert found.loc["b", "recurs_in"] == 3
    assert found.loc["b", ["x", "y", "z"]].tolist() == [2, 1, 1]
