import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import kernomics as kn
from kernomics.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore::kernomics.models.yoto.diagnostics.TrainingWarning")

SHORT = {"max_epochs": 2, "progress": False}


@pytest.fixture
def adata():
    """Cells with something in every slot of an AnnData."""
    adata = kn.datasets.simulate(200, 50, 3, 5, seed=2)
    adata.obs["flag"] = pd.array([True, None] * 100, dtype="boolean")
    adata.obs["score"] = np.float32(1.5)
    adata.layers["counts"] = adata.X.copy()
    adata.obsm["X_pca"] = np.ones((200, 2))
    adata.obsp["graph"] = sparse.eye(200, format="csr")
    adata.varm["loadings"] = np.zeros((50, 3))
    adata.raw = adata
    adata.uns["nested"] = {"list": np.arange(3), "deep": {"text": "x"}}
    return adata


def assert_unchanged(found, expected, added=()):
    """Compare two AnnData slot by slot, types included; `added` names new columns of var."""
    assert type(found.X) is type(expected.X)
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    new = list(added)
    pd.testing.assert_frame_equal(found.var.drop(columns=new), expected.var)
    for matrix, other in ((found.X, expected.X), (found.raw.X, expected.raw.X)):
        for part in ("data", "indices", "indptr"):
            one, two = getattr(matrix, part), getattr(other, part)
            assert one.dtype == two.dtype
            assert np.array_equal(one, two)
    for slot in ("layers", "obsm", "obsp", "varm", "varp"):
        assert list(getattr(found, slot)) == list(getattr(expected, slot))
        for name, values in getattr(expected, slot).items():
            difference = getattr(found, slot)[name] != values
            assert not difference.sum(), (slot, name)
    keys = [key for key in found.uns if not any(name.startswith(key) for name in added)]
    assert keys == list(expected.uns)
    np.testing.assert_equal({key: found.uns[key] for key in keys}, dict(expected.uns))


def test_select_genes_adds_the_documented_keys_and_changes_nothing_else(adata):
    before = adata.copy()
    model = kn.tl.select_genes(adata, "cell_type", 6, layer="counts", seed=3, **SHORT)
    added = ["yoto_selected", "yoto_score", "yoto_rank"]
    assert_unchanged(adata, before, added)
    assert adata.var.columns.tolist() == [*before.var.columns, *added]
    assert set(adata.uns) == {*before.uns, "yoto"}
    assert sorted(adata.var_names[adata.var["yoto_selected"]]) == sorted(model.genes)
    assert adata.var["yoto_selected"].dtype == bool
    ranked = adata.var.sort_values("yoto_rank")
    assert ranked.index[:6].tolist() == model.genes == adata.uns["yoto"]["genes"].tolist()
    assert adata.var["yoto_rank"].tolist() == model.ranking["rank"][adata.var_names].tolist()
    found = adata.uns["yoto"]
    assert found["test_metrics"] == model.test_metrics()
    assert found["seed"] == 3
    assert found["version"] == kn.__version__
    params = found["params"]
    assert (params["n_genes"], params["layer"], params["labels_key"]) == (6, "counts", "cell_type")


def test_training_predicting_and_evaluating_change_nothing(adata):
    before = adata.copy()
    model = kn.models.YOTO(adata, "cell_type", 6, layer="counts")
    model.train(**SHORT)
    model.predict(adata)
    model.evaluate(adata, layer="counts")
    assert_unchanged(adata, before)


def test_result_can_be_written_and_read_again(adata, tmp_path):
    adata.obs["age"] = np.linspace(0, 1, 200)
    options = {"forced_genes": ["gene_3"], "key_added": "panel"}
    kn.tl.select_genes(adata, ["cell_type", "age"], 6, **options, **SHORT)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    pd.testing.assert_frame_equal(again.var, adata.var)
    assert again.var["panel_selected"]["gene_3"]
    assert again.uns["panel"]["genes"].tolist() == adata.uns["panel"]["genes"].tolist()
    assert again.uns["panel"]["test_metrics"] == adata.uns["panel"]["test_metrics"]
    params = again.uns["panel"]["params"]
    assert params["labels_key"].tolist() == ["cell_type", "age"]
    assert params["forced_genes"].tolist() == ["gene_3"]
    assert params["split"] == "stratified"


def test_refused_input_leaves_the_data_as_they_were(adata):
    before = adata.copy()
    with pytest.raises(DataError, match="closest: 'cell_type'"):
        kn.tl.select_genes(adata, "cel_type", 6, **SHORT)
    assert_unchanged(adata, before)


def test_no_held_out_cells_means_no_metrics(adata):
    kn.tl.select_genes(adata, "cell_type", 6, fractions=(1.0, 0.0, 0.0), **SHORT)
    assert adata.uns["yoto"]["test_metrics"] == {}
