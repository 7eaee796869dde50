import pickle

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from example_cells import assert_holds, assert_same, csr, make, random_counts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from kernomics.data import CellCollection
from kernomics.data.readers import sources
from kernomics.errors import DataError

counts_and_rows = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.int64, shape, elements=st.sampled_from([0, 0, 0, 1, 2, 70_000])),
        st.lists(st.integers(0, shape[0] - 1), max_size=12),
    )
)


@settings(deadline=None, max_examples=60)
@given(counts_and_rows, st.sampled_from([1, 3, 1 << 22]))
def test_every_form_in_memory_gives_the_same_cells(drawn, block):
    counts, wanted = drawn
    forms = [
        counts,
        counts.astype(np.float32),
        counts.astype(np.float64),
        counts.astype(np.uint32),
        np.asfortranarray(counts),
        csr(counts),
        csr(counts, np.int64),
        csr(counts.astype(np.float64)),
        sparse.csr_array(counts),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK_NONZEROS", block)
        for form in forms:
            collection = CellCollection.from_anndata(make(form), empty_cells="keep")
            assert_holds(collection.batch(wanted), counts, wanted)


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(counts_and_rows, st.booleans(), st.sampled_from([2, 1 << 22]))
def test_a_file_gives_the_same_cells_as_memory(tmp_path, drawn, dense, block):
    counts, wanted = drawn
    path = tmp_path / f"{sum(1 for _ in tmp_path.iterdir())}.h5ad"  # none is open that is written
    make(counts if dense else csr(counts, np.int64)).write_h5ad(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK_NONZEROS", block)
        from_file = CellCollection.from_anndata(path, empty_cells="keep")
        loaded = CellCollection.from_anndata(path, empty_cells="keep", in_memory=True)
    assert from_file.on_disk
    assert not loaded.on_disk
    assert_holds(from_file.batch(wanted), counts, wanted)
    assert_same(from_file.batch(wanted), loaded.batch(wanted))
    assert from_file.fingerprint == loaded.fingerprint


def test_csc_is_converted_with_a_warning():
    counts = random_counts()
    with pytest.warns(UserWarning, match="X is stored as CSC"):
        collection = CellCollection.from_anndata(
            make(sparse.csc_matrix(counts)), empty_cells="keep"
        )
    assert_holds(collection.batch(range(40)), counts, range(40))


def test_csc_in_a_file_is_converted_with_a_warning(tmp_path):
    counts = random_counts()
    make(sparse.csc_matrix(counts)).write_h5ad(tmp_path / "a.h5ad")
    with pytest.warns(UserWarning, match=r"X of 'a.h5ad' is stored as CSC"):
        collection = CellCollection.from_anndata(tmp_path / "a.h5ad", empty_cells="keep")
    assert_holds(collection.batch(range(40)), counts, range(40))


@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_csc_in_a_file_is_in_memory_and_canonical_whatever_its_type(tmp_path, dtype):
    counts = random_counts() + 1
    matrix = sparse.csc_matrix(counts.astype(dtype))
    matrix.data[:7] = 0  # stored zeros
    make(matrix).write_h5ad(tmp_path / "a.h5ad")
    with pytest.warns(UserWarning, match="stored as CSC"):
        collection = CellCollection.from_anndata(tmp_path / "a.h5ad", empty_cells="keep")
    assert not collection.on_disk
    cells = collection.batch(range(40))
    assert cells.values.dtype == torch.float32
    assert (cells.values != 0).all()
    assert_holds(cells, matrix.toarray(), range(40))


@pytest.mark.parametrize("form", [np.asarray, csr])
def test_a_view_gives_its_own_cells_and_genes(form):
    counts = random_counts()
    cells, genes = [5, 3, 30, 31], [2, 20, 7]
    view = make(form(counts))[cells][:, genes]
    collection = CellCollection.from_anndata(view, empty_cells="keep")
    assert view.is_view
    assert collection.genes.tolist() == ["gene2", "gene20", "gene7"]
    assert_holds(collection.batch([0, 3, 1]), counts[cells][:, genes], [0, 3, 1])


@pytest.mark.parametrize("form", [np.asarray, csr])
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_backed_anndata_and_its_view_give_the_same_cells(tmp_path, form, mode):
    counts = random_counts()
    make(form(counts)).write_h5ad(tmp_path / "a.h5ad")
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed=mode)
    whole = CellCollection.from_anndata(backed, empty_cells="keep")
    assert whole.on_disk
    assert_holds(whole.batch([4, 0, 39]), counts, [4, 0, 39])
    cells, genes = [5, 3, 30, 31], [2, 20, 7]
    view = CellCollection.from_anndata(backed[cells, genes], empty_cells="keep")
    assert view.on_disk
    assert_holds(view.batch([0, 3, 1]), counts[cells][:, genes], [0, 3, 1])
    backed.file.close()


def test_a_backed_view_whose_cells_were_renamed_is_refused(tmp_path):
    make(random_counts()).write_h5ad(tmp_path / "a.h5ad")
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    backed.obs_names = [f"other{i}" for i in range(40)]
    with pytest.raises(DataError, match=r"cell names of this view .* pass view.to_memory\(\)"):
        CellCollection.from_anndata(backed[:4], empty_cells="keep")
    backed.file.close()


def test_a_backed_view_whose_names_were_given_to_other_cells_is_refused(tmp_path):
    make(csr(random_counts(6))).write_h5ad(tmp_path / "a.h5ad")
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    backed.obs_names = [*backed.obs_names[1:], backed.obs_names[0]]
    with pytest.raises(DataError, match=r"cell names of this view .* pass view.to_memory\(\)"):
        CellCollection.from_anndata(backed[[3, 1]], empty_cells="keep")


def test_a_layer_is_read_from_memory_and_from_a_file(tmp_path):
    counts = random_counts()
    adata = make(counts + 0.5)
    adata.layers["counts"] = csr(counts)
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    for given_as in (adata, tmp_path / "a.h5ad", str(tmp_path / "a.h5ad"), backed):
        collection = CellCollection.from_anndata(given_as, layer="counts", empty_cells="keep")
        assert_holds(collection.batch([3, 1]), counts, [3, 1])
    backed.file.close()


def test_the_anndata_is_not_modified_and_later_changes_do_not_reach_the_collection():
    counts = random_counts()
    matrix = csr(counts)
    row = slice(*matrix.indptr[:2])
    matrix.indices[row] = matrix.indices[row][::-1]
    matrix.data[row] = matrix.data[row][::-1]
    matrix.has_sorted_indices = False
    adata = make(matrix, kind=pd.Categorical(["a", "b"] * 20))
    before = [part.copy() for part in (adata.X.data, adata.X.indices, adata.X.indptr)]
    obs = adata.obs.copy()
    collection = CellCollection.from_anndata(adata, labels_key="kind", empty_cells="keep")
    for part, was in zip((adata.X.data, adata.X.indices, adata.X.indptr), before, strict=True):
        assert np.array_equal(part, was)
    pd.testing.assert_frame_equal(adata.obs, obs)
    adata.X.data[:] = 0.5
    adata.X.indices[:] = 0
    collection.obs["kind"] = "c"
    assert_holds(collection.batch(range(40)), counts, range(40))
    assert set(collection.obs["kind"]) == {"a", "b"}


def test_batches_are_copies():
    collection = CellCollection.from_anndata(make(random_counts()), empty_cells="keep")
    collection.batch([1]).values.zero_()
    assert float(collection.batch([1]).values.sum()) > 0


def test_library_is_the_column_named_or_the_row_total():
    counts = random_counts()
    adata = make(csr(counts), total=counts.sum(axis=1) + 5.0)
    rows_wanted = [3, 8]
    named = CellCollection.from_anndata(adata, library_key="total", empty_cells="keep")
    assert named.batch(rows_wanted).library.tolist() == (counts[rows_wanted].sum(1) + 5).tolist()
    unread = CellCollection.from_anndata(adata, library_key="total", check=False)
    assert unread.batch(rows_wanted).library.tolist() == named.batch(rows_wanted).library.tolist()


def test_library_is_exact_where_float32_sums_are_not():
    counts = np.ones((1, 300), np.float32)
    counts[0, 0] = 1 << 24
    collection = CellCollection.from_anndata(make(csr(counts)))
    assert collection.batch([0]).library.item() == np.float32((1 << 24) + 299)


def test_labels_come_with_each_batch():
    adata = make(
        random_counts(6) + 1,
        kind=pd.Categorical(["b", "a", None, "b", "none", "a"]),
        age=[1.5, np.nan, 3, 4, 5, 6],
        run=list("xyxyxy"),
    )
    collection = CellCollection.from_anndata(
        adata, labels_key=["kind", "age"], batch_key="run", unlabelled_category="none"
    )
    cells = collection.batch([4, 0, 1, 2])
    assert cells.labels["kind"].tolist() == [-1, 1, 0, -1]
    assert cells.labels["age"].tolist()[:2] == [5, 1.5]
    assert bool(cells.labels["age"][2].isnan())
    assert cells.labels["age"].dtype == torch.float32
    assert collection.labels["kind"].categories == ("a", "b")
    assert collection.batch_labels.values.tolist() == [0, 1, 0, 1, 0, 1]
    assert "2 classes" in repr(collection)


def test_rows_out_of_range_are_refused():
    collection = CellCollection.from_anndata(make(random_counts()), empty_cells="keep")
    for wrong in ([-1], [0, 40]):
        with pytest.raises(DataError, match="there are 40 cells"):
            collection.batch(wrong)


def test_with_genes_follows_the_models_order_and_keeps_the_library():
    counts = random_counts() + 1
    collection = CellCollection.from_anndata(make(counts))
    with pytest.warns(UserWarning, match="2 of the model's 3 genes"):
        aligned = collection.with_genes(["gene9", "absent", "gene2"], min_gene_overlap=0.5)
    expected = np.stack([counts[:, 9], 0 * counts[:, 0], counts[:, 2]], axis=1)
    cells = aligned.batch([5, 1])
    assert torch.equal(cells.dense(), torch.from_numpy(expected[[5, 1]]))
    assert cells.library.tolist() == counts[[5, 1]].sum(axis=1).tolist()
    again = aligned.with_genes(["gene2", "gene9"])
    assert torch.equal(again.batch([5]).dense(), torch.from_numpy(expected[[5]][:, [2, 0]]))
    assert np.allclose(aligned.summary().mean, expected.mean(axis=0))
    assert collection.n_genes == 30


def test_genes_that_the_data_lack_are_unobserved_if_asked_for():
    counts = random_counts() + 1
    collection = CellCollection.from_anndata(make(counts))
    names = ["gene9", "absent", "gene2"]
    with pytest.warns(UserWarning, match="count as not observed, not as 0"):
        aligned = collection.with_genes(names, 0.5, absent="unobserved")
    observed = aligned.batch([5, 1]).observed
    assert observed.mask[observed.panel_id.long()].tolist() == [[1, 0, 1]] * 2
    assert collection.with_genes(["gene9"], absent="unobserved").observed is None


def test_with_the_same_genes_nothing_changes():
    collection = CellCollection.from_anndata(make(random_counts() + 1))
    same = collection.with_genes(collection.genes)
    assert_same(same.batch([3, 1]), collection.batch([3, 1]))
    assert same.fingerprint == collection.fingerprint


@pytest.mark.parametrize("block", [5, 1 << 22])
def test_loaded_genes_are_those_columns_in_memory(tmp_path, monkeypatch, block):
    counts = random_counts() + 1
    counts[3, [9, 2]] = 0
    kinds = ["a", "b"] * 20
    make(csr(counts), kind=kinds).write_h5ad(tmp_path / "a.h5ad")
    monkeypatch.setattr(sources, "BLOCK_NONZEROS", block)
    for form in (make(csr(counts), kind=kinds), tmp_path / "a.h5ad"):
        whole = CellCollection.from_anndata(form, labels_key="kind")
        few = whole.load_genes([9, 2])
        assert not few.on_disk
        assert few.genes.tolist() == ["gene9", "gene2"]
        cells = few.batch([3, 1, 39])
        assert torch.equal(cells.dense(), torch.from_numpy(counts[[3, 1, 39]][:, [9, 2]]))
        assert cells.library.tolist() == counts[[3, 1, 39]].sum(axis=1).tolist()
        assert torch.equal(cells.labels["kind"], whole.batch([3, 1, 39]).labels["kind"])
        assert whole.n_genes == 30
    with pytest.warns(UserWarning, match="1 of the model's 2 genes"):
        aligned = whole.with_genes(["gene9", "absent"], min_gene_overlap=0.5)
    expected = np.stack([0 * counts[:, 0], counts[:, 9]], axis=1)
    assert torch.equal(
        aligned.load_genes([1, 0]).batch([3, 5]).dense(), torch.from_numpy(expected[[3, 5]])
    )


def test_compact_cells_are_the_same_ones_and_only_made_where_that_pays(tmp_path):
    counts = random_counts() + 1
    make(csr(counts)).write_h5ad(tmp_path / "a.h5ad")
    whole = CellCollection.from_anndata(make(csr(counts)))
    few = whole.with_genes([f"gene{i}" for i in (9, 2, 25, 0)], 1.0)
    compact = few.compact()
    assert compact is not few
    assert_same(compact.batch([3, 1, 39]), few.batch([3, 1, 39]))
    assert compact.genes.tolist() == few.genes.tolist()
    with pytest.warns(UserWarning, match="1 of the model's 2 genes"):
        lacking = whole.with_genes(["absent", "gene9"], 0.5)
    assert_same(lacking.compact().batch([0, 7]), lacking.batch([0, 7]))
    many = whole.with_genes([f"gene{i}" for i in range(9)], 1.0)
    on_disk = CellCollection.from_anndata(tmp_path / "a.h5ad").with_genes(["gene9"], 1.0)
    for same in (whole, many, on_disk):
        assert same.compact() is same


def test_with_labels_replaces_labels_and_checks_their_length():
    adata = make(random_counts() + 1, kind=["a", "b"] * 20)
    collection = CellCollection.from_anndata(adata, labels_key="kind")
    short = collection.labels["kind"].subset(range(3))
    with pytest.raises(DataError, match="'kind' has 3 entries for 40 cells"):
        collection.with_labels({"kind": short})
    recoded = collection.with_labels({"kind": collection.labels["kind"].aligned(["b", "c"])})
    assert recoded.batch([0, 1]).labels["kind"].tolist() == [-1, 0]
    assert collection.batch([0, 1]).labels["kind"].tolist() == [0, 1]


@pytest.mark.parametrize("block", [5, 1 << 22])
def test_summary_equals_the_dense_computation(tmp_path, monkeypatch, block):
    counts = random_counts()
    kinds = np.array(["a", "b", None, "a"] * 10, dtype=object)
    make(csr(counts), kind=pd.Categorical(kinds)).write_h5ad(tmp_path / "a.h5ad")
    monkeypatch.setattr(sources, "BLOCK_NONZEROS", block)
    collection = CellCollection.from_anndata(
        tmp_path / "a.h5ad", labels_key="kind", empty_cells="keep"
    )
    whole = collection.summary()
    assert np.allclose(whole.mean, counts.mean(axis=0))
    assert whole.n_expressing.tolist() == (counts > 0).sum(axis=0).tolist()
    assert whole.n_cells == 40
    some = collection.summary(rows=[7, 2, 3])
    assert np.allclose(some.mean, counts[[7, 2, 3]].mean(axis=0))
    by_kind = collection.summary(by="kind")
    assert by_kind.n_cells.tolist() == [20, 10]
    for i, kind in enumerate("ab"):
        assert np.allclose(by_kind.mean[i], counts[kinds == kind].mean(axis=0))
        assert by_kind.n_expressing[i].tolist() == (counts[kinds == kind] > 0).sum(0).tolist()
    with pytest.raises(DataError, match="'age' is not a categorical label"):
        collection.summary(by="age")


def test_fingerprint_depends_on_everything_that_matters():
    counts = random_counts() + 1

    def fingerprint(change=lambda adata: None, **keys) -> str:
        adata = make(counts.copy(), kind=["a", "b"] * 20, total=counts.sum(axis=1) + 1)
        change(adata)
        return CellCollection.from_anndata(adata, **{"labels_key": "kind", **keys}).fingerprint

    def rename_gene(adata):
        adata.var_names = ["other", *adata.var_names[1:]]

    def rename_cell(adata):
        adata.obs_names = ["other", *adata.obs_names[1:]]

    def change_count(adata):
        adata.X[3, 3] += 1

    def change_label(adata):
        adata.obs["kind"] = ["b", "a"] * 20

    changes = [rename_gene, rename_cell, change_count, change_label]
    all_prints = [fingerprint(), *map(fingerprint, changes), fingerprint(library_key="total")]
    assert len(set(all_prints)) == len(all_prints)
    assert fingerprint() == all_prints[0]
    assert fingerprint(lambda adata: setattr(adata, "X", csr(adata.X))) == all_prints[0]


def test_a_collection_on_disk_survives_pickling(tmp_path):
    counts = random_counts()
    make(csr(counts)).write_h5ad(tmp_path / "a.h5ad")
    collection = CellCollection.from_anndata(tmp_path / "a.h5ad", empty_cells="keep")
    copied = pickle.loads(pickle.dumps(collection))
    assert_same(copied.batch([3, 1]), collection.batch([3, 1]))
