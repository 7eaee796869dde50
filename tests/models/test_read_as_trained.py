"""A model reads new cells as those of its training were read, unless told otherwise."""

import anndata
import numpy as np
import pandas as pd
import pytest

from kernomics import datasets, tl
from kernomics.data import CellCollection, concat, select_cells
from kernomics.errors import DataError
from kernomics.models import YOTO, CellEncoder, Panel, TxFM
from kernomics.models.reading import library_share

pytestmark = pytest.mark.filterwarnings("ignore::kernomics.models.yoto.diagnostics.TrainingWarning")

QUICK = {"max_epochs": 2, "progress": False}
TINY = {"n_layers": 1, "d_model": 16, "n_heads": 2, "decoder_layers": 1, "n_tokens": 12}
READ = {"layer": "counts", "gene_names": "symbol"}


@pytest.fixture(scope="module")
def plain():
    """Counts in X, symbols in var_names."""
    return datasets.simulate(160, 30, 3, 4, seed=5)


@pytest.fixture(scope="module")
def adata(plain):
    """The same counts in a layer, normalised values in X, symbols in a column, ids in var_names."""
    adata = plain.copy()
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.log1p()
    adata.var["symbol"] = adata.var_names.to_numpy()
    adata.var_names = [f"ENSG{i:011d}" for i in range(adata.n_vars)]
    return adata


@pytest.fixture(scope="module")
def panel(adata):
    return YOTO(adata, "cell_type", 6, hidden=(16,), seed=1, **READ).train(**QUICK).trained


@pytest.fixture(scope="module")
def encoder(adata):
    return TxFM(adata, seed=1, **TINY, **READ).train(**QUICK).trained


def both(panel, encoder, adata, **reading):
    return panel.predict(adata, **reading), encoder.get_latent_representation(adata, **reading)


def assert_same(found, expected):
    pd.testing.assert_frame_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_what_the_cells_were_read_with_is_the_default_and_is_saved(adata, panel, encoder, tmp_path):
    expected = both(panel, encoder, adata, **READ)
    assert panel.info["reading"] == encoder.info["reading"] == READ
    panel.save(tmp_path / "panel")
    encoder.save(tmp_path / "txfm")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    loaded = Panel.load(tmp_path / "panel"), CellEncoder.load(tmp_path / "txfm")
    for given in (adata, tmp_path / "cells.h5ad"):
        assert_same(both(*loaded, given), expected)
    assert panel.evaluate(adata) == panel.evaluate(adata, **READ)
    found = adata.copy()
    tl.represent_cells(found, encoder, progress=False)
    np.testing.assert_array_equal(found.obsm["X_txfm"], expected[1])
    assert not np.isnan(found.varm["txfm_encoder"]).any()
    assert READ.items() <= found.uns["txfm"]["params"].items()
    rows = {"rows": np.arange(80), "background_rows": np.arange(80, 160)}
    told = tl.panel_contributions(found, panel, **rows).loss_without
    given = tl.panel_contributions(found, panel, **rows, **READ).loss_without
    pd.testing.assert_frame_equal(told, given)
    assert found.uns["panel_contributions"]["params"] == READ


def test_what_is_given_holds_none_too(plain, adata, panel, encoder):
    expected = both(panel, encoder, plain, layer=None, gene_names=None)
    swapped = plain.copy()  # counts in X, others in the layer; symbols in var_names
    swapped.layers["counts"] = swapped.X * 3
    swapped.var["symbol"] = swapped.var_names.to_numpy()
    assert_same(both(panel, encoder, swapped, layer=None), expected)
    assert_same(both(panel, encoder, swapped, layer=None, gene_names=None), expected)
    other = both(panel, encoder, swapped)
    assert not np.array_equal(other[1], expected[1])
    raw = swapped.copy()
    raw.raw = plain
    assert_same(both(panel, encoder, raw, use_raw=True), expected)
    assert_same(both(panel, encoder, adata), expected)
    with pytest.raises(DataError, match="X does not hold counts"):
        panel.predict(adata, layer=None)


