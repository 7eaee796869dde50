"""Representations of the same cells, scored side by side."""

import random
import sys
import types
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("sklearn")

from kernomics import datasets
from kernomics.baselines.representations import baseline_representations, scvi_representation
from kernomics.data import CellCollection, Split, concat, make_split
from kernomics.data.expression import log_expression
from kernomics.errors import ConfigError, DataError
from kernomics.evaluation.representations import (
    batch_split,
    compare_representations,
    sampled,
    score_representations,
)
from kernomics.metrics import clustering_scores, ilisi, mlp_probe, probe_metrics
from kernomics.models import TxFM

SMALL = {"d_model": 16, "n_layers": 2, "n_heads": 2, "decoder_layers": 1, "n_tokens": 15}
PROBES = ["knn_accuracy", "knn_macro_f1", "linear_accuracy", "linear_macro_f1"]


@pytest.fixture(scope="module")
def cells():
    adata = datasets.simulate(200, 60, 4, 5, n_batches=4, seed=3)
    return CellCollection.from_anndata(adata, labels_key="cell_type", batch_key="batch")


@pytest.fixture(scope="module")
def split(cells):
    return make_split(cells.n_cells, how="random", fractions=(0.7, 0.0, 0.3), seed=1)


@pytest.fixture(scope="module")
def model(cells):
    return TxFM(cells, "XS", **SMALL).train(1, progress=False).trained


def test_layers_components_and_genes_are_scored_beside_the_usual_three(model, cells, split):
    usual = compare_representations(model, cells, split).table
    assert usual.loc["cell_type"].index.tolist() == ["TxFM", "PCA", "normalised counts"]
    assert usual.columns.tolist() == PROBES
    more = compare_representations(
        model, cells, split, blocks=(1, 2), n_components=(5, 20), n_variable=(30,)
    )
    assert more.table.loc["cell_type"].index.tolist() == [
        "TxFM",
        "TxFM, block 1",
        "TxFM, block 2",
        "PCA",
        "normalised counts",
        "PCA, 5 components",
        "PCA, 20 components",
        "30 variable genes",
    ]
    assert more.n_dimensions == 30
    pd.testing.assert_frame_equal(more.table.loc[usual.index], usual)
    last = more.table.loc[("cell_type", "TxFM, block 2")]
    assert last.tolist() == usual.loc[("cell_type", "TxFM")].tolist()
    first = model.get_latent_representation(cells, block=1)
    label = cells.labels["cell_type"].values
    alone = probe_metrics(
        first[split.train], label[split.train], first[split.test], label[split.test]
    )
    found = more.table.loc[("cell_type", "TxFM, block 1")].to_dict()
    assert found == pytest.approx(alone, abs=0.02)  # batches of other cells round differently


def test_components_and_genes_are_those_of_the_training_cells(cells, split):
    found = baseline_representations(cells, split, 3, n_components=(6,), n_variable=(10,))
    x = log_expression(cells.batch(split.train), dtype=np.float64).toarray()
    test = log_expression(cells.batch(split.test), dtype=np.float64).toarray()
    _, _, right = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    expected = (test - x.mean(axis=0)) @ right[:6].T
    np.testing.assert_allclose(np.abs(found["PCA, 6 components"][1]), np.abs(expected), atol=1e-4)
    np.testing.assert_array_equal(found["PCA"][1], found["PCA, 6 components"][1][:, :3])
    top = np.sort(np.argsort(-x.var(axis=0))[:10])
    np.testing.assert_allclose(found["10 variable genes"][1], test[:, top], rtol=1e-6)


def test_every_metric_is_that_of_its_function_on_the_split(cells, split):
    pytest.importorskip("scanpy")
    random_state = np.random.default_rng(0)
    x = random_state.normal(size=(200, 4))
    codes = cells.labels["cell_type"].values
    x[:, 0] += codes
    parts = x[split.train], codes[split.train], x[split.test], codes[split.test]
    found = score_representations(
        {"x": (parts[0], parts[2])}, cells, split, metrics=("mlp", "clusters", "ilisi"), seed=2
    ).table.loc[("cell_type", "x")]
    clusters = clustering_scores(parts[2], parts[3], seed=2)
    expected = mlp_probe(*parts, seed=2) | {
        "nmi": clusters.nmi,
        "ari": clusters.ari,
        "asw": clusters.asw,
        "ilisi": ilisi(parts[2], cells.batch_labels.values[split.test]),
    }
    assert found.to_dict() == expected


def test_batches_are_divided_whole_three_to_one(cells):
    split = batch_split(cells, seed=4)
    batches = cells.batch_labels.values
    assert not set(batches[split.train]) & set(batches[split.test])
    assert len(np.unique(batches[split.train])) == 3
    assert len(split.train) + len(split.test) == cells.n_cells


