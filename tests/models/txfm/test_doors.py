"""What a trained TxFM is asked for: rows, sizes, genes and cells that say nothing."""

import numpy as np
import pytest
from scipy import sparse

from kernomics import datasets, tl
from kernomics.data import CellCollection, concat, make_split, select_cells
from kernomics.errors import ConfigError, DataError
from kernomics.models import TxFM
from kernomics.train.device import usable_device

TINY = {"d_model": 16, "n_layers": 2, "n_heads": 2, "n_tokens": 8, "decoder_layers": 1}
LIKE = {"rtol": 1e-4, "atol": 1e-5}  # of float32, in other batches


@pytest.fixture(scope="module")
def adata():
    return datasets.simulate(60, 40, 4, 5, seed=3)


@pytest.fixture(scope="module")
def trained(adata):
    """A TxFM that knows the first 30 of 40 genes."""
    genes = list(adata.var_names[:30])
    return TxFM(adata, "XS", genes=genes, **TINY).train(2, batch_size=32, progress=False)


READERS = ["get_latent_representation", "get_block_representations", "get_normalized_expression"]


@pytest.fixture(params=READERS)
def read(request, trained):
    """Every way to read of cells, as [n, …]."""
    method = getattr(trained.trained, request.param)
    if request.param == "get_block_representations":
        return lambda *args, **options: np.stack(method(*args, **options), axis=1)
    return method


def test_a_mask_means_its_cells(adata, read):
    mask = np.arange(60) % 7 == 2
    whole, some = read(adata), read(adata, rows=mask)
    assert len(some) == mask.sum()
    np.testing.assert_allclose(some, whole[mask], **LIKE)
    np.testing.assert_allclose(read(adata, rows=[9, 2, 9]), whole[[9, 2, 9]], **LIKE)


@pytest.mark.parametrize("rows", [[], np.zeros(60, bool), np.empty(0, np.int64)])
def test_no_rows_are_an_empty_result_of_the_same_form(adata, read, rows):
    found, whole = read(adata, rows=rows), read(adata)
    assert found.shape == (0, *whole.shape[1:])
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rows": [True, False]}, DataError, r"mask of shape \(2,\) for 60 cells"),
        ({"rows": [-1]}, DataError, "first -1"),
        ({"rows": [3, 60]}, DataError, "1 of the 2 rows do not exist, first 60"),
        ({"rows": [1.0]}, DataError, "of type float64"),
        ({"rows": ["cell_1"]}, DataError, "first .*'cell_1'"),
        ({"batch_size": 0}, ConfigError, "batch_size is 0: at least 1 is needed"),
        ({"batch_size": -1}, ConfigError, "batch_size is -1: at least 1"),
        ({"batch_size": 2.0}, ConfigError, "batch_size is 2.0: it must be an integer"),
        ({"batch_size": True}, ConfigError, "batch_size is True: it must be an integer"),
        ({"n_tokens": 0}, ConfigError, "n_tokens is 0: at least 1 is needed"),
        ({"n_tokens": -3}, ConfigError, "n_tokens is -3"),
        ({"n_tokens": 2.5}, ConfigError, "n_tokens is 2.5: it must be an integer"),
        (
            {"min_gene_overlap": np.nan},
            ConfigError,
            "nan: it must be a finite number",
        ),
        ({"empty_cells": "drop"}, ConfigError, "it must be one of error, keep"),
    ],
)
def test_what_makes_no_sense_is_refused_by_every_reader(adata, read, options, error, message):
    with pytest.raises(error, match=message):
        read(adata, **options)


@pytest.mark.parametrize("read", READERS[:2])
@pytest.mark.parametrize("n_draws", [0, -1, 1.5, "2"])
def test_draws_are_one_or_more(adata, trained, read, n_draws):
    with pytest.raises(ConfigError, match=f"n_draws is {n_draws!r}"):
        getattr(trained.trained, read)(adata, n_tokens=4, n_draws=n_draws)


@pytest.mark.parametrize("block", [0, -1, 3, 1.0, True])
def test_blocks_are_those_of_the_model(adata, trained, block):
    with pytest.raises(ConfigError, match=f"block is {block!r}: (this model|it must)"):
        trained.get_latent_representation(adata, block=block)


def test_numpys_integers_are_integers(adata, trained):
    options = {"n_tokens": 4, "n_draws": 2, "block": 1, "batch_size": 7}
    np.testing.assert_array_equal(
        trained.get_latent_representation(adata, **{k: np.int32(v) for k, v in options.items()}),
        trained.get_latent_representation(adata, **options),
    )


def test_one_gene_may_come_by_itself(adata, trained):
    whole = trained.get_normalized_expression(adata)
    for genes in ("gene_7", ["gene_7"], np.array(["gene_7"])):
        found = trained.get_normalized_expression(adata, genes=genes)
        assert found.shape == (60, 1)
        np.testing.assert_allclose(found[:, 0], whole[:, 7], **LIKE)
    twice = trained.get_normalized_expression(adata, genes=["gene_7", "gene_1", "gene_7"])
    np.testing.assert_allclose(twice, whole[:, [7, 1, 7]], **LIKE)
    for genes, message in (
        ("gene_39", "1 of the 1 genes asked for are not among the model's 30, first 'gene_39'"),
        ([], "genes is empty"),
    ):
        with pytest.raises(DataError, match=message):
            trained.get_normalized_expression(adata, genes=genes)
    with pytest.raises(ConfigError, match=r"genes is .3.: it must be a string or a list of names"):
        trained.get_normalized_expression(adata, genes=[3])
    with pytest.raises(DataError, match="1 of the 1 genes asked for are not in the data, first 'X"):
        TxFM(adata, "XS", genes="XYZ", **TINY)


