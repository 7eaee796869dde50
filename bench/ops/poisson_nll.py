"""poisson_nll against the same formulas in torch, eager and compiled.

Least work: the logits and a dense target are read, the gradient is written, 12·B·G bytes in
float32 and 6·B·G in bfloat16; with a CSR target 8 bytes a non-zero take the target's place. An
element costs two exponentials and a division, one more exponential with a dense log1p target.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from bench import harness
from bench.harness import Call, Case, Provider
from kernomics.ops import poisson_nll

Layout = Literal["CSR", "dense"]
Loss = Callable[[Tensor, Tensor], Tensor]
ALPHA, BETA = math.log(1e5 + 1), 4 * math.e
DENSITY = 0.08


def eager(logits: Tensor, x: Tensor) -> Tensor:
    predicted = ALPHA * torch.relu(torch.tanh(logits.float() / BETA))
    return (predicted.exp() - predicted * x.float().exp()).mean()


def both(loss: Loss, layout: Layout = "dense") -> Callable[..., Call]:
    """Forward, and backward to the logits."""

    def prepare(logits: Tensor, x: Tensor, x_csr: Tensor) -> Call:
        leaf, target = logits.detach().requires_grad_(), x_csr if layout == "CSR" else x

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


def case(
    cells: int,
    genes: int,
    layout: Layout,
    dtype: torch.dtype = torch.float32,
    *,
    eager_target: float | None = None,
    compiled_target: float | None = None,
    share: float | None = None,
) -> Case:
    def inputs(device: torch.device, generator: torch.Generator) -> tuple[Tensor, ...]:
        logits, x, x_csr = draw(cells, genes, device, generator)
        return logits.to(dtype), x.to(dtype), x_csr

    compiled = torch.compile(eager, fullgraph=True, dynamic=False)
    elements = cells * genes
    dense = elements * dtype.itemsize
    single = dtype == torch.float32
    rounded = 2**-8  # a gradient in bfloat16, and the dense target, whose e^x is up to 1e5
    return Case(
        f"forward + backward, rectified tanh, {layout}, B={cells} G={genes}"
        + ("" if single else ", bfloat16"),
        inputs,
        [
            Provider("kernomics", both(poisson_nll, layout)),
            Provider("torch, eager", both(eager), target=eager_target),
            Provider("torch.compile", both(compiled), target=compiled_target),
        ],
        2 * dense + (dense if layout == "dense" else round(DENSITY * elements) * 8),
        sizes={"B": cells, "G": genes},
        rtol=1e-4 if single else 4 * rounded,
        # Gradients are up to e^12/(B·G) each, some parts in 1e6 off in float32.
        atol=1.0 / elements,
        target_share=share,
    )


def cases(device: torch.device, smoke: bool) -> list[Case]:
    if smoke:
        return [case(8, 300, "dense"), case(8, 300, "CSR")]
    if device.type == "cpu":
        return [
            case(1024, 20_000, "dense", eager_target=12, compiled_target=2),
            case(1024, 20_000, "CSR", compiled_target=3),
        ]
    return [
        case(4096, 20_000, "dense", compiled_target=1.3, share=0.8),
        case(4096, 20_000, "CSR", compiled_target=1.3, share=0.8),
        case(4096, 20_000, "dense", torch.bfloat16, compiled_target=1.3, share=0.6),
    ]


if __name__ == "__main__":
    harness.main("poisson_nll", cases)
