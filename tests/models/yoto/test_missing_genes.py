"""A panel on data that lack some of its genes."""

import numpy as np
import pandas as pd
import pytest
import torch

from kernomics.data import CellCollection
from kernomics.errors import ConfigError, DataError
from kernomics.models import Panel
from kernomics.models.yoto import missing_genes
from kernomics.models.yoto.missing_genes import costs_without

FILLED = r"missing from the data and filled"


def without(adata, genes):
    return adata[:, ~adata.var_names.isin(genes)].copy()


def log1p_of(adata, genes):
    return np.log1p(adata[:, genes].X.toarray().astype(np.float64))


def held_out(model, adata):
    return adata[model.split.test].copy()


def test_panel_holds_the_mean_input_over_the_training_cells_alone(two_tasks, simulated):
    train = simulated[two_tasks.split.train]
    expected = log1p_of(train, two_tasks.genes).mean(axis=0)
    np.testing.assert_allclose(two_tasks.panel.input_means, expected, rtol=1e-5)
    assert not np.allclose(expected, log1p_of(simulated, two_tasks.genes).mean(axis=0), rtol=1e-4)


def test_mean_is_that_of_the_transformed_counts(adata, train_quickly):
    model = train_quickly(adata, transform="binary", fix_panel_at=0.0)
    seen = adata[model.split.train, model.genes].X.toarray() > 0
    np.testing.assert_allclose(model.panel.input_means, seen.mean(axis=0), rtol=1e-6)


def test_missing_genes_are_filled_with_that_mean(two_tasks, simulated):
    gone = [two_tasks.genes[0], two_tasks.genes[7]]
    x = log1p_of(simulated, two_tasks.genes)
    x[:, [0, 7]] = two_tasks.panel.input_means.numpy()[[0, 7]]
    with torch.inference_mode():
        types, age = two_tasks.panel.network.outputs(torch.from_numpy(x).float())
    with pytest.warns(UserWarning, match=FILLED):
        found = two_tasks.predict(without(simulated, gone), allow_missing=True)
    task = two_tasks.tasks[1]
    # float32 throughout, through four layers
    np.testing.assert_allclose(found["age"], age[:, 0] * task.sd + task.mean, rtol=1e-4)
    assert (found["cell_type"].cat.codes == types.argmax(1).numpy()).all()
    assert not np.allclose(found["age"], two_tasks.predict(simulated)["age"], rtol=1e-3)


def test_nothing_changes_where_no_gene_is_missing(two_tasks, simulated):
    found = two_tasks.predict(simulated, allow_missing=True)  # and nothing is warned of
    pd.testing.assert_frame_equal(found, two_tasks.predict(simulated))


def test_saved_panel_fills_and_warns_the_same(two_tasks, simulated, tmp_path):
    lacking = without(simulated, two_tasks.genes[2:4])
    two_tasks.save(tmp_path / "model")
    panel = Panel.load(tmp_path / "model")
    with pytest.warns(UserWarning, match=FILLED) as first:
        expected = two_tasks.predict(lacking, allow_missing=True)
    with pytest.warns(UserWarning, match=FILLED) as second:
        pd.testing.assert_frame_equal(panel.predict(lacking, allow_missing=True), expected)
    assert str(first[0].message) == str(second[0].message)


def test_warning_says_what_a_gene_cost_on_the_held_out_cells(two_tasks, simulated):
    # The gene whose loss costs most.
    without_each = two_tasks.panel.info["without"]["tasks"]["cell_type"]["without"]
    gene = min(without_each, key=without_each.get)
    cost = two_tasks.cost_of_missing(gene)["cell_type"]
    before, after = (cost[case]["macro_f1"] for case in ("with", "without"))
    assert before == pytest.approx(two_tasks.test_metrics()["cell_type"]["macro_f1"])
    assert after < before
    with pytest.warns(UserWarning, match=FILLED) as caught:
        two_tasks.evaluate(without(simulated, [gene]), allow_missing=True)
    text = str(caught[0].message)
    n = len(two_tasks.split.test)
    assert f"1 of the panel's 12 genes is {FILLED} with its mean" in text
    assert f"On {n} held-out cells of the training" in text
    assert f"macro-F1 of cell_type falls from {before:.3f} to {after:.3f} without {gene}" in text
    assert "R² of age" in text
    assert "each gene alone" not in text


