"""Genes added to a trained model: by name, from named donors, and nothing else changes."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from phenotyped_cells import conditions
from staged_example import cells, trained

import kernomics as kn
from kernomics.errors import ConfigError, DataError
from kernomics.models import PolyGene, TxFM


@pytest.fixture(scope="module")
def gil():
    return trained().trained


@pytest.fixture(scope="module")
def polygene():
    model = PolyGene(
        conditions(80), "cell_type", d_model=8, n_layers=1, n_heads=1, n_tokens=8
    ).train(max_epochs=1, progress=False)
    return model.trained


def test_what_was_known_is_represented_the_same_and_new_genes_start_from_their_donors(gil):
    adata = cells()
    donors = {"new_a": "gene_3", "new_b": ["gene_4", "gene_20"]}
    found = gil.extend(["new_a", "new_b"], donors)
    assert found.genes[-2:].tolist() == ["new_a", "new_b"]
    assert len(gil.genes) == 40
    with pytest.warns(UserWarning, match="2 are missing"):
        after = found.get_latent_representation(adata)
    assert np.array_equal(after, gil.get_latent_representation(adata))
    rows = dict(zip(found.genes, found.get_gene_embeddings(), strict=True))
    assert np.array_equal(rows["new_a"], rows["gene_3"])
    np.testing.assert_allclose(rows["new_b"], (rows["gene_4"] + rows["gene_20"]) / 2, rtol=1e-6)
    with pytest.warns(UserWarning, match="are missing"):
        predicted = found.predict(adata, ["new_a", "gene_20"])
    assert np.isfinite(predicted.to_numpy()).all()


def test_a_new_gene_is_seen_as_its_donor_was(gil):
    adata = cells()
    renamed = adata.copy()
    renamed.var_names = ["other" if name == "gene_3" else name for name in adata.var_names]
    found = gil.extend("other", {"other": "gene_3"})
    with pytest.warns(UserWarning, match="are missing"):
        after = found.get_latent_representation(renamed)
    np.testing.assert_allclose(after, gil.get_latent_representation(adata), rtol=1e-4, atol=1e-5)


def test_embeddings_may_be_the_mean_or_given_and_are_saved(gil, tmp_path):
    found = gil.extend("new", "mean")
    table = gil.get_gene_embeddings()
    np.testing.assert_allclose(found.get_gene_embeddings()[-1], table.mean(0), atol=1e-6)
    given = np.arange(32.0).reshape(2, 16)
    found = found.extend(["x", "y"], given)
    assert np.array_equal(found.get_gene_embeddings()[-2:], given)
    found.save(tmp_path / "model")
    again = kn.models.load(tmp_path / "model")
    assert again.genes.tolist() == found.genes.tolist()
    assert again.info["added_genes"] == ["new", "x", "y"]
    assert np.array_equal(again.get_gene_embeddings(), found.get_gene_embeddings())


def test_a_polygene_is_extended_too(polygene):
    adata = conditions(80)
    found = polygene.extend(["new"], {"new": polygene.genes[2]})
    with pytest.warns(UserWarning, match="are missing"):
        after = found.predict(adata)
    assert after.equals(polygene.predict(adata))
    assert np.array_equal(found.get_gene_embeddings()[-1], polygene.get_gene_embeddings()[2])


@pytest.mark.parametrize(
    ("genes", "init", "error", "message"),
    [
        (["a", "gene_3"], "mean", ConfigError, "1 of the 2 genes to add are known already"),
        (["a", "a"], "mean", ConfigError, "'a' is named twice"),
        ([], "mean", ConfigError, "genes is empty"),
        (["a"], "median", ConfigError, "init is 'median'"),
        (["a", "b"], {"a": "gene_3"}, ConfigError, "init names no donor for 'b'"),
        (["a"], {"a": "gene_333"}, ConfigError, "the donor of 'a' is not known to the model"),
        (["a"], {"a": []}, ConfigError, "the donor of 'a' is not known to the model: none"),
        (["a"], np.zeros((1, 3)), ConfigError, r"init has shape \[1, 3\].* \[1, 16\]"),
        (["a"], np.zeros((2, 16)), ConfigError, r"init has shape \[2, 16\]"),
        (["a"], "neighbours", ConfigError, "give adata, in which the new genes were measured"),
        (["a"], np.full((1, 16), np.nan), DataError, "init holds 16 values not finite"),
    ],
)
def test_genes_and_donors_that_cannot_be_are_refused(gil, genes, init, error, message):
    with pytest.raises(error, match=message):
        gil.extend(genes, init)


@pytest.fixture(scope="module")
def txfm():
    return TxFM(conditions(80), size="XXS", seed=0).train(max_epochs=1, progress=False).encoder


def test_a_txfm_is_extended_in_encoder_and_decoder(txfm):
    adata = conditions(80)
    gene = txfm.genes[2]
    found = txfm.extend(["new"], {"new": gene})
    with pytest.warns(UserWarning, match="are missing"):
        after = found.get_latent_representation(adata)
    np.testing.assert_allclose(after, txfm.get_latent_representation(adata), rtol=1e-5, atol=1e-5)
    with pytest.warns(UserWarning, match="are missing"):
        expression = found.get_normalized_expression(adata, genes=["new", gene])
    before = txfm.get_normalized_expression(adata, genes=[gene])
    np.testing.assert_allclose(expression, np.repeat(before, 2, 1), rtol=1e-4, atol=1e-5)
    for which in ("encoder", "decoder"):
        table = found.get_gene_embeddings(which)
        assert np.array_equal(table[-1], table[2])
        assert np.array_equal(table[:-1], txfm.get_gene_embeddings(which))


def test_neighbours_are_those_whose_expression_goes_with_the_new_genes(gil, txfm):
    adata = conditions(80)
    copies = adata[:, [3, 7]].copy()
    copies.var_names = ["copy_a", "copy_b"]
    both = ad.concat([adata, copies], axis=1, merge="same")
    found = txfm.extend(
        ["copy_b", "copy_a"], "neighbours", adata=both, n_neighbours=1
    ).get_gene_embeddings()
    assert np.array_equal(found[-2:], found[[7, 3]])
    with pytest.raises(DataError, match="1 of the 2 new genes are not in adata, first 'other'"):
        txfm.extend(["copy_a", "other"], "neighbours", adata=both)
    both.X[:, -1] = 0
    with pytest.raises(DataError, match="same value in all 80 cells looked at, first 'copy_b'"):
        txfm.extend(["copy_a", "copy_b"], "neighbours", adata=both)
    with pytest.raises(ConfigError, match="adata is for init='neighbours'"):
        txfm.extend(["copy_a"], "mean", adata=both)
    with pytest.raises(ConfigError, match="n_neighbours is 0"):
        txfm.extend(["copy_a"], "neighbours", adata=both, n_neighbours=0)


def test_neighbours_are_sought_where_the_new_genes_were_measured(txfm):
    adata = conditions(80)
    read = kn.data.CellCollection.from_anndata
    copy = adata[:, [5]].copy()
    copy.var_names = ["copy"]
    more = ad.concat([adata, copy], axis=1, merge="same")
    joined = kn.data.concat({"without": read(adata), "with": read(more)})
    found = txfm.extend("copy", "neighbours", adata=joined, n_neighbours=1).get_gene_embeddings()
    assert np.array_equal(found[-1], found[5])
    parted = kn.data.concat({"with": read(more), "without": read(adata[:, :20])})
    assert txfm.extend("copy", "neighbours", adata=parted).info["added_genes"] == ["copy"]


def test_a_table_of_embeddings_goes_by_the_names_of_its_rows(gil):
    rows = pd.DataFrame(np.arange(32.0).reshape(2, 16), index=["y", "x"])
    found = gil.extend(["x", "y"], rows).get_gene_embeddings()[-2:]
    assert np.array_equal(found, rows.loc[["x", "y"]].to_numpy())
    numbered = gil.extend(["x", "y"], rows.reset_index(drop=True)).get_gene_embeddings()[-2:]
    assert np.array_equal(numbered, rows.to_numpy())
    with pytest.raises(ConfigError, match="2 named rows for 2 genes, 'z' in 0 of them"):
        gil.extend(["x", "z"], rows)
    with pytest.raises(ConfigError, match="3 named rows for 2 genes, 'y' in 2 of them"):
        gil.extend(["x", "y"], pd.concat([rows, rows.iloc[:1]]))
    with pytest.raises(ConfigError, match="2 named rows for 1 genes, and they name other genes"):
        gil.extend("x", rows)


def test_how_to_read_cells_that_are_not_given_is_refused(gil):
    with pytest.raises(ConfigError, match="layer says how to read adata, which is not given"):
        gil.extend("x", layer="counts")
