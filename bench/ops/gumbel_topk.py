"""gumbel_topk against torch's own operations and the dense relaxed sorts.

Least work, forward: scores read once, the 0/1 mask and k indices written once. Backward: scores (or
the kept y) read again, the mask's gradient read, the scores' gradient written. So two passes over
R·G numbers forward and five in all. Noise adds arithmetic: about 60 vector instructions per 16
genes on AVX-512, 1.2 ns a gene and thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from bench import harness
from bench.harness import Call, Case, Provider
from kernomics.ops import gumbel_topk

Kind = Literal["softsort", "neuralsort", "softmax"]
Noise = Callable[[Tensor], Tensor]
Relaxed = Callable[[Tensor, int, float], Tensor]


def exponential_noise(scores: Tensor) -> Tensor:
    """Draw Gumbel noise as torch.nn.functional.gumbel_softmax does."""
    return -torch.empty_like(scores).exponential_().log()


def uniform_noise(scores: Tensor) -> Tensor:
    """Draw Gumbel noise by two logarithms of a uniform number, as many codes do."""
    return -torch.log(-torch.log(torch.rand_like(scores) + 1e-20) + 1e-20)


def no_noise(scores: Tensor) -> Tensor:
    return torch.zeros_like(scores)


def softmax_rows(y: Tensor, k: int, tau: float) -> Tensor:
    return k * torch.softmax(y / tau, dim=-1)


def softsort_rows(y: Tensor, k: int, tau: float) -> Tensor:
    """Compute the dense k × G SoftSort, one row after the other."""
    masks = []
    for row in y:
        t = torch.topk(row, k).values
        masks.append(torch.softmax(-(t[:, None] - row[None]).abs() / tau, dim=1).sum(0))
    return torch.stack(masks)


def neuralsort_first_rows(y: Tensor, k: int, tau: float) -> Tensor:
    """Compute NeuralSort's first k rows; Σ_l |y_j − y_l| from sorted prefix sums."""
    masks = []
    for row in y:
        n = row.numel()
        t, order = torch.sort(row, descending=True)
        position = torch.arange(1, n + 1, device=y.device, dtype=y.dtype)
        above = torch.cumsum(t, 0)
        spread = (above[-1] - 2 * above) + (2 * position - n) * t  # of the sorted scores
        rank = position[:k]
        logits = ((n + 1 - 2 * rank)[:, None] * t[None] + spread[None]) / tau
        gamma = torch.softmax(logits, dim=1).sum(0)
        masks.append(torch.zeros_like(row).scatter(0, order, gamma))
    return torch.stack(masks)


def neuralsort_square(y: Tensor, k: int, tau: float) -> Tensor:
    """Compute the whole n × n NeuralSort matrix and sum its first k rows, as first published."""
    masks = []
    for row in y:
        n = row.numel()
        rank = torch.arange(1, n + 1, device=y.device, dtype=y.dtype)
        spread = (row[:, None] - row[None]).abs().sum(1)
        permutation = torch.softmax(
            ((n + 1 - 2 * rank)[:, None] * row[None] - spread[None]) / tau, dim=1
        )
        masks.append(permutation[:k].sum(0))
    return torch.stack(masks)


def chain(scores: Tensor, k: int, tau: float, noise: Noise, relaxed: Relaxed) -> Tensor:
    """Perturb, choose and scatter in torch; straight through, as gumbel_softmax(hard=True)."""
    y = scores + noise(scores)
    soft = relaxed(y, k, tau)
    indices = torch.topk(y, k).indices
    hard = torch.zeros_like(y).scatter_(-1, indices, 1.0)
    return hard - soft.detach() + soft