def test_what_cannot_be_scored_is_refused_before_anything_is_computed(model, cells, split):
    with pytest.raises(ConfigError, match=r"metrics\[0\] is 'probe'; closest: 'probes'"):
        compare_representations(model, cells, split, metrics=("probe",))
    with pytest.raises(ConfigError, match="metrics is empty"):
        compare_representations(model, cells, split, metrics=())
    with pytest.raises(DataError, match="has more than 5 classes"):
        compare_representations(model, cells, split, metrics=("top",))
    without = CellCollection.from_anndata(
        datasets.simulate(30, 20, 2, 3, seed=0), labels_key="cell_type"
    )
    with pytest.raises(DataError, match="give batch_key"):
        compare_representations(model, without, split, metrics=("ilisi",))
    batches = cells.batch_labels.values
    one = split.test[batches[split.test] == batches[split.test[0]]]
    with pytest.raises(DataError, match=f"all {len(one)} test cells are of one batch of"):
        compare_representations(model, cells, replace(split, test=one), metrics=("ilisi",))
    with pytest.raises(DataError, match="give batch_key"):
        batch_split(without)
    with pytest.raises(ConfigError, match="n_components has 60: 1 to 59 are possible"):
        baseline_representations(cells, split, 3, n_components=(60,))


def test_labels_without_a_test_cell_and_odd_representations_are_named(cells, split):
    x = np.random.default_rng(0).normal(size=(cells.n_cells, 3))
    pair = x[split.train], x[split.test]
    expected = score_representations({"x": pair}, cells, split).table
    lists = {"x": [part.tolist() for part in pair]}
    pd.testing.assert_frame_equal(score_representations(lists, cells, split).table, expected)
    with pytest.raises(DataError, match="'x' is of dtype object: numbers are needed"):
        score_representations({"x": [part.astype(object) for part in pair]}, cells, split)
    label = cells.labels["cell_type"]
    values = label.values.copy()
    values[split.test] = -1
    some = cells.with_labels({"cell_type": replace(label, values=values)})
    with pytest.raises(DataError, match=f"none of the {len(split.test)} test cells has a value"):
        score_representations({"x": pair}, some, split)


def test_pca_of_few_genes_has_fewer_dimensions_and_says_so(cells, split):
    few = cells.with_genes(cells.genes[:12], 1.0)
    with pytest.warns(UserWarning, match="12 genes has 11 components, fewer than the 30"):
        found = baseline_representations(few, split, 30)
    assert found["PCA"][0].shape == (len(split.train), 11)


# -- scVI ------------------------------------------------------------------------------------------


def test_scvi_that_is_not_installed_is_told(model, cells, split, monkeypatch):
    monkeypatch.setitem(sys.modules, "scvi", None)
    with pytest.raises(ImportError, match=r"scVI needs the package 'scvi'.*kernomics\[eval\]"):
        compare_representations(model, cells, split, scvi=True)


def test_scvi_gets_the_training_counts_and_leaves_the_seeds_as_they_were(cells, split, monkeypatch):
    seen = {}

    class SCVI:
        def __init__(self, adata, n_latent):
            seen["trained on"], self.n_latent = adata.X.toarray(), n_latent
            random.random(), np.random.random()

        @staticmethod
        def setup_anndata(adata):
            seen["set up"] = adata.X.toarray()

        def train(self, **options):
            seen["options"] = options

        def get_latent_representation(self, adata):
            return adata.X.toarray()[:, : self.n_latent]

    settings = types.SimpleNamespace(seed=None)
    module = types.ModuleType("scvi")
    module.settings, module.model = settings, types.SimpleNamespace(SCVI=SCVI)
    monkeypatch.setitem(sys.modules, "scvi", module)
    before = random.getstate(), np.random.get_state()[1].tolist()
    train, test = scvi_representation(cells, split, 3, max_epochs=2)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    assert settings.seed is None
    counts = cells.batch(np.arange(200))
    dense = np.zeros((200, 60), np.float32)
    owner = np.repeat(np.arange(200), counts.indptr.diff().numpy())
    dense[owner, counts.indices.numpy()] = counts.values.numpy()
    np.testing.assert_array_equal(seen["trained on"], dense[split.train])
    np.testing.assert_array_equal(seen["set up"], dense[split.train])
    np.testing.assert_array_equal(test, dense[split.test][:, :3])
    assert train.shape == (len(split.train), 3)
    assert seen["options"]["max_epochs"] == 2


def test_scvi_itself_represents_cells(cells, split):
    pytest.importorskip("scvi")
    train, test = scvi_representation(cells, split, 3, max_epochs=2)
    again = scvi_representation(cells, split, 3, max_epochs=2)
    assert train.shape == (140, 3)
    assert test.shape == (60, 3)
    np.testing.assert_array_equal(test, again[1])


