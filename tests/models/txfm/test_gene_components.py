"""Gene vocabularies and starts from the training cells: variance and principal components."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from kernomics import datasets
from kernomics.data import CellCollection, concat
from kernomics.data.expression import most_variable_genes
from kernomics.errors import ConfigError
from kernomics.models import TxFM
from kernomics.models.gene_components import gene_components
from kernomics.models.txfm.initialization import DECODER_START

TINY = {"d_model": 16, "n_layers": 1, "n_heads": 2, "n_tokens": 6, "decoder_layers": 0}


@pytest.fixture(scope="module")
def adata():
    return datasets.simulate(300, 60, 4, 5, seed=3)


@pytest.fixture(scope="module")
def cells(adata):
    return CellCollection.from_anndata(adata)


def literal(adata):
    """log(1 + 10⁴·count/library), dense float64."""
    counts = np.asarray(adata.X.todense(), dtype=np.float64)
    return np.log1p(1e4 * counts / counts.sum(1, keepdims=True))


def test_the_most_variable_genes_are_those_of_the_dense_variance(adata, cells):
    rows = np.arange(0, 300, 2)
    variance = literal(adata)[rows].var(0)
    for n in (1, 7, 60):
        expected = np.sort(np.argsort(-variance, kind="stable")[:n])
        np.testing.assert_array_equal(most_variable_genes(cells, rows, n), expected)


def test_components_are_those_of_a_dense_decomposition(adata, cells):
    rows = np.arange(250)
    x = literal(adata)[rows]
    _, s, vt = np.linalg.svd(x - x.mean(0), full_matrices=False)
    expected = vt[:9].T * np.sqrt(s[:9])
    expected /= np.sqrt((expected**2).mean())
    found = gene_components(cells, rows, 9, seed=0).double().numpy()
    # Singular vectors are known up to their sign; both are float32 at the end.
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * signs, expected, rtol=1e-4, atol=1e-5)
    assert (found[np.abs(found).argmax(0), np.arange(9)] > 0).all()


def test_a_gene_that_a_data_set_lacks_is_at_its_mean(adata):
    first, second = adata[:150].copy(), adata[150:, 20:].copy()
    sets = {"first": first, "second": second}
    joined = concat({name: CellCollection.from_anndata(part) for name, part in sets.items()})
    x = np.full((300, 60), np.nan)
    place = {gene: i for i, gene in enumerate(joined.genes)}
    for part, rows in ((first, slice(0, 150)), (second, slice(150, 300))):
        x[rows, [place[gene] for gene in part.var_names]] = literal(part)
    centred = np.nan_to_num(x - np.nanmean(x, axis=0))
    _, s, vt = np.linalg.svd(centred, full_matrices=False)
    expected = vt[:5].T * np.sqrt(s[:5])
    expected /= np.sqrt((expected**2).mean())
    found = gene_components(joined, np.arange(300), 5, seed=0).double().numpy()
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * signs, expected, rtol=1e-4, atol=1e-5)
    variance = np.nanvar(x, axis=0)
    top = np.sort(np.argsort(-variance, kind="stable")[:10])
    np.testing.assert_array_equal(most_variable_genes(joined, np.arange(300), 10), top)


def test_what_cells_do_not_suffice_for_is_random_and_everything_is_repeatable(cells):
    few = np.arange(5)
    found = gene_components(cells, few, 12, seed=4)
    assert found.shape == (60, 12)
    assert torch.equal(found, gene_components(cells, few, 12, seed=4))
    # 8 columns of 60 drawn numbers: the mean square is 1 within 5 standard errors, √(2/480).
    assert abs(found[:, 4:].square().mean().item() - 1) < 5 * (2 / 480) ** 0.5
    assert gene_components(cells, few[:1], 3, seed=0).isfinite().all()


def test_a_model_starts_at_them_where_asked(cells):
    model = TxFM(cells, "XS", seed=2, **TINY)
    assert model.config.gene_start == "components"
    module = model._module()
    expected = gene_components(model.cells, model.split.train, 15, seed=2)
    torch.testing.assert_close(module.embedding.gene_embeddings.detach(), expected)
    assert (module.embedding.table[:, -1] == 0).all()
    torch.testing.assert_close(
        module.decoder.genes.weight[:, :15].detach(), DECODER_START * expected
    )
    other = TxFM(cells, "XS", seed=2, gene_start="random", **TINY)._module()
    assert not torch.allclose(other.embedding.gene_embeddings, expected)


def test_the_vocabulary_may_be_the_most_variable_genes(cells):
    model = TxFM(cells, "XS", n_genes=20, **TINY)
    rows = most_variable_genes(cells, model.split.train, 20)
    assert model.genes.tolist() == cells.genes[rows].tolist()
    np.testing.assert_array_equal(model.cells.library, cells.library)
    assert len(TxFM(cells, "XS", n_genes=1000, **TINY).genes) == 60
    with pytest.raises(ConfigError, match="genes and n_genes"):
        TxFM(cells, "XS", n_genes=20, genes=["gene_0"], **TINY)
    with pytest.raises(ConfigError, match="n_genes is 1"):
        TxFM(cells, "XS", n_genes=1, **TINY)
    with pytest.raises(ConfigError, match="gene_start is 'pca'"):
        TxFM(cells, "XS", gene_start="pca", **TINY)


@pytest.mark.parametrize("counts", [np.ones((40, 6)), 7 * np.ones((40, 6))])
def test_genes_that_do_not_vary_start_at_random(counts):
    adata = AnnData(sparse.csr_matrix(counts.astype(np.float32)))
    cells = CellCollection.from_anndata(adata)
    found = gene_components(cells, np.arange(40), 4, seed=0)
    assert found.isfinite().all()
    assert 0.5 < found.std() < 2
    assert not found.equal(gene_components(cells, np.arange(40), 4, seed=1))
    model = TxFM(cells, "XXS", d_model=8, n_heads=2, decoder_layers=0).train(1, progress=False)
    assert np.isfinite(model.get_latent_representation(cells)).all()


def test_cells_without_counts_have_random_components():
    adata = AnnData(sparse.csr_matrix((5, 6), dtype=np.float32))
    cells = CellCollection.from_anndata(adata, empty_cells="keep")
    assert gene_components(cells, np.arange(5), 3, seed=0).isfinite().all()
