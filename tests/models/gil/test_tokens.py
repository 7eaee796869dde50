"""Which genes a step shows and hides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.stats import chi2
from staged_example import collection, staged

from kernomics.models.gil.tokens import expressed_genes, masked, shown, unexpressed

SEED = torch.tensor([3, 5])


def test_all_expressed_genes_are_found_with_their_values():
    batch = collection().batch(np.arange(9))
    tokens = expressed_genes(batch, 1e4)
    dense = batch.dense()
    rows, genes = torch.nonzero(dense, as_tuple=True)
    assert torch.equal(tokens.gene_ids, genes)
    assert torch.equal(tokens.cells, rows)
    expected = torch.log1p(dense * 1e4 / batch.library[:, None])[rows, genes]
    torch.testing.assert_close(tokens.values, expected)
    assert tokens.lengths.tolist() == (dense > 0).sum(1).tolist()
    assert not tokens.hidden.any()


def test_a_long_cell_shows_as_many_as_asked_and_a_short_one_all():
    batch = collection().batch(np.arange(40))
    every = expressed_genes(batch, 1e4)
    n = int(every.lengths.median())
    some = shown(every, batch.cell_ids, n, 0.5, SEED)
    assert some.lengths.tolist() == every.lengths.clamp_max(n).tolist()
    assert 0 < int((every.lengths > n).sum()) < 40
    for cell in range(40):
        mine, all_ = some.gene_ids[some.cells == cell], every.gene_ids[every.cells == cell]
        assert (mine.diff() > 0).all()
        assert np.isin(mine, all_).all()


def test_a_cell_s_draws_are_its_own_and_not_its_company_s():
    cells = collection()
    whole, alone = cells.batch(np.arange(30)), cells.batch(np.array([17]))

    def drawn(batch):
        some = shown(expressed_genes(batch, 1e4), batch.cell_ids, 8, 0.5, SEED)
        return masked(some, batch.cell_ids, 0.4, SEED)

    one, other = drawn(whole), drawn(alone)
    assert torch.equal(one.gene_ids[one.cells == 17], other.gene_ids)
    assert torch.equal(one.hidden[one.cells == 17], other.hidden)
    again = shown(expressed_genes(whole, 1e4), whole.cell_ids, 8, 0.5, torch.tensor([3, 6]))
    assert not torch.equal(again.gene_ids, one.gene_ids)


def many_draws(share: float, k: int, n: int = 4000):
    """Draw k of one cell's genes n times; return how often each came, and its value."""
    batch = collection().batch(np.array([2]))
    every = expressed_genes(batch, 1e4)
    size = int(every.lengths[0])
    indptr = torch.arange(n + 1) * size
    copies = replace(
        batch, indptr=indptr, indices=batch.indices.repeat(n), values=batch.values.repeat(n),
        cell_ids=torch.arange(n), library=batch.library.repeat(n), labels={},
    )  # fmt: skip
    found = shown(expressed_genes(copies, 1e4), copies.cell_ids, k, share, SEED)
    times = torch.bincount(found.gene_ids, minlength=batch.n_genes)[every.gene_ids]
    return times.double(), every.values.double(), n


def test_even_draws_are_even():
    times, values, n = many_draws(0.0, 5)
    size = len(values)
    expected = n * 5 / size
    statistic = float(((times - expected) ** 2 / expected).sum()) * (size - 1) / (size - 5)
    assert chi2.ppf(1e-6, size - 1) < statistic < chi2.ppf(1 - 1e-6, size - 1)


def test_weighted_draws_go_by_expression():
    times, values, n = many_draws(1.0, 1)
    expected = n * values / values.sum()
    statistic = float(((times - expected) ** 2 / expected).sum())
    assert statistic < chi2.ppf(1 - 1e-6, len(values) - 1)


def test_half_of_the_draws_go_by_expression():
    times, values, n = many_draws(0.5, 2)
    # One in proportion to expression, then one evenly from the rest.
    p = values / values.sum()
    expected = n * (p + (1 - p) / (len(values) - 1))
    statistic = float(((times - expected) ** 2 / expected).sum())
    assert statistic < chi2.ppf(1 - 1e-6, len(values) - 1)


def test_about_as_many_are_hidden_as_asked():
    batch = collection().batch(np.arange(120))
    every = expressed_genes(batch, 1e4)
    n = len(every.gene_ids)
    hidden = masked(every, batch.cell_ids, 0.4, SEED).hidden
    assert abs(int(hidden.sum()) - 0.4 * n) < 5 * (0.24 * n) ** 0.5


def test_genes_asked_as_unexpressed_are_measured_and_without_a_count():
    found = staged()
    rows = np.concatenate([found.rows(stage) for stage in range(3)])
    batch = found.cells.batch(rows)
    every = expressed_genes(batch, 1e4)
    drawn = unexpressed(every, batch, 500, torch.tensor([3, 5]))
    counts = np.asarray(batch.dense())
    measured = batch.observed.mask.bool()[batch.observed.panel_id.long()].numpy()
    for cell, genes in enumerate(drawn.numpy()):
        asked = genes[genes >= 0]
        # 500 draws of 40 genes leave none out: a gene is missed with probability e^−12.5.
        assert set(asked) == set(np.flatnonzero(measured[cell] & (counts[cell] == 0)))


def test_the_draw_of_unexpressed_genes_hangs_on_the_cell_alone():
    found = staged()
    batch = found.cells.batch(found.rows(1))
    some = found.cells.batch(found.rows(1)[3:7])
    seed = torch.tensor([3, 5])
    whole = unexpressed(expressed_genes(batch, 1e4), batch, 9, seed)
    part = unexpressed(expressed_genes(some, 1e4), some, 9, seed)
    assert torch.equal(whole[3:7], part)
    assert not torch.equal(whole, unexpressed(expressed_genes(batch, 1e4), batch, 9, seed + 1))
