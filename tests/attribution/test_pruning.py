"""Gene pruning: what is left predicts, over both classes, with the empty cell told."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from phenotyped_cells import conditions

from kernomics.attribution import attribute, prune, rankings_of, retrain
from kernomics.errors import ConfigError, DataError
from kernomics.metrics import class_scores
from kernomics.models import YOTO, PolyGene

ASKED = {"target": "treatment", "case": "drug", "baseline": "control"}


@pytest.fixture(scope="module")
def model():
    trained = PolyGene(conditions(), "treatment", d_model=32, n_layers=1, n_heads=2)
    return trained.train(max_epochs=20, batch_size=16, learning_rate=5e-3, progress=False)


def scores_of(model):
    """The five raised genes first, then the others in their order."""
    order = [*model.cells.genes[:5], *model.cells.genes[5:]]
    return pd.Series(np.arange(len(order), 0, -1.0), index=order)


def test_the_genes_that_differ_keep_the_accuracy_and_removing_them_first_loses_it(model):
    found = prune(model.cells, model, {"known": scores_of(model)}, **ASKED, shares=(0.0, 0.5, 0.9))
    whole = found.at(0.0)["known"]
    assert whole == model.test_metrics()["treatment"]["balanced_accuracy"]
    assert found.at(0.9)["known"] >= 0.9 * whole
    assert found.at(0.5, "highest first")["known"] < found.at(0.5)["known"]
    assert found.n_cells["drug"] + found.n_cells["control"] == len(model.split.test)
    with pytest.raises(ConfigError, match=r"no share 0\.7 removed lowest first; there are 0, 0\.5"):
        found.at(0.7)
    areas = found.areas.set_index("order")["area"]
    assert areas["lowest first"] > areas["highest first"]
    assert found.table["n_genes"].tolist()[:3] == [60, 30, 6]


@pytest.mark.filterwarnings("ignore:the model's genes have")
def test_a_pruned_cell_is_a_cell_without_the_counts_of_the_other_genes(model):
    kept = model.genes[:6]
    found = prune(model.cells, model, {"known": scores_of(model)}, **ASKED, shares=(0.9,))
    adata = conditions()
    counts = np.asarray(adata.X)
    counts[:, ~np.isin(adata.var_names, kept)] = 0
    adata.obs["total_counts"] = np.asarray(conditions().X).sum(1)
    adata.X = counts
    rows = model.split.test
    called = model.trained.probabilities(
        adata, "treatment", rows=rows, library_key="total_counts", empty_cells="keep"
    )["treatment"].argmax(1)
    expected = class_scores(model.cells.labels["treatment"].values[rows], called)
    row = found.table[found.table["order"] == "lowest first"].iloc[0]
    for name, value in expected.items():
        assert row[name] == pytest.approx(value)
    without = int((counts[rows].sum(1) == 0).sum())
    assert row["cells_without_genes"] == without


def test_the_empty_cell_is_called_what_the_model_calls_it(model):
    found = prune(model.cells, model, {"known": scores_of(model)}, **ASKED, shares=(0.0,))
    adata = conditions(20)
    adata.X = np.zeros((20, 60), np.float32)
    empty = model.predict(adata, empty_cells="keep").iloc[0]
    assert found.empty[0] == empty["treatment"]
    assert found.empty[1] == pytest.approx(empty["treatment_probability"], rel=1e-5)


def test_half_the_cells_are_of_the_case_where_there_are_as_many(model):
    rows = np.arange(240)
    found = prune(model.cells, model, {"r": scores_of(model)}, **ASKED, shares=(0.0,), rows=rows,
                  n_cells=40)  # fmt: skip
    assert found.n_cells == {"drug": 20, "control": 20}
    label = model.cells.labels["treatment"]
    few = np.concatenate([
        np.flatnonzero(label.values == label.categories.index("drug"))[:4],
        np.flatnonzero(label.values == label.categories.index("control")),
    ])  # fmt: skip
    found = prune(model.cells, model, {"r": scores_of(model)}, **ASKED, shares=(0.0,), rows=few,
                  n_cells=40)  # fmt: skip
    assert found.n_cells == {"drug": 4, "control": 36}


def test_rankings_of_an_attribution_have_signed_and_absolute_scores(model):
    found = attribute(model.cells, model, **ASKED, n_pairs=30)
    rankings = rankings_of(found, pd.DataFrame({"DE": np.arange(60.0)}, index=model.genes))
    assert {"absolute", "forward", "|forward|", "importance", "DE"} <= set(rankings)
    assert (rankings["|effect|"] >= 0).all()
    curve = prune(model.cells, model, rankings, **ASKED, shares=(0.0, 0.9), reversed_too=False)
    assert set(curve.table["ranking"]) == set(rankings)
    assert curve.to_dict()["empty_cell"]["called"] in ("drug", "control")
    complete = rankings_of(attribute(model.cells, model, **ASKED, n_pairs=5, engine="deeplift"))
    assert "importance" not in complete  # 0 for all genes
    assert "absolute" in complete


def test_a_ranking_that_says_nothing_is_told(model):
    with pytest.warns(UserWarning, match="ranking 'flat' scores all 60 genes alike"):
        prune(model.cells, model, {"flat": np.zeros(60)}, **ASKED, shares=(0.5,))


def test_retraining_on_the_genes_that_differ_beats_the_others(model):
    worst = -scores_of(model)
    found = retrain(model, {"known": scores_of(model), "others": worst}, target="treatment",
                    n_genes=(8,), max_epochs=12)  # fmt: skip
    table = found.set_index("ranking")["balanced_accuracy"]
    assert table["known"] > table["others"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"shares": (1.0,)}, "shares from 0 to below 1"),
        ({"n_cells": 1}, "n_cells is 1"),
        ({"case": "poison"}, "'poison' is not a value of 'treatment'"),
        ({"rankings": {}}, "rankings is empty"),
        ({"rankings": {"r": ["a"] * 60}}, "does not contain numbers"),
        ({"rankings": {"r": pd.Series([1.0, 2.0], index=["x", "x"])}}, "1 genes twice, first 'x'"),
        ({"rankings": {"r": np.zeros(3)}}, r"ranking 'r' has shape \(3,\)"),
        ({"rankings": {"r": np.full(60, np.nan)}}, "ranking 'r' is NaN for 60 genes"),
        ({"rankings": {"r": pd.Series([1.0], index=["x"])}}, "has no score for 60 of the model's"),
    ],
)
def test_what_cannot_be_pruned_is_told(model, asked, message):
    given = {"rankings": {"r": np.arange(60.0)}, **ASKED, **asked}
    with pytest.raises((ConfigError, DataError), match=message):
        prune(model.cells, model, **given)


def test_a_phenotype_to_retrain_for_is_checked_before_the_training(model):
    with pytest.raises(ConfigError, match="the model has no phenotype 'nope'"):
        retrain(model, {"r": np.arange(60.0)}, target="nope")


def test_a_panel_is_not_pruned():
    panel = YOTO(conditions(), "treatment", 6).train(max_epochs=10, progress=False)
    with pytest.raises(ConfigError, match="which has been pruned already"):
        prune(panel.cells, panel.panel, {"r": np.arange(6.0)}, **ASKED)
