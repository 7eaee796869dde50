"""`Gradients`: those of a step as one buffer, in which ranks add them up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kernomics.errors import ConfigError


class Gradients:
    """The gradients of some parameters one after the other, behind a few numbers."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], sent: Sequence[bool], rows: Mapping[int, Tensor]
    ) -> None:
        self.parameters = [p for p, one in zip(parameters, sent, strict=True) if one]
        self.rows = [rows.get(id(p)) for p in self.parameters]
        drawn = [int(r.sum()) % 1021 for r in self.rows if r is not None]
        self.rows_sum = float(sum(drawn) % 1021)
        kinds = {p.dtype for p in self.parameters}
        if len(kinds) > 1:
            raise ConfigError(
                f"the parameters are of {len(kinds)} kinds, {', '.join(map(str, kinds))}: several "
                "ranks train parameters of one kind"
            )
        narrow = kinds - {torch.float32, torch.float64}
        if narrow:  # which would round the counts and digests that go with the gradients
            raise ConfigError(
                f"the parameters are {narrow.pop()}: several ranks add up gradients in float32 or "
                "float64; keep the parameters in float32 and set precision='bf16'"
            )

    def pack(self, numbers: Sequence[float]) -> Tensor:
        """Return the numbers and then the gradients, zeros where there is none."""
        like = self.parameters[0] if self.parameters else torch.empty(0, dtype=torch.float64)
        pieces = [like.new_tensor(list(numbers))]
        for p, rows in zip(self.parameters, self.rows, strict=True):
            if p.grad is None:
                shape = p.shape if rows is None else (len(rows), *p.shape[1:])
                pieces.append(p.new_zeros(shape).flatten())
            else:
                pieces.append(_of_rows(p.grad, rows).reshape(-1))
        return torch.cat(pieces).detach()

    def unpack(self, found: Tensor, counts: Sequence[float]) -> None:
        """Put the sums where the gradients were, if any rank has one."""
        shapes = [
            p.shape if rows is None else (len(rows), *p.shape[1:])
            for p, rows in zip(self.parameters, self.rows, strict=True)
        ]
        sizes = [torch.Size(shape).numel() for shape in shapes]
        pieces = torch.split(found[len(found) - sum(sizes) :], sizes)
        for p, rows, shape, piece, count in zip(
            self.parameters, self.rows, shapes, pieces, counts, strict=True
        ):
            if not count:
                continue
            own = piece.view(shape)
            if p.grad is not None and p.grad.is_sparse and rows is not None:
                p.grad = torch.sparse_coo_tensor(
                    rows[None], own, p.shape, check_invariants=False, is_coalesced=True
                )
                continue
            if p.grad is None or p.grad.is_sparse:
                p.grad = torch.zeros_like(p)
            if rows is None:
                p.grad.copy_(own)
            else:
                p.grad.index_copy_(0, rows, own)


def _of_rows(gradient: Tensor, rows: Tensor | None) -> Tensor:
    """Return a gradient's rows, which a sparse one has alone; all of it where there are none."""
    if not gradient.is_sparse:
        return gradient if rows is None else gradient[rows]
    if rows is None:
        return gradient.to_dense()
    gradient = gradient.coalesce()
    there = gradient.indices()[0]
    if not torch.equal(there, rows):
        raise ConfigError(
            f"a sparse gradient has {len(there):,} rows and the optimizer updates {len(rows):,}, "
            "not the same: several ranks send those that it updates, so 'rows' must name them all"
        )
    return gradient.values()


def rows_of(optimizer: Optimizer) -> dict[int, Tensor]:
    """Return the rows that this step updates, ascending, of the tables that have such rows."""
    found: dict[int, Tensor] = {}
    for group in optimizer.param_groups:
        rows = group["rows"]() if group.get("rows") is not None else None
        if rows is not None:
            rows = torch.unique(rows)
            found |= {id(p): rows for p in group["params"]}
    return found
