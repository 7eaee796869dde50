"""A trained panel: saved, loaded, applied to other cells."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from kernomics import datasets
from kernomics.errors import CheckpointError, ConfigError, DataError
from kernomics.models import YOTO, Panel


@pytest.fixture(scope="module")
def saved(two_tasks, tmp_path_factory):
    path = tmp_path_factory.mktemp("panel") / "model"
    two_tasks.save(path)
    return path


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


# -- saving ----------------------------------------------------------------------------------------


def test_loaded_panel_is_the_saved_one_and_predicts_the_same_bits(two_tasks, saved, simulated):
    panel = YOTO.load(saved)
    assert isinstance(panel, Panel)
    assert panel.genes == two_tasks.genes
    assert panel.tasks == tuple(two_tasks.tasks)
    pd.testing.assert_frame_equal(panel.ranking, two_tasks.ranking)
    pd.testing.assert_frame_equal(panel.predict(simulated), two_tasks.predict(simulated))
    assert panel.info == json.loads(json.dumps(two_tasks.panel.info))
    assert repr(panel) == repr(two_tasks.panel)
    assert repr(panel).startswith("Panel of 12 genes for cell_type, age: ")


def test_saving_a_loaded_panel_gives_the_same_files(saved, tmp_path):
    Panel.load(saved).save(tmp_path / "again")
    for file in saved.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_model_directory_is_readable_without_kernomics(two_tasks, saved, simulated):
    meta = json.loads((saved / "model.json").read_text())
    weights = load_file(saved / "model.safetensors")
    x = np.log1p(simulated[:, meta["genes"]].X.toarray())

    def linear(layer, x):
        weight, bias = (weights[f"network.{layer}.{part}"].numpy() for part in ("weight", "bias"))
        return x @ weight.T + bias

    def encoder(first, second):
        return np.maximum(linear(second, np.maximum(linear(first, x), 0)), 0)

    shared = encoder("first", "trunk.2")
    outputs = [
        linear(f"heads.{i}", shared + encoder(f"private.{i}.0", f"private.{i}.3")) for i in (0, 1)
    ]
    types, age = meta["tasks"]
    predicted = two_tasks.predict(simulated)
    named = np.array(types["classes"])[outputs[0].argmax(1)]
    assert (named == predicted["cell_type"].to_numpy()).all()
    years = outputs[1][:, 0] * age["sd"] + age["mean"]
    np.testing.assert_allclose(years, predicted["age"], rtol=1e-4)
    assert len(weights["scores"]) == len(meta["all_genes"]) == 120


def test_reading_a_model_draws_no_random_number(saved):
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    Panel.load(saved)
    assert torch.equal(torch.rand(2), expected)


def test_saving_over_something_else_is_refused(two_tasks, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"the first is 'thesis\.txt'"):
        two_tasks.save(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("file", ["model.safetensors", "model.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_damaged_model_is_refused_and_the_file_named(copied, file, damage):
    content = (copied / file).read_bytes()
    middle = len(content) // 2
    if damage == "missing":
        (copied / file).unlink()
    elif damage == "truncated":
        (copied / file).write_bytes(content[:middle])
    else:
        altered = bytes([content[middle] ^ 1])
        (copied / file).write_bytes(content[:middle] + altered + content[middle + 1 :])
    with pytest.raises(CheckpointError) as caught:
        Panel.load(copied)
    assert file in str(caught.value)


def test_another_kind_of_model_is_refused(tmp_path):
    from kernomics.train import save_model_dir

    save_model_dir(tmp_path / "other", {"w": torch.zeros(2)}, {"format": "kernomics txfm 1"})
    with pytest.raises(CheckpointError, match="other holds a TxFM, but this takes a gene"):
        Panel.load(tmp_path / "other")
    save_file({"w": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no readable manifest.json"):
        Panel.load(tmp_path)
    with pytest.raises(CheckpointError, match="no saved model at"):
        Panel.load(tmp_path / "nowhere")


def test_run_that_did_not_finish_has_no_model_to_load(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"has no model: it did not finish; .* --resume"):
        Panel.load(tmp_path)


# -- predicting ------------------------------------------------------------------------------------


def test_prediction_needs_the_panels_genes_alone_in_any_order(two_tasks, simulated):
    expected = two_tasks.predict(simulated)
    rng = np.random.default_rng(0)
    own = simulated[:, two_tasks.genes].copy()
    shuffled = simulated[:, rng.permutation(120)].copy()
    extra = simulated.copy()
    extra.var_names = [
        f"x{i}" if g not in two_tasks.genes else g for i, g in enumerate(extra.var_names)
    ]
    for other in (own, shuffled, extra, simulated[:, two_tasks.genes[::-1]]):
        pd.testing.assert_frame_equal(two_tasks.predict(other), expected)


def test_prediction_is_a_table_by_cell(two_tasks, simulated):
    table = two_tasks.predict(simulated)
    assert table.index.equals(simulated.obs_names)
    assert table.columns.tolist() == ["cell_type", "cell_type_probability", "age"]
    assert table["cell_type"].cat.categories.tolist() == list(two_tasks.tasks[0].classes)
    assert table["cell_type_probability"].between(0.25, 1).all()
    one = two_tasks.predict(simulated[5:6])
    pd.testing.assert_frame_equal(one, table.iloc[5:6], rtol=1e-5)


def test_cells_without_any_of_the_panels_genes_are_predicted(two_tasks, simulated):
    cells = simulated[:3, two_tasks.genes].copy()
    cells.X = np.zeros((3, 12))
    table = two_tasks.predict(cells)
    assert np.isfinite(table["age"]).all()
    # The rows of a matrix product may differ by the last bit, by their place.
    np.testing.assert_allclose(table["age"], table["age"].iloc[0], rtol=1e-6)


def test_data_that_lack_genes_of_the_panel_are_refused_by_name(two_tasks, simulated):
    lacking = simulated[:, ~simulated.var_names.isin(two_tasks.genes[3:5])]
    with pytest.raises(DataError) as caught:
        two_tasks.predict(lacking)
    message = str(caught.value)
    assert "2 of the panel's 12 genes are missing from the data" in message
    assert "allow_missing=True" in message
    assert "min_gene_overlap" not in message
    assert all(repr(gene) in message for gene in two_tasks.genes[3:5])


def test_prediction_from_file_equals_that_from_memory(two_tasks, adata, tmp_path):
    adata.layers["raw counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    expected = two_tasks.predict(adata, layer="raw counts")
    found = two_tasks.predict(tmp_path / "cells.h5ad", layer="raw counts")
    pd.testing.assert_frame_equal(found, expected)


def test_lognorm_panel_asks_for_library_sizes_when_genes_are_fewer(adata, train_quickly):
    adata.obs["total"] = np.asarray(adata.X.sum(axis=1)).ravel()
    model = train_quickly(adata, transform="lognorm")
    expected = model.predict(adata)
    own = adata[:, model.genes].copy()
    found = model.predict(own, library_key="total")
    pd.testing.assert_frame_equal(found, expected)
    with pytest.warns(UserWarning, match=r"totals over the 8 genes of these data, .* over 120"):
        other = model.predict(own)
    assert not other.equals(expected)


def test_lognorm_warns_when_totals_are_known_to_be_partial(adata):
    adata.uns["kernomics"] = {"genes_are_subset": True}
    adata.obs["total"] = np.asarray(adata.X.sum(axis=1)).ravel() * 2
    with pytest.warns(
        UserWarning, match="totals over these 120 genes, a subset of the measured genes"
    ):
        YOTO(adata, "cell_type", 8, transform="lognorm")
    YOTO(adata, "cell_type", 8, transform="lognorm", library_key="total")


# -- evaluating ------------------------------------------------------------------------------------


def test_evaluation_on_other_cells_of_the_kind_scores_well(two_tasks):
    # Cells of the same genes and types, other random numbers: simulate() makes a cell from its
    # index, so the later cells of a longer simulation are new.
    other = datasets.simulate(800, 120, 4, 8, n_batches=5, batch_spread=0.1, seed=3)[400:].copy()
    scores = two_tasks.evaluate(other)
    assert list(scores) == ["cell_type"]
    assert scores["cell_type"]["n_cells"] == 400
    assert scores["cell_type"]["accuracy"] > 0.85


def test_evaluation_equals_the_test_metrics_on_the_test_cells(two_tasks, simulated):
    held_out = simulated[two_tasks.split.test]
    for task, expected in two_tasks.test_metrics().items():
        assert two_tasks.evaluate(held_out)[task] == pytest.approx(expected)


def test_labels_of_another_name_are_found(two_tasks, adata):
    expected = two_tasks.evaluate(adata)
    adata.obs = adata.obs.rename(columns={"cell_type": "annotation"})
    found = two_tasks.evaluate(adata, labels={"cell_type": "annotation"})
    assert found == expected
    with pytest.raises(DataError, match="no column 'anotation'; closest: 'annotation'"):
        two_tasks.evaluate(adata, labels={"cell_type": "anotation"})
    with pytest.raises(ConfigError, match="no task 'celltype'; closest: 'cell_type'"):
        two_tasks.evaluate(adata, labels={"celltype": "annotation"})


def test_data_without_any_label_say_so(two_tasks, adata):
    adata.obs = adata.obs[["batch"]]
    with pytest.raises(DataError, match=r"none of the panel's labels \['cell_type', 'age'\]"):
        two_tasks.evaluate(adata)


def test_cells_of_unknown_classes_are_left_out_with_a_warning(two_tasks, adata):
    types = adata.obs["cell_type"].astype(str)
    known = (types != "type_3").to_numpy()
    adata.obs["cell_type"] = types.where(known, "new")
    with pytest.warns(UserWarning, match=rf"{(~known).sum()} of 400 .* 1 class .* first 'new'"):
        scores = two_tasks.evaluate(adata)
    assert scores["cell_type"]["n_cells"] == known.sum()
    adata.obs["cell_type"] = "new"
    with pytest.raises(
        DataError,
        match="from obs column 'cell_type', shares no class with the panel: it has 'new', ",
    ):
        two_tasks.evaluate(adata)
