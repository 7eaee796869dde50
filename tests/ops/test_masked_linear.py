"""masked_linear equals its plain-torch meaning, from the non-zeros alone, on every shape and dtype.

Tolerances: a result is a sum of at most n = B + H + k + 4 rounded terms, so it lies within n·u·Σ|·|
of the exact one, u being the unit roundoff of the sums and Σ|·| the same sum over absolute values
(Higham, Accuracy and Stability, §3.1), which the reference computes from absolute inputs. A
half-precision result is rounded once more.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems.common import (
    FLOATS,
    LAYOUTS,
    U_RESULT,
    Results,
    Rows,
    as_rows,
    peak_resident_bytes,
    unit_roundoff,
)
from problems.masked_linear import Problem, draw, run
from torch import Tensor

from kernomics.ops import masked_linear, reference

SMALLEST = {torch.float16: 2.0**-24}
OP = torch.ops.kernomics.masked_linear.default
BACKWARD_OP = torch.ops.kernomics.masked_linear_backward.default


def assert_as_reference(found: Results, p: Problem) -> None:
    """Compare with the reference on the same, already rounded, numbers in float64."""
    exact = p.to(torch.device("cpu")).to(torch.float64)
    expected = run(reference.masked_linear, exact)
    size = run(reference.masked_linear, exact.absolute())
    n = p.x.shape[0] + p.weight.shape[1] + len(p.indices) + 4
    assert found.keys() == expected.keys()
    for name, value in found.items():
        bound = n * unit_roundoff(p.weight.dtype) * size[name]
        bound += U_RESULT.get(value.dtype, 0.0) * (expected[name].abs() + bound)
        bound += SMALLEST.get(value.dtype, 0.0)
        error = (value.cpu().double() - expected[name]).abs()
        assert bool((error <= bound).all()), f"{name}: error {error.max()}"


# ---- the meaning --------------------------------------------------------------------------------


def test_a_small_case_by_hand(device: torch.device) -> None:
    p = Problem(
        x=torch.tensor([[1.0, 2.0, 0.0], [0.0, 3.0, 5.0]]),
        mask=torch.tensor([0.5, 7.0, 1.0]),
        indices=torch.tensor([0, 2]),
        weight=torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]),
        bias=torch.tensor([0.25, 0.0]),
        delta=torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
    ).to(device)
    for layout in LAYOUTS.values():
        found = run(masked_linear, p, layout(p.x))
        assert found["y"].tolist() == [[0.75, 5.0], [15.25, 150.0]]
        # ∂m_1 = 2·⟨(1, 0), (2, 20)⟩ + 3·⟨(0, 1), (2, 20)⟩ although gene 1 is not chosen
        assert found["mask"].tolist() == [1.0, 64.0, 150.0]
        assert found["weight"].tolist() == [[0.5, 0.0], [0.0, 0.0], [0.0, 5.0]]
        assert found["bias"].tolist() == [1.0, 1.0]


@settings(max_examples=150, deadline=None)
@given(
    cells=st.integers(0, 40),
    genes=st.integers(1, 90),
    outputs=st.sampled_from([1, 2, 7, 8, 16, 33, 128, 129, 300]),
    share=st.floats(0, 1),
    reached=st.none() | st.floats(0, 1),
    density=st.sampled_from([0.0, 0.03, 0.3, 1.0]),
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=st.sampled_from(FLOATS),
    bias=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_results_and_gradients_equal_the_reference(
    cells: int,
    genes: int,
    outputs: int,
    share: float,
    reached: float | None,
    density: float,
    layout: str,
    dtype: torch.dtype,
    bias: bool,
    seed: int,
) -> None:
    p = draw(
        cells,
        genes,
        outputs,
        1 + round(share * (genes - 1)),
        density=density,
        reach=None if reached is None else round(reached * genes),
        bias=bias,
        seed=seed,
    ).to(dtype)
    found = run(masked_linear, p, LAYOUTS[layout](p.x))
    assert found["y"].dtype == found["weight"].dtype == dtype
    assert_as_reference(found, p)


@pytest.mark.parametrize("layout", ["dense", "every_other", "csr64", "rows32"])
@pytest.mark.parametrize("outputs", [1, 7, 128, 129, 600])
@pytest.mark.parametrize("k", [1, 24, 700])
def test_large_batches_equal_the_reference(
    device: torch.device, layout: str, outputs: int, k: int
) -> None:
    p = draw(130, 700, outputs, k, density=0.08).to(torch.float32).to(device)
    assert_as_reference(run(masked_linear, p, LAYOUTS[layout](p.x)), p)


@pytest.mark.parametrize("layout", ["dense", "csr64"])
def test_cells_without_counts_give_the_bias_and_no_gradient(
    device: torch.device, layout: str
) -> None:
    p = draw(6, 50, 9, 5, density=0.0).to(device)
    found = run(masked_linear, p, LAYOUTS[layout](p.x))
    assert p.bias is not None
    assert torch.equal(found["y"], p.bias.expand(6, 9))
    assert not found["mask"].any()
    assert not found["weight"].any()


def test_rows_of_genes_not_chosen_get_exactly_no_gradient(device: torch.device) -> None:
    p = draw(64, 900, 24, 30, density=0.5).to(device)
    for x in (p.x, p.x.to_sparse_csr()):
        grad = run(masked_linear, p, x)["weight"]
        others = torch.ones(900, dtype=torch.bool, device=device)
        others[p.indices] = False
        assert not grad[others].any()
        assert bool(grad[p.indices].any(1).all())


def test_the_masks_gradient_does_not_depend_on_which_genes_are_chosen() -> None:
    p = draw(20, 60, 12, 7)
    every = replace(p, indices=torch.arange(60))
    few = run(masked_linear, p, p.x.to_sparse_csr())
    assert torch.equal(few["mask"], run(masked_linear, every, p.x.to_sparse_csr())["mask"])


def test_only_grad_indices_get_a_gradient_of_the_mask(device: torch.device) -> None:
    p = draw(30, 200, 17, 8, reach=40).to(device)
    assert p.grad_indices is not None
    reached = p.grad_indices[p.grad_indices >= 0]
    every = run(masked_linear, replace(p, grad_indices=None), p.x.to_sparse_csr())["mask"]
    expected = torch.zeros_like(every)
    expected[reached] = every[reached]
    for x in (p.x, p.x.to_sparse_csr()):
        torch.testing.assert_close(run(masked_linear, p, x)["mask"], expected)
    for none in (p.grad_indices[:0], p.grad_indices[-3:]):
        nothing = run(masked_linear, replace(p, grad_indices=none), p.x)
        assert not nothing["mask"].any()
        assert nothing["weight"].any()


def test_weight_and_gradient_of_y_may_have_any_strides(device: torch.device) -> None:
    p = draw(30, 80, 20, 9).to(device)
    expected = run(masked_linear, p, p.x.to_sparse_csr())
    wide = torch.cat([p.weight, p.weight], 1)[:, :20]
    turned = p.weight.t().contiguous().t()
    delta = p.delta.t().contiguous().t()
    for weight in (wide, turned):
        found = run(masked_linear, replace(p, weight=weight, delta=delta), p.x.to_sparse_csr())
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    ones = run(masked_linear, replace(p, delta=torch.ones((), device=device).expand(30, 20)))
    same = run(masked_linear, replace(p, delta=torch.ones_like(p.delta)))
    torch.testing.assert_close(ones, same, rtol=0, atol=0)


@pytest.mark.parametrize("layout", ["dense", "csr64", "rows32"])
@pytest.mark.parametrize("outputs", [1, 21])
def test_gradients_pass_gradcheck(layout: str, outputs: int) -> None:
    p = draw(7, 11, outputs, 4)
    p = replace(p, grad_indices=p.indices)  # the true gradient: that of the chosen genes
    x = LAYOUTS[layout](p.x)

    def f(mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return masked_linear(x, mask, p.indices, weight, bias, grad_indices=p.grad_indices)

    assert p.bias is not None
    leaves = [t.detach().requires_grad_() for t in (p.mask, p.weight, p.bias)]
    assert torch.autograd.gradcheck(f, leaves)


def test_mixed_dtypes_are_computed_in_the_weights() -> None:
    p = draw(10, 30, 6, 5).to(torch.float32)
    expected = run(masked_linear, p)
    mixed = replace(p, x=p.x.to(torch.bfloat16), mask=p.mask.double())  # small counts: exact
    found = run(masked_linear, mixed)
    assert found["y"].dtype == torch.float32
    assert found["mask"].dtype == torch.float64
    assert torch.equal(found["y"], expected["y"])
    assert torch.equal(found["mask"].float(), expected["mask"])


def test_autocast_changes_nothing(device: torch.device) -> None:
    p = draw(10, 30, 6, 5).to(torch.float32).to(device)
    plain = masked_linear(p.x, p.mask, p.indices, p.weight, p.bias)
    with torch.autocast(device.type, torch.bfloat16):
        cast = masked_linear(p.x, p.mask, p.indices, p.weight, p.bias)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, plain)


# ---- bits, threads, memory, work ----------------------------------------------------------------


@pytest.mark.parametrize("layout", ["dense", "csr64", "rows32"])
@pytest.mark.parametrize("reach", [None, 300])
def test_threads_do_not_change_a_bit(
    threads: Callable[[int], None], layout: str, reach: int | None
) -> None:
    p = draw(70, 3000, 40, 200, reach=reach).to(torch.float32)
    x = LAYOUTS[layout](p.x)
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(run(masked_linear, p, x))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)


def test_int32_and_int64_columns_give_the_same_bits() -> None:
    p = draw(40, 500, 33, 60).to(torch.float32)
    narrow, wide = (run(masked_linear, p, LAYOUTS[name](p.x)) for name in ("rows32", "rows64"))
    torch.testing.assert_close(narrow, wide, rtol=0, atol=0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_memory_stays_far_below_a_dense_matrix() -> None:
    cells, genes, each = 4096, 500_000, 10  # dense: 8.2 GB
    g = torch.Generator().manual_seed(0)
    step = genes // each
    columns = torch.arange(each) * step + torch.randint(0, step, (cells, each), generator=g)
    x = Rows(
        torch.arange(cells + 1) * each, columns.flatten(), torch.ones(cells * each), (cells, genes)
    )
    chosen = torch.arange(0, genes, genes // 64)
    mask = torch.ones(genes, requires_grad=True)
    weight = torch.ones((genes, 2), requires_grad=True)
    Path("/proc/self/clear_refs").write_text("5")  # starts the peak anew
    before = peak_resident_bytes()
    y = masked_linear(x, mask, chosen, weight)
    y.sum().backward()
    assert peak_resident_bytes() - before < 100e6
    assert mask.grad is not None
    assert mask.grad.sum() == 2 * cells * each
    assert y.sum() == 2 * torch.isin(columns, chosen).sum()


@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, False), (False, False, True)]
)
@pytest.mark.parametrize("layout", ["dense", "csr64"])
def test_gradients_not_asked_for_are_not_made(
    layout: str, wanted: tuple[bool, bool, bool], device: torch.device
) -> None:
    p = draw(12, 40, 10, 6).to(device)
    expected = run(masked_linear, p, LAYOUTS[layout](p.x))
    x = p.x.to_sparse_csr()
    parts = (x.values(), x.crow_indices(), x.col_indices())
    values, indptr, columns = (p.x, None, None) if layout == "dense" else parts
    grads = BACKWARD_OP(
        p.delta, values, indptr, columns, p.mask, p.indices, p.weight, None, *wanted
    )
    for grad, want, name in zip(grads, wanted, ("mask", "weight", "bias"), strict=True):
        if want:
            torch.testing.assert_close(grad, expected[name], rtol=0, atol=0)
        else:
            assert grad.numel() == 0


def test_inputs_without_gradient_get_none() -> None:
    p = draw(12, 40, 10, 6)
    weight = p.weight.clone().requires_grad_()
    masked_linear(p.x, p.mask, p.indices, weight, p.bias).sum().backward()
    assert weight.grad is not None
    assert not masked_linear(p.x, p.mask, p.indices, p.weight, p.bias).requires_grad


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sparse_gradient_has_the_chosen_rows_of_the_dense_one(layout: str) -> None:
    for genes, k in ((40, 10), (700, 300), (5, 0)):
        p = draw(12, genes, k, 6)
        dense, sparse = (p.weight.clone().requires_grad_() for _ in range(2))
        masks = [p.mask.clone().requires_grad_() for _ in range(2)]
        for weight, mask in zip((dense, sparse), masks, strict=True):
            y = masked_linear(
                LAYOUTS[layout](p.x), mask, p.indices, weight, sparse_grad=weight is sparse
            )
            y.backward(p.delta)
        assert dense.grad is not None
        assert sparse.grad is not None
        assert sparse.grad.is_sparse
        assert sparse.grad.coalesce().indices()[0].tolist() == p.indices.tolist()
        assert torch.equal(sparse.grad.to_dense(), dense.grad)
        assert torch.equal(masks[0].grad, masks[1].grad)  # type: ignore[arg-type]


def test_half_precision_weight_gets_a_dense_gradient() -> None:
    p = draw(12, 40, 10, 6)
    weight = p.weight.bfloat16().requires_grad_()
    masked_linear(p.x, p.mask, p.indices, weight, sparse_grad=True).sum().backward()
    assert weight.grad is not None
    assert not weight.grad.is_sparse


# ---- torch's machinery --------------------------------------------------------------------------


def op_arguments(p: Problem, layout: str) -> tuple[Any, ...]:
    if layout == "dense":
        return p.x, None, None, p.mask, p.indices, p.weight
    rows = as_rows(p.x)
    return rows.values, rows.indptr, rows.indices, p.mask, p.indices, p.weight


@pytest.mark.parametrize("layout", ["dense", "rows32"])
@pytest.mark.parametrize("reach", [None, 5])
def test_the_registered_ops_pass_opcheck(
    layout: str, reach: int | None, device: torch.device
) -> None:
    p = draw(6, 20, 5, 4, reach=reach).to(device)
    arguments = op_arguments(p, layout)
    torch.library.opcheck(OP, (*arguments, p.bias, p.grad_indices))
    torch.library.opcheck(
        BACKWARD_OP, (p.delta, *arguments, p.grad_indices, True, True, reach is None)
    )


@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("layout", ["dense", "rows32"])
def test_it_compiles_into_one_graph(layout: str, device: torch.device) -> None:
    p = draw(9, 40, 6, 5, reach=12).to(device)
    compiled = torch.compile(masked_linear, fullgraph=True, backend="aot_eager")
    x = LAYOUTS[layout](p.x)
    torch.testing.assert_close(run(compiled, p, x), run(masked_linear, p, x), rtol=0, atol=0)
