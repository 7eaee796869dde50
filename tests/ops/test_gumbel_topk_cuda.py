"""gumbel_topk on CUDA: the CPU's genes to the bit, its gradient, CUDA graphs and streams.

What the op means is tested in test_gumbel_topk.py, on both devices; here the CPU is the reference.
Perturbed scores, and so all chosen genes, must be equal to the bit. Gradients and Γ differ by the
order of sums: both devices add blocks of 1,024 genes in the same order (64 additions a lane) and
the rest in double, so in float32 they differ by rounding of the results, 2⁻²⁴ each, and by what the
weights e^{z} amplify. LIMIT holds the factors with an order of magnitude to spare.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from problems.gumbel_topk import RELAXATIONS
from torch import Tensor

from kernomics.ops import gumbel_topk, relaxed_mask

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
SHAPES = [  # rows, genes, k: one chunk, several, many rows, and what only global memory holds
    (1, 1, 1),
    (3, 31, 1),
    (3, 31, 31),
    (2, 1000, 64),
    (1024, 1000, 64),
    (1024, 31, 7),
    (1, 20_000, 64),
    (3, 20_000, 256),
    (160, 20_000, 64),
    (1, 20_480, 600),
    (140, 5_003, 300),
    (1, 60_001, 64),
    (3, 60_001, 256),
    (1, 200_000, 64),
    (1, 200_000, 256),
]
WHOLE_ROWS = [(1, 1000, 1000), (1, 20_000, 20_000), (2, 60_001, 60_001), (1, 200_000, 200_000)]
# Largest |ΔΓ| / max Γ, and largest |Δgrad|·τ / max |u|.
LIMIT = {torch.float32: (1e-5, 1e-4), torch.float64: (1e-12, 1e-10)}
KINDS = ["distinct", "ties", "special"]


def draw(
    rows: int, genes: int, k: int, kind: str = "distinct", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Scores; `special` has forced and forbidden genes, `ties` few distinct values and ±0."""
    g = torch.Generator().manual_seed(17 * rows + genes + k)
    scores = torch.randn((rows, genes), generator=g, dtype=torch.float64)
    if kind == "ties":
        scores = (2 * scores).round() / 2
    if kind == "special":
        order = torch.rand((rows, genes), generator=g).argsort(1)
        scores.scatter_(1, order[:, : k // 3], float("inf"))
        forbidden = (genes - k) // 2
        scores.scatter_(1, order[:, genes - forbidden :], -float("inf"))
    return scores.to(dtype)


def both(scores: Tensor, k: int, *, device: torch.device, **options: Any) -> dict[str, Tensor]:
    """Outputs, y and the gradient of one call on one device, brought to the CPU."""
    options = {n: v.to(device) if isinstance(v, Tensor) else v for n, v in options.items()}
    leaf = scores.detach().to(device).requires_grad_()
    out = gumbel_topk(leaf, k, **options)
    g = torch.Generator().manual_seed(3)
    u = torch.randn(out[1].shape, generator=g, dtype=torch.float64).to(out[1].dtype)
    out[1].backward(u.to(device))
    assert leaf.grad is not None
    named = dict(zip(("indices", "mask", "grad_indices"), out, strict=False))
    return {n: v.detach().cpu() for n, v in {**named, "grad": leaf.grad, "u": u}.items()}


def assert_same(scores: Tensor, k: int, *, tau: float = 0.1, **options: Any) -> None:
    cpu = both(scores, k, device=torch.device("cpu"), tau=tau, **options)
    cuda = both(scores, k, device=CUDA, tau=tau, **options)
    for name in ("indices", "mask", "grad_indices"):
        if name in cpu:
            assert torch.equal(cpu[name], cuda[name]), name
    assert cuda["grad"].dtype == scores.dtype
    limit = LIMIT[cpu["mask"].dtype][1]
    if scores.dtype != cpu["mask"].dtype:  # the result is rounded to the scores' dtype
        limit += torch.finfo(scores.dtype).eps * float(cpu["grad"].abs().max())
    error = (cpu["grad"].double() - cuda["grad"].double()).abs().max() * tau
    assert error <= limit * cpu["u"].abs().max()


def seed(key: int = 5, step: int = 2) -> Tensor:
    return torch.tensor([key, step])


def perturbed(scores: Tensor, device: torch.device, **options: Any) -> Tensor:
    arguments = {"row_ids": None, "stream": 0, "scale": 1.0, **options}
    row_ids = arguments["row_ids"]
    return torch.ops.kernomics.gumbel_topk(
        scores.to(device), seed().to(device), None if row_ids is None else row_ids.to(device), 1,
        torch.tensor(arguments["scale"], dtype=torch.float64), arguments["stream"],
        torch.tensor(1.0), 0, 0, True,
    )[2].cpu()  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("genes", [1, 31, 1000, 20_000, 60_001])
def test_perturbed_scores_equal_the_cpus_to_the_bit(genes: int, dtype: torch.dtype) -> None:
    scores = draw(3, genes, 1, dtype=dtype)
    row_ids = torch.tensor([0, 7, 2**48 - 1])
    for options in ({}, {"row_ids": row_ids}, {"stream": 3}, {"scale": 0.37}, {"scale": 0.0}):
        expected = perturbed(scores, torch.device("cpu"), **options)
        bits = torch.int64 if dtype == torch.float64 else torch.int32
        found = perturbed(scores, CUDA, **options)
        assert torch.equal(expected.view(bits), found.view(bits)), options


def test_noise_of_ten_million_genes_equals_the_cpus() -> None:
    scores = torch.zeros((1, 10_000_000))
    cpu, cuda = (perturbed(scores, d) for d in (torch.device("cpu"), CUDA))
    assert torch.equal(cpu, cuda)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("sizes", SHAPES)
def test_cuda_chooses_the_cpus_genes(sizes: tuple[int, int, int], relaxation: str) -> None:
    reach = {} if relaxation == "softmax" else {"reach": min(sizes[1], 2 * sizes[2] + 100)}
    if sizes[1] < 2 * sizes[2] + 100 and reach:
        reach = {"reach": sizes[2] + 100}  # more than there are genes: padded
    assert_same(draw(*sizes), sizes[2], relaxation=relaxation, seed=seed(), **reach)


@pytest.mark.parametrize("relaxation", ["softsort", "softmax"])
@pytest.mark.parametrize("sizes", WHOLE_ROWS)
def test_all_genes_can_be_chosen(sizes: tuple[int, int, int], relaxation: str) -> None:
    assert_same(draw(*sizes), sizes[2], relaxation=relaxation, seed=seed())


def test_neuralsort_can_choose_all_genes() -> None:
    assert_same(draw(2, 3000, 3000), 3000, relaxation="neuralsort", seed=seed())


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", [(3, 1000, 64), (150, 400, 20), (1, 25_000, 300)])
def test_ties_forced_and_forbidden_genes(
    sizes: tuple[int, int, int], dtype: torch.dtype, kind: str, relaxation: str
) -> None:
    reach = {} if relaxation == "softmax" else {"reach": 3 * sizes[2]}
    noise = kind != "ties"
    options = {"noise": noise, "seed": seed()} if noise else {"noise": False}
    assert_same(draw(*sizes, kind, dtype), sizes[2], relaxation=relaxation, **options, **reach)


@pytest.mark.parametrize("tau", [0.01, 1.0, 300.0])
@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_low_and_high_temperatures(relaxation: str, tau: float) -> None:
    for dtype in (torch.float32, torch.float64):
        scores = draw(2, 3000, 64, dtype=dtype)
        assert_same(scores, 64, tau=tau, relaxation=relaxation, seed=seed())


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_relaxed_mask_equals_the_cpus(relaxation: str, kind: str, dtype: torch.dtype) -> None:
    scores = draw(3, 5000, 100, kind, dtype)
    options: dict[str, Any] = {"tau": 0.3, "relaxation": relaxation}
    expected, found = (relaxed_mask(s, 100, **options).cpu() for s in (scores, scores.to(CUDA)))
    assert (expected - found).abs().max() <= LIMIT[dtype][0] * expected.max()


@pytest.mark.parametrize("columns", [1011, 1012])  # rows that fall out of step, or in step
@pytest.mark.parametrize("offset", [0, 1, 2, 3])
def test_rows_at_any_address(offset: int, columns: int) -> None:
    table = torch.randn((4, columns), generator=torch.Generator().manual_seed(offset))
    table = table.to(CUDA)  # before it is viewed: a move packs a view
    for genes in (1000, 1001):
        assert_same(table[:, offset : offset + genes], 40, seed=seed())
    wide = table.t().contiguous().t()  # columns are not neighbours
    assert_same(wide, 40, seed=seed())


def test_scores_at_the_ends_of_a_sorted_row() -> None:
    ascending = torch.arange(30_000.0)[None] / 100
    for scores in (ascending, ascending.flip(1), torch.zeros((1, 30_000)), -ascending.floor()):
        assert_same(scores.contiguous(), 200, noise=False)
        assert_same(scores.contiguous(), 1500, noise=False)


def test_the_same_bits_on_every_run() -> None:
    for relaxation in RELAXATIONS:
        runs = [
            both(
                draw(5, 30_000, 300), 300, device=CUDA, tau=0.5, relaxation=relaxation, seed=seed()
            )
            for _ in range(3)
        ]
        for other in runs[1:]:
            assert all(torch.equal(runs[0][name], other[name]) for name in runs[0])


def broken_rows(genes: int, k: int) -> Tensor:
    """Rows 0 to 3 have too many forced, too few usable, some NaN and only NaN scores."""
    scores = draw(6, genes, k)
    scores[0, : k + 1] = float("inf")
    scores[1, k - 1 :] = -float("inf")
    scores[2, 5] = float("nan")
    scores[3] = float("nan")
    return scores


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize(("genes", "k"), [(1000, 64), (60_001, 64), (25_000, 9000)])
def test_rows_with_data_errors_get_nan_and_indices_in_range(
    genes: int, k: int, relaxation: str
) -> None:
    scores = broken_rows(genes, k).to(CUDA).requires_grad_()
    reach = {} if relaxation == "softmax" else {"reach": k + 10}
    out = gumbel_topk(scores, k, tau=0.5, relaxation=relaxation, seed=seed().to(CUDA), **reach)
    indices, mask = out[0].cpu(), out[1].detach().cpu()
    assert ((indices >= 0) & (indices < genes)).all()
    assert (indices.diff(dim=1) > 0).all()
    assert mask[:4].isnan().all()
    assert torch.equal(mask[4:].sum(1), torch.full((2,), float(k)))
    if reach:
        assert (out[2][:4] == -1).all()
        assert ((out[2] >= -1) & (out[2] < genes)).all()
    out[1].sum().backward()
    assert scores.grad is not None
    assert scores.grad[:4].isnan().all()
    assert not scores.grad[4:].isnan().any()


@pytest.mark.parametrize("row", [0, 1, 2, 3])
@pytest.mark.parametrize("genes", [1000, 60_001])
def test_checks_raise_the_cpus_message(
    monkeypatch: pytest.MonkeyPatch, genes: int, row: int
) -> None:
    monkeypatch.setenv("KERNOMICS_CHECK", "1")
    scores = torch.cat([draw(1, genes, 64), broken_rows(genes, 64)[row:]])
    messages = []
    for device in (torch.device("cpu"), CUDA):
        with pytest.raises(ValueError, match="row 1") as caught:
            gumbel_topk(scores.to(device), 64, tau=1.0, seed=seed().to(device))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_row_ids_out_of_range_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, row_ids = draw(3, 1000, 64).to(CUDA), torch.tensor([0, 2**48, -1], device=CUDA)
    options: dict[str, Any] = {"tau": 1.0, "seed": seed().to(CUDA), "row_ids": row_ids}
    mask = gumbel_topk(scores, 64, **options)[1]
    assert mask.isnan().all(1).tolist() == [False, True, True]
    monkeypatch.setenv("KERNOMICS_CHECK", "1")
    with pytest.raises(ValueError, match=r"row_ids\[1\] is 281474976710656"):
        gumbel_topk(scores, 64, **options)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("sizes", [(1, 20_000, 64), (140, 1000, 64)])
def test_a_graph_replays_with_new_scores_and_an_advancing_step(
    sizes: tuple[int, int, int], relaxation: str
) -> None:
    rows, genes, k = sizes
    scores = draw(*sizes).to(CUDA).requires_grad_()
    key_and_step, advance = seed(9, 0).to(CUDA), torch.tensor([0, 1], device=CUDA)
    u = torch.randn((rows, genes), generator=torch.Generator().manual_seed(1)).to(CUDA)

    def step() -> tuple[Tensor, Tensor]:
        key_and_step.add_(advance)
        indices, mask = gumbel_topk(scores, k, tau=0.2, relaxation=relaxation, seed=key_and_step)
        (grad,) = torch.autograd.grad(mask, scores, u)
        return indices, grad

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        indices, grad = step()
    key_and_step.copy_(seed(9, 0))
    seen = []
    for i in range(3):
        with torch.no_grad():
            scores.copy_(draw(rows, genes, k + i))
        graph.replay()
        seen.append((i, indices.cpu(), grad.cpu()))
    assert key_and_step.tolist() == [9, 3]
    for i, chosen, slope in seen:
        leaf = draw(rows, genes, k + i).to(CUDA).requires_grad_()
        expected, mask = gumbel_topk(
            leaf, k, tau=0.2, relaxation=relaxation, seed=seed(9, i + 1).to(CUDA)
        )
        assert torch.equal(chosen, expected.cpu())
        assert torch.equal(slope, torch.autograd.grad(mask, leaf, u)[0].cpu())


def test_work_runs_on_the_current_stream() -> None:
    scores, side = draw(4, 20_000, 64).to(CUDA), torch.cuda.Stream()
    options: dict[str, Any] = {"tau": 1.0, "seed": seed().to(CUDA)}
    expected = gumbel_topk(scores, 64, **options)[0]
    torch.cuda.synchronize()
    late = torch.empty_like(scores)
    with torch.cuda.stream(side):
        torch.cuda._sleep(20_000_000)  # the kernels must wait for what precedes them on the stream
        late.copy_(scores)
        found = gumbel_topk(late, 64, **options)[0]
    side.synchronize()
    assert torch.equal(found, expected)


def test_nothing_synchronises(no_synchronisation: None) -> None:
    scores = torch.zeros((2, 30_000), device=CUDA, requires_grad=True)
    key_and_step = torch.ones(2, dtype=torch.int64, device=CUDA)
    for relaxation in RELAXATIONS:
        _, mask = gumbel_topk(scores, 64, tau=1.0, relaxation=relaxation, seed=key_and_step)
        mask.sum().backward()
    torch.cuda.set_sync_debug_mode("default")
    assert scores.grad is not None
    assert not scores.grad.isnan().any()


def test_unkept_scores_are_not_allocated() -> None:
    scores = torch.zeros((64, 16_384), device=CUDA)
    options: dict[str, Any] = {"tau": 1.0, "seed": seed().to(CUDA)}
    gumbel_topk(scores, 64, **options)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    gumbel_topk(scores, 64, **options)
    mask_bytes = scores.numel() * 4
    assert torch.cuda.max_memory_allocated() - before < 1.5 * mask_bytes


@pytest.mark.parametrize("relaxation", [0, 1, 2])
def test_registered_ops_pass_opcheck(relaxation: int) -> None:
    scores, k = draw(3, 500, 20).to(CUDA), 20
    tau, scale = torch.tensor(0.5), torch.tensor(1.0)
    arguments = (scores, seed().to(CUDA), None, k, scale, 0, tau, relaxation, 0, True)
    torch.library.opcheck(torch.ops.kernomics.gumbel_topk, arguments)
    indices, mask, y, _ = torch.ops.kernomics.gumbel_topk(*arguments)
    slope = (torch.randn_like(mask), y, indices, tau, relaxation)
    torch.library.opcheck(torch.ops.kernomics.gumbel_topk_backward, slope)
    torch.library.opcheck(torch.ops.kernomics.relaxed_mask, (y, indices, tau, relaxation))
