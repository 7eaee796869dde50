"""embed_tokens equals its plain-torch meaning on every shape and dtype.

Forward is exact: numbers are copied, or added once and rounded once, as torch does. Tolerance of a
gradient: it is a sum of n rounded terms, so it lies within n·u·Σ|·| of the exact one, u being the
unit roundoff of the sums and Σ|·| the same sum over absolute values (Higham, Accuracy and
Stability, §3.1), which the reference computes from an absolute δ. n is at most the tokens, or the
cells for CLS. A half-precision result is rounded once more. Gradients of values are copies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems.common import FLOATS, U_RESULT, Results, unit_roundoff
from problems.embed_tokens import OPTIONS, Problem, call, draw, run
from torch import Tensor

from kernomics.ops import embed_tokens, reference

OP = torch.ops.kernomics.embed_tokens.default
BACKWARD_OP = torch.ops.kernomics.embed_tokens_backward.default


def assert_as_reference(found: Results, p: Problem) -> None:
    """Compare with the reference: sums with those of the same, already rounded, numbers."""
    assert torch.equal(found["tokens"], call(reference.embed_tokens, p, p.values, p.table, p.cls))
    exact = p.to(torch.float64)
    expected = run(reference.embed_tokens, exact)
    size = run(reference.embed_tokens, replace(exact, delta=exact.delta.abs()))
    assert torch.equal(found["values"].double(), expected["values"])
    terms = {"table": p.gene_ids.numel(), "cls": len(p.gene_ids)}
    assert found.keys() == expected.keys()
    for name in terms.keys() & found.keys():
        bound = terms[name] * unit_roundoff(p.table.dtype) * size[name]
        bound += U_RESULT.get(p.table.dtype, 0.0) * (expected[name].abs() + bound)
        bound += 2.0**-25 if p.table.dtype == torch.float16 else 0.0  # half the smallest number
        error = (found[name].double() - expected[name]).abs()
        assert bool((error <= bound).all()), f"{name}: error {error.max()}"


# ---- the meaning --------------------------------------------------------------------------------


def test_a_small_case_by_hand() -> None:
    p = Problem(
        gene_ids=torch.tensor([[2, 0], [2, -1]]),
        values=torch.tensor([[0.5, 1.5], [2.5, 9.0]]),
        table=torch.tensor([[1.0, 10.0, 7.0], [2.0, 20.0, 7.0], [3.0, 30.0, 7.0]]),
        cls=torch.tensor([-1.0, -2.0, -3.0]),
        delta=torch.arange(18.0).reshape(2, 3, 3),
    )
    found = run(embed_tokens, p)
    cls = [-1.0, -2.0, -3.0]
    assert found["tokens"].tolist() == [
        [cls, [3.0, 30.0, 0.5], [1.0, 10.0, 1.5]],
        [cls, [3.0, 30.0, 2.5], [0.0, 0.0, 0.0]],
    ]
    assert found["table"].tolist() == [[6.0, 7.0, 0.0], [0.0, 0.0, 0.0], [15.0, 17.0, 0.0]]
    assert found["values"].tolist() == [[5.0, 8.0], [14.0, 0.0]]
    assert found["cls"].tolist() == [9.0, 11.0, 13.0]
    added = run(embed_tokens, replace(p, values=torch.ones(2, 2, 3)))
    assert added["tokens"][:, 1:].tolist() == [
        [[4.0, 31.0, 8.0], [2.0, 11.0, 8.0]],
        [[4.0, 31.0, 8.0], [0.0, 0.0, 0.0]],
    ]
    assert added["table"].tolist() == [[6.0, 7.0, 8.0], [0.0, 0.0, 0.0], [15.0, 17.0, 19.0]]
    assert added["values"][0].equal(p.delta[0, 1:])
    assert added["values"][1].tolist() == [[12.0, 13.0, 14.0], [0.0, 0.0, 0.0]]


@settings(max_examples=200, deadline=None)
@given(
    cells=st.integers(0, 7),
    tokens=st.integers(0, 30),
    genes=st.integers(1, 40),
    width=st.sampled_from([1, 2, 7, 8, 16, 33, 129, 384]),
    **OPTIONS,
)
def test_results_and_gradients_equal_the_reference(
    cells: int,
    tokens: int,
    genes: int,
    width: int,
    combine: str,
    cls: bool,
    padding: float,
    ids: torch.dtype,
    dtype: torch.dtype,
    seed: int,
) -> None:
    p = draw(
        cells, tokens, genes, width, combine=combine, cls=cls, padding=padding, ids=ids, seed=seed
    ).to(dtype)
    found = run(embed_tokens, p)
    assert all(value.dtype == dtype for value in found.values())
    assert_as_reference(found, p)


@pytest.mark.parametrize("combine", ["concat", "add"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_cells_of_all_genes_or_of_one_repeated_equal_the_reference(
    combine: str, dtype: torch.dtype
) -> None:
    p = draw(5, 300, 300, 65, combine=combine).to(dtype)
    every_gene = torch.stack([torch.randperm(300) for _ in range(5)])
    one_gene = torch.full((5, 300), 7)
    for gene_ids in (every_gene, one_gene):
        problem = replace(p, gene_ids=gene_ids)
        assert_as_reference(run(embed_tokens, problem), problem)


@pytest.mark.parametrize("combine", ["concat", "add"])
def test_padding_is_zeros_and_gives_no_gradient_whatever_stands_there(combine: str) -> None:
    p = draw(4, 9, 12, 6, combine=combine)
    padded = p.gene_ids < 0
    values, delta = p.values.clone(), p.delta.clone()
    values[padded] = torch.nan
    delta[:, 1:][padded] = torch.nan
    found = run(embed_tokens, replace(p, values=values, delta=delta))
    assert not found["tokens"][:, 1:][padded].any()
    assert not found["values"][padded].any()
    clean = run(embed_tokens, p)
    assert torch.equal(found["table"], clean["table"])
    assert padded.any()


def test_concat_neither_reads_nor_moves_the_tables_last_column() -> None:
    p = draw(4, 9, 12, 6, padding=0.0)
    table = p.table.clone()
    table[:, -1] = torch.nan
    found = run(embed_tokens, replace(p, table=table))
    assert torch.equal(found["tokens"], run(embed_tokens, p)["tokens"])
    assert torch.equal(found["table"][:, -1], torch.zeros(12, dtype=torch.float64))
    assert found["table"][:, :-1].any()


def test_genes_that_do_not_occur_get_exactly_no_gradient() -> None:
    p = draw(6, 40, 500, 24, combine="add").to(torch.float32)
    grad = run(embed_tokens, p)["table"]
    used = torch.zeros(500, dtype=torch.bool)
    used[p.gene_ids[p.gene_ids >= 0]] = True
    assert not grad[~used].any()
    assert bool(grad[used].any(1).all())


def test_a_table_without_genes_allows_padding_alone() -> None:
    tokens = embed_tokens(torch.full((2, 3), -1), torch.ones(2, 3), torch.ones(0, 4))
    assert torch.equal(tokens, torch.zeros(2, 3, 4))
    table = torch.ones((0, 4), requires_grad=True)
    values = torch.ones((2, 3), requires_grad=True)
    embed_tokens(torch.full((2, 3), -1), values, table).sum().backward()
    assert values.grad is not None
    assert not values.grad.any()


@pytest.mark.parametrize("combine", ["concat", "add"])
def test_inputs_and_gradient_of_tokens_may_have_any_strides(combine: str) -> None:
    p = draw(6, 10, 20, 12, combine=combine)
    expected = run(embed_tokens, p)

    def turned(t: Tensor) -> Tensor:
        return t.transpose(0, -1).contiguous().transpose(0, -1)

    def wide(t: Tensor) -> Tensor:
        return torch.cat([t, t], -1)[..., : t.shape[-1]]

    def spread(t: Tensor) -> Tensor:
        return t.repeat_interleave(2, -1)[..., ::2]

    assert p.cls is not None
    for change in (turned, wide, spread):
        strided = Problem(
            change(p.gene_ids), change(p.values), change(p.table), spread(p.cls), change(p.delta)
        )
        found = run(embed_tokens, strided)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    ones = run(
        embed_tokens, replace(p, delta=torch.ones((), dtype=torch.float64).expand(6, 11, 12))
    )
    same = run(embed_tokens, replace(p, delta=torch.ones_like(p.delta)))
    torch.testing.assert_close(ones, same, rtol=0, atol=0)


def test_one_value_embedding_may_be_shared_by_all_cells() -> None:
    p = draw(6, 10, 20, 12, combine="add")
    shared = p.values[:1].expand(6, 10, 12)
    tokens = call(embed_tokens, p, shared, p.table, p.cls)
    assert torch.equal(tokens, call(embed_tokens, p, shared.contiguous(), p.table, p.cls))


@pytest.mark.parametrize("combine", ["concat", "add"])
@pytest.mark.parametrize("cls", [True, False])
def test_gradients_pass_gradcheck(combine: str, cls: bool) -> None:
    p = draw(3, 6, 5, 4, combine=combine, cls=cls)
    leaves = [t.detach().requires_grad_() for t in (p.values, p.table, p.cls) if t is not None]

    def f(values: Tensor, table: Tensor, token: Tensor | None = None) -> Tensor:
        return call(embed_tokens, p, values, table, token)

    assert torch.autograd.gradcheck(f, leaves)


@pytest.mark.parametrize("combine", ["concat", "add"])
def test_other_inputs_are_converted_to_the_tables_dtype(combine: str) -> None:
    p = draw(4, 5, 9, 8, combine=combine).to(torch.float32)
    assert p.cls is not None
    mixed = replace(p, values=p.values.double(), cls=p.cls.double())
    found, expected = run(embed_tokens, mixed), run(embed_tokens, p)
    assert found["tokens"].dtype == torch.float32
    assert found["values"].dtype == found["cls"].dtype == torch.float64
    for name, value in found.items():
        assert torch.equal(value.float(), expected[name])


def test_autocast_changes_nothing() -> None:
    p = draw(4, 5, 9, 8).to(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        cast = call(embed_tokens, p, p.values, p.table, p.cls)
    assert torch.equal(cast, call(embed_tokens, p, p.values, p.table, p.cls))


# ---- bits, threads, work ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_sum_runs_in_the_order_of_the_positions(dtype: torch.dtype) -> None:
    p = draw(9, 50, 20, 33, combine="add").to(dtype)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    table = torch.zeros(20, 33, dtype=exact)
    for gene, delta in zip(p.gene_ids.flatten(), p.delta[:, 1:].reshape(-1, 33), strict=True):
        if gene >= 0:
            table[gene] += delta
    cls = torch.zeros(33, dtype=exact)
    for delta in p.delta[:, 0]:
        cls += delta
    found = run(embed_tokens, p)
    assert torch.equal(found["table"], table.to(dtype))
    assert torch.equal(found["cls"], cls.to(dtype))


@pytest.mark.parametrize("combine", ["concat", "add"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_do_not_change_a_bit(
    threads: Callable[[int], None], combine: str, dtype: torch.dtype
) -> None:
    p = draw(13, 101, 700, 129, combine=combine).to(dtype)
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(run(embed_tokens, p))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)


def test_int32_and_int64_ids_give_the_same_bits() -> None:
    p = draw(8, 40, 60, 33).to(torch.float32)
    narrow = run(embed_tokens, replace(p, gene_ids=p.gene_ids.int()))
    torch.testing.assert_close(narrow, run(embed_tokens, p), rtol=0, atol=0)


@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, False), (False, False, True)]
)
@pytest.mark.parametrize("combine", ["concat", "add"])
def test_gradients_not_asked_for_are_not_made(
    combine: str, wanted: tuple[bool, bool, bool]
) -> None:
    p = draw(5, 9, 20, 12, combine=combine)
    expected = run(embed_tokens, p)
    grads = BACKWARD_OP(p.delta, p.gene_ids, 20, combine == "concat", True, *wanted)
    for grad, want, name in zip(grads, wanted, ("values", "table", "cls"), strict=True):
        if want:
            torch.testing.assert_close(grad, expected[name], rtol=0, atol=0)
        else:
            assert grad.numel() == 0


def test_inputs_without_gradient_get_none() -> None:
    p = draw(5, 9, 20, 12)
    table = p.table.clone().requires_grad_()
    call(embed_tokens, p, p.values, table, p.cls).sum().backward()
    assert table.grad is not None
    assert not call(embed_tokens, p, p.values, p.table, p.cls).requires_grad
    with torch.no_grad():
        assert not call(embed_tokens, p, p.values, table, p.cls).requires_grad


# ---- torch's machinery --------------------------------------------------------------------------


@pytest.mark.parametrize("combine", ["concat", "add"])
@pytest.mark.parametrize("cls", [True, False])
def test_the_registered_ops_pass_opcheck(combine: str, cls: bool) -> None:
    p = draw(3, 6, 9, 8, combine=combine, cls=cls)
    torch.library.opcheck(OP, (p.gene_ids, p.values, p.table, p.cls))
    arguments = (p.delta, p.gene_ids, 9, combine == "concat", cls)
    torch.library.opcheck(BACKWARD_OP, (*arguments, True, True, cls))
    torch.library.opcheck(BACKWARD_OP, (*arguments, False, True, False))


@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("combine", ["concat", "add"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_it_compiles_into_one_graph(combine: str, dynamic: bool) -> None:
    p = draw(4, 7, 9, 8, combine=combine)
    compiled = torch.compile(embed_tokens, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    torch.testing.assert_close(run(compiled, p), run(embed_tokens, p), rtol=0, atol=0)
