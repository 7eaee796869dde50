import numpy as np
import pytest
import torch
from scipy import sparse

from kernomics.data import Cells
from kernomics.errors import DataError

DENSE = np.array([[0, 2, 0, 5], [0, 0, 0, 0], [1, 0, 3, 0]], dtype=np.float32)


def cells() -> Cells:
    return Cells.from_scipy(
        sparse.csr_matrix(DENSE),
        cell_ids=[7, 8, 9],
        library=[10, 0, 20],
        labels={"type": np.array([0, -1, 1]), "age": np.array([1.0, np.nan, 3.0], np.float32)},
    )


def test_dense_gives_back_the_counts():
    assert torch.equal(cells().dense(), torch.from_numpy(DENSE))
    assert len(cells()) == 3
    assert cells().shape == (3, 4)


@pytest.mark.parametrize("form", ["csr_matrix", "csc_matrix", "coo_matrix", "csr_array"])
def test_every_scipy_form_gives_the_same_cells(form):
    made = Cells.from_scipy(getattr(sparse, form)(DENSE))
    assert torch.equal(made.dense(), torch.from_numpy(DENSE))
    assert made.indptr.dtype == torch.int64
    assert made.indices.dtype == torch.int32
    assert made.values.dtype == torch.float32


def test_library_is_the_row_total_when_none_is_given():
    assert Cells.from_scipy(DENSE).library.tolist() == [7, 0, 4]


def test_from_scipy_copies_and_leaves_its_input_unsorted():
    matrix = sparse.csr_matrix(
        (np.array([5.0, 2.0]), np.array([3, 1]), np.array([0, 2])), shape=(1, 4)
    )
    made = Cells.from_scipy(matrix)
    assert made.indices.tolist() == [1, 3]
    assert made.values.tolist() == [2, 5]
    assert matrix.indices.tolist() == [3, 1]


def test_stored_zeros_are_dropped():
    matrix = sparse.csr_matrix(
        (np.array([0.0, 2.0, 0.0]), np.array([0, 1, 0]), np.array([0, 2, 3])), shape=(2, 4)
    )
    made = Cells.from_scipy(matrix)
    assert made.indptr.tolist() == [0, 1, 1]
    assert made.indices.tolist() == [1]


def test_duplicate_entries_are_refused_and_located():
    matrix = sparse.csr_matrix(
        (np.ones(4), np.array([3, 3, 1, 3]), np.array([0, 1, 4])), shape=(2, 4)
    )
    with pytest.raises(DataError, match=r"1 of 4 entries .* gene 3 in row 1 .*sum_duplicates"):
        Cells.from_scipy(matrix)


def test_a_gene_index_out_of_range_is_refused_and_located():
    matrix = sparse.csr_matrix(DENSE)
    matrix.indices = matrix.indices.copy()
    matrix.indices[-1] = 9
    with pytest.raises(
        DataError, match=r"1 stored gene indices lie outside 0 … 3, first 9 in row 2"
    ):
        Cells.from_scipy(matrix)


def test_lengths_must_agree():
    with pytest.raises(DataError, match=r"'library' has shape \(2,\) for 3 cells"):
        Cells.from_scipy(DENSE, library=[1, 2])
    with pytest.raises(DataError, match=r"'type' has shape \(1,\) for 3 cells"):
        Cells.from_scipy(DENSE, labels={"type": np.array([1])})


@pytest.mark.parametrize("columns", [[1, 2], [3, 0, 1], [2, -1, 0, -1], [-1], [], [0, 1, 2, 3]])
def test_select_genes_equals_dense_selection(columns):
    picked = cells().select_genes(columns)
    expected = np.zeros((3, len(columns)), np.float32)
    for i, column in enumerate(columns):
        if column >= 0:
            expected[:, i] = DENSE[:, column]
    assert torch.equal(picked.dense(), torch.from_numpy(expected))
    assert picked.n_genes == len(columns)
    assert picked.library.tolist() == [10, 0, 20]
    for start, stop in zip(picked.indptr[:-1], picked.indptr[1:], strict=True):
        assert bool((picked.indices[start:stop].diff() > 0).all())


def test_select_genes_refuses_columns_that_repeat_or_do_not_exist():
    with pytest.raises(DataError, match="1 of 3 gene columns repeat"):
        cells().select_genes([1, 2, 1])
    for wrong in ([4], [-2]):
        with pytest.raises(DataError, match=r"must be −1 … 3"):
            cells().select_genes(wrong)


def test_slice_takes_cells_with_everything_that_belongs_to_them():
    part = cells().slice(1, 3)
    assert torch.equal(part.dense(), torch.from_numpy(DENSE[1:]))
    assert part.cell_ids.tolist() == [8, 9]
    assert part.library.tolist() == [0, 20]
    assert part.labels["type"].tolist() == [-1, 1]
    assert part.indptr[0] == 0


def test_with_values_keeps_the_pattern_and_checks_the_number():
    doubled = cells().with_values(cells().values * 2)
    assert torch.equal(doubled.dense(), torch.from_numpy(DENSE * 2))
    with pytest.raises(DataError, match=r"shape \(3,\) given for 4 non-zeros"):
        cells().with_values(torch.ones(3))


def test_to_moves_every_tensor():
    moved = cells().to("meta")
    tensors = [moved.indptr, moved.indices, moved.values, moved.cell_ids, moved.library]
    assert {t.device.type for t in [*tensors, *moved.labels.values()]} == {"meta"}
    assert moved.device.type == "meta"


@pytest.mark.gpu
def test_pinned_cells_arrive_on_the_gpu_unchanged():
    pinned = cells().pin_memory()
    assert pinned.values.is_pinned()
    moved = pinned.to("cuda", non_blocking=True)
    assert moved.device.type == "cuda"
    assert torch.equal(moved.csr().to_dense().cpu(), torch.from_numpy(DENSE))
    assert torch.equal(moved.select_genes([3, 0]).dense().cpu(), torch.from_numpy(DENSE[:, [3, 0]]))


@pytest.mark.parametrize(
    ("dtype", "a", "b"),
    [("uint8", 200, 100), ("int8", 100, 100), ("float32", 2**24, 1), ("bool", 1, 1)],
)
def test_entries_named_twice_in_coo_are_added_exactly(dtype, a, b):
    from kernomics.data.csr import rows_of_sparse

    coo = sparse.coo_matrix((np.array([a, b], dtype), ([0, 0], [1, 1])), shape=(2, 3))
    found = rows_of_sparse(coo)
    assert found.values.tolist() == [a + b]
    assert found.indices.tolist() == [1]
    if a + b < 2**24:
        assert Cells.from_scipy(coo).dense()[0].tolist() == [0, a + b, 0]


def test_room_beyond_the_last_entry_is_no_entry():
    csr = sparse.csr_matrix(np.array([[1, 0, 2], [0, 3, 0]], np.float32))
    csr.data, csr.indices = np.append(csr.data, [9, 9]), np.append(csr.indices, [0, 1])
    assert Cells.from_scipy(csr).dense().tolist() == [[1, 0, 2], [0, 3, 0]]


@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_from_scipy_shares_nothing_with_a_matrix_that_needs_no_change(index):
    matrix = sparse.csr_matrix(DENSE)
    matrix.indices, matrix.indptr = matrix.indices.astype(index), matrix.indptr.astype(index)
    made = Cells.from_scipy(matrix)
    matrix.data[:], matrix.indices[:], matrix.indptr[:] = 9, 0, 0
    assert torch.equal(made.dense(), torch.from_numpy(DENSE))
    made.values.zero_()
    assert (matrix.data == 9).all()
