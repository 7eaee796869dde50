"""masked_linear against the dense product and torch's own sparse product.

Least work, forward: every stored column is read once, k rows of W, y is written. Backward: x, δ and
W are read, dm and dW written, W and dW being G·H numbers each; nnz·H multiply-adds for dm and those
of the chosen genes once more forward and for dW. On the CPU each non-zero fetches a row of W from
the L2 cache, 512 bytes for H = 128, which is what bounds it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bench import harness
from bench.harness import Call, Case, Provider
from kernomics.ops import masked_linear

Layout = Literal["CSR", "dense"]
Layer = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def ours(x: Tensor, mask: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    return masked_linear(x, mask, indices, weight)


def densified(x: Tensor, mask: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    return (x.to_dense() * mask) @ weight


def dense(x: Tensor, mask: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    return (x * mask) @ weight


def sparse(x: Tensor, mask: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    """Scale the weight instead of x and let torch multiply by the non-zeros."""
    return x @ (mask[:, None] * weight)


def both(layer: Layer) -> Callable[..., Call]:
    """Forward, and backward to mask and weight."""

    def prepare(x: Tensor, mask: Tensor, indices: Tensor, weight: Tensor, delta: Tensor) -> Call:
        leaves = mask.detach().requires_grad_(), weight.detach().requires_grad_()

        def call() -> tuple[Tensor, ...]:
            y = layer(x, leaves[0], indices, leaves[1])
            return y.detach(), *torch.autograd.grad(y, leaves, delta)

        return call

    return prepare


def forward(layer: Layer) -> Callable[..., Call]:
    def prepare(x: Tensor, mask: Tensor, indices: Tensor, weight: Tensor, delta: Tensor) -> Call:
        return lambda: layer(x, mask, indices, weight)

    return prepare


@dataclass(frozen=True)
class Sizes:
    """A case's sizes and the share of non-zeros in x."""

    cells: int
    genes: int
    outputs: int
    k: int
    density: float = 0.08

    @property
    def stored(self) -> int:
        """Expected non-zeros."""
        return round(self.cells * self.genes * self.density)

    def inputs(
        self, layout: Layout, device: torch.device, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Draw x, a 0/1 mask with its indices, the weight, and the gradient of y."""
        shape = (self.cells, self.genes)
        counts = torch.randint(1, 9, shape, device=device, generator=generator).float()
        x = counts * (torch.rand(shape, device=device, generator=generator) < self.density)
        order = torch.randperm(self.genes, device=device, generator=generator)
        indices = order[: self.k].sort().values
        mask = torch.zeros(self.genes, device=device).scatter(0, indices, 1.0)
        weight = torch.randn(self.genes, self.outputs, device=device, generator=generator)
        delta = torch.randn(self.cells, self.outputs, device=device, generator=generator)
        if layout == "CSR":
            csr = x.to_sparse_csr()
            crow, col = csr.crow_indices().int(), csr.col_indices().int()
            x = torch.sparse_csr_tensor(crow, col, csr.values(), shape)
        return x, mask, indices, weight, delta

    def x_bytes(self, layout: Layout) -> int:
        """Count the bytes of x: values and int32 columns, or all numbers."""
        return self.stored * 8 if layout == "CSR" else 4 * self.cells * self.genes

    def forward_bytes(self, layout: Layout) -> int:
        """Count what forward reads and writes."""
        columns = 4 * self.stored if layout == "CSR" else 4 * self.cells * self.k
        return columns + 4 * self.k * self.outputs + 4 * self.cells * self.outputs

    def both_bytes(self, layout: Layout) -> int:
        """Add what backward reads and writes."""
        backward = 4 * (self.cells * self.outputs + self.genes + 2 * self.genes * self.outputs)
        return self.forward_bytes(layout) + self.x_bytes(layout) + backward

    def about(self) -> dict[str, int]:
        """Name the sizes for the results."""
        return {"B": self.cells, "G": self.genes, "H": self.outputs, "k": self.k}


def case(sizes: Sizes, layout: Layout, passes: Literal["forward", "forward + backward"]) -> Case:
    prepare = forward if passes == "forward" else both
    target = 12.0 if layout == "CSR" and passes != "forward" else None
    providers = [Provider("kernomics", prepare(ours))]
    if layout == "CSR":
        providers += [
            Provider("(x.to_dense() * mask) @ W", prepare(densified), target=target, graph=False),
            Provider("torch.sparse: x @ (mask W)", prepare(sparse), graph=False),
        ]
    else:
        compiled = torch.compile(dense, fullgraph=True, dynamic=False)
        providers += [
            Provider("(x * mask) @ W", prepare(dense)),
            Provider("torch.compile", prepare(compiled)),
        ]
    moved = sizes.both_bytes(layout) if passes != "forward" else sizes.forward_bytes(layout)
    return Case(
        f"{passes}, {layout}, B={sizes.cells} G={sizes.genes} H={sizes.outputs} k={sizes.k}",
        lambda device, generator: sizes.inputs(layout, device, generator),
        providers,
        moved,
        flops=2 * sizes.stored * sizes.outputs if passes != "forward" else 0,
        sizes=sizes.about(),
        # ∂m sums some 20 counts times 128 products: up to 1e3, in float32 to about 1e-3.
        rtol=1e-4,
        atol=5e-3,
    )


def cases(device: torch.device, smoke: bool) -> list[Case]:
    if smoke:
        sizes = Sizes(8, 300, 16, 5)
    elif device.type == "cpu":
        sizes = Sizes(256, 20_000, 128, 64)
    else:
        sizes = Sizes(4096, 20_000, 128, 64)
    return [
        case(sizes, "CSR", "forward + backward"),
        case(sizes, "CSR", "forward"),
        case(sizes, "dense", "forward + backward"),
    ]


if __name__ == "__main__":
    harness.main("masked_linear", cases)
