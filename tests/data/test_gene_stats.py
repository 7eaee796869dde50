"""Sums over cells of each class against numpy on dense counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from kernomics.data import Cells
from kernomics.data.cell_digest import CellDigest
from kernomics.data.csr import Rows
from kernomics.data.gene_stats import ClassSums
from kernomics.errors import DataError


@given(
    n_cells=st.integers(0, 12),
    n_genes=st.integers(1, 9),
    n_classes=st.integers(1, 4),
    log=st.booleans(),
    weighted=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=200)
def test_sums_are_those_of_dense_counts(n_cells, n_genes, n_classes, log, weighted, seed):
    rng = np.random.default_rng(seed)
    counts = rng.choice([0, 1, 2, 0.5, 1023, 1024, 2.0**24], (n_cells, n_genes))
    classes = rng.integers(-1, n_classes, n_cells)
    weights = rng.normal(size=n_cells) if weighted else None
    sums = ClassSums(n_classes, n_genes)
    cells = Cells.from_scipy(sparse.csr_matrix(counts))
    cut = n_cells // 2
    for part in (np.arange(cut), np.arange(cut, n_cells)):  # batches add up
        batch = Cells.from_scipy(sparse.csr_matrix(counts[part]))
        own = None if weights is None else weights[part]
        sums.add(batch, classes[part], log=log, weights=own)
    assert len(cells) == n_cells
    x = np.log1p(counts) if log else counts
    w = np.ones(n_cells) if weights is None else weights
    for c in range(n_classes):
        rows = classes == c
        assert sums.n_cells[c] == rows.sum()
        assert (sums.n_expressing[c] == (counts[rows] > 0).sum(0)).all()
        # at most 12 additions of numbers up to |w| x², each rounded once, and a product before
        bound = 20 * np.finfo(np.float64).eps * (np.abs(w[rows])[:, None] * x[rows] ** 2).sum(0)
        assert (np.abs(sums.squares[c] - (w[rows, None] * x[rows] ** 2).sum(0)) <= bound).all()
        bound = 20 * np.finfo(np.float64).eps * (np.abs(w[rows])[:, None] * x[rows]).sum(0)
        assert (np.abs(sums.total[c] - (w[rows, None] * x[rows]).sum(0)) <= bound).all()


@pytest.mark.parametrize("classes", [[0], [0, 5, 0], [[0, 0, 0]]])
def test_classes_must_fit(classes):
    batch = Cells.from_scipy(sparse.csr_matrix(np.eye(3)))
    with pytest.raises(ValueError, match="do not fit"):
        ClassSums(2, 3).add(batch, np.array(classes))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"indices": torch.tensor([0, 3], dtype=torch.int32)}, "1 of its 2 entries name genes"),
        ({"indices": torch.tensor([-1, 2], dtype=torch.int32)}, "first -1"),
        ({"indices": torch.tensor([0, 2**32 + 1])}, "first 4294967297"),  # 1 in 32 bits
        ({"indptr": torch.tensor([0, 3])}, "its rows end at entry 3, and 2 are stored"),
        ({"indptr": torch.tensor([2, 0])}, "begins at entry 2"),
        ({"indptr": torch.tensor([0, 1, 2])}, "3 pointers do not fit 1"),
        ({"values": torch.ones(1)}, "and 1 are stored"),
    ],
)
def test_cells_made_by_hand_write_nowhere_else(changes, match):
    whole = Cells(
        torch.tensor([0, 2]), torch.tensor([0, 2], dtype=torch.int32), torch.ones(2), 3,
        torch.tensor([0]),
    )  # fmt: skip
    sums = ClassSums(1, 3)
    with pytest.raises(DataError, match=match):
        sums.add(replace(whole, **changes), np.zeros(1, np.int64))
    assert not sums.total.any()
    assert not sums.n_cells.any()
    sums.add(whole, np.zeros(1, np.int64))
    assert sums.total.tolist() == [[1, 0, 1]]


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (Rows(np.array([0, 2]), np.array([0, 3]), np.ones(2)), "1 of its 2 entries name genes"),
        (Rows(np.array([0, 2]), np.array([-1, 2]), np.ones(2)), "first -1"),
        (Rows(np.array([0, 2]), np.array([0, 2**32 + 1]), np.ones(2)), "first 4294967297"),
        (Rows(np.array([0, 3]), np.array([0, 2]), np.ones(2)), "and 2 are stored"),
        (Rows(np.array([0, 2]), np.array([0, 2]), np.ones(1)), "and 1 are stored"),
    ],
)
def test_the_digest_of_rows_reads_nothing_else(rows, match):
    digest = CellDigest(["a", "b", "c"])
    with pytest.raises(DataError, match=match):
        digest.add(rows, ["cell"])
    assert digest.n_cells == 0
