"""Embeddings are written as they come; the copy holds what the data hold, and they are whole."""

import tracemalloc
import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata.io import write_elem
from anndata.tests.helpers import assert_equal

from kernomics import datasets, tl
from kernomics.data.readers.inputs import ReadOptions
from kernomics.errors import ConfigError
from kernomics.models import TxFM
from kernomics.workflows import embed
from kernomics.workflows.embed import write_representation

SMALL = {"d_model": 16, "n_layers": 1, "n_heads": 2, "n_tokens": 20}


def cells(n=90):
    adata = datasets.simulate(n, 30, 3, 4, seed=0, mean_counts=100)
    adata.layers["twice"] = adata.X * 2
    adata.obsm["X_pca"] = np.arange(2.0 * n).reshape(n, 2)
    adata.uns["said"] = {"by": "us"}
    adata.raw = adata.copy()
    return adata


@pytest.fixture(scope="module")
def model():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TxFM(cells(), "XXS", **SMALL).train(1, progress=False).encoder


def write(model, data, out, *, reading: ReadOptions | None = None, **options):
    read = model.read(data, **(reading or {}))
    how = {"batch_size": 16, "progress": False, **options}
    return write_representation(
        model, read, data, out, reading={**(reading or {}), **read.reading}, **how
    )


def expected(model, adata):
    adata = adata.copy()
    tl.represent_cells(adata, model, progress=False, batch_size=16)
    del adata.uns["txfm"]["params"]["batch_size"]
    return adata


@pytest.mark.parametrize("form", ["h5ad", "compressed", "h5mu", "zarr", "old"])
def test_a_copy_holds_all_that_the_data_hold_and_the_embedding(model, tmp_path, form):
    adata, reading, data = cells(), {}, tmp_path / "data.h5ad"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == "h5mu":
            data, reading = tmp_path / "data.h5mu", {"modality": "rna"}
            with h5py.File(data, "w") as file:
                for name in ("rna", "other"):
                    write_elem(file, f"mod/{name}", adata)
                for name in ("obs", "var"):
                    write_elem(file, name, getattr(adata, name)[[]])
        elif form == "zarr":
            data = tmp_path / "data.zarr"
            adata.write_zarr(data)
        else:
            adata.write_h5ad(data, compression="gzip" if form == "compressed" else None)
        if form == "old":
            with h5py.File(data, "r+") as file:
                del file["raw"], file["obsm"], file["varm"], file["uns"]
            del adata.raw, adata.obsm["X_pca"], adata.uns["said"]
            adata.uns = {}
        before = data.read_bytes() if data.is_file() else b""
        assert write(model, data, tmp_path / "out.h5ad", reading=reading) == 16
        found = anndata.read_h5ad(tmp_path / "out.h5ad")
        wanted = expected(model, adata)
        found.uns["txfm"]["params"].pop("modality", None)
        assert_equal(found, wanted, exact=True)
    assert not data.is_file() or data.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([data.name, "out.h5ad"])


def test_an_earlier_embedding_is_replaced(model, tmp_path):
    adata = cells()
    adata.obsm["X_txfm"] = np.zeros((90, 3))
    adata.varm["txfm_encoder"] = np.zeros((30, 3))
    adata.uns["txfm"] = "old"
    adata.write_h5ad(tmp_path / "data.h5ad")
    write(model, tmp_path / "data.h5ad", tmp_path / "out.h5ad")
    assert_equal(anndata.read_h5ad(tmp_path / "out.h5ad"), expected(model, cells()), exact=True)


def test_tables_and_arrays_are_those_of_one_piece(model, tmp_path):
    adata = cells()
    adata.write_h5ad(tmp_path / "data.h5ad")
    latent = model.get_latent_representation(adata, batch_size=16)
    write(model, tmp_path / "data.h5ad", tmp_path / "out.npy")
    assert np.array_equal(np.load(tmp_path / "out.npy"), latent)
    write(model, tmp_path / "data.h5ad", tmp_path / "out.csv")
    columns = [f"txfm_{i}" for i in range(16)]
    pd.DataFrame(latent, adata.obs_names.astype(str), columns).to_csv(tmp_path / "whole.csv")
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize("suffix", ["h5ad", "npy", "csv"])
def test_an_embedding_that_fails_leaves_what_was_there(model, tmp_path, monkeypatch, suffix):
    cells().write_h5ad(tmp_path / "data.h5ad")
    out = tmp_path / f"out.{suffix}"
    out.write_bytes(b"earlier")

    def failing(self, known, *more):
        yield from list(known.batches(16))[:2]
        raise OSError("the disk is full")

    monkeypatch.setattr(type(model), "_read", failing)
    with pytest.raises(OSError, match="the disk is full"):
        write(model, tmp_path / "data.h5ad", out)
    assert out.read_bytes() == b"earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.h5ad", out.name]


def test_memory_does_not_grow_with_the_cells(model, tmp_path, monkeypatch):
    class Wide:  # what is written matters here, not what is computed
        config = type("Config", (), {"d_model": 512})
        info, module, genes = model.info, model.module, model.genes

        def get_latent_representation(self, cells, *, out, **options):
            for start in range(0, cells.n_cells, 64):
                part = out[start : start + 64] if isinstance(out, np.memmap) else None
                n = min(64, cells.n_cells - start)
                out[start : start + 64] = np.full((n, 512), 1.5, np.float32)
                assert part is None or (np.asarray(part) == 1.5).all()

        def get_gene_embeddings(self, *which):
            return model.get_gene_embeddings(*which)

    monkeypatch.setattr(embed, "key_of", lambda model: "txfm")
    peaks = []
    for n in (1000, 4000):
        adata = datasets.simulate(n, 30, 3, 4, seed=0, mean_counts=100)
        data = tmp_path / f"{n}.h5ad"
        adata.write_h5ad(data)
        read = model.read(data)
        tracemalloc.start()
        write_representation(
            Wide(), read, data, tmp_path / "out.h5ad",
            reading=read.reading, batch_size=None, progress=False,
        )  # fmt: skip
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        with h5py.File(tmp_path / "out.h5ad") as file:
            assert file["obsm/X_txfm"].shape == (n, 512)
            assert (file["obsm/X_txfm"][-1] == 1.5).all()
    assert peaks[1] - peaks[0] < 1_000_000  # the 3,000 more are six million bytes


def test_an_array_to_write_to_must_fit(model):
    for out in (np.empty((90, 15), np.float32), "somewhere", 3, [0.0]):
        with pytest.raises(ConfigError, match=r"out is .*: an array of shape \(90, 16\) is needed"):
            model.get_latent_representation(cells(), out=out)
    out = np.empty((90, 16), np.float32)
    assert model.get_latent_representation(cells(), out=out) is out
