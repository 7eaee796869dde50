"""Rows mean the cells that were meant: numbers, or a mask."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from kernomics import datasets
from kernomics.data import CellCollection
from kernomics.data.rng import keys_of_names
from kernomics.data.row_numbers import row_numbers
from kernomics.errors import DataError


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([3, 0, 3], [3, 0, 3]),
        (np.array([2], np.uint8), [2]),
        (range(2), [0, 1]),
        (pd.Index([4, 1]), [4, 1]),
        (2, [2]),
        ([], []),
        ([False, True, False, False, True], [1, 4]),
        (pd.Series([True, False, False, False, False]), [0]),
        (np.zeros(5, bool), []),
    ],
)
def test_rows_are_numbers_or_a_mask(rows: Any, expected: list[int]) -> None:
    found = row_numbers(rows, 5)
    assert found.dtype == np.int64
    assert found.tolist() == expected


def test_a_copy_is_returned() -> None:
    rows = np.arange(3)
    row_numbers(rows, 3)[0] = 2
    assert rows.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([True, False], r"mask of shape \(2,\) for 5 cells: give one value for each cell"),
        (np.ones((5, 1), bool), r"mask of shape \(5, 1\) for 5 cells"),
        ([0.0, 1.0], r"of type float64, first .*0\.0.*: give the cells' numbers as integers"),
        (["cell_0"], r"of type <U6, first .*'cell_0'"),
        ([0, -1, -2], r"rows -2 … 0 were asked for, .* 2 of the 3 rows do not exist, first -1"),
        ([5], "there are 5 cells, counted from 0: 1 of the 1 rows do not exist, first 5"),
        ([2**63], "1 of the 1 rows do not exist, first 9,223,372,036,854,775,808"),
        ([[0, 1]], r"rows have shape \(1, 2\): give one list"),
    ],
)
def test_what_is_neither_is_named(rows: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        row_numbers(rows, 5)


def test_collections_read_and_summarise_by_a_mask() -> None:
    cells = CellCollection.from_anndata(datasets.simulate(30, 20, 2, 3, seed=1))
    mask = np.arange(30) % 4 == 1
    some, same = cells.batch(mask), cells.batch(np.flatnonzero(mask))
    assert some.cell_ids.tolist() == np.flatnonzero(mask).tolist()
    np.testing.assert_array_equal(some.dense(), same.dense())
    np.testing.assert_array_equal(
        cells.summary(mask).mean, cells.summary(np.flatnonzero(mask)).mean
    )
    for read in (cells.batch, cells.summary):
        with pytest.raises(DataError, match=r"mask of shape \(3,\) for 30 cells"):
            read([True, False, True])


def test_keys_are_of_the_name_alone_and_as_design_says() -> None:
    # Of BLAKE2b with 6 bytes of output, by coreutils: printf %s AAC-1 | b2sum -l 48
    assert keys_of_names(["AAC-1"]).tolist() == [int.from_bytes(bytes.fromhex(AAC_1), "little")]
    names = [f"cell_{i}" for i in range(5000)] + ["0", "1", "é", "", "\udc80"]
    keys = keys_of_names(np.array(names, dtype=object))
    assert keys.dtype == np.int64
    assert (keys.min() >= 0, keys.max() < 2**48) == (True, True)
    assert len(np.unique(keys)) == len(names)
    assert keys_of_names(names[::-1]).tolist() == keys[::-1].tolist()
    assert keys_of_names([0, "0"]).tolist() == [keys[5000]] * 2
    assert keys_of_names([]).shape == (0,)
    # Each of the 48 bits is set in half of the names, within five standard deviations.
    share = ((keys[:, None] >> np.arange(48)) & 1).mean(0)
    assert abs(share - 0.5).max() < 5 * 0.5 / np.sqrt(len(keys))


AAC_1 = "f57b0a53ec19"


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_numbers_that_are_no_amounts_are_refused_where_they_were_not_checked(
    tmp_path: Any, on_disk: bool, bad: float
) -> None:
    adata = datasets.simulate(30, 20, 2, 3, seed=1)
    dense = adata.X.toarray().astype(np.float32)
    dense[7, 3] = bad
    adata.X = dense
    source = adata
    if on_disk:
        source = tmp_path / "cells.h5ad"
        adata.write_h5ad(source)
    cells = CellCollection.from_anndata(source, check=False)
    assert len(cells.batch([6, 8])) == 2
    for read in (
        lambda: cells.batch([8, 7]),
        cells.summary,
        lambda: cells.with_genes(cells.genes[8:]).batch([7]),
    ):
        with pytest.raises(
            DataError, match=r"1 of \d+ counts read are NaN, .*, first .* at cell 'cell_7'; .*check"
        ):
            read()
