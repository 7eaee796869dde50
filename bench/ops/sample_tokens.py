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

from bench import harness
from bench.harness import Case, Provider
from kernomics.ops import sample_tokens

TARGET_SUM = 1e5
Draw = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


def gathered(dense: Tensor, genes: Tensor, library: Tensor) -> tuple[Tensor, Tensor]:
    return genes, torch.log1p(dense.gather(1, genes) * (TARGET_SUM / library)[:, None])


def sorted_noise(counts: Tensor, library: Tensor, k: int) -> tuple[Tensor, Tensor]:
    dense = counts.to_dense()
    return gathered(dense, torch.rand_like(dense).argsort(1)[:, :k], library)


def selected_noise(counts: Tensor, library: Tensor, k: int) -> tuple[Tensor, Tensor]:
    dense = counts.to_dense()
    return gathered(dense, torch.rand_like(dense).topk(k, sorted=False).indices, library)


def multinomial(
    counts: Tensor, library: Tensor, k: int, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Draw expressed genes, or all genes by their weights."""
    dense = counts.to_dense()
    p = (dense != 0).float() if weights is None else weights.expand(dense.shape)
    return gathered(dense, torch.multinomial(p, k), library)


Prepare = Callable[[Tensor, Tensor, int], Callable[[], tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Rows:
    """The counts as `kernomics.data.Cells` has them, with int64 row pointers."""

    indptr: Tensor
    indices: Tensor
    values: Tensor
    shape: tuple[int, int]


def ours(**options: Any) -> Prepare:
    def prepare(counts: Tensor, library: Tensor, k: int) -> Callable[[], tuple[Tensor, Tensor]]:
        cells, genes = counts.shape
        rows = Rows(
            counts.crow_indices().long(), counts.col_indices(), counts.values(), (cells, genes)
        )
        ids = torch.arange(cells, device=library.device)
        seed = torch.tensor([1, 2], device=library.device)
        given: dict[str, Any] = {
            n: v.to(library.device) if isinstance(v, Tensor) else v for n, v in options.items()
        }
        return lambda: sample_tokens(rows, k, cell_ids=ids, seed=seed, library=library, **given)

    return prepare


def prepared(draw: Draw) -> Prepare:
    def prepare(counts: Tensor, library: Tensor, k: int) -> Callable[[], tuple[Tensor, Tensor]]:
        return lambda: draw(counts, library, k)

    return prepare


def checked(prepare: Prepare) -> Callable[..., None]:
    def check(counts: Tensor, library: Tensor, k: int) -> None:
        genes, values = prepare(counts, library, k)()
        assert genes.shape == values.shape == (counts.shape[0], k)
        ascending = genes.long().sort(1)
        assert bool((ascending.values.diff(dim=1) > 0).all())
        expected = gathered(counts.to_dense(), ascending.values, library)[1]
        torch.testing.assert_close(values.gather(1, ascending.indices), expected)

    return check


def provider(
    name: str, prepare: Prepare, target: float | None = None, slow: bool = False
) -> Provider:
    # to_dense waits for the device: only ours goes into a CUDA graph.
    return Provider(
        name, prepare, checked(prepare), target=target, slow=slow, graph=name == "kernomics"
    )


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

    def case(self, what: str, providers: list[Provider], target_share: float | None = None) -> Case:
        """Describe a case of these sizes."""
        entries = round(self.cells * self.genes * self.density)
        return Case(
            f"{what}, B={self.cells} G={self.genes} K={self.k}",
            self.inputs,
            providers,
            8 * entries + 8 * self.cells * self.k,
            sizes={"B": self.cells, "G": self.genes, "K": self.k},
            target_share=target_share,
        )


def cases(device: torch.device, smoke: bool) -> list[Case]:
    on_cpu = device.type == "cpu"
    if smoke:
        observed, expressed = Sizes(8, 400, 30), Sizes(8, 400, 12, density=0.2)
    elif on_cpu:
        observed, expressed = Sizes(256, 20_000, 2048), Sizes(256, 20_000, 1024)
    else:  # 3,000 entries a cell where genes are drawn among them
        observed, expressed = Sizes(4096, 20_000, 2048), Sizes(4096, 20_000, 1024, density=0.15)
    weights = torch.rand(observed.genes, generator=torch.Generator().manual_seed(0))

    def weighted(counts: Tensor, library: Tensor, k: int) -> tuple[Tensor, Tensor]:
        return multinomial(counts, library, k, weights.to(library.device))

    found = [
        observed.case(
            "observed genes",
            [
                provider("kernomics", ours()),
                provider(
                    "densify, argsort(rand), gather", prepared(sorted_noise),
                    target=40.0 if on_cpu else None, slow=True,
                ),
                provider(
                    "densify, topk(rand), gather", prepared(selected_noise),
                    target=15.0 if on_cpu else None,
                ),
            ],
        ),
        observed.case(
            "weighted",
            [
                provider("kernomics", ours(weights=weights)),
                provider("densify, multinomial, gather", prepared(weighted), slow=True),
            ],
        ),
        expressed.case(
            "expressed genes",
            [
                provider("kernomics", ours(candidates="expressed")),
                provider("densify, multinomial, gather", prepared(multinomial), slow=True),
            ],
            None if on_cpu or smoke else 0.5,
        ),
    ]  # fmt: skip
    return found


if __name__ == "__main__":
    harness.main("sample_tokens", cases)
