"""masked_linear on CUDA: the CPU's results, the same bits on every run, and CUDA graphs.

That CUDA also equals the reference in every layout is tested in test_masked_linear.py; tolerances
here follow the same bound, 2·n·u·Σ|·| for two results that each lie within n·u·Σ|·| of the exact
one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from problems import masked_linear as problem
from problems.common import FLOATS, LAYOUTS, U_RESULT, Results, as_rows, unit_roundoff
from problems.masked_linear import Problem
from torch import Tensor

from kernomics.ops import _masked_linear_kernels, masked_linear

pytestmark = pytest.mark.gpu

SIZES = [  # cells, genes, outputs, chosen: below, at and above the kernels' tiles and blocks
    (1, 1, 1, 1),
    (33, 31, 7, 5),
    (32, 32, 128, 32),
    (129, 1000, 129, 64),
    (300, 257, 513, 130),
    (64, 3000, 1100, 3000),
]


GUARD, MARK = 64, 7.0


@pytest.fixture
def guarded_gradients(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Give the kernels gradients that lie within buffers whose ends must not change."""
    buffers: list[Tensor] = []

    module = _masked_linear_kernels
    room: Callable[..., tuple[Tensor, ...]] = vars(module)["_gradients"]

    def gradients(*arguments: Any) -> tuple[Tensor, ...]:
        out = []
        for like in room(*arguments):
            count = like.numel()
            buffers.append(like.new_full((count + 2 * GUARD,), MARK))
            out.append(buffers[-1][GUARD : GUARD + count].view(like.shape))
        return tuple(out)

    monkeypatch.setattr(module, "_gradients", gradients)
    return buffers


def assert_untouched(buffers: list[Tensor]) -> None:
    assert buffers
    for buffer in buffers:
        assert bool((torch.cat([buffer[:GUARD], buffer[-GUARD:]]) == MARK).all())


def draw(*sizes: int) -> Problem:
    return problem.draw(*sizes, density=0.1).to(torch.float32)


def run(p: Problem, device: str, name: str) -> Results:
    p = p.to(device)
    return problem.run(masked_linear, p, LAYOUTS[name](p.x))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", ["dense", "csr32", "csr64"])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("half_counts", [False, True])
def test_cuda_equals_the_cpu(
    sizes: tuple[int, int, int, int], name: str, dtype: torch.dtype, half_counts: bool
) -> None:
    p = draw(*sizes)
    counts = p.x.to(dtype) if half_counts else p.x  # small counts: exact in every dtype
    p = replace(p, x=counts, weight=p.weight.to(dtype), delta=p.delta.to(dtype))
    found, expected = run(p, "cuda", name), run(p, "cpu", name)
    size = run(p.to(torch.float64).absolute(), "cpu", "dense")
    n = sizes[0] + sizes[2] + sizes[3] + 4
    for key, value in found.items():
        assert value.dtype == expected[key].dtype
        bound = 2 * n * unit_roundoff(dtype) * size[key] + 2.0**-24 * (dtype == torch.float16)
        # Half precision is rounded once more, on both sides.
        bound += 2 * U_RESULT.get(value.dtype, 0.0) * (expected[key].double().abs() + bound)
        error = (value.cpu().double() - expected[key].double()).abs()
        assert bool((error <= bound).all()), f"{key}: error {error.max()}"


@pytest.mark.parametrize("name", ["dense", "csr32"])
def test_every_run_gives_the_same_bits(name: str) -> None:
    p = draw(512, 4000, 200, 100)
    first = run(p, "cuda", name)
    for _ in range(5):
        torch.testing.assert_close(run(p, "cuda", name), first, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["dense", "csr32"])
def test_grad_indices_give_their_share_of_the_gradient(name: str) -> None:
    p = draw(200, 900, 70, 50)
    reached = torch.arange(3, 900, 7)
    padded = torch.cat([reached, torch.full((20,), -1)])
    every, some = run(p, "cuda", name), run(replace(p, grad_indices=padded), "cuda", name)
    others = torch.ones(900, dtype=torch.bool)
    others[reached] = False
    assert not some["mask"][others.cuda()].any()
    # Two orders of the same sum of 270 terms: n·u·Σ|·| with Σ|·| below 2e4.
    torch.testing.assert_close(
        some["mask"][reached.cuda()], every["mask"][reached.cuda()], rtol=0, atol=2 * 270 * 1.2e-3
    )
    torch.testing.assert_close(some["weight"], every["weight"], rtol=0, atol=0)


def test_a_cuda_graph_replays_forward_and_backward() -> None:
    p = draw(64, 500, 40, 20).to("cuda")
    csr = p.x.to_sparse_csr()
    parts = (csr.values().clone(), csr.crow_indices().clone(), csr.col_indices().clone())
    arguments = (*parts, p.mask, p.indices, p.weight)

    def step() -> tuple[Tensor, ...]:
        y = torch.ops.kernomics.masked_linear(*arguments, p.bias, None)
        grads = torch.ops.kernomics.masked_linear_backward(y, *arguments, None, True, True, True)
        return y, *grads

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    p.weight.normal_()
    parts[0].mul_(2)
    graph.replay()
    torch.testing.assert_close(captured, step(), rtol=0, atol=0)


