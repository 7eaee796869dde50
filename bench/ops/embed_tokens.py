"""embed_tokens against an embedding and concatenations in torch.

Least work, N = B·K tokens of d numbers. Forward: the rows of the table that occur are read once,
the tokens and CLS written once. Backward: the tokens' gradient is read once, the table's written
once, zeros included. Nothing but additions is computed. Genes ascend in each cell, as
`sample_tokens` returns them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from bench import harness
from bench.harness import Call, Case, Provider
from kernomics.ops import embed_tokens

Combine = Literal["concat", "add"]
Embed = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def ours_concat(gene_ids: Tensor, values: Tensor, table: Tensor, cls: Tensor) -> Tensor:
    return embed_tokens(gene_ids, values, table, cls=cls)


def ours_add(gene_ids: Tensor, values: Tensor, table: Tensor, cls: Tensor) -> Tensor:
    return embed_tokens(gene_ids, None, table, combine="add", value_embedding=values, cls=cls)


def _behind_cls(tokens: Tensor, cls: Tensor) -> Tensor:
    return torch.cat([cls.expand(len(tokens), 1, -1), tokens], dim=1)


def torch_concat(gene_ids: Tensor, values: Tensor, table: Tensor, cls: Tensor) -> Tensor:
    """Concatenate; the table has no unused column."""
    tokens = torch.cat([functional.embedding(gene_ids, table), values[..., None]], dim=-1)
    return _behind_cls(tokens, cls)


def torch_add(gene_ids: Tensor, values: Tensor, table: Tensor, cls: Tensor) -> Tensor:
    return _behind_cls(functional.embedding(gene_ids, table) + values, cls)


def prepare(embed: Embed, combine: Combine, backward: bool) -> Callable[..., Call]:
    """Forward, and with `backward` the gradients of table, CLS and an added value embedding."""
    unused = embed is ours_concat  # a last column of the table

    def prepared(
        gene_ids: Tensor, values: Tensor, table: Tensor, cls: Tensor, delta: Tensor
    ) -> Call:
        if combine == "concat" and not unused:
            table = table[:, :-1].contiguous()
        if not backward:
            return lambda: embed(gene_ids, values, table, cls)
        table, cls = table.detach().requires_grad_(), cls.detach().requires_grad_()
        leaves = [table, cls]
        if combine == "add":
            values = values.detach().requires_grad_()
            leaves.append(values)

        def call() -> tuple[Tensor, ...]:
            tokens = embed(gene_ids, values, table, cls)
            grad, *others = torch.autograd.grad(tokens, leaves, delta)
            return tokens.detach(), grad[:, :-1] if unused else grad, *others

        return call

    return prepared


@dataclass(frozen=True)
class Sizes:
    """A case's sizes."""

    cells: int
    tokens: int
    genes: int
    width: int

    def inputs(
        self, combine: Combine, dtype: torch.dtype, device: torch.device, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Draw distinct genes per cell, their values, the table, CLS, and the tokens' gradient."""

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, device=device, generator=generator).to(dtype)

        chosen = [
            torch.randperm(self.genes, device=device, generator=generator)[: self.tokens]
            for _ in range(self.cells)
        ]
        gene_ids = torch.stack(chosen).sort(dim=1).values
        shape = (self.cells, self.tokens) if combine == "concat" else self.embedded
        return (
            gene_ids,
            normal(*shape),
            normal(self.genes, self.width),
            normal(self.width),
            normal(self.cells, self.tokens + 1, self.width),
        )

    @property
    def embedded(self) -> tuple[int, int, int]:
        """Shape of the tokens without CLS."""
        return self.cells, self.tokens, self.width

    def bytes_moved(self, combine: Combine, dtype: torch.dtype, backward: bool) -> int:
        """Count what must be read and written; ids are int64."""
        n = self.cells * self.tokens
        written = (n + self.cells) * self.width
        rows = min(n, self.genes) * self.width
        values = n if combine == "concat" else n * self.width
        numbers = rows + values + written
        if backward:
            grads = self.genes * self.width + (values if combine == "add" else 0)
            numbers += written + grads
        return numbers * dtype.itemsize + 8 * n * (2 if backward else 1)

    def about(self) -> dict[str, int]:
        """Name the sizes for the results."""
        return {"B": self.cells, "K": self.tokens, "V": self.genes, "d": self.width}


