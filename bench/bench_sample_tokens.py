"""sample_tokens against dense counts with sorted or selected random numbers.

Least work: every stored entry is read once (value and int32 column), K tokens are written (value
and int32 gene). One Philox word a candidate gene is arithmetic, not bytes: it is what bounds the
case of observed genes.

Draws differ between providers, so each provider's tokens are checked by themselves: K distinct
genes a cell, with the values that the dense matrix has there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import harness
from harness import Call, Case, Provider
from kernomics.ops import sample_tokens

TARGET_SUM = 1e5
Draw = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


def ours(counts: Tensor, library: Tensor, k: int, **options: Any) -> tuple[Tensor, Tensor]:
    ids, seed = torch.arange(counts.shape[0]), torch.tensor([1, 2])
    return sample_tokens(counts, k, cell_ids=ids, seed=seed, library=library, **options)


def gathered(dense: Tensor, genes: Tensor, library: Tensor) -> tuple[Tensor, Tensor]:
    return genes, torch.log1p(dense.gather(1, genes) * (TARGET_SUM / library)[:, None])


def sorted_noise(counts: Tensor, library: Tensor, k: int) -> tuple[Tensor, Tensor]:
    dense = counts.to_dense()
    return gathered(dense, torch.rand(dense.shape).argsort(1)[:, :k], library)


def selected_noise(counts: Tensor, library: Tensor, k: int) -> tuple[Tensor, Tensor]:
    dense = counts.to_dense()
    return gathered(dense, torch.rand(dense.shape).topk(k, sorted=False).indices, library)


def multinomial(
    counts: Tensor, library: Tensor, k: int, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Draw expressed genes, or all genes by their weights."""
    dense = counts.to_dense()
    p = (dense != 0).float() if weights is None else weights.expand(dense.shape)
    return gathered(dense, torch.multinomial(p, k), library)


def prepared(draw: Draw) -> Callable[..., Call]:
    def prepare(counts: Tensor, library: Tensor, k: int) -> Call:
        return lambda: draw(counts, library, k)

    return prepare


def checked(draw: Draw) -> Callable[..., None]:
    def check(counts: Tensor, library: Tensor, k: int) -> None:
        genes, values = draw(counts, library, k)
        assert genes.shape == values.shape == (counts.shape[0], k)
        ascending = genes.long().sort(1)
        assert bool((ascending.values.diff(dim=1) > 0).all())
        expected = gathered(counts.to_dense(), ascending.values, library)[1]
        torch.testing.assert_close(values.gather(1, ascending.indices), expected)

    return check


def provider(name: str, draw: Draw, target: float | None = None, slow: bool = False) -> Provider:
    return Provider(name, prepared(draw), checked(draw), target=target, slow=slow)


@dataclass(frozen=True)
class Sizes:
    """A case's sizes and the share of non-zeros in the counts."""

    cells: int
    genes: int
    k: int
    density: float = 0.08

    def inputs(
        self, device: torch.device, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, int]:
        """Draw counts with int32 indices and their totals."""
        shape = (self.cells, self.genes)
        x = torch.randint(1, 9, shape, device=device, generator=generator).float()
        x *= torch.rand(shape, device=device, generator=generator) < self.density
        csr = x.to_sparse_csr()
        crow, col = csr.crow_indices().int(), csr.col_indices().int()
        return torch.sparse_csr_tensor(crow, col, csr.values(), shape), x.sum(1), self.k

    def case(self, what: str, providers: list[Provider]) -> Case:
        """Describe a case of these sizes."""
        entries = round(self.cells * self.genes * self.density)
        return Case(
            f"{what}, B={self.cells} G={self.genes} K={self.k}",
            self.inputs,
            providers,
            8 * entries + 8 * self.cells * self.k,
            sizes={"B": self.cells, "G": self.genes, "K": self.k},
        )


def cases(device: torch.device, smoke: bool) -> list[Case]:
    if device.type != "cpu":
        return []
    observed = Sizes(8, 400, 30) if smoke else Sizes(256, 20_000, 2048)
    expressed = Sizes(8, 400, 12, density=0.2) if smoke else Sizes(256, 20_000, 1024)
    weights = torch.rand(observed.genes, generator=torch.Generator().manual_seed(0))
    return [
        observed.case(
            "observed genes",
            [
                provider("kernomics", ours),
                provider("densify, argsort(rand), gather", sorted_noise, target=40.0, slow=True),
                provider("densify, topk(rand), gather", selected_noise, target=15.0),
            ],
        ),
        observed.case(
            "weighted",
            [
                provider("kernomics", lambda c, n, k: ours(c, n, k, weights=weights)),
                provider(
                    "densify, multinomial, gather",
                    lambda c, n, k: multinomial(c, n, k, weights),
                    slow=True,
                ),
            ],
        ),
        expressed.case(
            "expressed genes",
            [
                provider("kernomics", lambda c, n, k: ours(c, n, k, candidates="expressed")),
                provider("densify, multinomial, gather", multinomial, slow=True),
            ],
        ),
    ]


if __name__ == "__main__":
    harness.main("sample_tokens", cases)