def test_more_genes_than_a_dense_matrix_could_hold() -> None:
    cells, genes, each = 8192, 2_000_000, 5  # dense: 65 GB
    step = genes // each
    columns = torch.arange(each) * step + torch.randint(0, step, (cells, each))
    x = torch.sparse_csr_tensor(
        torch.arange(cells + 1) * each, columns.flatten(), torch.ones(cells * each), (cells, genes)
    ).cuda()
    chosen = torch.arange(0, genes, 1000)
    mask = torch.ones(genes, device="cuda", requires_grad=True)
    weight = torch.ones((genes, 3), device="cuda", requires_grad=True)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    y = masked_linear(x, mask, chosen.cuda(), weight)
    y.sum().backward()
    assert torch.cuda.max_memory_allocated() - before < 150e6
    assert mask.grad is not None
    assert mask.grad.sum() == 3 * cells * each
    assert y.sum() == 3 * torch.isin(columns, chosen).sum()


BEYOND = [-3, -1, 10, 2**40]


@pytest.mark.parametrize("name", ["dense", "csr32", "csr64"])
@pytest.mark.parametrize("gene", BEYOND)
def test_a_chosen_gene_that_does_not_exist_makes_all_nan(
    gene: int, name: str, guarded_gradients: list[Tensor]
) -> None:
    p = draw(4, 10, 3, 2)
    bad = torch.tensor([gene, 4] if gene < 0 else [4, gene])
    found = run(replace(p, indices=bad), "cuda", name)
    assert bool(found["y"].isnan().all())
    assert bool(found["weight"][0 if gene < 0 else 9].isnan().all())
    assert_untouched(guarded_gradients)


@pytest.mark.parametrize("name", ["dense", "csr32", "csr64"])
@pytest.mark.parametrize("gene", [g for g in BEYOND if g != -1])
def test_a_reached_gene_that_does_not_exist_leaves_a_nan(
    gene: int, name: str, guarded_gradients: list[Tensor]
) -> None:
    p = draw(4, 10, 3, 2)
    fine = run(replace(p, grad_indices=torch.tensor([2, 4, -1])), "cuda", name)
    bad = run(replace(p, grad_indices=torch.tensor([2, 4, gene])), "cuda", name)
    assert bool(bad["mask"][0 if gene < 0 else 9].isnan())
    for key, value in fine.items():
        at = slice(1, 9) if key == "mask" else slice(None)
        torch.testing.assert_close(bad[key][at], value[at], rtol=0, atol=0)
    assert_untouched(guarded_gradients)


@pytest.mark.parametrize("columns", [torch.int32, torch.int64])
@pytest.mark.parametrize("reach", [False, True])
def test_rows_at_fault_are_not_followed(
    columns: torch.dtype, reach: bool, guarded_gradients: list[Tensor]
) -> None:
    p = draw(4, 10, 3, 8)
    if reach:
        p = replace(p, grad_indices=torch.arange(10))
    for fault in ("pointers", "columns"):
        rows = as_rows(p.x.new_ones(4, 3), columns)
        indptr, indices = rows.indptr.clone(), rows.indices.clone()
        if fault == "pointers":
            indptr[1] = 2**40  # rows 0 and 1
        else:
            indices[2], indices[3] = 10, -5
        x = replace(rows, indptr=indptr, indices=indices, shape=(4, 10)).to("cuda")
        on_device = p.to("cuda")
        found = problem.run(masked_linear, on_device, x)
        assert bool(found["y"][:2].isnan().all())
        assert bool(found["y"][2:].isfinite().all())
        assert_untouched(guarded_gradients)


def test_faults_are_named_on_request(raise_data_errors: None) -> None:
    p = draw(4, 10, 3, 2)
    for bad, message in (
        ({"indices": torch.tensor([4, 10])}, "indices[1] = 10 is not one of 10 genes"),
        ({"indices": torch.tensor([-1, 4])}, "indices[0] = -1 is not one of 10 genes"),
        ({"grad_indices": torch.tensor([4, -2])}, "grad_indices[1] = -2 is not one of 10 genes"),
        ({"grad_indices": torch.tensor([4, 99])}, "grad_indices[1] = 99 is not one of 10 genes"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            run(replace(p, **bad), "cuda", "csr32")


def test_tensors_on_two_devices_are_named() -> None:
    p = draw(4, 10, 3, 2)
    with pytest.raises(ValueError, match=r"x is on cpu and weight on cuda:0; move one of them"):
        masked_linear(p.x, p.mask.cuda(), p.indices.cuda(), p.weight.cuda())