def test_devices_are_named():
    for name in (None, 1.5, "gpu", "", [], "mps"):
        with pytest.raises(ConfigError, match=r"device .*use 'cpu' or 'cuda'"):
            usable_device(name)


# -- cells that say nothing ------------------------------------------------------------------------


def silent(adata, rows):
    """Cells that have counts, but none of the first 30 genes."""
    cells = adata.copy()
    dense = cells.X.toarray()
    dense[np.ix_(rows, range(30))] = 0
    dense[rows, 35] = 4
    cells.X = sparse.csr_matrix(dense)
    return cells


TOLD = (
    r"7 of 60 cells have no counts in the model's 30 genes, first 'cell_4' \(row 4\), .*'cell_8' "
    r"\(row 8\), …: they cannot be distinguished; remove them .*empty_cells='keep', here or in"
)


def test_cells_without_a_count_of_the_models_genes_are_refused_and_named(adata, read, tmp_path):
    cells = silent(adata, range(4, 11))
    cells.write_h5ad(tmp_path / "cells.h5ad")
    for source in (cells, tmp_path / "cells.h5ad", CellCollection.from_anndata(cells)):
        with pytest.raises(DataError, match=TOLD):
            read(source)
    with pytest.raises(DataError, match=r"1 of 2 cells .*first 'cell_10' \(row 10\): they"):
        read(cells, rows=[10, 3, 10])
    rest = np.delete(np.arange(60), range(4, 11))
    np.testing.assert_allclose(read(cells, rows=rest), read(adata)[rest], **LIKE)


def test_they_are_represented_all_alike_if_kept(adata, read):
    cells = silent(adata, range(4, 11))
    kept = CellCollection.from_anndata(cells, empty_cells="keep")
    for found in (
        read(cells, empty_cells="keep"),
        read(CellCollection.from_anndata(cells), empty_cells="keep"),
        read(kept),
        read(select_cells(kept, np.arange(60))),
    ):
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found[4:11], np.repeat(found[4:5], 7, axis=0), **LIKE)
        rest = np.delete(np.arange(60), range(4, 11))
        np.testing.assert_allclose(found[rest], read(adata)[rest], **LIKE)
    joined = concat({"one": kept, "other": CellCollection.from_anndata(adata)})
    assert joined.empty_cells == "keep"


def test_a_set_that_has_none_of_the_models_genes_is_refused_cell_by_cell(adata, trained):
    parts = {"known": adata[:50].copy(), "unknown": adata[50:, 30:].copy()}
    joined = concat({name: CellCollection.from_anndata(part) for name, part in parts.items()})
    with pytest.raises(DataError, match=r"10 of 60 cells have no counts .*'unknown:cell_50'"):
        trained.get_latent_representation(joined)
    found = trained.get_latent_representation(joined, empty_cells="keep")
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[50:], np.repeat(found[50:51], 10, axis=0))


def test_a_model_is_scored_on_what_it_was_trained_on(adata, tmp_path):
    """Training takes measured zeros as they are, so its scores do too."""
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    from kernomics.workflows.pretrain import run_pretraining

    cells = CellCollection.from_anndata(silent(adata, [4, 9]), labels_key="cell_type")
    split = make_split(60, how="random", fractions=(0.6, 0.2, 0.2), seed=0)
    model = TxFM(cells, "XS", genes=list(adata.var_names[:30]), split=split, **TINY)
    options = {"max_epochs": 1, "batch_size": 32, "progress": False}
    found = run_pretraining(model, tmp_path / "run", dataset="x", score_epochs=True, **options)
    assert np.isfinite(found.scores.table).all().all()
    with pytest.raises(DataError, match="2 of 60 cells have no counts in the model's 30 genes"):
        model.get_latent_representation()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -2.0])
def test_numbers_that_are_no_counts_are_refused_though_unchecked(adata, read, bad):
    cells = adata.copy()
    dense = cells.X.toarray().astype(np.float32)
    dense[7, 2] = bad
    cells.X = dense
    unchecked = CellCollection.from_anndata(cells, check=False)
    told = r"1 of [\d,]+ counts read are NaN, infinite or negative, first .* at cell 'cell_7'"
    with pytest.raises(DataError, match=told):
        read(unchecked)
    with pytest.raises(DataError, match=told):
        read(unchecked, empty_cells="keep")
    with pytest.raises(DataError, match=told):
        TxFM(unchecked, "XS", **TINY).train(1, progress=False)


def test_scanpys_place_has_a_row_for_every_cell(adata, trained):
    with pytest.raises(ConfigError, match=r"rows was given, .*adata\[rows\]\.copy\(\)"):
        tl.represent_cells(adata.copy(), trained, rows=[1, 2], progress=False)
