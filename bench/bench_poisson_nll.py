"""poisson_nll against the same formulas in torch, eager and compiled.

Least work: the logits and a dense target are read, the gradient is written, 12·B·G bytes; with a
CSR target 8 bytes a non-zero take the target's place. An element costs two exponentials and a
division, one more exponential with a dense log1p target.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import harness
from harness import Call, Case, Provider
from kernomics.ops import poisson_nll

Loss = Callable[[Tensor, Tensor], Tensor]
ALPHA, BETA = math.log(1e5 + 1), 4 * math.e
DENSITY = 0.08


def eager(logits: Tensor, x: Tensor) -> Tensor:
    predicted = ALPHA * torch.relu(torch.tanh(logits / BETA))
    return (predicted.exp() - predicted * x.exp()).mean()


def both(loss: Loss, sparse: bool = False) -> Callable[..., Call]:
    """Forward, and backward to the logits."""

    def prepare(logits: Tensor, x: Tensor, x_csr: Tensor) -> Call:
        leaf, target = logits.detach().requires_grad_(), x_csr if sparse else x

        def call() -> tuple[Tensor, ...]:
            value = loss(leaf, target)
            return value.detach(), *torch.autograd.grad(value, leaf)

        return call

    return prepare


def draw(
    cells: int, genes: int, device: torch.device, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw logits and log1p targets, dense and as CSR with int32 columns."""
    shape = (cells, genes)
    counts = torch.randint(1, 9, shape, device=device, generator=generator).float()
    counts *= torch.rand(shape, device=device, generator=generator) < DENSITY
    x = torch.log1p(counts * 1e5 / counts.sum(1, keepdim=True).clamp(min=1))
    csr = x.to_sparse_csr()
    parts = csr.crow_indices().int(), csr.col_indices().int(), csr.values()
    logits = 4 * torch.randn(shape, device=device, generator=generator)
    return logits, x, torch.sparse_csr_tensor(*parts, shape)


def case(cells: int, genes: int, sparse: bool) -> Case:
    compiled = torch.compile(eager, fullgraph=True, dynamic=False)
    elements = cells * genes
    target_bytes = round(DENSITY * elements) * 8 if sparse else 4 * elements
    providers = [
        Provider("kernomics", both(poisson_nll, sparse)),
        Provider("torch, eager", both(eager), target=None if sparse else 12.0),
        Provider("torch.compile", both(compiled), target=3.0 if sparse else 2.0),
    ]
    layout = "CSR" if sparse else "dense"
    return Case(
        f"forward + backward, rectified tanh, {layout}, B={cells} G={genes}",
        lambda device, generator: draw(cells, genes, device, generator),
        providers,
        8 * elements + target_bytes,
        sizes={"B": cells, "G": genes},
        rtol=1e-4,
        # Gradients are up to e^12/(B·G) each, some parts in 1e6 off in float32.
        atol=1.0 / elements,
    )


def cases(device: torch.device, smoke: bool) -> list[Case]:
    cells, genes = (8, 300) if smoke else (1024, 20_000)
    return [case(cells, genes, False), case(cells, genes, True)]


if __name__ == "__main__":
    harness.main("poisson_nll", cases)
