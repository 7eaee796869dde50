"""PolyGene from cells to predictions, saved and resumed."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from phenotyped_cells import collection, conditions

from kernomics import tl
from kernomics.data import CellCollection
from kernomics.errors import CheckpointError, ConfigError, DataError
from kernomics.metrics import class_scores
from kernomics.models import YOTO, PhenotypeModel, PolyGene, PolyGeneConfig, TxFM, load
from kernomics.models.polygene.model import quantile_edges

QUICK = {"max_epochs": 2, "batch_size": 32, "progress": False}


def model_of(adata=None, labels_key=("treatment", "cell_type"), **options) -> PolyGene:
    adata = conditions() if adata is None else adata
    settings = {"d_model": 16, "n_layers": 1, "n_heads": 2, **options}
    return PolyGene(adata, list(labels_key), **settings)


@pytest.fixture(scope="module")
def trained() -> PolyGene:
    return model_of(d_model=32, n_layers=2).train(
        max_epochs=25, batch_size=16, learning_rate=5e-3, progress=False
    )


def test_it_learns_both_phenotypes_from_the_genes_alone(trained):
    scores = trained.test_metrics()
    assert scores["treatment"]["balanced_accuracy"] > 0.8
    assert scores["cell_type"]["balanced_accuracy"] > 0.8
    assert {"loss", "loss/genes", "loss/treatment", "loss/cell_type"} <= set(trained.history[0])
    assert trained.history.column("balanced_accuracy/treatment", "validation")[-1] > 0.8


def test_predictions_are_a_table_with_the_probability_of_each_value(trained):
    adata = conditions(50, seed=4)
    table = trained.predict(adata, "treatment")
    assert list(table.columns) == [
        "treatment", "treatment_probability", "treatment:control", "treatment:drug",
    ]  # fmt: skip
    assert table.index.tolist() == adata.obs_names.tolist()
    values = table[["treatment:control", "treatment:drug"]].to_numpy()
    np.testing.assert_allclose(values.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(
        table["treatment"], np.array(["control", "drug"])[values.argmax(1)]
    )
    some = trained.predict(adata, "treatment", rows=[7, 3], batch_size=1)
    pd.testing.assert_frame_equal(some, table.iloc[[7, 3]], rtol=1e-5)


def test_shown_phenotypes_change_the_prediction_and_the_target_is_never_shown(trained):
    adata = conditions(60, seed=5)
    alone = trained.trained.probabilities(adata)
    named = trained.trained.probabilities(adata, "cell_type", given="treatment")
    rest = trained.trained.probabilities(adata, given="rest")
    np.testing.assert_array_equal(named["cell_type"], rest["cell_type"])
    assert not np.allclose(named["cell_type"], alone["cell_type"], atol=1e-4)
    changed = adata.copy()
    changed.obs["cell_type"] = changed.obs["cell_type"].to_numpy()[::-1]
    np.testing.assert_array_equal(
        trained.trained.probabilities(changed, "cell_type", given="rest")["cell_type"],
        rest["cell_type"],
    )
    with pytest.raises(ConfigError, match="given names 'cell_type', which is to be predicted"):
        trained.predict(adata, "cell_type", given=["cell_type"])


def test_scores_are_those_of_the_predictions(trained):
    adata = conditions(60, seed=6)
    table = trained.predict(adata)
    scores = trained.evaluate(adata)
    for name in ("treatment", "cell_type"):
        classes = list(trained.trained.task(name).classes)
        truth = [classes.index(value) for value in adata.obs[name]]
        called = [classes.index(value) for value in table[name]]
        expected = class_scores(truth, called)["balanced_accuracy"]
        assert scores[name]["balanced_accuracy"] == expected


def test_no_rows_give_an_empty_table_and_a_number_is_one_row(trained):
    adata = conditions(20, seed=3)
    assert trained.predict(adata, rows=[]).shape[0] == 0
    assert trained.predict(adata, rows=3).index.tolist() == [adata.obs_names[3]]


def test_unknown_and_missing_values_count_as_missing(trained):
    adata = conditions(40, seed=7)
    adata.obs["treatment"] = ["new", None] * 5 + adata.obs["treatment"].tolist()[10:]
    with pytest.warns(UserWarning, match="5 of 40 cells have values of 'treatment'"):
        scores = trained.evaluate(adata, "treatment")
    assert scores["treatment"]["n_cells"] == 30
    adata.obs["treatment"] = "new"
    with pytest.raises(DataError, match="none of the values of 'treatment' is known"):
        trained.evaluate(adata, "treatment")


def test_representation_is_of_the_cell_alone(trained):
    adata = conditions(30, seed=8)
    whole = trained.get_latent_representation(adata)
    assert whole.shape == (30, 32)
    part = trained.get_latent_representation(adata, rows=[4, 20], batch_size=1)
    np.testing.assert_allclose(part, whole[[4, 20]], rtol=1e-4, atol=1e-5)
    assert trained.trained.get_gene_embeddings().shape == (60, 32)


def test_a_saved_model_is_the_same_model(trained, tmp_path):
    trained.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert isinstance(again, PhenotypeModel)
    assert repr(again) == repr(trained.trained)
    adata = conditions(20, seed=9)
    pd.testing.assert_frame_equal(again.predict(adata), trained.predict(adata))
    with pytest.raises(CheckpointError, match="holds a PolyGene, but this takes a TxFM"):
        TxFM.load(tmp_path / "model")


def test_a_resumed_training_equals_one_that_never_stopped(tmp_path):
    class Stop(Exception):
        pass

    options = {**QUICK, "max_epochs": 4, "checkpoint_every_epochs": 1}
    whole = model_of().train(**options)
    model = model_of()
    build = model._module

    def stopping():
        module = build()
        on_step = module.on_step

        def stop(step, total):
            if step == 13:
                raise Stop
            on_step(step, total)

        module.on_step = stop
        return module

    model._module = stopping
    with pytest.raises(Stop):
        model.train(run_dir=tmp_path / "run", **options)
    again = model_of().train(run_dir=tmp_path / "run", resume=True, **options)
    assert again.history.without_timings() == whole.history.without_timings()
    for one, other in zip(whole.module.parameters(), again.module.parameters(), strict=True):
        assert torch.equal(one, other)


def test_bins_of_quantiles_share_the_expression_out(trained):
    cells = collection()
    edges = quantile_edges(cells, np.arange(240), 5, 1e4)
    batch = cells.batch(np.arange(240))
    values = torch.log1p(
        batch.values * 1e4 / batch.library.repeat_interleave(batch.indptr.diff())
    ).numpy()
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=5)
    assert counts[0] == 0
    assert counts[1:].max() < 1.3 * counts[1:].min()
    model = model_of(bins=5).train(**QUICK)
    assert model.module.n_bins == 5
    binary = model_of(bins="binary").train(**QUICK)
    assert binary.module.n_bins == 2
    tokens = binary.module.gene_tokens(batch)
    assert (tokens.bins == 1).all()


def test_a_phenotype_whose_gaps_tell_another_is_named():
    adata = conditions()
    types = adata.obs["cell_type"].astype(str).to_numpy().astype(object)
    types[(adata.obs["treatment"] == "drug").to_numpy()] = None
    adata.obs["cell_type"] = types
    with pytest.warns(UserWarning, match=r"'cell_type' is known in 100% of .* 'control'"):
        model = model_of(adata)
    assert any("gives 'treatment' away" in note for note in model.warnings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels_key": []}, "there are no phenotypes"),
        ({"labels_key": ["age"]}, "phenotype 'age' holds numbers"),
        ({"bins": (2.0, 1.0)}, "they must ascend"),
        ({"bins": "deciles"}, "bins is 'deciles'"),
        ({"bins": 1}, "2 to 256 bins"),
        ({"phenotype_mask_rate": 0.0}, "a share above 0 is needed"),
        ({"gene_mask_rate": 1.0}, "gene_mask_rate is 1.0"),
        ({"n_heads": 3}, "the heads must divide it"),
        ({"genes": ["gene_0", "nothing"]}, "not in the data, first"),
    ],
)
def test_what_cannot_be_trained_is_told(options, message):
    adata = conditions()
    adata.obs["age"] = np.linspace(20, 80, 240)
    with pytest.raises((ConfigError, DataError), match=message):
        model_of(adata, **options)


def test_sizes_have_names():
    assert PolyGeneConfig.of_size("B").d_model == 768
    with pytest.raises(ConfigError, match="size is 'XL'"):
        PolyGene(conditions(), "treatment", "XL")
    with pytest.raises(ConfigError, match="there is no model yet"):
        model_of().predict()
    assert "untrained PolyGene" in repr(model_of())


def test_cells_read_already_are_taken_with_their_labels():
    cells = CellCollection.from_anndata(conditions(), labels_key=["treatment", "donor"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = PolyGene(cells, "treatment", d_model=16, n_heads=2)
    assert [task.name for task in model.tasks] == ["treatment"]


def test_phenotypes_in_other_columns_are_found_and_those_shown_are_not_scored(trained):
    adata = conditions(60, seed=5)
    expected = trained.evaluate(adata, given="cell_type")
    assert list(expected) == ["treatment"]
    adata.obs = adata.obs.rename(columns={"treatment": "arm", "cell_type": "kind"})
    names = {"treatment": "arm", "cell_type": "kind"}
    assert trained.evaluate(adata, labels=names, given="cell_type") == expected
    rest = trained.evaluate(adata, labels=names, given="rest")
    assert rest["treatment"] == expected["treatment"]
    with pytest.raises(DataError, match=r"name the column of a phenotype with labels=\{"):
        trained.evaluate(adata)
    with pytest.raises(ConfigError, match="no phenotype 'arm'"):
        trained.evaluate(adata, labels={"arm": "arm"})
    with pytest.raises(ConfigError, match="nothing is left to predict"):
        trained.evaluate(adata, labels=names, given=["cell_type", "treatment"])


def test_representations_go_where_scanpy_users_look_for_them(trained):
    adata = conditions(30, seed=5)
    tl.represent_cells(adata, trained, progress=False, key_added="pg")
    expected = trained.get_latent_representation(conditions(30, seed=5))
    np.testing.assert_allclose(adata.obsm["X_pg"], expected, rtol=1e-6)
    np.testing.assert_array_equal(adata.varm["pg_genes"], trained.trained.get_gene_embeddings())
    with pytest.raises(ConfigError, match="it must be CellEncoder or TxFM"):
        tl.represent_cells(adata, YOTO(adata, labels_key="treatment", n_genes=3), progress=False)
