"""What a step of PolyGene sees, masks and loses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from phenotyped_cells import collection, module_of, plain_network

from kernomics.ops import ObservedGenes

ROWS = np.arange(0, 240, 3)


def test_gene_tokens_are_the_expressed_genes_and_their_bins():
    cells, module = collection(), module_of()
    batch = cells.batch(ROWS[:7])
    tokens = module.gene_tokens(batch)
    dense = batch.dense()
    expression = torch.log1p(dense * 1e4 / batch.library[:, None])
    rows, genes = torch.nonzero(dense, as_tuple=True)
    assert torch.equal(tokens.cells, rows)
    assert torch.equal(tokens.gene_ids, genes)
    edges = np.array([0.1, 2.0, 4.0, 6.0])
    bins = np.searchsorted(edges, expression[rows, genes].numpy(), side="right")
    assert tokens.bins.tolist() == bins.tolist()
    assert tokens.lengths.tolist() == (dense > 0).sum(1).tolist()


def test_a_cell_with_more_genes_than_are_shown_keeps_a_choice_of_its_own():
    cells, module = collection(), module_of()
    batch = cells.batch(ROWS)
    whole, some = module.gene_tokens(batch), module.gene_tokens(batch, 10, 4)
    assert some.lengths.tolist() == whole.lengths.clamp_max(10).tolist()
    alone = module.gene_tokens(cells.batch(ROWS[3:4]), 10, 4)
    assert torch.equal(alone.gene_ids, some.gene_ids[some.cells == 3])
    other = module.gene_tokens(batch, 10, 5)
    assert not torch.equal(other.gene_ids, some.gene_ids)


def test_states_are_those_of_the_padded_network():
    plain, module = plain_network(), module_of().double()
    batch = collection().batch(ROWS[:9])
    tokens = module.gene_tokens(batch)
    genes = plain.embed(module, tokens.gene_ids, tokens.bins)
    assert torch.equal(module.embed_genes(tokens.gene_ids, tokens.bins), genes)
    codes = module.codes_of(batch.labels, 9).clone()
    codes[::2, 0] = -1
    phenotypes = module.embed_phenotypes(codes)
    expected = plain.states(module, phenotypes.view(9, 2, -1), *plain.padded(genes, tokens.lengths))
    found = module.encode(phenotypes, genes, tokens.lengths)
    torch.testing.assert_close(found, expected[:, :2], rtol=1e-11, atol=1e-11)


def test_a_cell_without_genes_is_encoded_from_its_phenotypes():
    module = module_of()
    phenotypes = module.embed_phenotypes(torch.tensor([[-1, 1]]))
    none = torch.zeros(0, module.config.d_model)
    states = module.encode(phenotypes, none, torch.tensor([0]))
    assert states.shape == (1, 2, 16)
    assert torch.isfinite(states).all()


def test_loss_and_gradients_are_those_of_the_padded_network():
    plain, module = plain_network(), module_of(n_tokens=25).double()
    module.on_step(3, 10)
    batch = collection().batch(ROWS)
    found, expected = module.training_loss(batch)["loss"], plain.training_loss(module, batch)
    # The losses are taken in float32, whatever the network's dtype.
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    for one, other in zip(
        torch.autograd.grad(found, list(module.parameters())),
        torch.autograd.grad(expected, list(module.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_masks_follow_the_cell_and_not_its_company():
    cells, module = collection(), module_of(unexpressed_rate=0.5)
    seed = module.seed_of(8)

    def masked(rows):
        batch = cells.batch(rows)
        tokens = module.gene_tokens(batch)
        after, targets, hidden = module.mask_genes(batch, tokens, seed)
        last = tokens.cells == len(rows) - 1
        return [t[last] for t in (after.gene_ids, after.bins, targets, hidden)]

    for one, other in zip(masked(ROWS), masked(ROWS[-1:]), strict=True):
        assert torch.equal(one, other)


def test_masked_genes_are_about_as_many_as_asked_and_half_are_not_expressed():
    cells, module = collection(), module_of(gene_mask_rate=0.3, unexpressed_rate=0.5)
    batch = cells.batch(np.arange(240))
    before = module.gene_tokens(batch)
    after, targets, hidden = module.mask_genes(batch, before, module.seed_of(0))
    n = len(hidden)
    assert abs(int(hidden.sum()) - 0.3 * n) < 5 * (0.3 * 0.7 * n) ** 0.5
    assert (after.bins[hidden] == module.n_bins).all()
    assert torch.equal(after.bins[~hidden], before.bins[~hidden])
    swapped = after.gene_ids != before.gene_ids
    assert not (swapped & ~hidden).any()
    counts = batch.dense()[before.cells, after.gene_ids]
    assert (counts[swapped] == 0).all()
    assert (targets[swapped] == 0).all()
    assert torch.equal(targets[~swapped], before.bins[~swapped])
    free = 1 - float((batch.dense() > 0).double().mean())  # a gene drawn may be expressed
    expected = 0.5 * free * int(hidden.sum())
    assert abs(int(swapped.sum()) - expected) < 6 * expected**0.5


def test_genes_that_a_data_set_has_not_measured_are_not_swapped_in():
    cells, module = collection(), module_of(gene_mask_rate=0.9, unexpressed_rate=0.9)
    batch = cells.batch(np.arange(240))
    panel = np.arange(0, 60, 2)
    panels = ObservedGenes.from_lists([panel], 60).with_panel_id(torch.zeros(240).int())
    batch = replace(batch.select_genes(torch.arange(60)), observed=panels)
    after, _, _ = module.mask_genes(batch, module.gene_tokens(batch), module.seed_of(0))
    assert set(after.gene_ids.tolist()) <= set(panel.tolist())
