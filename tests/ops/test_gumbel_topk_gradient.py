"""The hard mask's gradient is the relaxed mask's, with any threads, and made only on request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems.gumbel_topk import RELAXATIONS, SEED
from torch import Tensor

from kernomics.ops import gumbel_topk, reference, relaxed_mask


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_backward_of_the_hard_mask_is_that_of_the_relaxed_mask(
    device: torch.device, draw_scores: Callable[..., Tensor], relaxation: Any, dtype: torch.dtype
) -> None:
    scores = draw_scores(4, 500, forced=2, forbidden=9, step=0.125, dtype=dtype).to(device)
    u = torch.randn(4, 500, dtype=dtype).to(device)
    hard = scores.clone().requires_grad_()
    mask = gumbel_topk(hard, 20, tau=0.4, relaxation=relaxation, noise=False)[1]
    soft = scores.clone().requires_grad_()
    gamma = relaxed_mask(soft, 20, tau=0.4, relaxation=relaxation)
    (a,) = torch.autograd.grad(mask, hard, u)
    (b,) = torch.autograd.grad(gamma, soft, u)
    assert torch.equal(a, b)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_gradient_with_noise_is_the_references(
    device: torch.device, draw_scores: Callable[..., Tensor], relaxation: Any
) -> None:
    scores = draw_scores(3, 300, forced=1, forbidden=4).to(device)
    options = {"tau": 0.8, "relaxation": relaxation, "seed": SEED.to(device), "noise": 0.7}
    u = torch.randn(3, 300, dtype=torch.float64).to(device)
    ours, plainly = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    (a,) = torch.autograd.grad(gumbel_topk(ours, 12, **options)[1], ours, u)
    (b,) = torch.autograd.grad(reference.gumbel_topk(plainly, 12, **options)[1], plainly, u)
    # The noise is float32 accurate, and so is the gradient.
    torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-5 * float(b.abs().max()))


def test_inference_keeps_no_scores(device: torch.device) -> None:
    scores = torch.randn(4, 100, device=device, requires_grad=True)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            mask = gumbel_topk(scores, 5, tau=1.0, seed=SEED.to(device))[1]
        assert not mask.requires_grad
    y = torch.ops.kernomics.gumbel_topk(
        scores.detach(),
        SEED.to(device),
        None,
        5,
        torch.tensor(1.0),
        0,
        torch.tensor(1.0),
        0,
        0,
        False,
    )[2]
    assert y.numel() == 0
    assert not gumbel_topk(scores.detach(), 5, tau=1.0)[1].requires_grad


def test_masks_with_and_without_a_gradient_are_equal(device: torch.device) -> None:
    scores = torch.randn(3, 5000, device=device, requires_grad=True)
    learning = gumbel_topk(scores, 50, tau=1.0, seed=SEED.to(device))
    resting = gumbel_topk(scores.detach(), 50, tau=1.0, seed=SEED.to(device))
    assert torch.equal(learning[0], resting[0])
    assert torch.equal(learning[1], resting[1])


def test_a_second_derivative_is_refused() -> None:
    scores = torch.randn(20, requires_grad=True)
    mask = gumbel_topk(scores, 3, tau=1.0)[1]
    (gradient,) = torch.autograd.grad(mask.sum(), scores, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()


def test_scores_are_not_modified(device: torch.device) -> None:
    scores = torch.randn(3, 200, device=device, requires_grad=True)
    before = scores.detach().clone()
    gumbel_topk(scores, 5, tau=1.0)[1].sum().backward()
    assert torch.equal(scores.detach(), before)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize(("rows", "genes"), [(1, 30_001), (2, 30_001), (9, 500)])
def test_the_number_of_threads_changes_no_bit(
    threads: Callable[[int], None], relaxation: Any, rows: int, genes: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    scores, u = (torch.randn(rows, genes, generator=generator) for _ in range(2))
    results = []
    for n in (1, 2, 3):
        threads(n)
        leaf = scores.clone().requires_grad_()
        indices, mask = gumbel_topk(leaf, 20, tau=0.3, relaxation=relaxation, seed=SEED)
        (gradient,) = torch.autograd.grad(mask, leaf, u)
        gamma = relaxed_mask(scores, 20, tau=0.3, relaxation=relaxation)
        results.append((indices, mask.detach(), gradient, gamma))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)
