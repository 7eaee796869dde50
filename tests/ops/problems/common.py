"""What the problems of several ops are made of: rows of cells in any layout, panels, roundoff."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from kernomics.ops import ObservedGenes

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
U_RESULT = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
Results = dict[str, Tensor]


def unit_roundoff(dtype: torch.dtype) -> float:
    """Return that of the sums that make a result: float32's, unless it is float64."""
    return 2.0**-53 if dtype == torch.float64 else 2.0**-24


@dataclass(frozen=True)
class Movable:
    """A dataclass of tensors that moves to a device, or its floating-point ones to a dtype."""

    def to(self, where: torch.device | torch.dtype | str) -> Self:
        def moves(value: Any) -> bool:
            if isinstance(where, torch.dtype):
                return isinstance(value, Tensor) and value.is_floating_point()
            return isinstance(value, Tensor | ObservedGenes)

        moved = {name: value.to(where) for name, value in vars(self).items() if moves(value)}
        return replace(self, **moved)


@dataclass(frozen=True)
class Rows(Movable):
    """What an op needs of `kernomics.data.Cells`."""

    indptr: Tensor
    indices: Tensor
    values: Tensor
    shape: tuple[int, ...]


def as_rows(x: Tensor, columns: torch.dtype = torch.int32) -> Rows:
    csr = x.to_sparse_csr()
    parts = csr.crow_indices(), csr.col_indices().to(columns), csr.values()
    return Rows(*(part.clone() for part in parts), tuple(x.shape))


def as_csr32(x: Tensor) -> Tensor:
    csr = x.to_sparse_csr()
    crow, col = csr.crow_indices().int(), csr.col_indices().int()
    return torch.sparse_csr_tensor(crow, col, csr.values(), x.shape)


LAYOUTS: dict[str, Callable[[Tensor], Any]] = {
    "dense": lambda x: x,
    "columns_first": lambda x: x.t().contiguous().t(),
    "every_other": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "csr64": lambda x: x.to_sparse_csr(),
    "csr32": as_csr32,
    "rows32": as_rows,
    "rows64": lambda x: as_rows(x, torch.int64),
}


def rows(indptr: list[int], indices: list[int], values: list[float] | None = None) -> Rows:
    """Make rows of 2 cells and 10 genes as they are named, right or wrong."""
    numbers = torch.ones(len(indices)) if values is None else torch.tensor(values)
    return Rows(torch.tensor(indptr), torch.tensor(indices), numbers, (2, 10))


def draw_panels(cells: int, genes: int, generator: torch.Generator | None = None) -> ObservedGenes:
    """Draw three panels: half of the genes, all, and none.

    Without a generator the half is every other gene, and cells have the panels in turn.
    """
    half, panel_id = torch.arange(0, genes, 2), torch.arange(cells) % 3
    if generator is not None:
        half = torch.randint(0, 2, (3, genes), generator=generator)[0].nonzero()[:, 0]
        panel_id = torch.randint(0, 3, (cells,), generator=generator)
    return ObservedGenes.from_lists([half, torch.arange(genes), torch.arange(0)], genes, panel_id)


def peak_resident_bytes() -> int:
    """Return the peak memory of this process, on Linux."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
