"""LinearPath: the formula, padding, gradients, and where it starts in a TxFM."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernomics.data import CellCollection
from kernomics.data.expression import log_expression
from kernomics.datasets import simulate
from kernomics.models import TxFM
from kernomics.nn.linear_path import EPSILON, LinearPath


def path_of(n_genes: int, width: int) -> LinearPath:
    path = LinearPath(n_genes, width).double()
    generator = torch.Generator().manual_seed(n_genes)
    with torch.no_grad():
        path.weight.copy_(torch.randn(n_genes, width, generator=generator))
        path.mean.copy_(torch.rand(n_genes, generator=generator))
        path.scale.copy_(0.5 + torch.rand(width, generator=generator))
    return path


@settings(deadline=None)
@given(
    n_genes=st.integers(1, 40), width=st.integers(1, 9), cells=st.integers(0, 5),
    padded=st.booleans(), data=st.data(),
)  # fmt: skip
def test_it_is_the_formula(n_genes, width, cells, padded, data):
    path = path_of(n_genes, width)
    length = data.draw(st.integers(0, n_genes))
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    ids = np.array([generator.permutation(n_genes)[:length] for _ in range(cells)])
    ids = torch.from_numpy(ids.reshape(cells, length))
    x = torch.from_numpy(generator.normal(size=(cells, length)))
    padding = torch.from_numpy(generator.random((cells, length)) < 0.3) if padded else None
    shown = ids if padding is None else ids.masked_fill(padding, -1)
    found = path(shown.int(), x, padding)
    for b in range(cells):
        total = torch.zeros(width, dtype=torch.float64)
        for k in range(length):
            if padding is None or not padding[b, k]:
                j = int(ids[b, k])
                total += (x[b, k] - path.mean[j]) * path.weight[j]
        total = total * path.scale
        expected = total / (total.square().mean() + EPSILON).sqrt()
        torch.testing.assert_close(found[b], expected)


def test_gradients():
    path = path_of(7, 3)
    ids = torch.tensor([[0, 3, -1], [6, 2, 1]], dtype=torch.int32)
    x = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)

    def of(weight, x):
        return torch.func.functional_call(path, {"weight": weight}, (ids, x, ids < 0))

    assert torch.autograd.gradcheck(of, (path.weight.detach().clone().requires_grad_(), x))


def test_summands_of_genes_add_up():
    path = path_of(6, 2)
    ids, x = torch.tensor([[1, 4, 5]]), torch.rand(1, 3, dtype=torch.float64)
    sums = path.of_genes(ids[0], x[0]).sum(0, keepdim=True)
    torch.testing.assert_close(path.of_sums(sums), path(ids, x, None))


def test_a_cell_at_the_mean_is_at_zero():
    path = path_of(4, 2)
    assert path(torch.arange(4)[None], path.mean[None], None).tolist() == [[0.0, 0.0]]


def test_a_txfm_starts_at_principal_components():
    cells = simulate(150, 80, 3, 5, seed=3)
    model = TxFM(cells, "XXS", d_model=16, validation=0.0, seed=1)
    module = model._module()
    half = module.config.d_model // 2
    batch = model.cells.batch(np.arange(150))
    with torch.no_grad():
        tokens = module.tokens(batch, None)
        found = module.encode(*tokens)
    torch.testing.assert_close(found.square().unflatten(1, (2, half)).mean(2), torch.ones(150, 2),
                               rtol=1e-3, atol=0)  # fmt: skip
    x = log_expression(batch, dtype=np.float64).toarray()
    x -= x.mean(0)
    _, _, vt = np.linalg.svd(x, full_matrices=False)
    scores = x @ vt[:half].T
    scores /= np.sqrt(scores.std(0))
    scores /= np.sqrt(np.square(scores).mean(1, keepdims=True))
    cosines = np.abs(np.sum(scores * found[:, half:].numpy(), 0)) / np.sqrt(
        np.square(scores).sum(0) * found[:, half:].square().sum(0).numpy()
    )
    np.testing.assert_allclose(cosines, 1, atol=1e-3)  # signs are arbitrary


@pytest.mark.parametrize(("size", "genes"), [("XXS", 4000), ("S", 4100)])
def test_small_sizes_know_4000_genes_if_not_told(size, genes):
    counts = np.random.default_rng(0).poisson(1.0, (30, 4100)).astype(np.float32)
    cells = simulate(30, 4100, 2, 3, seed=1)
    cells.X = counts
    assert len(TxFM(cells, size).genes) == genes
    assert len(TxFM(CellCollection.from_anndata(cells), size, n_genes=50).genes) == 50


def test_the_start_hangs_on_the_cells_not_on_their_order():
    cells = simulate(1300, 40, 2, 5, seed=4)
    cells = cells[np.argsort(cells.obs["cell_type"].astype(str).to_numpy(), kind="stable")].copy()
    model = TxFM(cells, "XXS", d_model=8, validation=0.0, seed=1)
    linear = model._module().linear
    batch = model.cells.batch(np.arange(1300))
    tokens = model._module().tokens(batch, None)
    with torch.no_grad():
        sums = linear.sums(tokens.gene_ids, model._module().linear_values(tokens.values), None)
    # Of a random 1,024 of 1,300 cells a variance is known to some per cent, of the first to none.
    expected = sums.var(0, correction=0) ** -0.25
    ratio = linear.scale / expected
    torch.testing.assert_close(ratio / ratio.mean(), torch.ones(4), rtol=0.03, atol=0)


def test_without_normalisation_the_path_is_centred_too():
    cells = simulate(200, 40, 2, 5, seed=4)
    model = TxFM(cells, "XXS", d_model=8, validation=0.0, seed=1, normalise=False)
    module = model._module()
    tokens = module.tokens(model.cells.batch(np.arange(200)), None)
    with torch.no_grad():
        sums = module.linear.sums(tokens.gene_ids, module.linear_values(tokens.values), None)
    assert sums.mean(0).abs().max() < 1e-3 * sums.std(0).min()


def test_half_precision_computes():
    cells = simulate(60, 30, 2, 5, seed=4)
    model = TxFM(cells, "XXS", d_model=8, seed=1).train(1, progress=False)
    expected = model.get_latent_representation()
    model.trained.module.to(torch.bfloat16)
    found = model.get_latent_representation()
    assert np.abs(found - expected).max() < 0.2
