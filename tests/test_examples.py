"""The examples run as they are written, and learn."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def example(monkeypatch):
    """Return a function that loads an example by its name."""
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def load(name):
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


def kinds_of_cells():
    generator = torch.Generator().manual_seed(1)
    rates = torch.rand(4, 80, generator=generator) ** 4
    return torch.poisson(10 * rates.repeat(16, 1), generator=generator)


def test_a_torch_model_learns_by_our_loss_and_tokens(example):
    losses = example("poisson_in_torch").train(kinds_of_cells(), n_steps=60)
    assert losses[-1] < losses[0] - 0.1 * abs(losses[0])


def test_the_loss_of_the_example_is_the_reference_s(example):
    from kernomics.ops import reference, sample_tokens

    torch.manual_seed(0)
    counts = kinds_of_cells()
    model = example("poisson_in_torch").Model(counts.shape[1])
    genes, values = sample_tokens(
        counts.to_sparse_csr(), 16, cell_ids=torch.arange(len(counts)), seed=torch.tensor([0, 3])
    )
    logits = model.last(model.hidden(model.tokens(genes, values).mean(1)))
    right = reference.poisson_nll(logits, counts, target_kind="counts")
    torch.testing.assert_close(model.loss(counts, 3), right)


@pytest.mark.filterwarnings("ignore")  # lightning's own
def test_a_lightning_module_learns_by_our_loss_and_tokens(example):
    pytest.importorskip("lightning", reason="the package lightning is not installed")
    counts = kinds_of_cells()
    module = example("poisson_in_lightning")
    torch.manual_seed(0)
    before = module.ExpressionModule(counts.shape[1]).model.loss(counts, 0)
    after = module.train(counts, n_epochs=20).model.loss(counts, 0)
    assert after < before - 0.1 * before.abs()


def test_a_database_read_by_three_methods_gives_the_batches_of_its_anndata(example, tmp_path):
    import anndata
    import numpy as np

    from kernomics.data import CellCollection, Loader, Sampler, convert
    from kernomics.errors import DataError

    module = example("cells_of_a_database")
    counts = kinds_of_cells().numpy().astype(int)
    counts[:, 0] += 1
    genes, types = [f"gene{i}" for i in range(80)], list("abcd") * 16
    cells = [f"cell{i}" for i in range(64)]
    module.fill(tmp_path / "cells.sqlite", counts, genes, cells, types)
    database = module.Database(tmp_path / "cells.sqlite")
    found = CellCollection.from_anndata(database, labels_key="cell_type")
    adata = anndata.AnnData(counts.astype(np.float32))
    adata.obs_names, adata.var_names, adata.obs["cell_type"] = cells, genes, types
    right = CellCollection.from_anndata(adata, labels_key="cell_type")
    assert found.on_disk
    assert found.fingerprint == right.fingerprint
    sampler = Sampler(range(64), 10, block_size=4, buffer_blocks=4)
    ours, theirs = (Loader(one, sampler).epoch(0) for one in (found, right))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.dense(), b.dense())
        assert torch.equal(a.labels["cell_type"], b.labels["cell_type"])
    assert convert(database, tmp_path / "a.h5ad", progress=False).n_cells == 64
    database.read = lambda rows: counts[:3]
    with pytest.raises(
        DataError, match=r"read\(\) of the Database gave a ndarray of shape \(3, 80"
    ):
        found.batch([1, 2])
