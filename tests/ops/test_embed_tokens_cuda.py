"""embed_tokens on CUDA: the CPU's bits, the same bits on every run, and CUDA graphs.

Forward copies, or adds once and rounds once; a gene's sum runs in the order of the positions on
both devices. So everything is compared exactly.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import embed_tokens as problem
from problems.common import FLOATS, Results
from problems.embed_tokens import OPTIONS, Problem
from torch import Tensor

from kernomics.ops import embed_tokens

pytestmark = pytest.mark.gpu

OP = torch.ops.kernomics.embed_tokens.default
BACKWARD_OP = torch.ops.kernomics.embed_tokens_backward.default
draw = partial(problem.draw, dtype=torch.float32)


def run(p: Problem, device: str = "cuda") -> Results:
    """Compute the tokens and all gradients on a device; bring them to the CPU."""
    found = problem.run(embed_tokens, p.to(device))
    return {name: t.cpu() for name, t in found.items()}


def assert_as_cpu(p: Problem) -> None:
    torch.testing.assert_close(run(p), run(p, "cpu"), rtol=0, atol=0)


@settings(max_examples=200, deadline=None)
@given(
    cells=st.integers(0, 40),
    tokens=st.integers(0, 90),
    genes=st.integers(1, 60),
    width=st.sampled_from([1, 2, 7, 8, 16, 33, 129, 384, 768, 1100]),
    **OPTIONS,
)
def test_cuda_equals_the_cpu_to_the_bit(
    cells: int, tokens: int, genes: int, width: int, **options: Any
) -> None:
    assert_as_cpu(draw(cells, tokens, genes, width, **options))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sizes", [(32, 2048, 20_000, 384), (4, 3000, 2, 24), (300, 50, 3, 8)])
def test_many_tokens_and_long_lists_equal_the_cpus(
    sizes: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    assert_as_cpu(draw(*sizes, dtype=dtype))


@pytest.mark.parametrize("combine", ["concat", "add"])
def test_inputs_at_any_address_and_stride(combine: str) -> None:
    p = draw(6, 10, 20, 16, combine=combine).to("cuda")  # there first: a move packs a view

    def apart(t: Tensor) -> Tensor:
        return torch.cat([t, t], -1).roll(1, -1)[..., 1 : 1 + t.shape[-1]]

    assert p.cls is not None
    changed = replace(p, table=apart(p.table), cls=apart(p.cls), delta=apart(p.delta))
    torch.testing.assert_close(run(changed), run(p), rtol=0, atol=0)
    turned = replace(p, delta=p.delta.transpose(0, 1).contiguous().transpose(0, 1))
    torch.testing.assert_close(run(turned), run(p), rtol=0, atol=0)
    assert_as_cpu(replace(p, delta=torch.ones((), device="cuda").expand(6, 11, 16)))
    # Turned, one token of each cell has the stride of all cells.
    alone = draw(6, 1, 20, 16, combine=combine, cls=False)
    assert_as_cpu(replace(alone, delta=alone.delta.transpose(0, 1).contiguous().transpose(0, 1)))


def test_every_run_gives_the_same_bits() -> None:
    p = draw(64, 1024, 3000, 96, dtype=torch.bfloat16)
    first = run(p)
    for _ in range(5):
        torch.testing.assert_close(run(p), first, rtol=0, atol=0)


@pytest.mark.parametrize("combine", ["concat", "add"])
def test_gradients_pass_gradcheck(combine: str) -> None:
    p = draw(3, 6, 5, 4, combine=combine, dtype=torch.float64).to("cuda")
    assert p.cls is not None
    leaves = [t.detach().requires_grad_() for t in (p.values, p.table, p.cls)]

    def f(values: Tensor, table: Tensor, cls: Tensor) -> Tensor:
        return problem.call(embed_tokens, p, values, table, cls)

    assert torch.autograd.gradcheck(f, leaves)


@pytest.mark.parametrize("combine", ["concat", "add"])
def test_the_registered_ops_pass_opcheck(combine: str) -> None:
    p = draw(3, 6, 9, 8, combine=combine).to("cuda")
    torch.library.opcheck(OP, (p.gene_ids, p.values, p.table, p.cls))
    arguments = (p.delta, p.gene_ids, 9, combine == "concat", True)
    torch.library.opcheck(BACKWARD_OP, (*arguments, True, True, True))
    torch.library.opcheck(BACKWARD_OP, (*arguments, False, False, True))


def test_ids_out_of_range_give_nan_or_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    p = draw(2, 3, 5, 8, padding=0.0)
    gene_ids = torch.tensor([[0, 4, 3], [5, -2, -1]])
    found = run(replace(p, gene_ids=gene_ids))
    nan = found["tokens"][:, 1:].isnan()
    assert nan.all(2).tolist() == [[False, False, False], [True, True, False]]
    assert nan.any(2).equal(nan.all(2))
    assert not found["values"][1].any()
    assert not found["table"].isnan().any()
    monkeypatch.setenv("KERNOMICS_CHECK", "1")
    messages = []
    for device in ("cpu", "cuda"):
        with pytest.raises(
            ValueError, match=r"gene_ids has 2 ids .* first 5 at \[1, 0\]"
        ) as caught:
            run(replace(p, gene_ids=gene_ids), device)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_nothing_synchronises(no_synchronisation: None) -> None:
    table = torch.zeros((50, 16), device="cuda", requires_grad=True)
    ids = torch.zeros((4, 40), dtype=torch.int64, device="cuda")
    embed_tokens(ids, torch.zeros((4, 40), device="cuda"), table).sum().backward()
    torch.cuda.set_sync_debug_mode("default")
    assert table.grad is not None
    assert table.grad[0, 0] == 160


def test_a_graph_replays_forward_and_backward() -> None:
    p = draw(8, 100, 60, 32).to("cuda")

    def step() -> tuple[Tensor, ...]:
        tokens = OP(p.gene_ids, p.values, p.table, p.cls)
        return tokens, *BACKWARD_OP(tokens, p.gene_ids, 60, True, True, True, True, True)

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    p.table.normal_()
    p.gene_ids.copy_(p.gene_ids.flip(0))
    graph.replay()
    torch.testing.assert_close(captured, step(), rtol=0, atol=0)
