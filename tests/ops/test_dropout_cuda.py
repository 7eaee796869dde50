"""dropout on CUDA: the CPU's numbers and gradients to the bit, and CUDA graphs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems.dropout import OPTIONS, SHAPES, Problem, assert_same, draw, run
from torch import Tensor

from kernomics.nn import Draws, ReluDropout
from kernomics.ops import dropout

pytestmark = pytest.mark.gpu


def assert_as_cpu(p: Problem) -> None:
    assert_same(run(dropout, p.to("cuda")), run(dropout, p))


@settings(max_examples=300, deadline=None)
@given(shape=SHAPES, options=st.fixed_dictionaries(OPTIONS))
def test_cuda_equals_the_cpu(shape: tuple[int, ...], options: dict[str, object]) -> None:
    assert_as_cpu(draw(shape, **options))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("n", [1, 3, 255, 1024, 70_001])
@pytest.mark.parametrize("first", [0, 1, 6, 2**34 - 8, 2**34 - 6])
def test_numbers_are_the_cpus(dtype: torch.dtype, rectified: bool, n: int, first: int) -> None:
    assert_as_cpu(
        draw((n,), key=-(2**62) + 5, step=2**32 + 3, first=first, dtype=dtype, rectified=rectified)
    )


@pytest.mark.parametrize("rectified", [False, True])
def test_nothing_is_nothing(rectified: bool) -> None:
    assert_as_cpu(draw((2, 3), rectified=rectified))  # launches something
    found = run(dropout, draw((0, 5), rectified=rectified).to("cuda"))
    assert found["y"].shape == found["x"].shape == (0, 5)


def test_layers_draw_the_cpus_numbers() -> None:
    x = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    one, other = (ReluDropout(0.3, Draws(7)) for _ in range(2))
    for _ in range(3):
        assert torch.equal(one(x.cuda()).cpu(), other(x))


def test_numbers_that_overflow_are_named_on_request(raise_data_errors: None) -> None:
    seed = torch.tensor([1, 0]).cuda()
    assert dropout(torch.ones(9).cuda(), 0.5, seed).isfinite().all()  # launches
    with pytest.raises(ValueError, match=r"beyond float32 when divided by 1 − p: .* of 99, first"):
        dropout(torch.full((99,), 3e38).cuda(), 0.5, seed)


def test_numbers_that_overflow_are_infinite() -> None:
    found = dropout(torch.full((99,), 3e38).cuda(), 0.5, torch.tensor([1, 0]).cuda()).cpu()
    assert found.isinf().any()
    assert (found.isinf() | (found == 0)).all()


# Below: what the emulator has none of, streams and graphs.


def test_nothing_waits_for_the_device(no_synchronisation: None) -> None:
    layer = ReluDropout(0.3, Draws(7))
    x = torch.ones(9, 5, device="cuda", requires_grad=True)
    layer(x).sum().backward()


def test_a_cuda_graph_replays_with_a_seed_that_moves_on() -> None:
    p = draw((64, 50), rectified=False).to("cuda")

    def step() -> tuple[Tensor, ...]:
        y = torch.ops.kernomics.dropout(p.x, p.p, p.seed, 10, 0, False)
        return y, torch.ops.kernomics.dropout_backward(y, None, p.p, p.seed, 10, 0)

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    before = captured[0].clone()
    p.seed[1] += 1
    graph.replay()
    assert not torch.equal(captured[0], before)
    for mine, theirs in zip(captured, step(), strict=True):
        assert torch.equal(mine, theirs)
