"""Models whose labels are divided badly, or of kinds that had to be inferred."""

import warnings

import numpy as np
import pandas as pd
import pytest

from kernomics import datasets
from kernomics.data import CellCollection, Split
from kernomics.errors import DataError
from kernomics.evaluation.panels import evaluate_panel
from kernomics.models import YOTO, Panel, TxFM
from kernomics.models.yoto.diagnostics import TrainingWarning


@pytest.fixture
def adata():
    adata = datasets.simulate(240, 40, 3, 4, seed=2)
    adata.obs["donor"] = pd.Categorical((np.arange(240) % 6).astype(str))
    return adata


def quickly(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)  # of so short a training
        return model.train(max_epochs=2, progress=False)


def with_rare(adata):
    kind = adata.obs["cell_type"].astype(str).to_numpy()
    rare = np.flatnonzero(adata.obs["donor"] == "5")[:15]
    kind[rare] = "rare"
    adata.obs["cell_type"] = kind
    return rare


def test_a_class_that_no_training_cell_has_is_unknown_to_the_panel(adata, tmp_path):
    rare = with_rare(adata)
    donor = adata.obs["donor"].astype(int).to_numpy()
    rows = [np.flatnonzero(part) for part in (donor < 4, donor == 4, donor == 5)]
    split = Split(*rows, "group", "donor", 0)
    said = r"'cell_type': 1 of 4 classes has no training cells .* 'rare' \(15 test cells\)"
    with pytest.warns(UserWarning, match=said):
        model = YOTO(adata, "cell_type", 6, split=split, hidden=(16,))
    quickly(model)
    assert model.tasks[0].classes == ("type_0", "type_1", "type_2")
    assert any("no training cell" in told for told in model.warnings)
    assert model.test_metrics()["cell_type"]["n_cells"] == len(rows[2]) - len(rare)
    model.save(tmp_path / "model")
    panel = Panel.load(tmp_path / "model")
    assert "rare" not in set(panel.predict(adata)["cell_type"].cat.categories)
    with pytest.warns(UserWarning, match="15 of 240 .* are of 1 class unknown to the panel"):
        assert panel.evaluate(adata)["cell_type"]["n_cells"] == 225
    alike = adata[adata.obs["cell_type"] == "type_1"]
    with pytest.warns(UserWarning, match="all cells to score are of one class, 'type_1'"):
        assert panel.evaluate(alike)["cell_type"]["n_cells"] == alike.n_obs
    with pytest.warns(UserWarning, match=said):
        judged = evaluate_panel(model_cells(adata), model.genes, split)
    table = judged.per_class["cell_type"]
    assert np.isnan(table.loc["rare", "f1"])
    assert table.loc["rare"].tolist()[1:] == [0, 15]
    assert table.drop(index="rare")["f1"].notna().all()


def model_cells(adata):
    return CellCollection.from_anndata(adata, labels_key="cell_type")


def test_a_group_split_keeps_every_class_in_training_and_says_so(adata):
    rare = with_rare(adata)
    options = {"split": "group", "split_key": "donor", "hidden": (16,)}
    noted = 0
    for seed in range(8):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = YOTO(adata, "cell_type", 6, seed=seed, **options)
        assert set(rare) <= set(model.split.train)
        if model.split.note:
            noted += 1
            assert model.split.note in model.warnings
            assert model.split.note in [str(one.message) for one in caught]
    assert noted


def test_a_label_that_follows_the_split_key_is_refused(adata):
    options = {"split": "group", "split_key": "donor"}
    with pytest.raises(DataError, match="label 'donor' is also the split key"):
        YOTO(adata, ["cell_type", "donor"], 6, **options)
    adata.obs["patient"] = ("p" + adata.obs["donor"].astype(str)).to_numpy()
    with (
        pytest.warns(UserWarning, match="every split by 'donor' leaves some class"),
        pytest.raises(DataError, match=r"none of its .* the split by 'donor' puts each class"),
    ):
        YOTO(adata, ["cell_type", "patient"], 6, **options)


def test_cluster_numbers_with_missing_ones_are_classes_and_the_panel_keeps_that(adata, tmp_path):
    adata.obs["cluster"] = adata.obs["cell_type"].cat.codes.astype(float)
    adata.obs.loc[adata.obs_names[:20], "cluster"] = np.nan
    with pytest.warns(UserWarning, match="'cluster' holds integers of 3 distinct values"):
        model = quickly(YOTO(adata, "cluster", 6, hidden=(16,)))
    assert model.tasks[0].classes == ("0", "1", "2")
    model.save(tmp_path / "model")
    panel = Panel.load(tmp_path / "model")
    said = panel.info["labels"]["cluster"]
    assert said["kind"] == "categorical"
    assert said["description"].startswith("3 classes (numbers treated as classes; label_kinds=")
    # Integers, floats and words are the same classes to the panel, without asking again.
    scores = panel.evaluate(adata)
    adata.obs["cluster"] = adata.obs["cluster"].astype("Int64")
    assert panel.evaluate(adata) == scores
    adata.obs["cluster"] = adata.obs["cluster"].astype("string")
    assert panel.evaluate(adata) == scores
    assert scores["cluster"]["n_cells"] == 220
    numbers = YOTO(adata[20:], "cluster", 6, label_kinds={"cluster": "continuous"})
    assert numbers.tasks[0].kind == "continuous"


# -- library sizes ---------------------------------------------------------------------------------


def test_a_panel_keeps_the_rule_of_its_library_sizes(adata, tmp_path):
    adata.obs["mine"] = np.asarray(adata.X.sum(axis=1)).ravel() * 2
    options = {"transform": "lognorm", "hidden": (16,), "library_key": "mine"}
    model = quickly(YOTO(adata, "cell_type", 6, **options))
    model.save(tmp_path / "model")
    panel = Panel.load(tmp_path / "model")
    assert panel.info["library"]["source"] == "obs['mine'], as named"
    expected = panel.predict(adata, library_key="mine")
    pd.testing.assert_frame_equal(panel.predict(adata), expected)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    pd.testing.assert_frame_equal(panel.predict(tmp_path / "cells.h5ad"), expected)
    without = adata.copy()
    del without.obs["mine"]
    with pytest.raises(
        DataError, match=r"in obs\['mine'\], and obs has no such .*library_key=None"
    ):
        panel.predict(without)
    with pytest.warns(UserWarning, match=r"totals over more than 40 \(obs\['mine'\], as named\)"):
        panel.predict(without, library_key=None)


def test_txfm_of_a_subset_uses_the_totals_in_the_data(adata):
    model = TxFM(adata, genes=adata.var_names[:20].tolist(), n_tokens=5, seed=1)
    model.train(max_epochs=1, progress=False)
    assert model.trained.info["library"]["source"] == "row totals over 40 genes"
    whole = model.get_latent_representation(adata)
    cut = adata.copy()
    cut.raw = cut
    cut = cut[:, :20].copy()
    np.testing.assert_array_equal(model.get_latent_representation(cut), whole)
    del cut.raw
    cut.obs["total_counts"] = np.asarray(adata.X.sum(axis=1)).ravel()
    np.testing.assert_array_equal(model.get_latent_representation(cut), whole)
    del cut.obs["total_counts"]
    cut.var["highly_variable"] = True
    with pytest.warns(
        UserWarning, match="totals over these 20 genes, a subset of the measured genes"
    ):
        other = model.get_latent_representation(cut)
    assert not np.allclose(other, whole, atol=1e-3)
    with pytest.warns(UserWarning, match="totals over these 20 genes, a subset"):
        TxFM(cut, n_tokens=5)