def test_a_place_that_the_data_lack_is_told_with_what_is_there(adata, panel, encoder):
    lacking = adata.copy()
    del lacking.layers["counts"]
    lacking.layers["spliced"] = adata.layers["counts"]
    said = (
        r"trained on the counts of layer 'counts', which these data do not have; they have X, "
        r"layer 'spliced': say where theirs are, with layer=None for X or layer='…'"
    )
    for read in (panel.predict, panel.evaluate, encoder.get_latent_representation):
        with pytest.raises(DataError, match=said):
            read(lacking)
    assert_same(both(panel, encoder, lacking, layer="spliced"), both(panel, encoder, adata))


def test_raw_is_remembered_and_its_absence_told(plain, adata):
    whole = plain.copy()
    whole.raw = plain
    whole.X = whole.X.log1p()
    panel = YOTO(whole, "cell_type", 6, hidden=(16,), use_raw=True).train(**QUICK).trained
    assert panel.info["reading"] == {"use_raw": True}
    expected = panel.predict(whole, use_raw=True)
    pd.testing.assert_frame_equal(panel.predict(whole), expected)
    pd.testing.assert_frame_equal(panel.predict(plain, use_raw=False), expected)
    pd.testing.assert_frame_equal(panel.predict(adata, **READ), expected)
    with pytest.raises(DataError, match=r"of adata.raw, which these .* have X: .* layer=None"):
        panel.predict(plain)


def test_names_of_genes_are_looked_for_where_they_were_and_in_var_names(adata, panel, encoder):
    expected = both(panel, encoder, adata)
    by_index = adata.copy()
    by_index.var_names = by_index.var.pop("symbol").to_numpy()
    assert_same(both(panel, encoder, by_index), expected)
    by_index.var["symbol"] = adata.var_names.to_numpy()  # of another kind than in training
    assert_same(both(panel, encoder, by_index), expected)
    lacking = adata.copy()
    lacking.var["feature_name"] = lacking.var.pop("symbol")
    said = (
        r"genes named by var\['symbol'\], which these data do not have \(.*'feature_name'.*\), and "
        r"var_names hold 0 of its 6 genes: name the column with gene_names='feature_name'"
    )
    with pytest.raises(DataError, match=said):
        panel.predict(lacking)
    assert_same(both(panel, encoder, lacking, gene_names="feature_name"), expected)


def test_fractions_and_library_sizes_are_remembered(plain):
    corrected = plain.copy()
    corrected.X = corrected.X * np.float32(7.5)
    corrected.obs["depth"] = np.asarray(corrected.X.sum(axis=1)).ravel() * 2
    options = {"allow_fractions": True, "library_key": "depth"}
    encoder = TxFM(corrected, seed=1, **TINY, **options).train(**QUICK).trained
    assert encoder.info["reading"] == options
    found = encoder.get_latent_representation(corrected)
    np.testing.assert_array_equal(found, encoder.get_latent_representation(corrected, **options))
    del corrected.obs["depth"]
    with pytest.raises(DataError, match=r"sizes in obs\['depth'\], and obs has no such column"):
        encoder.get_latent_representation(corrected)
    with (
        pytest.warns(UserWarning, match="library sizes are totals over the 30 genes"),
        pytest.warns(UserWarning, match="have 100% of the library in these cells .* 50%"),
    ):
        found = encoder.get_latent_representation(corrected, library_key=None)
    panel = YOTO(corrected, "cell_type", 6, hidden=(16,), allow_fractions=True).train(**QUICK)
    panel.predict(corrected)


def test_a_model_that_goes_by_no_library_sizes_asks_for_none(plain):
    adata = plain.copy()
    adata.obs["depth"] = np.asarray(adata.X.sum(axis=1)).ravel() * 2
    model = YOTO(adata, "cell_type", 6, hidden=(16,), library_key="depth").train(**QUICK)
    pd.testing.assert_frame_equal(model.predict(plain), model.predict(adata))


