"""`kernomics embed` of a GIL, from files to files, and what its run is told to other commands."""

import anndata
import numpy as np
import pandas as pd
import pytest
from staged_example import cells, model

from kernomics import tl
from kernomics.cli import main
from kernomics.models import ExpressionModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("stages")
    model("naive").train(1, run_dir=path / "stages", progress=False).save(path / "model")
    cells(40, seed=9).write_h5ad(path / "other.h5ad")
    return path


def test_an_embedding_goes_into_a_copy_of_the_data_as_into_an_anndata(folder, tmp_path):
    out = tmp_path / "out.h5ad"
    line = ["embed", str(folder / "model"), str(folder / "other.h5ad"), "--quiet"]
    assert main([*line, "--n-tokens", "10", "--out", str(out)]) == 0
    found, gil = anndata.read_h5ad(out), ExpressionModel.load(folder / "model")
    adata = cells(40, seed=9)
    expected = gil.get_latent_representation(adata, n_tokens=10)
    np.testing.assert_allclose(found.obsm["X_gil"], expected, rtol=1e-5, atol=1e-6)
    at = found.var_names.get_indexer(gil.genes)
    np.testing.assert_array_equal(found.varm["gil_genes"][at], gil.get_gene_embeddings())
    tl.represent_cells(adata, folder / "model", n_tokens=10, progress=False)
    np.testing.assert_array_equal(adata.obsm["X_gil"], expected)
    np.testing.assert_array_equal(adata.varm["gil_genes"], found.varm["gil_genes"])
    for name in ("model", "seed", "n_tokens", "library"):
        assert adata.uns["gil"]["params"][name] == found.uns["gil"]["params"][name]


@pytest.mark.parametrize("suffix", [".csv", ".npy"])
def test_an_embedding_as_a_table_or_an_array(folder, tmp_path, suffix):
    out = tmp_path / f"out{suffix}"
    line = ["embed", str(folder / "model"), str(folder / "other.h5ad"), "--quiet"]
    assert main([*line, "--batch-size", "7", "--out", str(out)]) == 0
    gil = ExpressionModel.load(folder / "model")
    expected = gil.get_latent_representation(folder / "other.h5ad")
    found = np.load(out) if suffix == ".npy" else pd.read_csv(out, index_col=0)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-4, atol=1e-5)


def test_a_model_in_memory_represents_cells_too():
    gil, adata = model("naive").train(1, progress=False), cells(20, seed=9)
    tl.represent_cells(adata, gil, progress=False)
    assert np.array_equal(adata.obsm["X_gil"], gil.get_latent_representation(cells(20, seed=9)))


@pytest.mark.parametrize(
    ("held", "more", "said"),
    [
        ("model", ["--block", "1"], "is a GIL, which does not take --block"),
        ("stages", [], "holds a training in stages, and no model beside"),
    ],
)
def test_what_is_not_embedded_is_refused(folder, capsys, tmp_path, held, more, said):
    line = ["embed", folder / held, folder / "other.h5ad", "--out", tmp_path / "x.npy", *more]
    assert main([str(part) for part in line]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x.npy").exists()
