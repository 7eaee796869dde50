"""Log expression and the genes that vary most in it, against dense float64."""

from __future__ import annotations

import dataclasses

import anndata
import numpy as np
import pytest
from scipy import sparse

from kernomics import datasets
from kernomics.data import CellCollection, Cells
from kernomics.data.expression import gene_moments, log_expression, most_variable_genes
from kernomics.errors import DataError


@pytest.fixture(scope="module")
def adata():
    found = datasets.simulate(120, 40, 3, 4, seed=5)
    keep = np.arange(120) != 7
    found.X = sparse.csr_matrix(found.X.multiply(keep[:, None]))  # a cell without counts
    return found


def literal(counts, target_sum):
    library = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return np.log1p(target_sum * counts / library)


@pytest.mark.parametrize("target_sum", [1e4, 1e5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_expression_is_the_dense_formula_rounded_once(adata, target_sum, dtype):
    counts = adata.X.toarray().astype(np.float64)
    found = log_expression(Cells.from_scipy(adata.X), target_sum, dtype)
    assert found.dtype == dtype
    expected = literal(counts, target_sum)
    # Three roundings in float64 before the one to float32.
    tolerance = 4 * np.finfo(np.float64).eps + (dtype == np.float32) * np.finfo(np.float32).eps
    np.testing.assert_allclose(found.toarray(), expected, rtol=tolerance)
    assert found[7].nnz == 0


def test_moments_do_not_depend_on_how_cells_are_divided(adata):
    batch = Cells.from_scipy(adata.X)

    def moments(size):
        parts = [batch.slice(start, min(start + size, 120)) for start in range(0, 120, size)]
        return gene_moments((part, log_expression(part, dtype=np.float64)) for part in parts)

    whole, parts = moments(120), moments(17)
    x = literal(adata.X.toarray().astype(np.float64), 1e4)
    for found in (whole, parts):
        np.testing.assert_allclose(found[0], x.mean(axis=0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(found[1], x.var(axis=0), rtol=1e-9, atol=1e-12)


def test_genes_that_vary_alike_are_taken_in_order():
    counts = np.zeros((6, 4), np.float32)
    counts[:3, 0] = counts[:3, 3] = counts[3:, 1] = counts[3:, 2] = 2
    cells = CellCollection.from_anndata(anndata.AnnData(counts))
    assert most_variable_genes(cells, np.arange(6), 2).tolist() == [0, 1]


def test_cells_without_library_sizes_are_refused(adata):
    batch = dataclasses.replace(Cells.from_scipy(adata.X), library=None)
    with pytest.raises(DataError, match="no library sizes"):
        log_expression(batch)
