import re
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from kernomics.data import CellCollection
from kernomics.data.checks import MAX_COUNT, first_bad_count, scan
from kernomics.data.readers import sources
from kernomics.errors import ConfigError, DataError


def make(counts=None, **obs) -> anndata.AnnData:
    counts = np.ones((4, 3), np.float32) if counts is None else counts
    n, g = counts.shape
    return anndata.AnnData(
        X=counts,
        obs=pd.DataFrame(obs, index=[f"cell{i}" for i in range(n)]),
        var=pd.DataFrame(index=["LYZ", "CD3D", "NKG7", *map(str, range(g))][:g]),
    )


def read(adata, **keys) -> CellCollection:
    return CellCollection.from_anndata(adata, **keys)


def with_values(*values) -> np.ndarray:
    """Ones [4, 3], the given values in rows 2 and on, from column 1."""
    counts = np.ones((4, 3), np.float64)
    counts.ravel()[7 : 7 + len(values)] = values
    return counts


FAULTS = [
    ((0.693, 2.5), "2 of 12 non-zeros are not integers, first 0.693 at cell 'cell2', gene 'CD3D'"),
    ((np.nan,), "1 of 12 non-zeros are NaN, first nan at cell 'cell2', gene 'CD3D'"),
    ((1, np.inf), "1 of 12 non-zeros are infinite, first inf at cell 'cell2', gene 'NKG7'"),
    ((-np.inf,), "1 of 12 non-zeros are infinite, first -inf at"),
    ((-1, -0.5, -2), "3 of 12 non-zeros are negative, first -1 at cell 'cell2', gene 'CD3D'"),
    ((2**24 + 2,), "1 of 12 non-zeros exceed 2^24 = 16,777,216 and are not exact in float32"),
]


@pytest.mark.parametrize(("values", "message"), FAULTS)
@pytest.mark.parametrize("form", ["dense", "csr", "file"])
@pytest.mark.parametrize("block", [1, 1 << 22])
def test_values_that_are_no_counts_are_counted_and_located(
    tmp_path, monkeypatch, values, message, form, block
):
    monkeypatch.setattr(sources, "BLOCK_NONZEROS", block)
    counts = with_values(*values)
    adata = make(counts if form == "dense" else sparse.csr_matrix(counts))
    if form == "file":
        adata.write_h5ad(tmp_path / "a.h5ad")
        adata = tmp_path / "a.h5ad"
    with pytest.raises(DataError, match=f"^X.* does not hold counts: {re.escape(message)}"):
        read(adata)


def test_every_kind_of_fault_is_reported_at_once():
    with pytest.raises(DataError) as error:
        read(make(with_values(0.5, np.nan, -1)))
    for said in ("are NaN", "are negative", "are not integers"):
        assert said in str(error.value)


def test_blocks_after_a_fault_are_counted_but_not_kept(monkeypatch):
    monkeypatch.setattr(sources, "BLOCK_NONZEROS", 3)
    counts = with_values(0.5, 1, 0.5)
    kept = []
    found = scan(
        sources.memory_source(counts, "X"), "X", lambda start, rows: kept.append((start, len(rows)))
    )
    assert kept == [(0, 1), (1, 1)]
    assert found.faults["fraction"] == (2, 0.5, 2, 1)


def test_integer_types_are_checked_too():
    with pytest.raises(DataError, match="1 of 12 non-zeros are negative, first -3"):
        read(make(with_values(-3).astype(np.int64)))
    with pytest.raises(DataError, match=r"1 of 12 non-zeros exceed 2\^24"):
        read(make(with_values(MAX_COUNT + 1).astype(np.uint32)))
    assert read(make(with_values(MAX_COUNT).astype(np.int32))).batch([2]).values[1] == MAX_COUNT


