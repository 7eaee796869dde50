"""The one-liners about panels add to `.uns` what they say, fit for h5ad, and nothing else."""

import anndata
import numpy as np
import pandas as pd
import pytest

import kernomics as kn
from kernomics.data import CellCollection
from kernomics.errors import ConfigError, DataError
from kernomics.evaluation import panels
from kernomics.models import YOTO

pytest.importorskip("sklearn")

GENES = ["gene_0", "gene_5", "gene_10"]


@pytest.fixture
def adata():
    adata = kn.datasets.simulate(200, 30, 3, 5, seed=2)
    # A slash in a class name is what real annotations have, and no key of an h5ad file.
    names = {"type_0": "CD4+/CD25 T", "type_1": "B", "type_2": "NK"}
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories(names)
    adata.obs["age"] = np.linspace(20, 80, 200)
    adata.obs["donor"] = [f"d{i % 8}" for i in range(200)]
    return adata


def written(adata, tmp_path, key):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return anndata.read_h5ad(tmp_path / "cells.h5ad").uns[key]


def test_evaluation_is_added_and_can_be_written(adata, tmp_path):
    before = adata.copy()
    keys = ["cell_type", "age"]
    found = kn.tl.evaluate_panel(
        adata, [*GENES, "nope"], keys, n_random=2, allow_missing=True, seed=3
    )
    model = YOTO(adata, keys, 3, seed=3)
    same = panels.evaluate_panel(model.cells, GENES, model.split, n_random=2, seed=3)
    assert found.scores == same.scores
    pd.testing.assert_frame_equal(found.random["age"], same.random["age"])
    assert (adata.X != before.X).nnz == 0
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert set(adata.uns) == {*before.uns, "panel_evaluation"}
    saved = written(adata, tmp_path, "panel_evaluation")
    assert saved["genes"].tolist() == GENES
    assert saved["missing"].tolist() == ["nope"]
    assert saved["scores"] == found.scores
    table = saved["per_class"]["cell_type"]
    assert table.index.tolist() == ["CD4+/CD25 T", "B", "NK"]
    np.testing.assert_array_equal(table["f1"], found.per_class["cell_type"]["f1"])
    assert saved["random"]["age"].loc["r2", "mean"] == found.random["age"].loc["r2", "mean"]
    assert saved["params"]["labels_key"].tolist() == keys
    assert (saved["params"]["split"], saved["seed"]) == ("stratified", 3)


def test_evaluation_by_donor_uses_whole_donors(adata, tmp_path):
    found = kn.tl.evaluate_panel(
        adata, GENES, "cell_type", split="group", split_key="donor", key_added="by_donor"
    )
    assert found.n_test % 25 == 0
    saved = written(adata, tmp_path, "by_donor")
    assert (saved["params"]["split_key"], saved["random"]) == ("donor", {})


def test_redundancy_is_added_and_can_be_written(adata, tmp_path):
    rows = np.arange(100)
    found = kn.tl.panel_redundancy(adata, GENES, rows=rows, threshold=0.05)
    cells = CellCollection.from_anndata(adata)
    same = panels.redundancy(cells, GENES, rows, threshold=0.05)
    assert found.groups == same.groups != []
    saved = written(adata, tmp_path, "panel_redundancy")
    assert saved["genes"].tolist() == GENES
    np.testing.assert_array_equal(saved["correlation"], same.correlation)
    assert saved["substitutes"]["substitute"].tolist() == same.substitutes["substitute"].tolist()
    for i, group in enumerate(found.groups):
        assert [g for g, n in zip(GENES, saved["group"], strict=True) if n == i] == group
    kn.tl.panel_redundancy(adata, adata.var_names)  # no gene is left out
    assert len(written(adata, tmp_path, "panel_redundancy")["substitutes"]) == 0


@pytest.mark.filterwarnings(
    "ignore::kernomics.models.yoto.diagnostics.TrainingWarning"
)  # age is noise
def test_contributions_are_added_and_can_be_written(adata, tmp_path):
    model = YOTO(adata, ["cell_type", "age"], 4).train(8, batch_size=64, progress=False)
    found = kn.tl.panel_contributions(adata, model)
    saved = written(adata, tmp_path, "panel_contributions")
    pd.testing.assert_frame_equal(saved["loss_without"], found.loss_without)
    long = saved["by_class"]["cell_type"]
    assert list(long.columns) == ["gene", "class", "rise"]
    wide = long.pivot(index="gene", columns="class", values="rise")
    expected = found.by_class["cell_type"]
    np.testing.assert_array_equal(wide.loc[model.genes, expected.columns], expected)
    parts = {"rows": model.split.test, "background_rows": model.split.train}
    again = kn.tl.panel_contributions(adata, model.panel, **parts)
    pd.testing.assert_frame_equal(again.loss_without, found.loss_without)


def test_refused_questions_leave_the_data_as_they_were(adata):
    model = YOTO(adata, "cell_type", 4).train(1, batch_size=64, progress=False)
    before = list(adata.uns)
    with pytest.raises(DataError, match=r"'gene_x' \(closest: "):
        kn.tl.evaluate_panel(adata, ["gene_x"], "cell_type")
    with pytest.raises(DataError, match=r"'gene_x' \(closest: "):
        kn.tl.panel_redundancy(adata, ["gene_x"])
    with pytest.raises(ConfigError, match="a Panel does not know which cells it was trained on"):
        kn.tl.panel_contributions(adata, model.panel, rows=[0, 1])
    with pytest.raises(ConfigError, match="trained on 200 cells, not on the 50 given"):
        kn.tl.panel_contributions(adata[:50].copy(), model)
    with pytest.raises(ConfigError, match="was given with a model"):
        kn.tl.panel_contributions(adata, model, layer="counts")
    assert list(adata.uns) == before