def case(
    sizes: Sizes,
    combine: Combine,
    dtype: torch.dtype = torch.float32,
    backward: bool = True,
    target: float | None = None,
    target_share: float | None = None,
) -> Case:
    ours, eager = (ours_concat, torch_concat) if combine == "concat" else (ours_add, torch_add)
    compiled = torch.compile(eager, fullgraph=True, dynamic=False)
    half = dtype == torch.bfloat16
    return Case(
        f"{'forward + backward' if backward else 'forward'}, {combine}, "
        f"{str(dtype).removeprefix('torch.')}, B={sizes.cells} K={sizes.tokens} V={sizes.genes} "
        f"d={sizes.width}",
        lambda device, generator: sizes.inputs(combine, dtype, device, generator),
        [
            Provider("kernomics", prepare(ours, combine, backward)),
            Provider("embedding + cat", prepare(eager, combine, backward), target=target),
            Provider("torch.compile", prepare(compiled, combine, backward)),
        ],
        sizes.bytes_moved(combine, dtype, backward),
        sizes=sizes.about(),
        # CLS sums 32 normal numbers: 32 · 2⁻²⁴ · Σ|·|. In bfloat16 torch rounds each partial sum of
        # a gene, of up to 20 numbers and size 16: 20 times 2⁻⁵ at the very worst.
        rtol=0.0 if half else 1e-5,
        atol=0.63 if half else 5e-5,
        target_share=target_share,
    )


def backward_case(sizes: Sizes, dtype: torch.dtype, target_share: float) -> Case:
    """Backward alone, of table and CLS: torch's own op against ours."""

    def ours(gene_ids: Tensor, values: Tensor, table: Tensor, cls: Tensor, delta: Tensor) -> Call:
        def call() -> tuple[Tensor, Tensor]:
            _, grad, grad_cls = torch.ops.kernomics.embed_tokens_backward(
                delta, gene_ids, sizes.genes, True, True, False, True, True
            )
            return grad[:, :-1], grad_cls

        return call

    def eager(gene_ids: Tensor, values: Tensor, table: Tensor, cls: Tensor, delta: Tensor) -> Call:
        def call() -> tuple[Tensor, Tensor]:
            grad = torch.ops.aten.embedding_dense_backward(
                delta[:, 1:, :-1], gene_ids, sizes.genes, -1, False
            )
            return grad, delta[:, 0].sum(0)

        return call

    n = sizes.cells * sizes.tokens
    numbers = (n + sizes.cells + sizes.genes) * sizes.width
    return Case(
        f"backward, concat, {str(dtype).removeprefix('torch.')}, B={sizes.cells} K={sizes.tokens} "
        f"V={sizes.genes} d={sizes.width}",
        lambda device, generator: sizes.inputs("concat", dtype, device, generator),
        [
            Provider("kernomics", ours),
            Provider("embedding_dense_backward", eager, graph=False),  # it may wait for the device
        ],
        numbers * dtype.itemsize + 8 * n,
        sizes=sizes.about(),
        rtol=0.0,
        atol=0.63,  # as in `case`
        target_share=target_share,
    )


def cuda_cases(smoke: bool) -> list[Case]:
    sizes, half = Sizes(32, 2048, 20_000, 768), torch.bfloat16
    if smoke:
        sizes = Sizes(3, 17, 50, 24)
    return [
        case(sizes, "concat", half, backward=False, target_share=0.8),
        backward_case(sizes, half, 0.5),
        case(sizes, "concat", half),
        case(sizes, "add", half),
        case(sizes, "concat"),
    ]


def cases(device: torch.device, smoke: bool) -> list[Case]:
    if device.type == "cuda":
        return cuda_cases(smoke)
    sizes = Sizes(3, 17, 50, 24) if smoke else Sizes(32, 2048, 20_000, 384)
    return [
        case(sizes, "concat", target=1.5),
        case(sizes, "concat", backward=False),
        case(sizes, "concat", torch.bfloat16),
        case(sizes, "add"),
    ]


if __name__ == "__main__":
    harness.main("embed_tokens", cases)
