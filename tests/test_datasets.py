import builtins

import numpy as np
import pytest

from kernomics import datasets
from kernomics.data import CellCollection, make_split
from kernomics.errors import DataError

scanpy = pytest.importorskip("scanpy", reason="pbmc68k() reads cells that ship with scanpy")


@pytest.fixture(scope="module")
def pbmc():
    return datasets.pbmc68k()


def test_pbmc68k_holds_integers_that_reproduce_scanpys_values(pbmc):
    assert pbmc.shape == (700, 765)
    counts = pbmc.layers["counts"].toarray()
    assert np.array_equal(counts, np.rint(counts))
    assert counts.max() == 259
    assert np.array_equal(pbmc.X.toarray(), counts)
    raw = scanpy.datasets.pbmc68k_reduced().raw.X.toarray()
    total = pbmc.obs["n_counts"].to_numpy()[:, None]
    assert np.abs(np.log1p(counts * 1e4 / total) - raw).max() < 5.1e-4


def test_pbmc68k_says_what_to_know_about_it(pbmc):
    note = pbmc.uns["kernomics"]["note"]
    assert "11% to 28%" in note
    assert "CD4+/CD45RA+/CD25- Naive T, has 8 cells" in note
    assert pbmc.obs["cell_type"].equals(pbmc.obs["bulk_labels"].rename("cell_type"))
    assert pbmc.obs["cell_type"].cat.categories.size == 10


def test_pbmc68k_goes_through_the_checks_and_a_stratified_split(pbmc, tmp_path):
    collection = CellCollection.from_anndata(pbmc, layer="counts", labels_key="cell_type")
    assert not collection.library_is_subset
    share = pbmc.X.sum(dtype=np.float64) / pbmc.obs["n_counts"].sum()
    assert (
        collection.library_source == f"obs['n_counts'] (these genes account for {share:.0%} of it)"
    )
    assert np.array_equal(collection.library, pbmc.obs["n_counts"].to_numpy(np.float32))
    split = make_split(700, how="stratified", labels=collection.labels["cell_type"])
    for part in (split.train, split.validation, split.test):
        assert set(collection.labels["cell_type"].values[part].tolist()) == set(range(10))
    pbmc.write_h5ad(tmp_path / "pbmc.h5ad")
    from_file = CellCollection.from_anndata(
        tmp_path / "pbmc.h5ad", layer="counts", labels_key="cell_type"
    )
    assert from_file.fingerprint == collection.fingerprint


def test_pbmc68k_without_scanpy_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without_scanpy(name, *args, **keys):
        if name == "scanpy":
            raise ImportError(name)
        return real(name, *args, **keys)

    monkeypatch.setattr(builtins, "__import__", without_scanpy)
    with pytest.raises(ImportError, match=r"pip install 'kernomics\[report\]'"):
        datasets.pbmc68k()


def rounded_log1p(counts, total) -> np.ndarray:
    return np.round(np.log1p(counts * 1e4 / total[:, None]), 3)


def test_counts_are_recovered_from_rounded_logarithms():
    random = np.random.default_rng(0)
    counts = random.poisson(1.5, (30, 40)).astype(float)
    counts[:, 0] = 1
    total = counts.sum(axis=1) * 20
    recovered = datasets.counts_from_log1p(rounded_log1p(counts, total), total)
    assert np.array_equal(recovered, counts)


def test_values_that_are_not_log1p_of_counts_are_refused_and_located():
    counts = np.array([[1.0, 2, 0], [1, 5, 3]])
    total = np.array([2000.0, 3000.0])
    raw = rounded_log1p(counts, total)
    wrong = raw.copy()
    wrong[1, 2] += 0.01
    with pytest.raises(
        DataError, match=r"1 of 6 counts .* do not reproduce raw .* row 1, column 2"
    ):
        datasets.counts_from_log1p(wrong, total)
    with pytest.raises(DataError, match="not whole multiples of their cell's smallest step"):
        datasets.counts_from_log1p(rounded_log1p(counts * 2, total), total)


def test_simulate_is_offered_beside_it():
    assert datasets.simulate(10, 50, 2, 3).shape == (10, 50)
