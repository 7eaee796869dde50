"""poisson_nll on CUDA: the reference's numbers in every layout, the same bits, and CUDA graphs.

Tolerance of "rectified_tanh" in float32, u = 2⁻²⁴; a special function adds 4u (2^x) or 2u (1/x).
With a = 2z/β, e = e^{−a} is off by (2a + 4)u·e ≤ 4u, 1/(1 + e) by 7u of itself, tanh, which is
2/(1 + e) − 1, by 9u, and η = α·tanh with α < 12 by 105u + 2u·η. So λ is off by (109 + 3η)u·λ and
y = e^x by (4 + 1.5x)u·y. In what is drawn η, x and a stay below 14: the loss lies within
151u·λ + (105 + 28)u·y + 28u·η·y and the derivative, whose slope is off by (2a + 4 + 18)u, within
200u·|φ'|·(λ + y). Both are inside test_poisson_nll.py's 260u·(λ + (1 + |η|)·y) and
320u·|φ'|·(λ + y), which hold for the other activations, whose functions are the CPU's. A thread's 8
losses are added in float32, 7u·Σ|ℓ|, the rest in float64. bfloat16 rounds gradients, 2⁻⁸ each time.
In float64 u = 2⁻⁵³, and the reference's φ' is itself off by up to 4·2⁻⁵³.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
import torch
from problems import poisson_nll as problem
from problems.common import FLOATS, as_rows, draw_panels, rows
from problems.poisson_nll import ACTIVATIONS, KINDS, REDUCTIONS, Result
from torch import Tensor

from kernomics.ops import ObservedGenes, poisson_nll

pytestmark = pytest.mark.gpu

GENES = [1, 5, 31, 512, 1023, 1024, 1025, 5000]  # below, at and above a tile; rows off 16 bytes
LAYOUTS = {name: problem.LAYOUTS[name] for name in ("dense", "every_other", "rows32", "rows64")}


def rising(loss: Tensor) -> Tensor:
    """Return 1, 2, … over their number."""
    numbers = torch.arange(1, loss.numel() + 1).to(loss).view(loss.shape)
    return numbers / max(1, loss.numel())


# The first cell has no counts, and each cell another weight. A thread adds 8 losses; a gradient is
# stored, and stored again when it is multiplied by what comes from above.
draw = partial(problem.draw, empty=1)
run = partial(problem.run, above=rising)
assert_as_reference = partial(
    problem.assert_as_reference, above=rising, additions=7, products=2, roundings=2
)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_loss_and_gradient_equal_the_reference(
    activation: str, dtype: torch.dtype, layout: str
) -> None:
    reductions = REDUCTIONS if layout.startswith("rows") else [*REDUCTIONS, "none"]
    for i, (kind, reduction) in enumerate(itertools.product(KINDS, reductions)):
        genes = GENES[i % len(GENES)]
        z, target = (t.to(dtype) for t in draw(7, genes, activation, kind, seed=i))
        panels = draw_panels(7, genes) if i % 2 else None
        on_device = None if panels is None else panels.to("cuda")
        options: dict[str, Any] = {
            "activation": activation, "target_kind": kind, "reduction": reduction,
            "full": i % 3 == 1,
        }  # fmt: skip
        if kind == "counts" and i % 2:
            options["library"] = torch.arange(7).double() * 600
        moved = {k: v.cuda() if isinstance(v, Tensor) else v for k, v in options.items()}
        given = LAYOUTS[layout](target.cuda())
        found = run(
            poisson_nll, LAYOUTS["every_other"](z.cuda()), given, observed=on_device, **moved
        )
        assert found[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert found[1].dtype == dtype
        if kind == "counts" and "library" not in options:
            options["library"] = target.double().sum(1)
        assert_as_reference(found, z, target, observed=panels, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("offset", [0, 1, 2, 3, 8])
@pytest.mark.parametrize("layout", ["dense", "rows32"])
def test_rows_may_begin_at_any_address(layout: str, offset: int, dtype: torch.dtype) -> None:
    z, target = (t.to(dtype) for t in draw(5, 2011, "rectified_tanh", "log1p"))
    room = torch.full((5, 2024), float("nan"), dtype=dtype, device="cuda")
    logits = room[:, offset : offset + 2011]
    logits.copy_(z)
    found = run(poisson_nll, logits, LAYOUTS[layout](target.cuda()))
    options = {"activation": "rectified_tanh", "target_kind": "log1p", "reduction": "mean"}
    assert_as_reference(found, z, target, **options)


def test_a_few_long_rows_are_cut_in_parts() -> None:
    z, target = (t.float() for t in draw(2, 300_001, "exp", "counts", density=0.3))
    library = torch.tensor([1e5, 1e5])
    for given in (target.cuda(), as_rows(target.cuda())):
        options = {"activation": "exp", "target_kind": "counts", "reduction": "cell"}
        found = run(poisson_nll, z.cuda(), given, library=library.cuda(), **options)
        assert_as_reference(found, z, target, library=library, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_at_or_below_zero_lose_one_and_get_no_gradient(dtype: torch.dtype) -> None:
    z = torch.tensor([[0.0, -0.0, -1e-30, -3.0, -1e30, -torch.inf]], dtype=dtype, device="cuda")
    for target in (torch.zeros_like(z), torch.full_like(z, 2.5)):
        loss, grad = run(poisson_nll, z, target, reduction="none")
        assert loss.tolist() == [[1.0] * 6]
        assert grad.tolist() == [[0.0] * 6]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_logits_give_nan(activation: str) -> None:
    z = torch.tensor([[torch.nan, 1.0]], device="cuda")
    options: dict[str, Any] = {"activation": activation, "reduction": "none"}
    loss, _ = run(poisson_nll, z, torch.ones_like(z), **options)
    assert loss.isnan().tolist() == [[True, False]]


def test_what_stands_at_unobserved_genes_does_not_matter() -> None:
    z, target = (t.float().cuda() for t in draw(9, 100, "rectified_tanh", "log1p"))
    panels = draw_panels(9, 100).to("cuda")
    hidden = panels.mask[panels.panel_id.long()] == 0
    expected = run(poisson_nll, z, target, observed=panels)
    z[hidden], target[hidden] = torch.nan, torch.nan
    found = run(poisson_nll, z, target, observed=panels)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("layout", ["dense", "rows32"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_run_gives_the_same_bits(layout: str, dtype: torch.dtype) -> None:
    z, counts = draw(300, 5003, "rectified_tanh", "counts", density=0.08)
    z, target = z.to("cuda", dtype), LAYOUTS[layout](counts.float().cuda())
    first = run(poisson_nll, z, target, target_kind="counts")
    for _ in range(5):
        found = run(poisson_nll, z, target, target_kind="counts")
        torch.testing.assert_close(found, first, rtol=0, atol=0)


@pytest.mark.parametrize("reduction", [*REDUCTIONS, "none"])
@pytest.mark.parametrize("layout", ["dense", "rows32"])
def test_gradients_pass_gradcheck(layout: str, reduction: str) -> None:
    if reduction == "none" and layout == "rows32":
        pytest.skip("reduction='none' needs a dense target")
    z, target = (t.cuda() for t in draw(3, 9, "softplus", "log1p"))
    options: dict[str, Any] = {"activation": "softplus", "reduction": reduction}
    given = LAYOUTS[layout](target)
    assert torch.autograd.gradcheck(lambda x: poisson_nll(x, given, **options), z.requires_grad_())


def test_backward_twice_gives_the_same_gradient_twice() -> None:
    """The gradient is multiplied where it stands only when no later backward needs it."""
    z, target = (t.float().cuda() for t in draw(7, 60, "rectified_tanh", "log1p"))
    z.requires_grad_()
    loss = 3 * poisson_nll(z, target)
    (first,) = torch.autograd.grad(loss, z, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(loss, z, retain_graph=True)
    (third,) = torch.autograd.grad(loss, z)
    for found in (first, second, third):
        torch.testing.assert_close(found, kept, rtol=0, atol=0)


def test_a_loss_differentiated_itself_takes_no_second_gradient() -> None:
    z = torch.randn((64, 100_000), device="cuda", requires_grad=True)
    target = torch.zeros_like(z)
    poisson_nll(z, target).backward()
    z.grad = None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    poisson_nll(z, target).backward()
    assert torch.cuda.max_memory_allocated() - before < 1.1 * z.numel() * 4


@pytest.mark.parametrize("layout", ["dense", "rows32"])
def test_a_cuda_graph_replays_forward_and_backward(layout: str) -> None:
    z, target = (t.float().cuda() for t in draw(64, 700, "rectified_tanh", "log1p"))
    given = LAYOUTS[layout](target)
    leaf = z.requires_grad_()

    def step() -> Result:
        loss = poisson_nll(leaf, given)
        return loss.detach(), torch.autograd.grad(2 * loss, leaf)[0]

    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        leaf.neg_()
    graph.replay()
    torch.testing.assert_close(captured, step(), rtol=0, atol=0)


@pytest.mark.parametrize("layout", ["dense", "rows32"])
def test_the_registered_ops_pass_opcheck(layout: str) -> None:
    z, target = (t.cuda() for t in draw(5, 20, "rectified_tanh", "counts"))
    problem.assert_ops_pass_opcheck(z, target, draw_panels(5, 20).to("cuda"), layout)


# ---- faults -------------------------------------------------------------------------------------

BAD_ROWS = [
    ([0, 1, 3], [0, 5, 10], "target has columns outside its 10 genes in 1 rows, first row 1"),
    ([0, 1, 3], [0, -1, 4], "target has columns outside its 10 genes in 1 rows, first row 1"),
    ([0, 2, 4], [5, 5, 3, 4], "columns of target do not ascend in 1 rows, first row 0"),
    ([0, 2, 4], [1, 2, 4, 3], "columns of target do not ascend in 1 rows, first row 1"),
    ([0, 3, 2], [1, 2, 3], "the row pointers of target fall or leave its stored entries"),
]


@pytest.mark.parametrize(("indptr", "indices", "message"), BAD_ROWS)
def test_bad_rows_give_nan_and_on_request_an_error(
    indptr: list[int], indices: list[int], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KERNOMICS_CHECK", raising=False)
    z, target = torch.zeros((2, 10), device="cuda"), rows(indptr, indices).to("cuda")
    assert bool(poisson_nll(z, target).isnan())
    monkeypatch.setenv("KERNOMICS_CHECK", "1")
    with pytest.raises(ValueError, match=message):
        poisson_nll(z, target)


def test_a_bad_panel_or_library_makes_its_cell_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KERNOMICS_CHECK", raising=False)
    z, target = torch.zeros((3, 10), device="cuda"), torch.ones((3, 10), device="cuda")
    panels = ObservedGenes.from_lists([torch.arange(10)], 10, [0, 1, -1]).to("cuda")
    assert poisson_nll(z, target, observed=panels, reduction="cell").isnan().tolist() == [
        False, True, True,
    ]  # fmt: skip
    library = torch.tensor([5.0, -1.0, torch.inf], device="cuda")
    options: dict[str, Any] = {"target_kind": "counts", "library": library}
    for reduction in ("cell", "none"):
        loss = poisson_nll(z, target, reduction=reduction, **options)
        assert loss.view(3, -1).isnan().all(1).tolist() == [False, True, True]
    monkeypatch.setenv("KERNOMICS_CHECK", "1")
    with pytest.raises(ValueError, match=r"2 cells are not, first cell 1 with -1\.0"):
        poisson_nll(z, target, **options)


def test_tensors_on_two_devices_are_named() -> None:
    z, target = torch.zeros((2, 10), device="cuda"), torch.ones((2, 10), device="cuda")
    panels = ObservedGenes.from_lists([torch.arange(10)], 10, [0, 0])
    with pytest.raises(ValueError, match=r"observed.panel_id is on cpu and logits on cuda:0"):
        poisson_nll(z, target, observed=panels)
    with pytest.raises(ValueError, match=r"target is on cpu and logits on cuda:0; move one"):
        poisson_nll(z, target.cpu())
