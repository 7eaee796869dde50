"""Several data sets with different genes as one collection."""

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from kernomics.data import CellCollection, concat
from kernomics.data.expression import measured_everywhere
from kernomics.data.gene_columns import find_genes
from kernomics.data.subset import select_cells
from kernomics.errors import DataError
from kernomics.ops import ObservedGenes


def cells(counts, genes, names, **obs):
    adata = AnnData(sparse.csr_matrix(np.array(counts, dtype=np.float32)))
    adata.var_names, adata.obs_names = list(genes), list(names)
    for key, values in obs.items():
        adata.obs[key] = values
    return adata


A = cells([[1, 0, 2], [0, 3, 0]], "ABC", ["x", "y"], kind=["t", "b"])
B = cells([[4, 5], [0, 6], [7, 0]], ["D", "B"], ["x", "v", "w"])


def collection(adata, **options):
    return CellCollection.from_anndata(adata, **options)


@pytest.fixture
def joined():
    return concat({"first": collection(A), "second": collection(B)}, labels_key="kind")


def test_genes_are_the_union_and_cells_one_after_the_other(joined):
    assert list(joined.genes) == ["A", "B", "C", "D"]
    assert list(joined.cell_names) == ["first:x", "first:y", "second:x", "second:v", "second:w"]
    expected = [[1, 0, 2, 0], [0, 3, 0, 0], [0, 5, 0, 4], [0, 6, 0, 0], [0, 0, 0, 7]]
    np.testing.assert_array_equal(joined.batch(range(5)).dense(), expected)
    np.testing.assert_array_equal(joined.library, [3, 3, 9, 6, 7])


@pytest.mark.parametrize("rows", [[4, 0, 2], [3, 3, 1], [2], []])
def test_a_batch_has_the_rows_asked_for_in_order(joined, rows):
    whole = joined.batch(range(5)).dense()
    batch = joined.batch(rows)
    np.testing.assert_array_equal(batch.dense(), whole[rows])
    np.testing.assert_array_equal(batch.observed.panel_id, np.array([0, 0, 1, 1, 1])[rows])


def test_each_cell_has_observed_the_genes_of_its_set(joined):
    observed = joined.batch([0, 4]).observed
    seen = observed.mask[observed.panel_id.long()]
    np.testing.assert_array_equal(seen, [[1, 1, 1, 0], [0, 1, 0, 1]])


