"""Gene parameters beside PCA on the same cells, by the relationships that they recall."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

pytest.importorskip("sklearn")

import kernomics as kn
from kernomics import datasets
from kernomics.cli import main
from kernomics.data import CellCollection, concat
from kernomics.data.expression import log_expression
from kernomics.errors import ConfigError, DataError
from kernomics.evaluation.relationships import compare_relationships, pca_loadings
from kernomics.metrics import relationship_recall
from kernomics.models import TxFM

SMALL = {"d_model": 16, "n_layers": 2, "n_heads": 2, "decoder_layers": 1, "n_tokens": 15}
N_NULL = 2000


@pytest.fixture(scope="module")
def adata():
    found = datasets.simulate(150, 60, 4, 5, seed=3)
    dense = found.X.toarray()
    dense[:, 7] = 0  # a gene that no cell has
    found.X = sparse.csr_matrix(dense)
    return found


@pytest.fixture(scope="module")
def cells(adata):
    return CellCollection.from_anndata(adata, labels_key="cell_type")


@pytest.fixture(scope="module")
def model(cells):
    trained_on = datasets.simulate(150, 60, 4, 5, seed=3)  # here cells have every gene
    return TxFM(trained_on, "XS", genes=cells.genes, **SMALL).train(1, progress=False).trained


@pytest.fixture(scope="module")
def relations(cells):
    random = np.random.default_rng(0)
    return {name: cells.genes[random.integers(0, 60, (n, 2))] for name, n in (("a", 90), ("b", 40))}


@pytest.fixture(scope="module")
def scores(model, cells, relations):
    return compare_relationships(
        model, cells, None, relations, n_components=(4, 256), n_null_pairs=N_NULL
    )


def test_every_representation_is_scored_by_every_number_of_components(scores):
    found = scores.summary.index.tolist()
    assert found == [
        ("TxFM encoder tokens", 4),
        ("TxFM encoder tokens", 15),
        ("TxFM encoder tokens, own scale", 4),
        ("TxFM encoder tokens, own scale", 15),
        ("TxFM decoder weights", 4),
        ("TxFM decoder weights", 16),
        ("TxFM decoder weights, own scale", 4),
        ("TxFM decoder weights, own scale", 16),
        ("PCA loadings", 4),
        ("PCA loadings", 58),  # of 59 genes that some cell has
        ("PCA loadings, own scale", 4),
        ("PCA loadings, own scale", 58),
        ("expression profiles", 150),
    ]
    assert scores.n_genes == 59
    assert scores.summary.columns.tolist() == ["a", "b", "mean"]
    rows = scores.table.set_index(["representation", "n_components", "database"])["recall"]
    for key, row in scores.summary.iterrows():
        assert row["mean"] == np.mean([rows[(*key, "a")], rows[(*key, "b")]])


def test_parameters_are_scored_as_by_the_metric_on_the_genes_that_cells_have(
    scores, model, cells, relations
):
    kept = np.arange(60) != 7
    for name, part in (("encoder tokens", "encoder"), ("decoder weights", "decoder")):
        alone = relationship_recall(
            model.get_gene_embeddings(part)[kept],
            cells.genes[kept],
            relations,
            n_components=4,
            n_null_pairs=N_NULL,
        )
        row = scores.summary.loc[(f"TxFM {name}", 4)]
        assert row[["a", "b"]].tolist() == alone.table["recall"].tolist()
        own = relationship_recall(
            model.get_gene_embeddings(part)[kept],
            cells.genes[kept],
            relations,
            n_components=4,
            standardise=False,
            n_null_pairs=N_NULL,
        )
        row = scores.summary.loc[(f"TxFM {name}, own scale", 4)]
        assert row[["a", "b"]].tolist() == own.table["recall"].tolist()


def test_loadings_are_the_right_singular_vectors_of_centred_cells(scores, cells, relations):
    expression = log_expression(cells.batch(np.arange(150)), dtype=np.float64)
    expression = expression[:, np.flatnonzero(expression.getnnz(axis=0))]
    loadings, share = pca_loadings(expression, 4)
    dense = expression.toarray()
    _, lengths, right = np.linalg.svd(dense - dense.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(np.sum(loadings.T * right[:4], axis=1)), 1, atol=1e-8)
    np.testing.assert_allclose(share, (lengths**2 / (lengths**2).sum())[:4])
    alone = relationship_recall(
        right[:4].T, np.delete(cells.genes, 7), relations, n_null_pairs=N_NULL
    )
    row = scores.summary.loc[("PCA loadings", 4)]
    np.testing.assert_allclose(row[["a", "b"]], alone.table["recall"], atol=0.02)  # two pairs
    weighted = relationship_recall(
        right[:58].T * np.sqrt(lengths[:58]),
        np.delete(cells.genes, 7),
        relations,
        n_components=4,
        standardise=False,
        n_null_pairs=N_NULL,
    )
    row = scores.summary.loc[("PCA loadings, own scale", 4)]
    np.testing.assert_allclose(row[["a", "b"]], weighted.table["recall"], atol=0.02)


def test_chosen_cells_alone_make_the_baselines(scores, model, cells, relations):
    some = compare_relationships(
        model, cells, np.arange(100), relations, n_components=(4,), n_null_pairs=N_NULL
    )
    assert some.n_cells == 100
    assert some.n_genes <= scores.n_genes
    assert ("expression profiles", 100) in some.summary.index


def test_genes_that_some_cells_have_not_measured_are_left_out(model, adata, relations):
    first, second = adata[:100].copy(), adata[100:, 12:].copy()
    parts = {"first": first, "second": second}
    joined = concat({name: CellCollection.from_anndata(x) for name, x in parts.items()})
    options = {"n_components": (4,), "n_null_pairs": N_NULL, "min_gene_overlap": 0.5}
    found = compare_relationships(model, joined, None, relations, **options)
    everywhere = CellCollection.from_anndata(adata[:, 12:].copy())
    # Without PCA: a cell's total is over all genes that its file has.
    expected = compare_relationships(model, everywhere, None, relations, **options)
    kinds = [name for name in expected.summary.index.unique(0) if "coder" in str(name)]
    assert kinds
    for name in kinds:
        pd.testing.assert_frame_equal(found.summary.loc[[name]], expected.summary.loc[[name]])


def test_shares_of_components_and_what_moments_explain_are_told(scores):
    for _, rows in scores.moments.groupby("representation"):
        assert rows["component"].tolist() == list(range(1, len(rows) + 1))
        assert rows["share"].sum() <= 1 + 1e-9
        assert rows["share"].is_monotonic_decreasing
        assert rows["both"].between(0, 1).all()


def test_relations_of_other_names_and_no_components_are_refused(model, cells):
    ensembl = {"d": [(f"ENSG{0:011d}", f"ENSG{1:011d}")]}
    with pytest.raises(
        DataError, match=r"relations name Ensembl ids .* use the same kind of name for both"
    ):
        compare_relationships(model, cells, None, ensembl)
    with pytest.raises(ConfigError, match="n_components is empty"):
        compare_relationships(model, cells, None, {}, n_components=())


def test_varm_is_scored_where_scanpy_users_look(adata, model, relations):
    mine = adata.copy()
    kn.tl.represent_cells(mine, model, progress=False)
    mine.varm["txfm_encoder"][3] = np.nan  # a gene outside the vocabulary
    found = kn.tl.relationship_recall(mine, relations, n_components=4, n_null_pairs=N_NULL)
    kept = np.arange(60) != 3
    expected = relationship_recall(
        mine.varm["txfm_encoder"][kept],
        mine.var_names[kept].tolist(),
        relations,
        n_components=4,
        n_null_pairs=N_NULL,
    )
    assert found.table.equals(expected.table)
    stored = mine.uns["relationship_recall"]
    assert stored["mean"] == expected.mean
    assert stored["recall"] == expected.table["recall"].to_dict()
    assert stored["params"]["varm_key"] == "txfm_encoder"
    with pytest.raises(DataError, match="varm has no 'txfm_encodr'; closest: 'txfm_encoder'"):
        kn.tl.relationship_recall(mine, relations, varm_key="txfm_encodr")


@pytest.mark.filterwarnings("default:.*very counts:UserWarning")
def test_the_command_scores_relations_with_and_without_labels(
    adata, model, relations, tmp_path, capsys
):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    model.save(tmp_path / "model")
    for name, pairs in relations.items():
        lines = [f"{a},{b}" for a, b in pairs]
        (tmp_path / f"{name}.txt").write_text("\n".join(["entity1,entity2", *lines]))
    line = ["evaluate", str(tmp_path / "model"), str(tmp_path / "cells.h5ad")]
    files = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    line += ["--relations", *files, "--n-components", "4"]
    assert main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"relationships"}
    assert {row["database"] for row in found["relationships"]["recall"]} == {"a", "b"}
    assert main([*line, "--labels-key", "cell_type"]) == 0
    printed = capsys.readouterr().out
    assert "kNN acc." in printed
    assert "PCA loadings, 4 components" in printed
    assert main([*line[:3], "--relations", files[0], files[0]]) == 2
    assert "have the same name" in capsys.readouterr().err
    assert main(line[:3]) == 2
    assert "--relations" in capsys.readouterr().err
