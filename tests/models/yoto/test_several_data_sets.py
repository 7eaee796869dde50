"""Cells of several data sets with different genes: a gene that one did not measure is no 0."""

import json

import numpy as np
import pytest

from kernomics import datasets
from kernomics.data import CellCollection, concat
from kernomics.errors import ConfigError, DataError
from kernomics.evaluation.panels import evaluate_panel
from kernomics.models import YOTO, Panel
from kernomics.workflows.run_cells import CONFIG, SPLIT, run_cells

pytestmark = pytest.mark.filterwarnings(
    "ignore::kernomics.models.yoto.diagnostics.TrainingWarning",  # few steps
)


@pytest.fixture(scope="module")
def adata():
    return datasets.simulate(300, 60, 4, 5, seed=5)


def part(adata, rows, without=()):
    cells = adata[rows, ~adata.var_names.isin(without)].copy()
    return CellCollection.from_anndata(cells, labels_key="cell_type", empty_cells="keep")


@pytest.fixture(scope="module")
def joined(adata):
    """Two types in each data set, of which the first has not measured 20 genes."""
    codes = adata.obs["cell_type"].cat.codes.to_numpy()
    lacking = adata.var_names[40:].tolist()
    parts = {
        "a": part(adata, codes < 2, lacking),
        "b": part(adata, codes >= 2),
    }
    return concat(parts, labels_key="cell_type")


def test_panel_is_chosen_from_genes_that_every_data_set_has(joined, adata):
    model = YOTO(joined, n_genes=6).train(3, progress=False)
    assert model.bounds.excluded["are not measured in every cell"] == 20
    assert set(model.genes) <= set(adata.var_names[:40])
    np.testing.assert_array_equal(model.cells.library, joined.library)
    with pytest.raises(DataError, match="1 gene is forced, but not measured in every cell"):
        YOTO(joined, n_genes=6, forced_genes="gene_50")


def test_data_sets_without_a_common_gene_have_no_panel(adata):
    parts = {
        "a": part(adata, slice(0, 100), adata.var_names[:20]),
        "b": part(adata, slice(100, 200), adata.var_names[20:40]),
        "c": part(adata, slice(200, 300), adata.var_names[40:]),
    }
    with pytest.raises(ConfigError, match="60 are not measured in every cell"):
        YOTO(concat(parts, labels_key="cell_type"), n_genes=6)


def test_prediction_fills_a_gene_in_the_data_set_that_lacks_it(adata):
    panel = YOTO(adata, "cell_type", 6).train(5, progress=False).panel
    lost = panel.genes[1:3]
    one, other = part(adata, slice(0, 150)), part(adata, slice(150, 300), lost)
    cells = concat({"one": one, "other": other})
    told = "2 of the panel's 6 genes are not measured in every cell"
    with pytest.raises(DataError, match=told):
        panel.outputs(cells)
    with pytest.warns(UserWarning, match="filled there with their mean"):
        found = panel.outputs(cells, allow_missing=True)["cell_type"]
    np.testing.assert_array_equal(found[:150], panel.outputs(one)["cell_type"])
    with pytest.warns(UserWarning, match="filled with their mean"):
        expected = panel.outputs(other, allow_missing=True)["cell_type"]
    np.testing.assert_array_equal(found[150:], expected)
    bare = Panel(panel.network, panel.genes, panel.genes, np.zeros(6), panel.info)
    with pytest.raises(DataError, match="does not hold their means"):
        bare.outputs(cells, allow_missing=True)


def test_a_list_of_genes_is_judged_on_those_that_every_data_set_has(joined):
    split = YOTO(joined, n_genes=6).split
    genes = ["gene_0", "gene_50"]
    with pytest.raises(DataError, match="not measured in every cell, first 'gene_50'"):
        evaluate_panel(joined, genes, split, n_random=0)
    found = evaluate_panel(joined, genes, split, n_random=3, allow_missing=True)
    assert found.missing == ["gene_50"]


def test_cells_of_a_run_are_known_again(joined, tmp_path):
    model = YOTO(joined, n_genes=6).train(1, progress=False)
    (tmp_path / SPLIT).write_text(json.dumps(model.split.to_dict()))
    said = {"config": {"data_sha256": model.cells.fingerprint}}
    (tmp_path / CONFIG).write_text(json.dumps(said))
    assert run_cells(tmp_path, model.panel, joined).said == "these cells are the run's"
    other = joined.with_genes(joined.genes[::-1].tolist(), 1.0)
    assert run_cells(tmp_path, model.panel, other).split is None