def test_the_hint_names_where_counts_are(tmp_path):
    adata = make(with_values(0.5))
    with pytest.raises(DataError, match="no other layer and no adata"):
        read(adata)
    adata.raw = make()
    adata.write_h5ad(tmp_path / "a.h5ad")
    for given_as in (adata, tmp_path / "a.h5ad"):
        with pytest.raises(DataError, match=r"; adata\.raw does: pass use_raw=True"):
            read(given_as)
    adata.layers["scaled"] = with_values(0.1)
    adata.layers["raw_counts"] = sparse.csc_matrix(with_values())
    adata.write_h5ad(tmp_path / "b.h5ad")
    for given_as in (adata, tmp_path / "b.h5ad"):
        with pytest.raises(DataError, match="; layer 'raw_counts' does: pass layer='raw_counts'"):
            read(given_as)
    adata.X = with_values()
    with pytest.raises(DataError, match=r"^layer 'scaled' does not .*; X does: leave layer out"):
        read(adata, layer="scaled")


def test_raw_is_never_used():
    adata = make()
    adata.raw = make(with_values(9))
    assert read(adata).batch([2]).values.tolist() == [1, 1, 1]


@pytest.mark.parametrize("dtype", [object, np.complex64])
def test_values_of_no_numeric_type_are_refused(dtype):
    adata = make()
    adata.layers["odd"] = np.ones((4, 3)).astype(dtype)
    with pytest.raises(DataError, match=f"layer 'odd' holds {np.dtype(dtype)} values"):
        read(adata, layer="odd")


def test_cells_without_counts_are_counted_and_located():
    counts = sparse.csr_matrix(with_values())
    counts.data[3:6] = 0  # stored zeros are no counts
    counts = sparse.vstack([counts, sparse.csr_matrix((2, 3))]).tocsr()
    with pytest.raises(
        DataError,
        match=r"3 of 6 cells have .* in X, first 'cell1' \(row 1\), 'cell4' \(row 4\), .*keep",
    ):
        read(make(counts))
    kept = read(make(counts), empty_cells="keep")
    assert kept.batch([1, 4]).library.tolist() == [0, 0]
    with pytest.raises(ConfigError, match="empty_cells is 'drop'; closest: 'error'"):
        read(make(counts), empty_cells="drop")


def test_repeated_names_are_counted_and_located():
    adata = make()
    adata.var.index = ["LYZ", "CD3D", "LYZ"]
    with pytest.raises(
        DataError,
        match=r"1 of 3 gene names .* first 'LYZ' at positions 0 and 2; call adata.var_names_make",
    ):
        read(adata)
    adata = make()
    adata.obs.index = ["a", "b", "b", "b"]
    with pytest.raises(DataError, match=r"2 of 4 cell names .* first 'b' at positions 1 and 2"):
        read(adata)


@pytest.mark.parametrize(("shape", "lacking"), [((0, 3), "cells"), ((3, 0), "genes")])
def test_an_empty_anndata_is_refused(shape, lacking):
    with pytest.raises(DataError, match=f"the AnnData has no {lacking}"):
        read(make(np.ones(shape, np.float32)))


def test_a_missing_layer_or_column_lists_the_closest():
    adata = make(cell_type=["a", "b"] * 2)
    adata.layers["counts"] = adata.X
    with pytest.raises(DataError, match="there is no layer 'count'; closest: 'counts'"):
        read(adata, layer="count")
    for key in ("labels_key", "batch_key", "library_key"):
        with pytest.raises(DataError, match="no column 'celltype'; closest: 'cell_type'"):
            read(adata, **{key: "celltype"})


def test_an_anndata_without_x_says_so():
    adata = anndata.AnnData(layers={"counts": np.ones((2, 3), np.float32)})
    with pytest.raises(DataError, match=r"no X; name a layer with layer=…, closest: 'counts'"):
        read(adata)
    assert read(adata, layer="counts").n_genes == 3


