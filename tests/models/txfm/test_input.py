"""What TxFM refuses or warns of, and what it says."""

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from kernomics import datasets
from kernomics.data import CellCollection, concat, make_split
from kernomics.errors import ConfigError, DataError
from kernomics.models import TxFM
from kernomics.train.device import require_precision

TINY = {"d_model": 16, "n_layers": 2, "n_heads": 2, "n_tokens": 12, "decoder_layers": 1}


@pytest.fixture(scope="module")
def adata():
    return datasets.simulate(80, 60, 4, 5, seed=3)


@pytest.fixture(scope="module")
def trained(adata):
    return TxFM(adata, "XS", **TINY).train(1, batch_size=32, progress=False)


def changed(adata, rows=(), columns=()):
    """Some cells, or some genes, without counts."""
    cells = adata.copy()
    dense = cells.X.toarray()
    dense[list(rows)] = 0
    dense[:, list(columns)] = 0
    cells.X = sparse.csr_matrix(dense)
    return cells


def test_cells_without_counts_are_refused_with_their_names(adata, trained):
    cells = changed(adata, rows=range(3, 10))
    told = r"7 of 80 cells have no counts in X, first 'cell_3' \(row 3\), .* 'cell_7' \(row 7\), …"
    for use in (
        lambda: TxFM(cells, "XS", **TINY),
        lambda: trained.get_latent_representation(cells),
    ):
        with pytest.raises(DataError, match=rf"{told}; remove them .*empty_cells='keep'"):
            use()
    kept = CellCollection.from_anndata(cells, empty_cells="keep")
    with pytest.raises(DataError, match=r"7 of the 80 cells to train and validate on .*'cell_3'"):
        TxFM(kept, "XS", **TINY)


def test_cells_without_counts_are_represented_alike_if_kept(adata, trained):
    kept = CellCollection.from_anndata(changed(adata, rows=[3, 7]), empty_cells="keep")
    found = trained.get_latent_representation(kept)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[3], found[7], rtol=1e-5, atol=1e-6)
    whole = trained.get_latent_representation(adata)
    rest = np.delete(np.arange(80), [3, 7])
    np.testing.assert_allclose(found[rest], whole[rest], rtol=1e-4, atol=1e-5)


def test_cells_without_counts_may_be_left_out_of_the_split(adata):
    kept = CellCollection.from_anndata(changed(adata, rows=[3, 7]), empty_cells="keep")
    split = make_split(80, how="random", fractions=(0.7, 0.1, 0.2))
    whole = np.setdiff1d(np.arange(80), [3, 7])
    rows = np.setdiff1d(split.train, [3, 7])
    split = type(split)(rows, whole[:0], whole[:0], "random", None, 0)
    model = TxFM(kept, "XS", split=split, **TINY).train(1, batch_size=32, progress=False)
    assert np.isfinite(model.history.column("loss")).all()


def test_a_data_set_with_too_few_genes_is_named(adata):
    sizes = {"whole": 60, "small": 12, "tiny": 10}
    parts = {name: CellCollection.from_anndata(adata[:, -n:].copy()) for name, n in sizes.items()}
    with pytest.raises(ConfigError) as caught:
        TxFM(concat({name: parts[name] for name in ("whole", "tiny")}), "XS", **TINY)
    assert str(caught.value) == (
        "n_tokens is 12, and data set 'tiny' has 10 genes: none would be masked; set n_tokens to "
        "about 2, a quarter"
    )
    with pytest.raises(ConfigError, match=r"2 data sets have no more; .* 'tiny', has 10 genes"):
        TxFM(concat(parts), "XS", **TINY)
    assert len(TxFM(concat(parts), "XS", **{**TINY, "n_tokens": 9}).genes) == 60


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ([], "genes is empty"),
        (
            ["gene_1", "gene_2", "gene_1"],
            "genes names 1 of its 3 genes more than once, first 'gene_1'",
        ),
        (["gene_1", "gen_2"], "1 of the 2 genes asked for are not in the data, first 'gen_2'; clo"),
        (
            ["ENSG00000000003"],
            "the data hold gene symbols (such as 'gene_0'): if a column of var",
        ),
        (["GENE_1", "GENE_2"], "2 would match if upper and lower case were ignored"),
    ],
)
def test_a_vocabulary_that_cannot_be_is_told(adata, genes, message):
    with pytest.raises(DataError) as caught:
        TxFM(adata, "XS", genes=genes, **{**TINY, "n_tokens": 1})
    assert message in str(caught.value)