def test_a_modality_is_remembered_where_there_are_some(plain):
    mudata = pytest.importorskip("mudata")
    other = anndata.AnnData(np.ones((160, 2), np.float32), obs=plain.obs[[]].copy())
    other.var_names = ["p1", "p2"]
    mdata = mudata.MuData({"rna": plain.copy(), "prot": other})
    panel = YOTO(mdata, "cell_type", 6, hidden=(16,), modality="rna").train(**QUICK).trained
    expected = panel.predict(plain)
    pd.testing.assert_frame_equal(panel.predict(mdata), expected)
    renamed = mudata.MuData({"gex": plain.copy(), "prot": other})
    with pytest.raises(DataError, match=r"modality 'rna', which these data do not have; .*'gex'"):
        panel.predict(renamed)
    pd.testing.assert_frame_equal(panel.predict(renamed, modality="gex"), expected)


def test_a_fine_tuned_model_was_trained_as_its_cells_were_read(adata, encoder):
    tuned = TxFM.from_pretrained(encoder, adata, seed=1).train(**QUICK)
    assert tuned.trained.info["reading"] == READ


def test_collections_keep_how_they_were_read(adata):
    cells = CellCollection.from_anndata(adata, **READ)
    assert cells.reading == READ
    assert select_cells(cells, np.arange(5)).reading == READ
    other = CellCollection.from_anndata(adata, **READ, allow_fractions=True)
    assert concat({"a": cells, "b": other}).reading == READ


def test_the_column_that_holds_the_names_is_told(plain, adata):
    panel = YOTO(plain, "cell_type", 6, hidden=(16,)).train(**QUICK).trained
    encoder = TxFM(plain, seed=1, **TINY).train(**QUICK).trained
    genes = panel.genes[:2]
    said = r"var\['symbol'\] holds gene symbols: pass gene_names='symbol'"
    for read in (
        lambda: panel.predict(adata, layer="counts"),
        lambda: encoder.get_latent_representation(adata, layer="counts"),
        lambda: TxFM.from_pretrained(encoder, adata, layer="counts"),
        lambda: TxFM(adata, genes=genes, layer="counts"),
        lambda: YOTO(adata, "cell_type", 6, forced_genes=genes, layer="counts"),
        lambda: YOTO(adata, "cell_type", 6, start_from=genes, layer="counts"),
        lambda: tl.evaluate_panel(adata, genes, "cell_type", layer="counts"),
    ):
        with pytest.raises(DataError, match=said):
            read()
    renamed = plain.copy()
    renamed.var["gene"] = renamed.var_names.to_numpy()
    renamed.var_names = [f"x{name}" for name in renamed.var_names]
    with pytest.raises(DataError, match=r"var\['gene'\] holds more of .* gene_names='gene'"):
        panel.predict(renamed)


def test_a_fine_tuning_warns_of_library_sizes_of_another_kind(plain):
    encoder = TxFM(plain, seed=1, **TINY).train(**QUICK).trained
    few = plain[:, :14].copy()
    with pytest.warns(UserWarning, match=r"totals over the 14 genes of these data, .* over 30"):
        TxFM.from_pretrained(encoder, few, min_gene_overlap=0.1)


def test_models_of_before_read_by_the_defaults(plain, panel):
    before = Panel(panel.network, panel.genes, panel.ranking.index, panel.ranking["score"], {})
    pd.testing.assert_frame_equal(before.predict(plain), panel.predict(plain, layer=None))


def test_the_same_counts_among_more_genes_are_told(plain, encoder, adata):
    """Their library is larger, so that they are not normalised as in the training."""
    assert encoder.info["library_share"] == pytest.approx(1.0)
    more = datasets.simulate(160, 60, 3, 4, seed=5)
    more.layers["counts"] = more.X.copy()
    more.var["symbol"] = [*plain.var_names, *(f"other{i}" for i in range(30))]
    share = np.median(more.X.toarray()[:, :30].sum(1) / more.X.toarray().sum(1))
    assert share < 1 / 1.5
    with pytest.warns(UserWarning, match=r"have 6\d% of the library in these cells .* 100%"):
        cells = encoder.read(more)
    assert library_share(cells, np.arange(160), encoder.genes) == pytest.approx(share, abs=0.02)
    encoder.read(more[:, :30].copy())  # no warning