def test_files_that_are_no_h5ad_are_refused(tmp_path):
    import h5py

    with pytest.raises(DataError, match=r"there is no file '.*absent.h5ad'"):
        read(tmp_path / "absent.h5ad")
    (tmp_path / "text.h5ad").write_text("cells")
    with pytest.raises(DataError, match="is not an HDF5 file"):
        read(tmp_path / "text.h5ad")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["matrix"] = [1]
    with pytest.raises(DataError, match=r"is not an .h5ad file: it holds \['matrix'\]"):
        read(tmp_path / "other.h5")


def test_duplicate_entries_are_refused_with_the_matrix_named():
    adata = make(sparse.csr_matrix(with_values()))
    adata.X.indices[:] = [0, 1, 2] * 3 + [0, 2, 2]
    with pytest.raises(DataError, match=r"1 of 12 entries of X name a gene .* gene 2 in row 3"):
        read(adata)


def test_labels_without_anything_to_learn_are_refused():
    with pytest.raises(DataError, match="'kind' has one value, 'a'"):
        read(make(kind=["a"] * 4), labels_key="kind")
    with pytest.raises(DataError, match="'kind': all 4 cells are unlabelled"):
        read(make(kind=pd.Categorical([None] * 4, categories=["a"])), labels_key="kind")


def test_every_cell_needs_a_batch():
    with pytest.raises(
        DataError, match=r"obs\['run'\] is missing for 2 of 4 cells, first in row 1"
    ):
        read(make(run=["x", None, "y", None]), batch_key="run")


@pytest.mark.parametrize(
    ("library", "message"),
    [
        ([3, 3, np.nan, 3], "is NaN or infinite for 1 of 4 cells, first nan at cell 'cell2'"),
        ([3, np.inf, 3, 3], "is NaN or infinite for 1 of 4 cells, first inf at cell 'cell1'"),
        ([3, 3, 3, -1], "is negative for 1 of 4 cells, first -1 at cell 'cell3'"),
        (
            [3, 1, 2, 3],
            "smaller than the cell's own counts for 2 of 4 cells, first 1 at cell 'cell1'",
        ),
    ],
)
def test_library_sizes_that_cannot_be_totals_are_refused(library, message):
    with pytest.raises(DataError, match=re.escape(message)):
        read(make(total=np.array(library, dtype=float)), library_key="total")


def test_library_sizes_that_are_words_are_refused():
    with pytest.raises(DataError, match=r"obs\['total'\] cannot be read as library sizes"):
        read(make(total=["much"] * 4), library_key="total")


@settings(deadline=None)
@given(
    hnp.arrays(
        np.float64,
        st.integers(0, 30),
        elements=st.sampled_from(
            [0, 1, 5, MAX_COUNT, MAX_COUNT + 1, 1e30, 0.5, -0.5, -3, np.nan, np.inf, -np.inf, -0.0]
        ),
    ),
    st.sampled_from([np.float32, np.float64]),
)
def test_first_bad_count_agrees_with_looking_at_each_value(values, dtype):
    values = values.astype(dtype)
    expected = {}
    for i, value in enumerate(values.tolist()):
        if value != value:
            fault = "nan"
        elif value in (np.inf, -np.inf):
            fault = "infinite"
        elif value < 0:
            fault = "negative"
        elif value != int(value):
            fault = "fraction"
        elif value > MAX_COUNT:
            fault = "too_large"
        else:
            continue
        number, first = expected.get(fault, (0, i))
        expected[fault] = (number + 1, first)
    assert first_bad_count(values) == expected


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64, bool]
)
def test_first_bad_count_accepts_integers_of_any_type(dtype):
    assert first_bad_count(np.array([0, 1, 100]).astype(dtype)) == {}
    assert first_bad_count(np.array([], dtype=dtype)) == {}


def test_half_precision_holds_counts_without_a_word():
    counts = np.array([[0, 3, 65504], [1, 2, 0]], np.float16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(make(counts)).batch([0]).values.tolist() == [3, 65504]
        assert first_bad_count(np.array([0.5, -1, np.inf], np.float16)).keys() == {
            "fraction", "negative", "infinite",
        }  # fmt: skip
