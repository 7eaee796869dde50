"""Some cells of a collection are those cells, whatever is asked of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kernomics import datasets
from kernomics.data import CellCollection, concat, select_cells
from kernomics.errors import DataError


@pytest.fixture(scope="module")
def adata() -> Any:
    return datasets.simulate(60, 30, 3, 5, n_batches=2, seed=1)


def collection(adata: Any, **options: Any) -> CellCollection:
    return CellCollection.from_anndata(adata, labels_key="cell_type", batch_key="batch", **options)


@pytest.mark.parametrize("on_disk", [False, True])
def test_selected_cells_are_those_of_a_subset_of_the_data(
    adata: Any, on_disk: bool, tmp_path: Any
) -> None:
    rows = np.array([41, 3, 17, 59, 0])
    source = adata
    if on_disk:
        source = tmp_path / "cells.h5ad"
        adata.write_h5ad(source)
    found, expected = select_cells(collection(source), rows), collection(adata[rows].copy())
    assert found.on_disk is on_disk
    assert found.cell_names.tolist() == expected.cell_names.tolist()
    assert found.obs.index.tolist() == expected.cell_names.tolist()
    np.testing.assert_array_equal(found.library, expected.library)
    label, other = found.labels["cell_type"], expected.labels["cell_type"]
    np.testing.assert_array_equal(label.aligned(other.categories).values, other.values)
    assert found.batch_labels is not None
    for order in (np.arange(5), np.array([4, 0])):
        a, b = found.batch(order), expected.batch(order)
        np.testing.assert_array_equal(a.dense(), b.dense())
        np.testing.assert_array_equal(a.cell_ids, order)
        np.testing.assert_array_equal(a.library, b.library)
    np.testing.assert_array_equal(found.summary().mean, expected.summary().mean)
    genes = adata.var_names[[7, 2]].tolist()
    np.testing.assert_array_equal(
        found.with_genes(genes, 1.0).batch([1]).dense(),
        expected.with_genes(genes, 1.0).batch([1]).dense(),
    )


def test_a_mask_is_the_same_as_its_rows(adata: Any) -> None:
    cells = collection(adata)
    mask = np.arange(60) % 7 == 3
    one, other = select_cells(cells, mask), select_cells(cells, np.flatnonzero(mask))
    assert one.fingerprint == other.fingerprint
    assert select_cells(one, [2]).cell_names.tolist() == [cells.cell_names[17]]


def test_cells_keep_the_genes_of_their_data_set(adata: Any) -> None:
    parts = {"a": collection(adata[:, :20].copy()), "b": collection(adata[:, 10:].copy())}
    joined = concat(parts)
    found = select_cells(joined, [100, 5])
    assert found.observed is not None
    batch = found.batch([0, 1])
    assert batch.observed is not None
    expected = joined.batch([100, 5]).observed
    assert expected is not None
    np.testing.assert_array_equal(batch.observed.panel_id, expected.panel_id)
    np.testing.assert_array_equal(batch.dense(), joined.batch([100, 5]).dense())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "none of the 60 cells"),
        ([1, 7, 1], "rows repeats 1 of its 3 cells, first cell 1; list each once"),
        ([60], "there are 60 cells, counted from 0: 1 of the 1 rows do not exist, first 60"),
        ([3, -1], "1 of the 2 rows do not exist, first -1"),
        ([0.0, 1.0], "rows are of type float64"),
        ([True, False], r"a mask of shape \(2,\) for 60 cells"),
    ],
)
def test_bad_rows_are_named(adata: Any, rows: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        select_cells(collection(adata), np.array(rows))
