"""Library sizes of cells that are read from raw, by other names, or without some features."""

import anndata
import numpy as np
import pytest
from example_cells import csr, make

from kernomics.data import CellCollection
from kernomics.data.readers.inputs import outline_of
from kernomics.models.reading import as_trained, read_as_trained

COUNTS = np.random.default_rng(1).poisson(2.0, (30, 12)).astype(np.float32) + 1
GENES = COUNTS[:, :9]
"""The counts of genes, before three antibodies."""


def read(adata, **options) -> CellCollection:
    return CellCollection.from_anndata(adata, **options)


def cut(whole: anndata.AnnData, n: int = 5) -> anndata.AnnData:
    """The first genes alone, all of them in raw."""
    whole.raw = whole
    return whole[:, :n].copy()


def with_antibodies(**obs) -> anndata.AnnData:
    adata = make(csr(COUNTS), **obs)
    adata.var["feature_types"] = ["Gene Expression"] * 9 + ["Antibody Capture"] * 3
    return adata


def test_counts_read_from_raw_have_the_totals_of_raw():
    adata = cut(make(csr(COUNTS), total_counts=COUNTS.sum(axis=1)))
    adata.uns["kernomics"] = {"genes_are_subset": True}  # said of X
    adata.var["highly_variable"] = True
    cells = read(adata, use_raw=True)
    assert cells.library.tolist() == COUNTS.sum(axis=1).tolist()
    assert cells.library_source == "row totals over 12 genes"
    assert not cells.library_is_subset


def test_a_total_of_more_genes_than_raw_has_is_taken_with_raw():
    more = COUNTS.sum(axis=1) + 5
    cells = read(cut(make(csr(COUNTS), total_counts=more)), use_raw=True)
    assert cells.library.tolist() == more.tolist()


def test_raw_is_matched_whatever_column_names_the_genes():
    whole = make(csr(COUNTS))
    whole.var["symbol"] = ["A", "B", "C", "D", "E", "F", "A", "H", "I", "J", "K", "L"]
    cells = read(cut(whole), gene_names="symbol")  # 'A' is there once; raw has it twice
    assert cells.genes.tolist() == ["A", "B", "C", "D", "E"]
    assert cells.library.tolist() == COUNTS.sum(axis=1).tolist()


@pytest.mark.filterwarnings("ignore:3 of .* features are not genes")
def test_features_that_are_left_out_count_in_no_library():
    for adata in (with_antibodies(), with_antibodies(total_counts=COUNTS.sum(axis=1))):
        cells = read(adata)
        assert cells.library.tolist() == GENES.sum(axis=1).tolist()
        assert not cells.library_is_subset
        assert read(adata, all_features=True).library.tolist() == COUNTS.sum(axis=1).tolist()
    cells = read(cut(with_antibodies()))  # no antibodies but in raw
    assert cells.library.tolist() == GENES.sum(axis=1).tolist()
    assert cells.library_source.startswith("adata.raw, totals over its 9 genes")


@pytest.mark.filterwarnings("ignore:3 of .* features are not genes")
def test_a_total_that_may_count_them_is_not_taken_and_one_that_cannot_is():
    doubtful = read(with_antibodies(total_counts=COUNTS.sum(axis=1) + 7))
    assert doubtful.library.tolist() == GENES.sum(axis=1).tolist()
    with pytest.warns(UserWarning, match="may count the 3 features that are not genes"):
        doubtful.library_rule.tell()
    of_genes = read(with_antibodies(total_counts=GENES.sum(axis=1) + 1))
    assert of_genes.library.tolist() == (GENES.sum(axis=1) + 1).tolist()


def test_totals_of_fractional_counts_are_fractions_too():
    corrected = COUNTS * np.float32(7.5)  # no logarithms
    uncorrected = make(csr(corrected), total_counts=8 * COUNTS.sum(axis=1))
    cells = read(uncorrected, allow_fractions=True)
    np.testing.assert_allclose(cells.library, corrected.sum(axis=1))
    own = make(csr(corrected[:, :5]), total_counts=corrected.sum(axis=1))
    np.testing.assert_allclose(read(own, allow_fractions=True).library, corrected.sum(axis=1))
    raw = cut(make(csr(corrected)))
    np.testing.assert_allclose(read(raw, allow_fractions=True).library, corrected.sum(axis=1))


@pytest.mark.filterwarnings("ignore:Writing zarr v2")
def test_the_column_of_a_training_is_looked_for_in_whatever_is_handed_over(tmp_path):
    adata = make(csr(COUNTS), depth=COUNTS.sum(axis=1) + 3)
    adata.write_h5ad(tmp_path / "a.h5ad")
    adata.write_zarr(tmp_path / "a.zarr")
    info = {"library": {"key": "depth"}}
    for given in (adata, tmp_path / "a.h5ad", tmp_path / "a.zarr"):
        assert outline_of(given).obs_columns == ["depth"]
        assert as_trained(given, {"layer": None}, info, [])["library_key"] == "depth"
        assert as_trained(given, {"library_key": "own"}, info, [])["library_key"] == "own"
        assert as_trained(given, {"library_key": None}, info, []) == {"library_key": None}
        assert "library_key" not in as_trained(given, {}, {"library": {"key": "total"}}, [])
        read_again = read_as_trained(given, {}, info, [])
        assert read_again.library_source == "obs['depth'], as named"
        assert read_again.reading == {}
    assert read_as_trained(read(adata), {}, info, []).reading == {}
