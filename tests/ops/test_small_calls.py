"""Ops go round torch's dispatcher only where it would do no more than call them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kernomics import ops

Call = Callable[[Tensor], Tensor]

TARGET = torch.rand(3, 8)
ROWS = (torch.arange(24).view(3, 8) % 3).float().to_sparse_csr()
WEIGHT = torch.linspace(-1, 1, 16).view(8, 2)
SEED, CELLS = torch.tensor([3, 4]), torch.arange(3)

# Each op as a function of one tensor [3, 8].
CALLS: dict[str, Call] = {
    "poisson_nll": lambda z: ops.poisson_nll(z, TARGET),
    "poisson_nll_each": lambda z: ops.poisson_nll(z, TARGET, reduction="none"),
    "linear_poisson_nll": lambda h: ops.linear_poisson_nll(h, torch.eye(8), None, TARGET),
    "masked_linear": lambda x: ops.masked_linear(x, torch.ones(8), torch.arange(8), WEIGHT),
    "gumbel_topk": lambda s: ops.gumbel_topk(s, 3, tau=0.5, noise=False)[1],
    "dropout": lambda x: ops.dropout(x, 0.5, SEED),
    "embed_tokens": lambda t: ops.embed_tokens(torch.arange(3)[None], None, t, combine="add",
                                               value_embedding=torch.ones(1, 3, 8)),
    "sample_tokens": lambda w: ops.sample_tokens(
        ROWS, 4, cell_ids=CELLS, seed=SEED, weights=w[0].abs() + 0.1
    )[1],
}  # fmt: skip


@pytest.fixture
def x() -> Tensor:
    return torch.linspace(-2, 3, 24).view(3, 8).contiguous()


@pytest.mark.parametrize("name", CALLS)
def test_a_mode_sees_the_op_and_changes_nothing(name: str, x: Tensor) -> None:
    seen = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, op: Any, _types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
            seen.append(str(op))
            return op(*args, **(kwargs or {}))

    alone = CALLS[name](x)
    with Mode():
        found = CALLS[name](x)
    assert torch.equal(found, alone)
    assert f"kernomics.{name}.default" in seen


@pytest.mark.parametrize("name", CALLS)
def test_the_profiler_sees_the_op(name: str, x: Tensor) -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        CALLS[name](x)
    assert f"kernomics::{name}" in {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("name", CALLS)
def test_a_lazy_sign_or_zero_is_read(name: str, x: Tensor) -> None:
    lazy = torch.complex(torch.zeros(3, 8), -x).conj().imag
    assert lazy.is_neg()
    assert torch.equal(CALLS[name](lazy), CALLS[name](x))
    zeros = torch._efficientzerotensor((3, 8))
    assert torch.equal(CALLS[name](zeros), CALLS[name](torch.zeros(3, 8)))


@pytest.mark.parametrize("name", CALLS)
def test_parameters_subclasses_and_inference_tensors(name: str, x: Tensor) -> None:
    class Other(Tensor):
        pass

    alone = CALLS[name](x)
    assert torch.equal(CALLS[name](x.as_subclass(Other)).as_subclass(Tensor), alone)
    with torch.no_grad():
        assert torch.equal(CALLS[name](torch.nn.Parameter(x)), alone)
    with torch.inference_mode():
        assert torch.equal(CALLS[name](x.clone()), alone)


def test_numpy_numbers_are_taken_as_numbers(x: Tensor) -> None:
    full = ops.poisson_nll(x, TARGET, full=True, target_sum=10, eps=1)
    other: Any = np.bool_(True)
    assert torch.equal(ops.poisson_nll(x, TARGET, full=other, target_sum=10, eps=1), full)
    k: Any = np.int64(3)
    assert torch.equal(
        ops.gumbel_topk(x, k, tau=1, noise=False)[0], ops.gumbel_topk(x, 3, tau=1, noise=False)[0]
    )


def test_a_drawn_seed_is_the_generators_first_number_at_step_0() -> None:
    from kernomics.ops._common import draw_seed

    found = draw_seed(torch.Generator().manual_seed(5), torch.device("cpu"))
    two = torch.randint(-(2**63), 2**63 - 1, (2,), generator=torch.Generator().manual_seed(5))
    assert found.tolist() == [int(two[0]), 0]
