import math

import pytest
import torch

from kernomics.errors import ConfigError
from kernomics.nn import GeneSelector

RELAXATIONS = ["softsort", "neuralsort", "softmax"]


def seed(step: int = 0) -> torch.Tensor:
    return torch.tensor([7, step])


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize(("n_genes", "k"), [(1, 1), (2, 1), (129, 17), (129, 129)])
def test_mask_has_exactly_k_ones_and_they_are_at_the_indices(n_genes, k, relaxation):
    selector = GeneSelector(n_genes)
    indices, mask = selector(k, tau=0.5, relaxation=relaxation, noise=1.0, seed=seed())
    assert indices.tolist() == mask.nonzero().squeeze(1).tolist()
    assert len(indices) == k
    assert set(mask.tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_forced_are_in_forbidden_are_out_and_neither_gets_a_gradient(relaxation):
    forced, forbidden = [3, 60], [0, 1, 2, 99]
    selector = GeneSelector(100, forced=forced, forbidden=forbidden)
    with torch.no_grad():
        selector.scores[forced] = -50.0
        selector.scores[forbidden] = 50.0
    u = torch.linspace(-1, 2, 100)
    for step in range(20):
        indices, mask = selector(8, relaxation=relaxation, noise=1.0, seed=seed(step))
        assert set(forced) <= set(indices.tolist())
        assert not set(forbidden) & set(indices.tolist())
        (mask * u).sum().backward()
    bound = torch.zeros(100, dtype=torch.bool)
    bound[forced + forbidden] = True
    assert (selector.scores.grad[bound] == 0).all()
    assert selector.scores.grad[~bound].ne(0).any()
    assert selector.bounded_scores[forced].tolist() == [math.inf] * 2
    assert selector.bounded_scores[forbidden].tolist() == [-math.inf] * 4


def test_all_genes_alike_at_the_start_and_ties_go_to_the_smaller_index():
    selector = GeneSelector(10)
    assert selector(3).indices.tolist() == [0, 1, 2]


def test_noise_is_that_of_the_seed_and_absent_without():
    selector = GeneSelector(500)
    draws = [selector(20, noise=1.0, seed=seed(step)).indices.tolist() for step in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert selector(20).indices.tolist() == selector(20, seed=seed(1)).indices.tolist()


def test_bounds_are_saved_with_the_scores():
    selector = GeneSelector(5, forced=[4], forbidden=[0])
    other = GeneSelector(5)
    other.load_state_dict(selector.state_dict())
    assert torch.equal(other.bounded_scores, selector.bounded_scores)


def test_nan_scores_are_located():
    selector = GeneSelector(6)
    with torch.no_grad():
        selector.scores[2] = math.nan
    with pytest.raises(ValueError, match=r"NaN for 1 of 6 genes in row 0, first gene 2"):
        selector(2)


def test_gene_both_forced_and_forbidden_is_refused():
    with pytest.raises(ConfigError, match="1 genes are both forced and forbidden, first 3"):
        GeneSelector(5, forced=[1, 3], forbidden=[3])


def test_more_forced_genes_than_k_are_refused():
    with pytest.raises(ValueError, match=r"3 genes of row 0 are forced .* more than k = 2"):
        GeneSelector(5, forced=[0, 1, 2])(2)