def test_representations_that_cannot_be_scored_are_named(cells, split):
    train, test = (np.ones((len(rows), 3)) for rows in (split.train, split.test))
    test[4, 1] = np.nan
    row = split.test[4]
    with pytest.raises(DataError) as caught:
        score_representations(
            {"good": (train, train[: len(test)]), "bad": (train, test)}, cells, split
        )
    assert str(caught.value) == (
        "the representation 'bad' is NaN or infinite for 1 of the 60 test cells, first "
        f"{cells.cell_names[row]!r} (row {row}); leave these cells out of the split, or "
        "recompute their representation"
    )
    with pytest.raises(DataError, match=r"'short' has shape \(139, 3\) for 140 training cells"):
        score_representations({"short": (train[1:], test)}, cells, split)
    nobody = make_split(cells.n_cells, how="random", fractions=(0.7, 0.3, 0.0), seed=1)
    with pytest.raises(DataError, match="the split has no test cells"):
        score_representations({"any": (train, test[:0])}, cells, nobody)


def test_blocks_are_checked_before_anything_is_represented(model, cells, split, monkeypatch):
    monkeypatch.setattr(
        type(model), "get_latent_representation", lambda *_, **__: pytest.fail("ran")
    )
    with pytest.raises(ConfigError, match="block is 5: this model has blocks 1 to 2"):
        compare_representations(model, cells, split, blocks=(1, 5))


def test_cells_without_known_genes_are_scored_if_kept(cells, split):
    genes = cells.genes[:20].tolist()
    some = TxFM(cells, "XS", genes=genes, **SMALL).train(1, progress=False).trained
    adata = datasets.simulate(200, 60, 4, 5, n_batches=4, seed=3)
    dense = adata.X.toarray()
    dense[5, :20], dense[5, 30] = 0, 3
    adata.X = dense
    silent = CellCollection.from_anndata(adata, labels_key="cell_type", batch_key="batch")
    with pytest.raises(
        DataError, match=r"1 of [0-9]+ cells have no counts in the model's 20 genes"
    ):
        compare_representations(some, silent, split)
    kept = compare_representations(some, silent, split, empty_cells="keep", others={"again": some})
    assert np.isfinite(kept.table).all().all()
    own, again = (kept.table.loc[("cell_type", name)].tolist() for name in ("TxFM", "again"))
    assert own == again


def test_parts_of_many_cells_are_sampled_and_it_is_said():
    split = Split(np.arange(0, 60, 2), np.arange(60, 70), np.arange(70, 90), "random", None, 0)
    with pytest.warns(UserWarning, match="25 random ones of the 30 train cells: the expression"):
        found = sampled(split, 25, seed=3)
    assert len(found.train) == 25
    assert (np.diff(found.train) > 0).all()
    assert set(found.train) < set(split.train)
    assert found.test is split.test
    assert found.validation is split.validation
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sampled(split, 30, seed=3).train is split.train


def test_pca_is_of_the_genes_that_every_cell_has_measured():
    """Zeros for genes that were not measured would tell the two files apart in PCA."""
    adata = datasets.simulate(200, 60, 3, 5, mean_counts=500, seed=3)
    adata.obs["file"] = np.arange(200) % 2
    joined = concat({
        "a": CellCollection.from_anndata(adata[::2].copy()),
        "b": CellCollection.from_anndata(adata[1::2, 20:].copy()),
    })  # fmt: skip
    split = make_split(200, how="random")
    found = baseline_representations(joined, split, 5)
    x = log_expression(joined.batch(np.arange(200))).toarray()[:, 20:]
    centred = x[split.train] - x[split.train].mean(axis=0)
    expected = np.linalg.svd(centred, compute_uv=False)[:5]
    np.testing.assert_allclose(np.linalg.norm(found["PCA"][0], axis=0), expected, rtol=1e-4)
    variances = x[split.train].var(axis=0)
    top = np.sort(np.argsort(-variances, kind="stable")[:5])
    np.testing.assert_allclose(found["normalised counts"][1], x[split.test][:, top], rtol=1e-6)


def test_pca_says_where_files_have_no_gene_in_common():
    adata = datasets.simulate(60, 20, 2, 5, mean_counts=500, seed=3)
    parts = {"a": adata[::2, :11], "b": adata[1::2, 10:]}
    joined = concat({n: CellCollection.from_anndata(p.copy()) for n, p in parts.items()})
    with pytest.warns(UserWarning, match="no two genes are measured in every cell"):
        found = baseline_representations(joined, make_split(60, how="random"), 3)
    assert found["PCA"][0].shape == (42, 3)
