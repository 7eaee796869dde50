"""What a training in stages kept: classes by stage, and gene by gene."""

import numpy as np
import pytest
from staged_example import cells, collection, model, trained

pytest.importorskip("sklearn")

from kernomics.data.expression import log_expression
from kernomics.errors import ConfigError, DataError
from kernomics.evaluation import forgetting
from kernomics.evaluation.forgetting import gene_forgetting, stage_probes, what_predicts
from kernomics.metrics import tuned_probes


@pytest.fixture(scope="module")
def gil():
    return trained("naive")


def test_classes_are_told_from_the_features_after_each_stage(gil):
    found = stage_probes(gil, "cell_type", n_trials=2)
    assert found["after"].tolist() == ["base", "base", "one", "one", "two", "two"]
    features = gil.after("one").get_latent_representation(collection(), n_tokens=20)
    codes = collection().labels["cell_type"].values
    expected = tuned_probes(features, codes, seed=1)
    assert found.iloc[3][list(expected)].to_dict() == pytest.approx(expected)
    assert (found["n_cells"] == 120).all()
    fewer = stage_probes(gil, "cell_type", n_trials=1, unlabelled_category="type_0")
    assert (fewer["n_cells"] == (collection().obs["cell_type"] != "type_0").sum()).all()


def test_a_column_that_is_not_there_is_named(gil):
    with pytest.raises(DataError, match="cell_typ"):
        stage_probes(gil, "cell_typ")
    with pytest.raises(ConfigError, match="not trained yet"):
        stage_probes(model(), "cell_type")


def test_genes_are_described_in_their_own_stage(gil):
    table = gene_forgetting(gil)
    scores = gil.scores
    group = gil.stages.group_of_gene()
    for gene, row in table.iterrows():
        i = gil.stages.vocabulary.index(gene)
        assert row["stage"] == gil.stages.names[group[i]]
        n = scores["two"].counts[i]
        assert row["n"] == n > 0
        assert row["last"] == pytest.approx(scores["two"].tokens[i] / n)
        assert row["delta"] == pytest.approx(row["last"] - row["learned"])
        assert row["learned"] == pytest.approx(scores[row["stage"]].tokens[i] / n)
    assert (table.loc[table["stage"] == "two", "delta"] == 0).all()
    x = log_expression(gil.staged.cells.batch(gil.staged.rows(1))).toarray()
    i = gil.stages.vocabulary.index("gene_0")
    row = table.loc["gene_0"]
    assert row["detection"] == pytest.approx((x[:, i] > 0).mean())
    assert row["expression"] == pytest.approx(x[:, i].mean(), rel=1e-5)
    with np.errstate(invalid="ignore", divide="ignore"):
        with_base = np.nanmax([np.corrcoef(x[:, i], x[:, j])[0, 1] for j in range(28)])
    assert row["with_base"] == pytest.approx(with_base, rel=1e-5)
    assert table.loc[table["stage"] == "base", "with_base"].isna().all()


def test_rank_correlations_of_forgetting(gil):
    table = gene_forgetting(gil)
    mine = table["stage"] == "one"
    table.loc[mine, "delta"] = table.loc[mine, "expression"] ** 3
    table.loc[mine, "with_base"] = -table.loc[mine, "expression"]
    found = what_predicts(table, "one")
    assert found["expression"] == pytest.approx(1)
    assert found["with_base"] == pytest.approx(-1)
    table.loc[mine, "delta"] = 0.0
    assert np.isnan(what_predicts(table, "one")["expression"])
    with pytest.raises(ConfigError, match="no genes of stage 'three'"):
        what_predicts(table, "three")


def test_genes_are_described_by_cells_of_the_whole_stage(gil, monkeypatch):
    monkeypatch.setattr(forgetting, "MOST_CELLS", 4)
    table = gene_forgetting(gil)
    rows = gil.staged.rows(0)[[0, 14, 27, 41]]
    x = log_expression(gil.staged.cells.batch(rows)).toarray()
    for gene in table.index[table["stage"] == "base"]:
        i = gil.stages.vocabulary.index(gene)
        assert table.loc[gene, "detection"] == pytest.approx((x[:, i] > 0).mean())


def test_classes_that_cannot_be_divided_are_named(gil):
    adata = cells()
    adata.obs["half"] = ["a", "b"] * 60
    adata.obs["some"] = [None, "a", "b", "c"] * 30
    adata.obs["same"] = "x"
    for groups, message in (
        ("half", "classes of 'cell_type', grouped by 'half': the labelled cells are of 2 groups"),
        ("some", "grouped by 'some': 30 of 120 labelled cells have no group, first in row 0"),
        ("nothing", "obs has no column 'nothing'"),
    ):
        with pytest.raises(DataError, match=message):
            stage_probes(gil, "cell_type", adata, groups_key=groups)
    with pytest.raises(DataError, match="classes of 'same': 1 classes have 3 cells or more"):
        stage_probes(gil, "same", adata)
    with pytest.raises(DataError, match="unlabelled_category 'type_9' occurs in none"):
        stage_probes(gil, "cell_type", adata, unlabelled_category="type_9")


def test_other_cells_are_read_as_asked_for(gil, tmp_path):
    adata = cells()
    expected = stage_probes(gil, "cell_type", adata, n_trials=1)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    assert stage_probes(gil, "cell_type", tmp_path / "cells.h5ad", n_trials=1).equals(expected)
    adata.layers["counts"], adata.X = adata.X.copy(), np.log1p(adata.X)
    assert stage_probes(gil, "cell_type", adata, n_trials=1, layer="counts").equals(expected)
    with pytest.raises(ConfigError, match="layer was given with a CellCollection"):
        stage_probes(gil, "cell_type", layer="counts")
