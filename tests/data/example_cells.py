"""Small collections of cells, and what it means that two are the same."""

import anndata
import numpy as np
import pandas as pd
import torch
from scipy import sparse

from kernomics.data import Cells


def make(counts, **obs) -> anndata.AnnData:
    n, g = counts.shape
    return anndata.AnnData(
        X=counts,
        obs=pd.DataFrame(obs, index=[f"cell{i}" for i in range(n)]),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(g)]),
    )


def random_counts(n=40, g=30, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(0.4, (n, g)).astype(np.float32)


def csr(counts, index=np.int32) -> sparse.csr_matrix:
    matrix = sparse.csr_matrix(counts)
    matrix.indices, matrix.indptr = matrix.indices.astype(index), matrix.indptr.astype(index)
    return matrix


def assert_same(a: Cells, b: Cells) -> None:
    assert a.n_genes == b.n_genes
    for name in ("indptr", "indices", "values", "cell_ids", "library"):
        left, right = getattr(a, name), getattr(b, name)
        assert left.dtype == right.dtype, name
        assert torch.equal(left, right), name


def assert_holds(cells: Cells, counts: np.ndarray, wanted) -> None:
    """The cells are rows `wanted` of `counts`, in canonical form."""
    assert torch.equal(cells.dense(), torch.from_numpy(counts[wanted].astype(np.float32)))
    assert cells.indptr.dtype == torch.int64
    assert cells.indices.dtype == torch.int32
    assert cells.values.dtype == torch.float32
    assert bool((cells.values != 0).all())
    row = torch.repeat_interleave(torch.arange(len(cells)), cells.indptr.diff())
    assert bool(((row * cells.n_genes + cells.indices).diff() > 0).all())
    assert cells.cell_ids.tolist() == list(wanted)
    assert cells.library.tolist() == counts[wanted].sum(axis=1).tolist()
