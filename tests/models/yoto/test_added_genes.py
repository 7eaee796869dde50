"""Genes added to a trained panel: they help, and without them nothing changes by a bit."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import kernomics as kn
from kernomics.attribution import PanelSource
from kernomics.data import CellCollection
from kernomics.errors import ConfigError, DataError
from kernomics.evaluation.panels.contributions import contributions
from kernomics.models.yoto.added_genes import AddedGenes


def cells(seed: int = 0, n: int = 400) -> ad.AnnData:
    """Four classes: genes 0 to 3 tell A from B from the rest, gene 10 alone C from D."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, 4, n)
    rate = np.full((n, 30), 0.5)
    for c in (0, 1):
        rate[classes == c, 2 * c : 2 * c + 2] += 5
    rate[classes == 3, 10] += 8
    adata = ad.AnnData(sparse.csr_matrix(random.poisson(rate).astype(np.float32)))
    adata.var_names = [f"gene_{i}" for i in range(30)]
    adata.obs_names = [f"cell_{seed}_{i}" for i in range(n)]
    adata.obs["cell_type"] = pd.Categorical(np.array(list("ABCD"))[classes])
    return adata


def of_genes(adata: ad.AnnData, *left_out: str) -> ad.AnnData:
    return adata[:, [name for name in adata.var_names if name not in left_out]].copy()


@pytest.fixture(scope="module", params=[False, True], ids=["shared", "private"])
def panel(request):
    model = kn.models.YOTO(
        of_genes(cells(), "gene_10", "gene_11"),
        labels_key="cell_type",
        n_genes=4,
        private_encoders=request.param,
    )
    return model.train(max_epochs=12, progress=False).trained


@pytest.fixture(scope="module")
def extended(panel):
    return panel.extend("gene_10", cells(1), progress=False)


def test_a_new_gene_tells_what_the_panel_could_not(panel, extended):
    test = cells(2, 800)
    before = panel.evaluate(test)["cell_type"]["accuracy"]
    after = extended.evaluate(test)["cell_type"]["accuracy"]
    assert before < 0.85  # C and D are alike to it: three quarters at best
    assert after > before + 0.1
    assert extended.added_genes == ["gene_10"]
    assert extended.info["added"][0]["genes"] == ["gene_10"]
    assert extended.info["added"][0]["cells"] == 400


def test_without_the_new_gene_predictions_are_the_same_to_the_bit(panel, extended):
    test = of_genes(cells(2), "gene_10")
    assert extended.predict(test).equals(panel.predict(test))
    assert not extended.predict(cells(2)).equals(panel.predict(cells(2)))


def test_what_the_panel_learnt_stays_and_is_left_alone(panel, extended):
    for name, tensor in panel.network.state_dict().items():
        assert torch.equal(tensor, extended.network.state_dict()[name])
    assert panel.added == []
    assert panel.genes == extended.genes
    assert all(parameter.requires_grad for parameter in panel.network.parameters())


def test_an_extension_of_an_extension_leaves_the_first_as_it_is(extended):
    twice = extended.extend(["gene_11", "gene_12"], cells(1), max_epochs=2, progress=False)
    assert twice.added_genes == ["gene_10", "gene_11", "gene_12"]
    test = of_genes(cells(2), "gene_11", "gene_12")
    assert twice.predict(test).equals(extended.predict(test))


def test_it_is_saved_and_taught_the_same_by_the_same_seed(panel, extended, tmp_path):
    extended.save(tmp_path / "panel")
    again = kn.models.load(tmp_path / "panel")
    assert again.added_genes == ["gene_10"]
    assert again.predict(cells(2)).equals(extended.predict(cells(2)))
    other = panel.extend("gene_10", cells(1), progress=False)
    assert torch.equal(other.added[0].weight, extended.added[0].weight)


def test_cells_of_a_data_set_without_the_gene_are_predicted_as_before(panel, extended):
    read = CellCollection.from_anndata
    both = kn.data.concat(
        {"with": read(cells(2, 50)), "without": read(of_genes(cells(3, 50), "gene_10"))}
    )
    found = extended.predict(both)["cell_type_probability"].to_numpy()
    before = panel.predict(both)["cell_type_probability"].to_numpy()
    assert np.array_equal(found[50:], before[50:])
    assert not np.array_equal(found[:50], before[:50])


def test_what_a_gene_adds_is_its_weight_times_its_distance_from_the_mean():
    part = AddedGenes(["a", "b"], 3, torch.tensor([1.0, 2.0]))
    assert torch.equal(part(torch.ones(2, 2)), torch.zeros(2, 3))
    with torch.no_grad():
        part.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]))
    x, measured = torch.tensor([[3.0, 5.0]]), torch.tensor([[True, False]])
    assert part(x).tolist() == [[2.0, 6.0, 5.0]]
    assert part(x, measured).tolist() == [[2.0, 0.0, 2.0]]


@pytest.mark.parametrize(
    ("genes", "adata", "error", "message"),
    [
        (["gene_10", "gene_10"], cells(1), ConfigError, "'gene_10' is named twice"),
        ([], cells(1), ConfigError, "genes is empty"),
        (["gene_99"], cells(1), DataError, "1 of the panel's 5 genes is missing.*'gene_99'"),
    ],
)
def test_genes_that_cannot_be_added_are_refused(panel, genes, adata, error, message):
    with pytest.raises(error, match=message):
        panel.extend(genes, adata, progress=False)
    with pytest.raises(ConfigError, match="known already"):
        panel.extend(panel.genes[0], adata, progress=False)


def test_cells_without_labels_or_without_the_panel_are_refused(panel):
    unlabelled = cells(1)
    del unlabelled.obs["cell_type"]
    with pytest.raises(DataError, match="obs has none of the panel's labels"):
        panel.extend("gene_10", unlabelled, progress=False)
    with pytest.raises(DataError, match="missing from the data"):
        panel.extend("gene_10", of_genes(cells(1), panel.genes[0]), progress=False)


def test_what_looks_at_the_own_genes_alone_refuses_added_ones(panel, extended, tmp_path):
    adata = cells(1)
    extended.save(tmp_path / "panel")
    with pytest.raises(ConfigError, match=r"1 were added to this one, first 'gene_10'.*panel.base"):
        kn.models.YOTO(adata, labels_key="cell_type", n_genes=6, extend=extended)
    with pytest.raises(ConfigError, match=r"panel.base"):
        kn.models.YOTO(adata, labels_key="cell_type", n_genes=6, extend=tmp_path / "panel")
    with pytest.raises(ConfigError, match=r"panel.base"):
        PanelSource(extended, CellCollection.from_anndata(adata), "cell_type")
    with pytest.raises(ConfigError, match=r"panel.base"):
        contributions(
            extended,
            CellCollection.from_anndata(adata, labels_key="cell_type"),
            [0],
            background_rows=[1],
        )
    assert extended.base.predict(adata).equals(panel.predict(adata))
