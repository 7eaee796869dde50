"""Gene blending: nothing lost, positions shared, pads only where a gene is missing."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernomics.attribution import blend

CELLS = st.lists(st.sets(st.integers(0, 11)), min_size=1, max_size=6)


def flat(cells):
    genes = [gene for cell in cells for gene in sorted(cell)]
    return torch.tensor(genes, dtype=torch.int64), torch.tensor([len(cell) for cell in cells])


def test_one_pair_written_out():
    # I has genes 2, 5 and 7, B has 5 and 9: positions 2, 5, 7, 9.
    found = blend(torch.tensor([2, 5, 7]), torch.tensor([3]), torch.tensor([5, 9]),
                  torch.tensor([2]), 12)  # fmt: skip
    assert found.gene_ids.tolist() == [2, 5, 7, 9]
    assert found.first.tolist() == [0, 1, 2, -1]  # 9 is a pad in I
    assert found.second.tolist() == [-1, 0, -1, 1]  # 2 and 7 are pads in B
    assert found.pairs.tolist() == [0, 0, 0, 0]
    assert found.lengths.tolist() == [4]


@settings(max_examples=150, deadline=None)
@given(CELLS, st.data())
def test_every_gene_of_a_pair_stands_once_and_a_pad_is_a_gene_that_is_missing(first, data):
    n = len(first)
    second = data.draw(st.lists(st.sets(st.integers(0, 11)), min_size=n, max_size=n))
    (genes_1, lengths_1), (genes_2, lengths_2) = flat(first), flat(second)
    found = blend(genes_1, lengths_1, genes_2, lengths_2, 12)
    for pair, (one, two) in enumerate(zip(first, second, strict=True)):
        own = found.pairs == pair
        assert found.gene_ids[own].tolist() == sorted(one | two)
        assert int(found.lengths[pair]) == len(one | two)
        for places, genes, cell in ((found.first, genes_1, one), (found.second, genes_2, two)):
            at = places[own]
            there = at >= 0
            assert found.gene_ids[own][there].tolist() == sorted(cell)
            assert torch.equal(genes[at[there]], found.gene_ids[own][there])
    for places, genes in ((found.first, genes_1), (found.second, genes_2)):
        assert sorted(places[places >= 0].tolist()) == list(range(len(genes)))