def test_a_view_of_the_genes_has_the_panels_of_the_view(joined):
    with pytest.warns(UserWarning, match="1 are missing"):
        view = joined.with_genes(["D", "A", "none"], 0.5)
    batch = view.batch([0, 2])
    np.testing.assert_array_equal(batch.dense(), [[0, 1, 0], [4, 0, 0]])
    seen = batch.observed.mask[batch.observed.panel_id.long()]
    np.testing.assert_array_equal(seen, [[0, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(batch.slice(1, 2).observed.panel_id, [1])


def test_labels_are_missing_where_a_set_has_none(joined):
    np.testing.assert_array_equal(joined.labels["kind"].values, [1, 0, -1, -1, -1])
    assert list(joined.obs["dataset"]) == ["first"] * 2 + ["second"] * 3
    assert joined.batch_labels.categories == ("first", "second")


def test_summary_and_fingerprint_go_over_all_sets(joined):
    np.testing.assert_array_equal(joined.summary().n_expressing, [1, 3, 1, 2])
    again = concat({"first": collection(A), "second": collection(B)}, labels_key="kind")
    assert again.fingerprint == joined.fingerprint
    other = concat({"second": collection(B), "first": collection(A)}, labels_key="kind")
    assert other.fingerprint != joined.fingerprint


def test_files_are_read_as_they_are_needed(joined, tmp_path):
    for name, adata in (("first", A), ("second", B)):
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    parts = {name: collection(tmp_path / f"{name}.h5ad") for name in ("first", "second")}
    on_disk = concat(parts, labels_key="kind")
    assert on_disk.on_disk
    assert not joined.on_disk
    assert on_disk.fingerprint == joined.fingerprint


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (cells([[1, 2]], ["P", "Q"], ["x"]), "second shares none of its 2 genes"),
        (
            cells([[1, 2]], ["ENSG00000000003", "ENSG00000000005"], ["x"]),
            "first has gene symbols, second has Ensembl ids",
        ),
    ],
)
def test_sets_that_do_not_belong_together_are_refused(other, message):
    with pytest.raises(DataError, match=message):
        concat({"first": collection(A), "second": collection(other)})
    with pytest.raises(DataError, match="no data sets"):
        concat({})
    with pytest.raises(DataError, match="'second' is of type AnnData: read it first"):
        concat({"first": collection(A), "second": other})


def test_the_likely_cause_of_no_shared_gene_is_told():
    other = cells([[1, 2]], ["a", "b"], ["x"])
    with pytest.raises(DataError, match="2 would match if upper and lower case were ignored"):
        concat({"first": collection(A), "second": collection(other)})


def test_one_gene_in_two_versions_is_told():
    ids = [f"ENSG{i:011d}" for i in range(3)]
    first = cells([[1, 2, 3]], [f"{ids[0]}.1", f"{ids[1]}.4", ids[2]], ["x"])
    second = cells([[1, 2, 3]], [f"{ids[0]}.2", f"{ids[1]}.4", f"{ids[2]}.7"], ["y"])
    with pytest.warns(
        UserWarning,
        match=r"2 genes appear in the data sets under two names, first 'ENSG00000000000\.1' and "
        r"'ENSG00000000000\.2', and count as two; .*str\[0\]",
    ):
        joined = concat({"first": collection(first), "second": collection(second)})
    assert joined.n_genes == 5


def measured(collection):
    return collection.observed.mask.numpy()[collection.panel_of_cell].tolist()


def test_a_joint_collection_joined_again_keeps_what_each_set_measured(joined):
    C = cells([[2, 1]], ["E", "B"], ["z"])
    again = concat({"both": joined, "third": collection(C)})
    assert list(again.genes) == ["A", "B", "C", "D", "E"]
    first, second, third = [1, 1, 1, 0, 0], [0, 1, 0, 1, 0], [0, 1, 0, 0, 1]
    assert measured(again) == [first, first, second, second, second, third]


def test_a_set_with_genes_it_never_measured_keeps_them_unobserved():
    with pytest.warns(UserWarning, match="not observed"):
        view = collection(A).with_genes(["A", "B", "U"], 0.1, absent="unobserved")
    both = concat({"view": view, "second": collection(B)})
    assert list(both.genes) == ["A", "B", "U", "D"]
    assert measured(both) == [[1, 1, 0, 0]] * 2 + [[0, 1, 0, 1]] * 3


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        ([0, -1, 0, 0, 0], "1 of 5 cells, first -1 of cell 'first:y': there are 2"),
        ([0, 0, 0, 2, 2], "2 of 5 cells, first 2 of cell 'second:v'"),
        ([0, 1], r"shape \(2,\) for 5 cells"),
        ([0] * 6, r"shape \(6,\) for 5 cells"),
        ([0.5] * 5, "integers are needed"),
    ],
)
def test_panels_of_cells_that_there_are_not_are_refused(joined, ids, match):
    panels = ObservedGenes.from_lists([[0, 1, 2], [1, 3]], 4)
    with pytest.raises(DataError, match=match):
        joined.with_observed(panels, np.array(ids))
    with pytest.raises(DataError, match="of 5 genes, and the collection has 4"):
        joined.with_observed(ObservedGenes.from_lists([[0, 1]], 5), np.zeros(5, np.int32))
    found = joined.with_observed(panels, np.array([0, 0, 1, 1, 1])).batch(range(5))
    assert found.observed.panel_id.tolist() == [0, 0, 1, 1, 1]


def test_genes_that_every_data_set_has_measured(joined):
    assert measured_everywhere(joined).tolist() == [False, True, False, False]
    assert measured_everywhere(joined.with_genes(["B", "D"], 1.0)).tolist() == [True, False]
    assert measured_everywhere(select_cells(joined, [0, 1])).tolist() == [True, True, True, False]
    assert measured_everywhere(collection(A)).all()
    assert find_genes(["B"], joined) == (["B"], [])
    assert find_genes(["B", "D"], joined, allow_missing=True) == (["B"], ["D"])
    with pytest.raises(DataError, match="1 of 2 genes are not measured in every cell, first 'D'"):
        find_genes(["B", "D"], joined)
