"""linear_poisson_nll against its three bare products, and against the layer and the loss in torch.

Least work: three products of 2·B·G·H operations each (logits, dW, dh). The sweep over a chunk's
logits comes on top and moves 12·B·G bytes or, with a CSR target, 8 and the non-zeros; in bfloat16,
on CUDA, the logits are half of that and stay in the L2 cache.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench import harness
from bench.harness import Call, Case, Provider
from bench.ops import poisson_nll
from kernomics.ops import linear_poisson_nll

Loss = Callable[..., Tensor]


def ours(hidden: Tensor, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    return linear_poisson_nll(hidden, weight, bias, x)


def eager(hidden: Tensor, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    return poisson_nll.eager(torch.nn.functional.linear(hidden, weight, bias), x)


def both(loss: Loss, layout: poisson_nll.Layout = "dense") -> Callable[..., Call]:
    """Forward, and backward to all three."""

    def prepare(hidden: Tensor, weight: Tensor, bias: Tensor, x: Tensor, x_csr: Tensor) -> Call:
        leaves = [t.detach().requires_grad_() for t in (hidden, weight, bias)]
        target = x_csr if layout == "CSR" else x

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


def case(
    cells: int,
    genes: int,
    width: int,
    layout: poisson_nll.Layout,
    dtype: torch.dtype = torch.float32,
    *,
    times_products: float | None = None,
) -> Case:
    def inputs(device: torch.device, generator: torch.Generator) -> tuple[Tensor, ...]:
        _, x, x_csr = poisson_nll.draw(cells, genes, device, generator)
        hidden = torch.randn(cells, width, device=device, generator=generator)
        weight = torch.randn(genes, width, device=device, generator=generator) * 4 / width**0.5
        bias = torch.zeros(genes, device=device)
        return hidden.to(dtype), weight.to(dtype), bias.to(dtype), x, x_csr

    single = dtype == torch.float32
    each = 8 * poisson_nll.DENSITY if layout == "CSR" else 4
    target_bytes = round(each * cells * genes)
    compiled = torch.compile(eager, fullgraph=True, dynamic=False)
    target = None if times_products is None else 1 / times_products
    return Case(
        f"forward + backward, {layout}, B={cells} G={genes} H={width}"
        + ("" if single else ", bfloat16"),
        inputs,
        [
            Provider("kernomics", both(ours, layout)),
            Provider("the three products", products, check=different, target=target),
            Provider("torch, eager", both(eager)),
            Provider("torch.compile", both(compiled)),
        ],
        2 * dtype.itemsize * (genes + cells) * width + target_bytes,
        flops=6 * cells * genes * width,
        sizes={"B": cells, "G": genes, "H": width},
        # In bfloat16 a logit of 12 is 0.03 off, which changes λ by 3 %. Gradients reach 4e4/(B·G)
        # and differ by some hundreds more where terms cancel.
        rtol=1e-3 if single else 3e-2,
        atol=2e-3 if single else 2000 / (cells * genes),
    )


def cases(device: torch.device, smoke: bool) -> list[Case]:
    if smoke:
        return [case(8, 300, 16, "dense"), case(8, 300, 16, "CSR")]
    if device.type == "cpu":
        return [case(1024, 20_000, 768, layout, times_products=1.15) for layout in ("dense", "CSR")]
    return [
        case(4096, 20_000, width, "CSR", torch.bfloat16, times_products=times)
        for width, times in ((512, 1.25), (768, 1.2), (1024, 1.15))
    ] + [case(4096, 20_000, 768, "dense", torch.bfloat16)]


if __name__ == "__main__":
    harness.main("linear_poisson_nll", cases)