# ---- providers ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """A case's sizes and temperature."""

    rows: int
    genes: int
    k: int
    tau: float = 0.5

    def forward_bytes(self) -> int:
        """Read the scores, write mask and indices."""
        return 2 * 4 * self.rows * self.genes + 8 * self.rows * self.k

    def both_bytes(self) -> int:
        """Add: read scores, indices and the mask's gradient, write the scores' gradient."""
        return 5 * 4 * self.rows * self.genes + 2 * 8 * self.rows * self.k

    def inputs(self, device: torch.device, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw scores, the mask's gradient, and a seed."""
        shape = (self.rows, self.genes)
        scores, u = (torch.randn(shape, device=device, generator=generator) for _ in range(2))
        seed = torch.randint(0, 2**62, (2,), device=device, generator=generator)
        return scores.requires_grad_(), u, seed

    def forward_inputs(
        self, device: torch.device, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Draw scores and a seed alone, so that rotating inputs count what is read."""
        scores = torch.randn((self.rows, self.genes), device=device, generator=generator)
        return scores, torch.randint(0, 2**62, (2,), device=device, generator=generator)


def both(choose: Callable[[Tensor, Tensor], Tensor], parts: int = 1) -> Callable[..., Call]:
    """Forward and backward of ``choose(scores, seed) → mask``, on the first 1/parts of the rows."""

    def prepare(scores: Tensor, u: Tensor, seed: Tensor) -> Call:
        rows = len(scores) // parts
        leaf, gradient = scores.detach()[:rows].requires_grad_(), u[:rows]
        return lambda: torch.autograd.grad(choose(leaf, seed), leaf, gradient)

    return prepare


def same_as_ours(
    choose: Callable[[Tensor], Tensor],
    sizes: Sizes,
    relaxation: Kind,
    dtype: torch.dtype = torch.float32,
    rows: int = 4,
    genes: int = 4000,
) -> Callable[..., None]:
    """Without noise the masks are equal and the gradients agree to 1e-5 (float64: 1e-9) of the max.

    The sorts are compared on a few rows and at most 4,000 genes, NeuralSort in float64: its dense
    form loses three digits in float32.
    """

    def check(scores: Tensor, u: Tensor, seed: Tensor) -> None:
        leaf = scores.detach()[:rows, :genes].to(dtype).requires_grad_()
        gradient = u[:rows, :genes].to(dtype)
        _, mask = gumbel_topk(leaf, sizes.k, tau=sizes.tau, relaxation=relaxation, noise=False)
        other = choose(leaf)
        torch.testing.assert_close(other.round(), mask)
        (mine,) = torch.autograd.grad(mask, leaf, gradient)
        (theirs,) = torch.autograd.grad(other, leaf, gradient)
        tolerance = (1e-9 if dtype == torch.float64 else 1e-5) * float(mine.abs().max())
        torch.testing.assert_close(theirs, mine, rtol=0, atol=tolerance)

    return check


def ours_both(sizes: Sizes, relaxation: Kind) -> Provider:
    def choose(scores: Tensor, seed: Tensor) -> Tensor:
        return gumbel_topk(scores, sizes.k, tau=sizes.tau, relaxation=relaxation, seed=seed)[1]

    return Provider("kernomics", both(choose))


def torch_both(
    name: str,
    sizes: Sizes,
    noise: Noise,
    relaxed: Relaxed = softmax_rows,
    relaxation: Kind = "softmax",
    *,
    compiled: bool = False,
    target: float | None = None,
    parts: int = 1,
    slow: bool = False,
) -> Provider:
    run = torch.compile(chain, fullgraph=True, dynamic=False) if compiled else chain
    exact = torch.float64 if relaxation == "neuralsort" else torch.float32
    return Provider(
        name,
        both(lambda scores, seed: run(scores, sizes.k, sizes.tau, noise, relaxed), parts),
        same_as_ours(
            lambda y: run(y, sizes.k, sizes.tau, no_noise, relaxed), sizes, relaxation, exact
        ),
        target=target,
        parts=parts,
        slow=slow,
    )


def eager_and_compiled(sizes: Sizes, target: float | None) -> list[Provider]:
    """Offer the softmax straight-through chain with both usual noises, and compiled."""
    return [
        torch_both("torch eager, exponential_", sizes, exponential_noise, target=target),
        torch_both("torch eager, rand + logs", sizes, uniform_noise, target=target),
        torch_both("torch.compile", sizes, uniform_noise, compiled=True),
    ]


# ---- cases --------------------------------------------------------------------------------------


def softsort_case(sizes: Sizes, target: float | None, dense_parts: int | None) -> Case:
    providers = [ours_both(sizes, "softsort"), *eager_and_compiled(sizes, target)]
    if dense_parts is not None:
        providers.append(
            torch_both(
                "dense SoftSort, row by row",
                sizes,
                exponential_noise,
                softsort_rows,
                "softsort",
                target=100,
                parts=dense_parts,
                slow=True,
            )
        )
    return Case(
        f"forward + backward, softsort, R={sizes.rows} G={sizes.genes} k={sizes.k}",
        sizes.inputs,
        providers,
        sizes.both_bytes(),
        sizes={"R": sizes.rows, "G": sizes.genes, "k": sizes.k},
    )


def neuralsort_case(sizes: Sizes) -> Case:
    return Case(
        f"forward + backward, neuralsort, R={sizes.rows} G={sizes.genes} k={sizes.k}",
        sizes.inputs,
        [
            ours_both(sizes, "neuralsort"),
            torch_both(
                "NeuralSort, first k rows", sizes, exponential_noise, neuralsort_first_rows,
                "neuralsort", target=15,
            ),
            torch_both(
                "NeuralSort, n × n", sizes, exponential_noise, neuralsort_square, "neuralsort",
                target=1000, slow=True,
            ),
        ],
        sizes.both_bytes(),
        sizes={"R": sizes.rows, "G": sizes.genes, "k": sizes.k},
    )  # fmt: skip


def forward_case(sizes: Sizes, noise: bool) -> Case:
    """Forward alone, without a gradient, as at inference."""

    def ours(scores: Tensor, seed: Tensor) -> Call:
        return lambda: gumbel_topk(scores, sizes.k, tau=sizes.tau, noise=noise, seed=seed)

    def topk_alone(scores: Tensor, seed: Tensor) -> Call:
        return lambda: torch.topk(scores, sizes.k)

    # Values are compared, not genes: of equal scores torch.topk takes any.
    def chosen(scores: Tensor) -> Tensor:
        indices, _ = gumbel_topk(scores, sizes.k, tau=sizes.tau, noise=False)
        return scores.gather(1, indices).sort(dim=1, descending=True).values

    def topk_agrees(scores: Tensor, seed: Tensor) -> None:
        assert torch.equal(torch.topk(scores, sizes.k).values, chosen(scores))

    def eager(draw: Noise) -> Callable[..., Call]:
        def prepare(scores: Tensor, seed: Tensor) -> Call:
            return lambda: chain(scores, sizes.k, sizes.tau, draw, softmax_rows)

        return prepare

    def eager_agrees(scores: Tensor, seed: Tensor) -> None:
        mask = chain(scores, sizes.k, sizes.tau, no_noise, softmax_rows).round() == 1
        values = scores[mask].view(len(scores), sizes.k).sort(dim=1, descending=True).values
        assert torch.equal(values, chosen(scores))

    providers = [
        Provider("kernomics", ours),
        Provider("torch.topk alone", topk_alone, topk_agrees, target=5),
    ]
    if noise:
        providers += [
            Provider("torch eager, exponential_", eager(exponential_noise), eager_agrees, target=8),
            Provider("torch eager, rand + logs", eager(uniform_noise), eager_agrees, target=8),
        ]
    else:
        providers.append(Provider("torch eager, no noise", eager(no_noise), eager_agrees))
    how = "noise" if noise else "no noise"
    return Case(
        f"forward, {how}, R={sizes.rows} G={sizes.genes} k={sizes.k}",
        sizes.forward_inputs,
        providers,
        sizes.forward_bytes(),
        sizes={"R": sizes.rows, "G": sizes.genes, "k": sizes.k},
        target_share=0.3 if noise else 0.5,
    )


def cases(device: torch.device, smoke: bool) -> list[Case]:
    if smoke:
        found = [
            softsort_case(Sizes(4, 600, 8), None, 2),
            neuralsort_case(Sizes(1, 300, 8)),
            forward_case(Sizes(4, 600, 8), True),
            forward_case(Sizes(4, 600, 8), False),
        ]
    elif device.type == "cpu":
        found = [
            softsort_case(Sizes(256, 20_000, 256), 10, 64),
            softsort_case(Sizes(1, 60_000, 64), 3, None),
            neuralsort_case(Sizes(1, 10_000, 64)),
        ]
    else:
        large = [Sizes(1024, 20_000, 256), Sizes(4096, 20_000, 256), Sizes(1024, 60_000, 256)]
        found = [forward_case(sizes, noise) for noise in (True, False) for sizes in large]
        found.append(softsort_case(Sizes(1024, 20_000, 256), 8, 256))
        single = softsort_case(Sizes(1, 20_000, 64), None, None)
        found.append(replace(single, target_seconds=15e-6))
    return found


if __name__ == "__main__":
    harness.main("gumbel_topk", cases)
