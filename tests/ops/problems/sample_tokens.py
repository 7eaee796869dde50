"""Cells whose tokens sample_tokens draws."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from kernomics.ops import ObservedGenes, sample_tokens
from problems.common import FLOATS, LAYOUTS, Rows

OPTIONS: dict[str, Any] = {
    "density": st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    "dtype": st.sampled_from(FLOATS),
    "candidates": st.sampled_from(["observed", "expressed"]),
    "panels": st.integers(0, 3),
    "weighted": st.booleans(),
    "library": st.booleans(),
    "target_sum": st.sampled_from([None, 1e4, 1e5]),
    "transform": st.sampled_from(["log1p", "counts"]),
    "seed": st.integers(0, 2**20),
}
"""Of `draw`, as hypothesis varies them."""


@dataclass(frozen=True)
class Problem:
    x: Tensor
    n_tokens: int | None
    options: dict[str, Any] = field(default_factory=dict)
    rows: Rows | None = None  # passed in place of x: with stored zeros, or with a fault

    def run(self, layout: str = "csr64", device: str = "cpu", **options: Any) -> tuple[Tensor, ...]:
        """Draw on a device; bring the tokens to the CPU."""
        counts = LAYOUTS[layout](self.x) if self.rows is None else self.rows
        moved = {
            name: value.to(device) if isinstance(value, Tensor | ObservedGenes) else value
            for name, value in (self.options | options).items()
        }
        found = sample_tokens(counts.to(device), self.n_tokens, **moved)
        return tuple(part.cpu() for part in found)

    def some(self, cells: slice | Tensor) -> Problem:
        """Take some of the cells."""
        changed = {name: self.options[name][cells] for name in ("cell_ids", "library")
                   if self.options.get(name) is not None}  # fmt: skip
        if (panels := self.options.get("observed")) is not None:
            changed["observed"] = panels.with_panel_id(panels.panel_id[cells])
        return replace(self, x=self.x[cells], options=self.options | changed)


def draw(
    cells: int,
    genes: int,
    n_tokens: int | None,
    *,
    density: float = 0.2,
    panels: int = 0,
    weighted: bool = False,
    library: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    **options: Any,
) -> Problem:
    """Draw counts below 250, exact in every dtype, and what else the tokens depend on."""
    g = torch.Generator().manual_seed(seed)
    stored = torch.rand((cells, genes), generator=g) < density
    x = (torch.randint(1, 250, (cells, genes), generator=g) * stored).to(dtype)
    options["cell_ids"] = torch.randint(0, 2**48, (cells,), generator=g)
    options["seed"] = torch.randint(-(2**63), 2**63 - 1, (2,), generator=g)
    if panels:
        sizes = torch.randint(0, genes + 1, (panels,), generator=g).tolist()
        lists = [torch.randperm(genes, generator=g)[:size] for size in sizes]
        ids = torch.randint(0, panels, (cells,), generator=g)
        options["observed"] = ObservedGenes.from_lists(lists, genes, ids)
    if weighted:
        weights = torch.rand(genes, generator=g)
        options["weights"] = weights * (torch.rand(genes, generator=g) < 0.8)
    if library:
        options["library"] = torch.randint(0, 4, (cells,), generator=g).float() * 1234.5
    return Problem(x, n_tokens, options)