def test_genes_that_no_training_cell_has_are_named(adata):
    cells = changed(adata, columns=[5, 9])
    model = TxFM(cells, "XS", genes=list(adata.var_names), **TINY)
    with pytest.warns(
        UserWarning,
        match="genes of the vocabulary have no counts in any training cell, first 'gene_5'",
    ):
        model.train(1, batch_size=32, progress=False)


def test_genes_outside_the_vocabulary_are_named(adata, trained):
    with pytest.raises(
        DataError,
        match="1 of the 2 genes asked for are not among the model's 60, first 'gene_x'; closest",
    ):
        trained.get_normalized_expression(adata, genes=["gene_3", "gene_x"])


def test_other_names_than_the_models_are_told_apart(adata, trained):
    cells = adata.copy()
    cells.var_names = [f"ENSG{i:011d}" for i in range(60)]
    with pytest.raises(
        DataError,
        match=r"0 of the model's 60 .* name it with gene_names",
    ):
        trained.get_latent_representation(cells)


def test_repeated_genes_are_named(adata, trained):
    cells = adata.copy()
    cells.var_names = [*adata.var_names[:59], "gene_4"]
    for use in (
        lambda: TxFM(cells, "XS", **TINY),
        lambda: trained.get_latent_representation(cells),
    ):
        with pytest.raises(DataError, match="repeat an earlier one, first 'gene_4' at positions 4"):
            use()


def test_log_normalised_data_are_recognised_and_named(adata, tmp_path):
    logged = adata.copy()
    logged.X = logged.X.log1p()
    logged.write_h5ad(tmp_path / "logged.h5ad")
    with pytest.raises(
        DataError,
        match=r"^X of 'logged.h5ad' does not hold counts: .* not integers, .*; the largest is "
        r"[\d.]+, so they look log-normalised; no other layer .* load the raw counts",
    ):
        TxFM(tmp_path / "logged.h5ad", "XS", **TINY)
    scaled = adata.copy()
    scaled.X = scaled.X * 1.5
    with pytest.raises(DataError) as caught:
        TxFM(scaled, "XS", **TINY)
    assert "log-normalised" not in str(caught.value)


def test_corrected_counts_are_taken_as_they_are_if_told(adata):
    corrected = adata.copy()
    corrected.X = corrected.X * 0.9
    with pytest.raises(DataError, match=r"corrected for ambient RNA, pass allow_fractions=True"):
        TxFM(corrected, "XS", **TINY)
    found = TxFM(corrected, "XS", allow_fractions=True, **TINY)
    found = found.train(2, batch_size=32, progress=False)
    expected = TxFM(adata, "XS", **TINY).train(2, batch_size=32, progress=False)
    for one, two in zip(found.history, expected.history, strict=True):  # of shares of the library
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)


def test_a_split_of_other_data_and_options_beside_a_collection_are_refused(adata, trained):
    with pytest.raises(ConfigError, match="names rows 0 … 79, but there are 20 cells"):
        TxFM(adata[:20].copy(), "XS", split=trained.split, **TINY)
    cells = CellCollection.from_anndata(adata)
    for use in (lambda **o: TxFM(cells, "XS", **TINY, **o), trained.get_latent_representation):
        options = {"adata": cells} if use == trained.get_latent_representation else {}
        with pytest.raises(ConfigError, match="library_key was given with a CellCollection"):
            use(library_key="total", **options)


def test_a_gpu_without_bfloat16_is_refused_and_named(monkeypatch):
    device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "device", lambda _: torch.no_grad())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    for supported in (True, False):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, s=supported: s
        )
        require_precision(device, "float32")
        if supported:
            require_precision(device, "bf16")
            continue
        with pytest.raises(ConfigError) as caught:
            require_precision(device, "bf16")
    assert str(caught.value) == (
        "precision='bf16' was asked for, but 'cuda:0' has no bfloat16: it is a Tesla T4 of compute "
        "capability 7.5, and 8.0 is needed; use precision='float32'"
    )


def test_the_cpu_computes_in_bfloat16(adata):
    model = TxFM(adata, "XS", **TINY).train(2, batch_size=32, progress=False, precision="bf16")
    assert np.isfinite(model.history.column("loss")).all()
    assert model.module.decoder.genes.weight.dtype == torch.float32


def test_the_sizes_own_tokens_leave_genes_to_mask(adata):
    assert TxFM(adata, "XS").config.n_tokens == 30  # half of 60, in place of the size's own
    with pytest.raises(ConfigError, match="none would be masked"):
        TxFM(adata, "XS", n_tokens=60)


def test_a_single_gene_leaves_nothing_to_predict():
    with pytest.raises(ConfigError, match="the vocabulary has 1 gene: a TxFM learns by predicting"):
        TxFM(AnnData(sparse.csr_matrix(np.ones((80, 1), np.float32))), "XS")
