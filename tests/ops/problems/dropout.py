"""Numbers of which dropout loses a share, in any layout, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from problems.common import FLOATS, Movable, Results


def _reversed(x: Tensor) -> Tensor:
    return x.permute(tuple(reversed(range(x.dim()))))


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": lambda x: x,
    "other_way_round": lambda x: _reversed(_reversed(x).contiguous()),
    "every_other": lambda x: x.repeat_interleave(2, -1)[..., ::2] if x.dim() else x,
    "expanded": lambda x: x[:1].expand(x.shape) if x.dim() else x,
}  # fmt: skip
SHAPES = st.one_of(
    st.lists(st.integers(0, 12), max_size=3).map(tuple),
    st.integers(250, 1100).map(lambda n: (n,)),
)
OPTIONS: dict[str, Any] = {
    "p": st.one_of(st.floats(0, 1 - 2**-10), st.sampled_from([0.0, 0.5, 2.0**-24])),
    "key": st.integers(-(2**63), 2**63 - 1),
    "step": st.one_of(st.integers(0, 9), st.integers(-(2**63), 2**63 - 1)),
    "first": st.one_of(
        st.integers(0, 3000), st.integers(2**34 - 700, 2**34 + 5), st.just(2**50 + 1),
        st.just(2**62),
    ),
    "stream": st.sampled_from([0, 10, 65535]),
    "rectified": st.booleans(),
    "layout": st.sampled_from(sorted(LAYOUTS)),
    "dtype": st.sampled_from(FLOATS),
}  # fmt: skip
"""Of `draw`, as hypothesis varies them."""


@dataclass(frozen=True)
class Problem(Movable):
    x: Tensor
    delta: Tensor
    p: float
    seed: Tensor
    options: dict[str, Any] = field(default_factory=dict)


def draw(
    shape: tuple[int, ...],
    *,
    p: float = 0.3,
    key: int = 5,
    step: int = 2,
    layout: str = "dense",
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Problem:
    g = torch.Generator().manual_seed(sum(shape))
    x, delta = (torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for _ in range(2))
    made = LAYOUTS[layout]
    return Problem(made(x), made(delta), p, torch.tensor([key, step]), options)


def run(function: Callable[..., Tensor], problem: Problem) -> Results:
    """Compute y and the gradient of x, laid out as x is."""
    x = problem.x.detach().requires_grad_()
    y = function(x, problem.p, problem.seed, **problem.options)
    (grad,) = torch.autograd.grad(y, x, problem.delta)
    return {"y": y.detach(), "x": grad}


def assert_same(found: Results, expected: Results) -> None:
    for name, right in expected.items():
        assert found[name].dtype == right.dtype
        assert torch.equal(found[name].cpu(), right.cpu()), name
