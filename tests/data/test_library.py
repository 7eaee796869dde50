"""Whose totals library sizes are: those of the data where they can be, and it is said."""

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
from example_cells import csr, make

from kernomics.data import CellCollection, concat
from kernomics.data.subset import select_cells
from kernomics.errors import DataError

COUNTS = np.random.default_rng(1).poisson(2.0, (30, 12)).astype(np.float32) + 1
WHOLE = COUNTS.sum(axis=1)
OWN = COUNTS[:, :5].sum(axis=1)


def cut(raw=COUNTS, **obs) -> anndata.AnnData:
    """The first 5 of 12 genes, with `raw` of all."""
    adata = make(csr(raw))
    adata.raw = adata
    adata = adata[:, :5].copy()
    adata.X = csr(COUNTS[:, :5])
    for name, column in obs.items():
        adata.obs[name] = column
    return adata


def read(adata, **options) -> CellCollection:
    return CellCollection.from_anndata(adata, **options)


def told(cells: CellCollection) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cells.library_rule.tell()
        cells.library_rule.tell()
    return [str(one.message) for one in caught]


def test_a_whole_matrix_has_row_totals_and_nothing_is_said():
    cells = read(make(csr(COUNTS), total_counts=WHOLE))
    assert cells.library.tolist() == WHOLE.tolist()
    assert cells.library_source == "row totals over 12 genes"
    assert not cells.library_is_subset
    assert told(cells) == []


@pytest.mark.parametrize("form", ["memory", "path", "backed", "view", "backed view", "unchecked"])
def test_raw_with_the_same_counts_over_more_genes_gives_the_totals(form, tmp_path):
    adata = cut()
    wanted, rows = adata, np.arange(30)
    options = {}
    if form in ("path", "backed", "backed view", "unchecked"):
        adata.write_h5ad(tmp_path / "a.h5ad")
        wanted = tmp_path / "a.h5ad"
        if form.startswith("backed"):
            wanted = anndata.read_h5ad(wanted, backed="r")
        if form == "unchecked":
            options["check"] = False
    if "view" in form:
        rows = np.array([7, 3, 12])
        wanted = wanted[rows]
    before = adata.raw.X.copy()
    cells = read(wanted, **options)
    assert cells.library.tolist() == WHOLE[rows].tolist()
    assert cells.batch([1]).library.tolist() == [WHOLE[rows[1]]]
    share = f"{OWN[rows].sum() / WHOLE[rows].sum():.0%}"
    expected = f"adata.raw, totals over its 12 genes (these genes account for {share} of it)"
    assert cells.library_source == expected
    assert told(cells) == []
    assert (before != adata.raw.X).nnz == 0


@pytest.mark.parametrize("name", ["total_counts", "n_counts", "nCount_RNA"])
@pytest.mark.parametrize("dtype", ["float32", "int64", "Int64"])
def test_a_column_that_can_be_the_total_is_taken(name, dtype, tmp_path):
    adata = make(csr(COUNTS[:, :5]), **{name: pd.array(WHOLE.astype(int), dtype=dtype)})
    share = f"{OWN.sum() / WHOLE.sum():.0%}"
    adata.write_h5ad(tmp_path / "a.h5ad")
    for given in (adata, tmp_path / "a.h5ad"):
        for check in (True, False):
            cells = read(given, check=check)
            assert cells.library.tolist() == WHOLE.tolist()
            assert cells.library_source == f"obs['{name}'] (these genes account for {share} of it)"
            assert told(cells) == []


def test_the_order_is_the_key_then_raw_then_columns_then_rows():
    adata = cut(total_counts=WHOLE + 1, n_counts=WHOLE + 2, mine=WHOLE + 3)
    assert read(adata, library_key="mine").library.tolist() == (WHOLE + 3).tolist()
    assert read(adata, library_key="mine").library_source == "obs['mine'], as named"
    assert read(adata).library.tolist() == WHOLE.tolist()
    del adata.raw
    assert read(adata).library.tolist() == (WHOLE + 1).tolist()
    adata.obs["total_counts"] = OWN  # computed after the genes were cut: another says more
    assert read(adata).library.tolist() == (WHOLE + 2).tolist()
    del adata.obs["n_counts"]
    assert read(adata).library.tolist() == OWN.tolist()
    assert told(read(adata)) == []


def changed(values, row, value):
    values = values.astype(float).copy()
    values[row] = value
    return values


@pytest.mark.parametrize(
    ("column", "fault"),
    [
        (changed(WHOLE, 4, np.nan), "larger in 29 of 30 cells, but missing or infinite in 1"),
        (changed(WHOLE, 4, 1.0), "larger in 29 of 30 cells, but smaller than the cell's own .* 1"),
        (WHOLE + 0.5, "larger in 30 of 30 cells, but no integer in 30"),
        (np.full(30, 10_000.0), "the same in every cell, as after normalisation"),
    ],
)
def test_a_larger_column_that_cannot_be_the_total_is_told_of_once(column, fault):
    cells = read(make(csr(COUNTS[:, :5]), total_counts=column))
    assert cells.library.tolist() == OWN.tolist()
    assert cells.library_source == "row totals over 5 genes"
    assert cells.library_is_subset
    with pytest.warns(UserWarning, match=rf"over these 5 genes, a subset .*{fault}.*library_key"):
        cells.library_rule.tell()
    assert told(cells.with_genes(["gene1", "gene2"])) == []  # the same cells: said already


