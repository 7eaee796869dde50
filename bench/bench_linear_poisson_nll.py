"""linear_poisson_nll against its three bare products, and against the layer and the loss in torch.

Least work: three products of 2·B·G·H operations each (logits, dW, dh). The sweep over a chunk's
logits comes on top and moves 12·B·G bytes or, with a CSR target, 8 and the non-zeros.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import bench_poisson_nll
import harness
from harness import Call, Case, Provider
from kernomics.ops import linear_poisson_nll

Loss = Callable[..., Tensor]
SHARE_OF_PRODUCTS = 1 / 1.15


def ours(hidden: Tensor, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    return linear_poisson_nll(hidden, weight, bias, x)


def eager(hidden: Tensor, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    return bench_poisson_nll.eager(torch.nn.functional.linear(hidden, weight, bias), x)


def both(loss: Loss, sparse: bool = False) -> Callable[..., Call]:
    """Forward, and backward to all three."""

    def prepare(hidden: Tensor, weight: Tensor, bias: Tensor, x: Tensor, x_csr: Tensor) -> Call:
        leaves = [t.detach().requires_grad_() for t in (hidden, weight, bias)]
        target = x_csr if sparse else x

        def call() -> tuple[Tensor, ...]:
            value = loss(*leaves, target)
            return value.detach(), *torch.autograd.grad(value, leaves)

        return call

    return prepare


def products(hidden: Tensor, weight: Tensor, bias: Tensor, x: Tensor, x_csr: Tensor) -> Call:
    """Multiply alone: no activation, no loss."""

    def call() -> tuple[Tensor, ...]:
        logits = hidden @ weight.T
        return logits.T @ hidden, logits @ weight

    return call


def different(*inputs: Tensor) -> None:
    """Compare nothing: the bare products are no loss."""


def case(cells: int, genes: int, width: int, sparse: bool) -> Case:
    def inputs(device: torch.device, generator: torch.Generator) -> tuple[Tensor, ...]:
        _, x, x_csr = bench_poisson_nll.draw(cells, genes, device, generator)
        hidden = torch.randn(cells, width, device=device, generator=generator)
        weight = torch.randn(genes, width, device=device, generator=generator) * 4 / width**0.5
        return hidden, weight, torch.zeros(genes, device=device), x, x_csr

    layout = "CSR" if sparse else "dense"
    compiled = torch.compile(eager, fullgraph=True, dynamic=False)
    return Case(
        f"forward + backward, {layout}, B={cells} G={genes} H={width}",
        inputs,
        [
            Provider("kernomics", both(ours, sparse)),
            Provider("the three products", products, check=different, target=SHARE_OF_PRODUCTS),
            Provider("torch, eager", both(eager)),
            Provider("torch.compile", both(compiled)),
        ],
        8 * genes * width + 8 * cells * width + (8 if sparse else 4) * cells * genes,
        flops=6 * cells * genes * width,
        sizes={"B": cells, "G": genes, "H": width},
        rtol=1e-3,
        atol=2e-3,
    )


def cases(device: torch.device, smoke: bool) -> list[Case]:
    cells, genes, width = (8, 300, 16) if smoke else (1024, 20_000, 768)
    return [case(cells, genes, width, False), case(cells, genes, width, True)]


if __name__ == "__main__":
    harness.main("linear_poisson_nll", cases)
