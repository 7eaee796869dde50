"""The hard mask: k genes, the best ones, by the right probabilities, on every shape and dtype."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems.gumbel_topk import RELAXATIONS, SEED
from torch import Tensor

from kernomics.ops import gumbel_topk, reference, relaxed_mask

INF = float("inf")
SORTS = ["softsort", "neuralsort"]


def plain(scores: Tensor, k: int, **options: Any) -> tuple[Tensor, Tensor]:
    return gumbel_topk(scores, k, tau=1.0, noise=False, **options)


def assert_valid(scores: Tensor, k: int, indices: Tensor, mask: Tensor) -> None:
    """Exactly k ones, at the indices, which ascend and are the k best, ties to the smaller."""
    assert indices.shape == (*scores.shape[:-1], k)
    assert indices.dtype == torch.int64
    assert mask.shape == scores.shape
    assert bool(((mask == 0) | (mask == 1)).all())
    assert bool((mask.sum(-1) == k).all())
    assert bool((indices.diff(dim=-1) > 0).all())
    assert torch.equal(mask, torch.zeros_like(mask).scatter(-1, indices, 1.0))
    best = torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :k]
    assert torch.equal(indices, best.sort(dim=-1).values)


# ---- which genes --------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 4),
    genes=st.integers(1, 400),
    share=st.floats(0, 1),
    levels=st.sampled_from([1, 2, 5, 30, 10**9]),
    double=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_the_k_best_win_and_ties_go_to_the_smaller_index(
    rows: int, genes: int, share: float, levels: int, double: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    scores = torch.from_numpy(random.integers(0, levels, (rows, genes)) / min(levels, 1000) - 0.5)
    scores = scores if double else scores.float()
    k = 1 + round(share * (genes - 1))
    assert_valid(scores, k, *plain(scores, k))


@pytest.mark.parametrize("k", [1, 2, 63, 64, 65, 1000, 12_344, 12_345])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_rows_give_what_torch_topk_gives(
    device: torch.device, k: int, dtype: torch.dtype, draw_scores: Callable[..., Tensor]
) -> None:
    scores = draw_scores(3, 12_345, dtype=dtype).to(device)
    indices, mask = plain(scores, k)
    assert_valid(scores, k, indices, mask)
    assert torch.equal(indices, torch.topk(scores, k).indices.sort(dim=-1).values)


@pytest.mark.parametrize("k", [1, 100, 5000, 20_000])
def test_a_row_of_equal_scores_gives_the_first_genes(device: torch.device, k: int) -> None:
    indices, _ = plain(torch.full((2, 20_000), 1.25, device=device), k)
    assert torch.equal(indices.cpu(), torch.arange(k).expand(2, k))


def test_zeros_of_either_sign_are_equal(device: torch.device) -> None:
    scores = torch.tensor([-0.0, 0.0, -0.0, -1.0, 0.0], device=device)
    assert plain(scores, 3)[0].tolist() == [0, 1, 2]


def test_the_best_genes_are_found_wherever_they_stand(device: torch.device) -> None:
    for genes in (1, 2, 129, 151, 1134, 20_011):
        for k in {1, min(2, genes), min(3, genes), min(7, genes), genes}:
            rising = torch.arange(genes, dtype=torch.float32, device=device)
            for scores in (rising, -rising, rising.roll(genes // 3)):
                assert_valid(scores, k, *plain(scores, k))


def test_scores_of_any_magnitude_are_ordered(device: torch.device) -> None:
    scores = torch.tensor([1e-45, -1e-45, 3e38, -3e38, 0.0, 1e-38, 1.0], device=device)
    for k in range(1, 8):
        assert_valid(scores, k, *plain(scores, k))


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_genes_are_chosen_by_score_plus_scaled_noise(
    device: torch.device, scale: float, draw_scores: Callable[..., Tensor]
) -> None:
    scores = draw_scores(5, 2000).to(device)
    ids = torch.tensor([3, 2**40, 0, 9, 1], device=device)
    options = {"noise": scale, "row_ids": ids, "stream": 2, "seed": SEED.to(device)}
    indices, mask = gumbel_topk(scores, 50, tau=1.0, **options)
    expected, hard = reference.gumbel_topk(scores, 50, tau=1.0, **options)
    assert torch.equal(indices, expected)
    assert torch.equal(mask, hard)


def test_float32_and_float64_scores_choose_alike(draw_scores: Callable[..., Tensor]) -> None:
    scores = draw_scores(8, 3000, dtype=torch.float32)
    single = gumbel_topk(scores, 40, tau=1.0, seed=SEED)[0]
    double = gumbel_topk(scores.double(), 40, tau=1.0, seed=SEED)[0]
    # Rounding y to float32 could swap two genes at the edge only when they are within one ulp.
    assert torch.equal(single, double)


# ---- with which probability ---------------------------------------------------------------------


def plackett_luce(scores: list[float], k: int) -> dict[tuple[int, ...], float]:
    """Probability of every set of k genes: the sum over the orders in which it can be drawn."""
    weight = np.exp(np.array(scores))
    law: dict[tuple[int, ...], float] = {}
    for order in itertools.permutations(range(len(scores)), k):
        left, chance = weight.sum(), 1.0
        for gene in order:
            chance *= weight[gene] / left
            left -= weight[gene]
        key = tuple(sorted(order))
        law[key] = law.get(key, 0.0) + chance
    return law


@pytest.mark.parametrize("k", [1, 2, 3])
def test_sets_of_genes_are_drawn_by_the_plackett_luce_law(device: torch.device, k: int) -> None:
    scores, draws = [0.0, 1.0, -0.7, 0.4, 1.6], 200_000
    table = torch.tensor(scores, device=device).expand(draws, 5)
    indices, _ = gumbel_topk(table, k, tau=1.0, seed=torch.tensor([3, 0], device=device))
    sets, counts = torch.unique(indices.cpu(), dim=0, return_counts=True)
    seen = {tuple(s): c for s, c in zip(sets.tolist(), counts.tolist(), strict=True)}
    law = plackett_luce(scores, k)
    chi2 = sum((seen.get(s, 0) - draws * p) ** 2 / (draws * p) for s, p in law.items())
    # χ² of 4 or 9 degrees of freedom passes 45 with probability below 1e-6.
    assert chi2 < 45


# ---- forced and forbidden genes -----------------------------------------------------------------


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize(("forced", "forbidden"), [(3, 0), (0, 30), (3, 30), (10, 90), (10, 0)])
def test_forced_genes_are_in_and_forbidden_ones_out(
    device: torch.device, draw_scores: Callable[..., Tensor], noise: bool, forced: int,
    forbidden: int,
) -> None:  # fmt: skip
    scores = draw_scores(4, 100, forced=forced, forbidden=forbidden).to(device)
    _, mask = gumbel_topk(scores, 10, tau=1.0, noise=noise, seed=SEED.to(device))
    assert bool((mask.sum(-1) == 10).all())
    assert bool((mask[scores == INF] == 1).all())
    assert bool((mask[scores == -INF] == 0).all())


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_forced_and_forbidden_genes_have_no_gradient(
    device: torch.device, draw_scores: Callable[..., Tensor], relaxation: Any
) -> None:
    scores = draw_scores(4, 60, forced=3, forbidden=20).to(device).requires_grad_()
    _, mask = gumbel_topk(scores, 8, tau=0.7, relaxation=relaxation, seed=SEED.to(device))
    mask.backward(torch.randn_like(mask))
    assert scores.grad is not None
    special = scores.detach().isinf()
    assert bool((scores.grad[special] == 0).all())
    assert bool((scores.grad[~special].abs().sum(-1) > 0).all() if special.any() else True)


# ---- shapes, strides and dtypes -----------------------------------------------------------------


def test_one_row_may_be_given_without_a_row_dimension(device: torch.device) -> None:
    scores = torch.randn(50, device=device, requires_grad=True)
    one = gumbel_topk(scores, 5, tau=1.0, seed=SEED.to(device), reach=9)
    two = gumbel_topk(scores[None], 5, tau=1.0, seed=SEED.to(device), reach=9)
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a, b[0])
    u = torch.randn(50, device=device)
    (first,) = torch.autograd.grad(one[1], scores, u)
    (second,) = torch.autograd.grad(two[1], scores, u[None])
    assert torch.equal(first, second)
    assert first.shape == (50,)


def test_scores_may_have_any_strides(device: torch.device) -> None:
    base = torch.randn(6, 90, device=device)
    views = {
        "transposed": torch.randn(90, 6, device=device).t(),
        "every other column": base[:, ::2],
        "some rows": base[1::2],
        "a window": base[2:5, 11:70],
        "reversed by index": base[:, torch.arange(89, -1, -1, device=device)],
        "expanded": base[:1].expand(4, 90),
    }
    for name, view in views.items():
        u = torch.randn(view.shape, device=device)
        seed = SEED.to(device)
        results = []
        for scores in (view, view.clone(memory_format=torch.contiguous_format)):
            leaf = scores.detach().requires_grad_()
            indices, mask = gumbel_topk(leaf, 7, tau=0.5, seed=seed)
            (gradient,) = torch.autograd.grad(mask, leaf, u)
            results.append((indices, mask.detach(), gradient))
        for a, b in zip(*results, strict=True):
            assert torch.equal(a, b), name


def test_a_gradient_of_any_strides_is_taken(device: torch.device) -> None:
    scores = torch.randn(4, 30, device=device, requires_grad=True)
    mask = gumbel_topk(scores, 5, tau=0.5, seed=SEED.to(device))[1]
    u = torch.randn(30, 4, device=device).t()
    (strided,) = torch.autograd.grad(mask, scores, u, retain_graph=True)
    (packed,) = torch.autograd.grad(mask, scores, u.contiguous(), retain_graph=True)
    assert torch.equal(strided, packed)
    (one,) = torch.autograd.grad(mask.sum(), scores)  # an expanded scalar
    assert bool(one.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_scores_are_widened_and_get_their_gradient_back(
    device: torch.device, dtype: torch.dtype
) -> None:
    narrow = torch.randn(3, 80, device=device).to(dtype).requires_grad_()
    wide = narrow.detach().float().requires_grad_()
    u = torch.randn(3, 80, device=device)
    for leaf in (narrow, wide):
        indices, mask = gumbel_topk(leaf, 6, tau=0.5, seed=SEED.to(device))
        assert mask.dtype == torch.float32
        mask.backward(u)
    assert torch.equal(indices, gumbel_topk(wide, 6, tau=0.5, seed=SEED.to(device))[0])
    assert narrow.grad is not None
    assert wide.grad is not None
    assert narrow.grad.dtype == dtype
    assert torch.equal(narrow.grad, wide.grad.to(dtype))


def test_no_rows_give_empty_results(device: torch.device) -> None:
    scores = torch.zeros(0, 20, device=device, requires_grad=True)
    for reach in (None, 6):
        results = gumbel_topk(scores, 3, tau=1.0, seed=SEED.to(device), reach=reach)  # type: ignore[call-overload]
        assert [r.shape[0] for r in results] == [0] * len(results)
        assert results[0].shape == (0, 3)
        assert results[1].shape == (0, 20)
        (gradient,) = torch.autograd.grad(results[1].sum(), scores)
        assert gradient.shape == (0, 20)
    assert relaxed_mask(scores, 3, tau=1.0).shape == (0, 20)


# ---- reach --------------------------------------------------------------------------------------


@pytest.mark.parametrize("relaxation", SORTS)
@pytest.mark.parametrize(("tau", "forced", "forbidden"), [(0.05, 0, 0), (0.5, 2, 50), (20, 3, 0)])
def test_reach_holds_the_chosen_genes_and_all_with_weight(
    device: torch.device, draw_scores: Callable[..., Tensor], relaxation: Any, tau: float,
    forced: int, forbidden: int,
) -> None:  # fmt: skip
    scores = draw_scores(3, 400, forced=forced, forbidden=forbidden).to(device)
    options = {"tau": tau, "relaxation": relaxation}
    indices, _, reached = gumbel_topk(scores, 10, noise=False, reach=400, **options)
    gamma = reference.relaxed_mask(scores.cpu(), 10, **options)
    for row in range(3):
        found = reached[row][reached[row] >= 0].cpu()
        assert bool((found.diff() > 0).all())
        assert set(indices[row].tolist()) <= set(found.tolist())
        weighty = (gamma[row] >= 2.0**-24 * 1.001).nonzero()[:, 0].tolist()
        assert set(weighty) <= set(found.tolist())
        light = (gamma[row] < 2.0**-24 * 0.999).nonzero()[:, 0].tolist()
        assert set(light).isdisjoint(set(found.tolist()) - set(indices[row].tolist()))
        assert bool((reached[row][len(found) :] == -1).all())


@pytest.mark.parametrize("relaxation", SORTS)
def test_a_short_reach_keeps_the_best_scores(device: torch.device, relaxation: Any) -> None:
    scores = torch.randn(2, 300, device=device)
    reached = gumbel_topk(scores, 10, tau=50.0, relaxation=relaxation, noise=False, reach=25)[2]
    assert torch.equal(reached, torch.topk(scores, 25).indices.sort(dim=-1).values)


# ---- torch's compiler ---------------------------------------------------------------------------


# torch itself instantiates autograd.Function while it traces one.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_code_equals_eager_code(
    device: torch.device, relaxation: Any, dynamic: bool
) -> None:
    torch.compiler.reset()

    def forward(scores: Tensor, seed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        indices, mask = gumbel_topk(scores, 6, tau=0.5, relaxation=relaxation, seed=seed)
        return indices, mask, relaxed_mask(scores, 6, tau=0.5, relaxation=relaxation)

    compiled = torch.compile(forward, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for rows in (3, 5):
        scores, u = (torch.randn(rows, 90, device=device) for _ in range(2))
        results = []
        for run in (forward, compiled):
            leaf = scores.clone().requires_grad_()
            indices, mask, gamma = run(leaf, SEED.to(device))
            (gradient,) = torch.autograd.grad((mask * u + gamma * u).sum(), leaf)
            results.append((indices, mask.detach(), gamma.detach(), gradient))
        for a, b in zip(*results, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("relaxation", range(3))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_registered_ops_pass_torchs_own_check(
    device: torch.device, relaxation: int, dtype: torch.dtype
) -> None:
    y = torch.randn(3, 40, dtype=dtype, device=device)
    seed, ids = SEED.to(device), torch.arange(3, device=device)
    reach = 0 if relaxation == 2 else 12
    ops, tau, scale = torch.ops.kernomics, torch.tensor(0.5), torch.tensor(1.0)
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    for keep_y in (False, True):
        arguments = (y, seed, ids, 5, scale, 0, tau, relaxation, reach, keep_y)
        torch.library.opcheck(ops.gumbel_topk.default, arguments, test_utils=tests)
    indices = ops.gumbel_topk(y, None, None, 5, None, 0, tau, relaxation, 0, False)[0]
    torch.library.opcheck(
        ops.gumbel_topk_backward.default, (y.clone(), y, indices, tau, relaxation), test_utils=tests
    )
    torch.library.opcheck(ops.relaxed_mask.default, (y, indices, tau, relaxation), test_utils=tests)