@pytest.mark.parametrize("column", [OWN / 2, ["much"] * 30, [True] * 30, np.log1p(WHOLE) / 9])
def test_a_column_that_says_nothing_is_ignored(column):
    cells = read(make(csr(COUNTS[:, :5]), total_counts=column))
    assert cells.library.tolist() == OWN.tolist()
    assert told(cells) == []


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (np.log1p(COUNTS), "raw has 12 genes, but holds no counts, first"),
        (COUNTS * 2, "raw has 12 genes, but holds other counts of these, first in row 0"),
    ],
)
def test_a_raw_that_is_no_use_is_told_of_unless_a_column_is(raw, fault):
    cells = read(cut(raw))
    assert cells.library.tolist() == OWN.tolist()
    assert len(told(cells)) == 1
    with pytest.warns(UserWarning, match=fault):
        read(cut(raw)).library_rule.tell()
    cells = read(cut(raw, total_counts=WHOLE))
    assert cells.library.tolist() == WHOLE.tolist()
    assert told(cells) == []


def test_a_raw_without_these_genes_by_name_is_told_of():
    adata = cut()
    adata.var_names = [f"other{i}" for i in range(5)]
    with pytest.warns(UserWarning, match="raw has 12 genes, but 0 of these by name"):
        read(adata).library_rule.tell()


def test_uns_and_var_can_say_that_the_genes_are_a_subset(tmp_path):
    adata = make(csr(COUNTS[:, :5]))
    adata.var["highly_variable"] = True
    adata.write_h5ad(tmp_path / "a.h5ad")
    for given in (adata, tmp_path / "a.h5ad"):
        with pytest.warns(UserWarning, match=r'var\["highly_variable"\] is True for all'):
            read(given).library_rule.tell()
    adata.var["highly_variable"] = [True, False] * 2 + [True]
    assert not read(adata).library_is_subset
    adata.uns["kernomics"] = {"genes_are_subset": True}
    adata.write_h5ad(tmp_path / "a.h5ad")
    for given in (adata, tmp_path / "a.h5ad"):
        assert read(given).library_is_subset
    assert read(given, check=False).library_is_subset
    adata.obs["total"] = WHOLE
    assert not read(adata, library_key="total").library_is_subset
    adata.obs["total"] = OWN - 1
    with pytest.raises(DataError, match="smaller than the cell's own counts"):
        read(adata, library_key="total")


def test_joined_and_selected_cells_keep_their_rules():
    whole, column = make(csr(COUNTS)), make(csr(COUNTS[:, :5]), total_counts=WHOLE)
    flagged = make(csr(COUNTS[:, :5]))
    flagged.uns["kernomics"] = {"genes_are_subset": True}
    joined = concat({"a": read(whole), "b": read(column)})
    assert joined.library.tolist() == [*WHOLE, *WHOLE]
    assert joined.library_source.startswith("a: row totals over 12 genes; b: obs['total_counts']")
    assert told(joined) == []
    with pytest.warns(UserWarning, match=r"in c, uns\["):
        concat({"a": read(whole), "c": read(flagged)}).library_rule.tell()
    some = select_cells(read(column), [4, 2])
    assert some.library.tolist() == WHOLE[[4, 2]].tolist()
    assert some.library_source == read(column).library_source


def test_library_sizes_unlike_those_of_a_model_are_told_of():
    known = read(make(csr(COUNTS), total_counts=WHOLE)).library_rule.description
    assert known == {
        "source": "row totals over 12 genes", "genes": 12, "over_more_genes": False,
        "partial": False,
    }  # fmt: skip
    few = read(make(csr(COUNTS[:, :5]))).library_rule
    with pytest.warns(UserWarning, match="over the 5 genes of these data, .* totals over 12"):
        few.tell(known)
    read(make(csr(COUNTS[:, :6]))).library_rule.tell(known)  # half as many will do
    read(make(csr(COUNTS[:, :5]), total_counts=WHOLE)).library_rule.tell(known)
    # The model saw 5 genes and totals over more; these cells have the same genes and no totals.
    column = read(make(csr(COUNTS[:, :5]), total_counts=WHOLE)).library_rule.description
    with pytest.warns(UserWarning, match=r"totals over more than 5 \(obs\['total_counts'\]"):
        read(make(csr(COUNTS[:, :5]))).library_rule.tell(column)
    # The model knew no better than a part; then the same part is right, and the whole is not.
    partial = make(csr(COUNTS[:, :5]))
    partial.uns["kernomics"] = {"genes_are_subset": True}
    part = read(partial).library_rule.description
    read(partial).library_rule.tell(part)
    with pytest.warns(
        UserWarning, match="trained with library sizes that are totals over only 5 genes"
    ):
        read(make(csr(COUNTS))).library_rule.tell(part)