def test_costs_kept_are_those_of_filling_each_gene_in_turn(two_tasks):
    kept = two_tasks.panel.info["without"]
    assert kept["cells"] == len(two_tasks.split.test)
    for gene in two_tasks.genes:
        exact = two_tasks.cost_of_missing([gene])
        for task, metric in (("cell_type", "macro_f1"), ("age", "r2")):
            of_task = kept["tasks"][task]
            assert of_task["metric"] == metric
            # kept to six digits; r2 from float32 outputs
            assert of_task["with"] == pytest.approx(exact[task]["with"][metric], abs=1e-5)
            assert of_task["without"][gene] == pytest.approx(
                exact[task]["without"][metric], abs=1e-5
            )


def test_cost_of_several_is_the_score_of_cells_that_lack_them_all(two_tasks, simulated):
    gone = two_tasks.genes[:3]
    cost = two_tasks.cost_of_missing(gone)
    with pytest.warns(UserWarning, match="That is for each gene alone; together it may be more"):
        found = two_tasks.evaluate(
            without(held_out(two_tasks, simulated), gone), allow_missing=True
        )
    for task in ("cell_type", "age"):
        assert cost[task]["with"] == two_tasks.test_metrics()[task]
        assert cost[task]["without"] == pytest.approx(found[task])


def test_costs_of_many_held_out_cells_are_those_of_some(two_tasks, monkeypatch):
    monkeypatch.setattr(missing_genes, "COSTED_CELLS", 20)
    rows = two_tasks.split.test
    panel = two_tasks.panel
    found = costs_without(panel.network, panel.genes, panel.input_means, two_tasks.cells, rows)
    assert found["cells"] == 20
    assert found["tasks"]["cell_type"]["with"] is not None


def test_genes_outside_the_panel_have_no_cost(two_tasks):
    with pytest.raises(DataError, match="1 of 2 genes are not in the panel, first 'gene_x'"):
        two_tasks.cost_of_missing([two_tasks.genes[0], "gene_x"])
    with pytest.raises(ConfigError, match="no gene is named"):
        two_tasks.cost_of_missing([])


def test_training_without_held_out_cells_says_that_the_cost_is_not_known(adata, train_quickly):
    model = train_quickly(adata, fractions=(0.8, 0.2, 0.0))
    assert model.panel.info["without"] == {}
    with pytest.warns(UserWarning, match="held-out cells of the training data is not known"):
        model.predict(without(adata, model.genes[:1]), allow_missing=True)


def test_data_with_no_gene_of_the_panel_are_refused_all_the_same(two_tasks, simulated):
    with pytest.raises(DataError, match=r"12 of the panel's 12 .* nothing to predict from"):
        two_tasks.predict(without(simulated, two_tasks.genes), allow_missing=True)


def test_panel_that_holds_no_means_fills_nothing(two_tasks, simulated):
    whole = two_tasks.panel
    panel = Panel(whole.network, whole.genes, whole.ranking.index, whole.ranking["score"], {})
    pd.testing.assert_frame_equal(panel.predict(simulated), whole.predict(simulated))
    with pytest.raises(DataError, match="does not hold their means"):
        panel.predict(without(simulated, whole.genes[:1]), allow_missing=True)


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_allowing_is_a_yes_or_no(two_tasks, simulated, value):
    with pytest.raises(ConfigError, match=r"allow_missing is .*: it must be true or false"):
        two_tasks.predict(simulated, allow_missing=value)


def test_outputs_of_a_collection_fill_too(two_tasks, simulated):
    cells = CellCollection.from_anndata(without(simulated, two_tasks.genes[:1]))
    with pytest.raises(DataError, match="1 of the panel's 12 genes is missing"):
        two_tasks.panel.outputs(cells, [3, 4])
    with pytest.warns(UserWarning, match=FILLED):
        found = two_tasks.panel.outputs(cells, [3, 4], allow_missing=True)
    assert found["cell_type"].shape == (2, 4)
