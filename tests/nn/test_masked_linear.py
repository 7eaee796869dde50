import numpy as np
import pytest
import torch
from scipy import sparse

from kernomics.data import Cells
from kernomics.nn import GeneSelector, MaskedLinear
from kernomics.nn.gene_selector import Selection
from kernomics.train import RowAdamW


def counts(n_cells: int = 9, n_genes: int = 30) -> sparse.csr_matrix:
    random = np.random.default_rng(0)
    return sparse.csr_matrix(random.poisson(0.7, (n_cells, n_genes)).astype(np.float32))


@pytest.mark.parametrize("form", ["dense", "csr", "cells"])
def test_equals_the_product_with_the_masked_matrix(form):
    x = counts()
    layer, selection = MaskedLinear(30, 4, fan_in=5), GeneSelector(30)(5)
    given = {
        "dense": lambda: torch.from_numpy(x.toarray()),
        "csr": lambda: torch.from_numpy(x.toarray()).to_sparse_csr(),
        "cells": lambda: Cells.from_scipy(x),
    }[form]()
    expected = (torch.from_numpy(x.toarray()) * selection.mask) @ layer.weight + layer.bias
    torch.testing.assert_close(layer(given, selection), expected, rtol=1e-5, atol=1e-6)


def test_means_are_taken_off_as_from_the_dense_matrix():
    torch.manual_seed(0)
    x = torch.from_numpy(counts().toarray())
    means = x.mean(dim=0)
    layer, selector = MaskedLinear(30, 4, fan_in=5), GeneSelector(30)
    weights = torch.randn(9, 4)
    grads = []
    for centred in (True, False):
        layer.zero_grad()
        mask = selector(5).mask.detach().requires_grad_()
        selection = Selection(mask.detach().nonzero().squeeze(1), mask)
        if centred:
            y = layer(Cells.from_scipy(counts()), selection, means)
        else:
            y = ((x - means) * mask) @ layer.weight + layer.bias
        (y * weights).sum().backward()
        grads.append((y.detach(), mask.grad, layer.weight.grad.clone()))
    # Sums of 9 or 30 products of order 1 in float32.
    for sparse_way, dense_way in zip(*grads, strict=True):
        torch.testing.assert_close(sparse_way, dense_way, rtol=1e-5, atol=1e-5)


def test_initial_weights_are_scaled_to_the_genes_seen_at_once():
    layer = MaskedLinear(10_000, 8, fan_in=16)
    assert 0.24 < layer.weight.abs().max() <= 0.25
    assert layer.bias.abs().max() <= 0.25


def test_step_moves_the_rows_of_the_panel_and_no_others():
    torch.manual_seed(0)
    layer = MaskedLinear(30, 4, fan_in=5)
    optimizer = RowAdamW(
        [{"params": [layer.weight], "rows": lambda: layer.touched}], lr=0.1, weight_decay=0.1
    )
    panels = [torch.tensor([1, 5, 9]), torch.tensor([2, 5, 20])]
    for panel in panels:
        before = layer.weight.detach().clone()
        mask = torch.zeros(30).index_fill(0, panel, 1.0)
        optimizer.zero_grad()
        layer(Cells.from_scipy(counts()), Selection(panel, mask)).square().sum().backward()
        optimizer.step()
        moved = (layer.weight != before).any(dim=1).nonzero().squeeze(1)
        assert moved.tolist() == panel.tolist()
