"""sample_tokens on CUDA: the CPU's genes exactly, its values, and CUDA graphs.

Values are the CPU's to the bit in float32, whose log1p is ours on both; in float64 each device's
log1p is within 1 ulp, 2u, of the exact one, u = 2⁻⁵³: 4.1u between them. Counts are whole numbers,
so a row's sum is exact in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems.common import Rows, as_rows
from problems.sample_tokens import OPTIONS, Problem, draw
from torch import Tensor

from kernomics.ops import ObservedGenes, sample_tokens

pytestmark = pytest.mark.gpu

OP = torch.ops.kernomics.sample_tokens.default
Tokens = tuple[Tensor, ...]


def run(p: Problem, device: str = "cuda", layout: str = "rows32", **options: Any) -> Tokens:
    return p.run(layout, device, **options)


def assert_as_cpu(p: Problem, **options: Any) -> None:
    found, expected = run(p, **options), run(p, "cpu", **options)
    assert len(found) == len(expected)
    for i, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        if i == 1 and mine.dtype == torch.float64:
            torch.testing.assert_close(mine, theirs, rtol=4.1 * 2.0**-53, atol=0)
        else:
            assert mine.dtype == theirs.dtype
            assert torch.equal(mine, theirs)


@settings(max_examples=300, deadline=None)
@given(
    cells=st.integers(0, 9),
    genes=st.one_of(st.integers(1, 40), st.integers(250, 1100), st.integers(4000, 9000)),
    share=st.none() | st.floats(0, 1.1),
    layout=st.sampled_from(["rows32", "rows64"]),
    ragged=st.booleans(),
    **OPTIONS,
)
def test_cuda_equals_the_cpu(
    cells: int, genes: int, share: float | None, layout: str, ragged: bool, **options: Any
) -> None:
    n_tokens = None if share is None else max(1, round(share * genes))
    assert_as_cpu(draw(cells, genes, n_tokens, **options), layout=layout, ragged=ragged)


@pytest.mark.parametrize("candidates", ["observed", "expressed"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("cells", "genes", "n_tokens"),
    [(600, 20_000, 2048), (5, 60_001, 9000), (3, 150_000, 4000), (2, 250_000, 4000),
     (3, 400_000, 5000)],
)  # fmt: skip
def test_long_rows_and_many_cells_equal_the_cpus(
    cells: int, genes: int, n_tokens: int, weighted: bool, candidates: str
) -> None:
    assert_as_cpu(draw(cells, genes, n_tokens, weighted=weighted, candidates=candidates))


@pytest.mark.parametrize("candidates", ["observed", "expressed"])
@pytest.mark.parametrize("weight", [1e-36, 1.0, 1e27])
def test_crowded_keys_equal_the_cpus(weight: float, candidates: str) -> None:
    # Far from 1 all keys share their upper bits.
    p = draw(3, 6000, 700, density=0.9, weights=torch.full((6000,), weight), candidates=candidates)
    assert_as_cpu(p)


@pytest.mark.parametrize("target_sum", [None, 1e-300, 1e-30, 1e5, 1e300])
def test_values_of_any_scale_equal_the_cpus(target_sum: float | None) -> None:
    p = draw(6, 100, 60, density=0.5)
    library = torch.tensor([1e-310, 1e-35, 0.0, 1.0, 1e30, 1e300], dtype=torch.float64)
    p = replace(p, options=p.options | {"library": library, "target_sum": target_sum})
    genes, values = run(p)
    expected_genes, expected = run(p, "cpu")
    assert torch.equal(genes, expected_genes)
    assert bool(values.isfinite().all())
    # Beyond one product values come from log and log1p in float64, before they are rounded.
    torch.testing.assert_close(values, expected, rtol=2.0**-23, atol=0)


def test_a_wrong_guess_of_the_candidates_changes_nothing() -> None:
    p = draw(6, 4000, 200, density=0.5)
    half = ObservedGenes.from_lists(
        [torch.arange(0, 4000, 2)], 4000, torch.zeros(6, dtype=torch.int32)
    )
    p = replace(p, options=p.options | {"observed": half})
    wrong = replace(half, counts=torch.tensor([4000]))
    assert_as_cpu(p, observed=wrong)
    rows = as_rows(p.x)
    zeros = replace(rows, values=rows.values * (rows.indices % 3 == 0))
    assert_as_cpu(replace(p, rows=zeros), candidates="expressed")


def test_the_batch_split_changes_nothing() -> None:
    p = draw(37, 3000, 400)
    genes, values = run(p)
    for b in (0, 17, 36):
        alone = run(p.some(slice(b, b + 1)))
        assert torch.equal(alone[0][0], genes[b])
        assert torch.equal(alone[1][0], values[b])


# ---- faults -------------------------------------------------------------------------------------


def faulty(name: str) -> Problem:
    """Eight cells of which cell 3 has a fault."""
    p = draw(8, 500, 60, density=0.5, panels=2, library=True)
    rows, options = as_rows(p.x), dict(p.options)
    options["library"] = options["library"] + 1
    entry = int(rows.indptr[3]) + 5
    indices, values = rows.indices.clone(), rows.values.clone()
    changes: dict[str, Callable[[], Any]] = {
        "column": lambda: indices.__setitem__(entry, 500),
        "negative column": lambda: indices.__setitem__(entry, -7),
        "order": lambda: indices.__setitem__(entry, int(indices[entry - 1])),
        "count": lambda: values.__setitem__(entry, float("nan")),
        "negative count": lambda: values.__setitem__(entry, -1.0),
        "cell id": lambda: options.update(cell_ids=options["cell_ids"].index_fill(
            0, torch.tensor([3]), -1)),
        "panel": lambda: options.update(observed=options["observed"].with_panel_id(
            options["observed"].panel_id.index_fill(0, torch.tensor([3]), 2))),
        "library": lambda: options.update(library=options["library"].index_fill(
            0, torch.tensor([3]), float("inf"))),
    }  # fmt: skip
    changes[name]()
    return replace(p, rows=replace(rows, indices=indices, values=values), options=options)


FAULTS = ["column", "negative column", "order", "count", "negative count", "cell id", "panel",
          "library"]  # fmt: skip


@pytest.mark.parametrize("candidates", ["observed", "expressed"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_cell_with_a_fault_gets_nan_and_genes_in_range(name: str, candidates: str) -> None:
    genes, values = run(faulty(name), candidates=candidates)
    assert values[3].isnan().all()
    assert genes[3].tolist() == list(range(60))
    others = torch.arange(8) != 3
    assert not values[others].isnan().any()


@pytest.mark.parametrize("name", FAULTS)
def test_checks_raise_the_cpus_message(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("KERNOMICS_CHECK", "1")
    messages = []
    for device in ("cpu", "cuda"):
        with pytest.raises(ValueError, match="first row 3") as caught:
            run(faulty(name), device)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_row_pointers_that_leave_the_entries_are_not_followed() -> None:
    p = draw(4, 300, 20)
    rows = as_rows(p.x)
    rows.indptr[2:] = 2**40
    values = run(replace(p, rows=rows))[1]
    assert values.isnan().all(1).tolist() == [False, True, True, True]


# ---- torch's machinery --------------------------------------------------------------------------


def arguments(p: Problem, ragged: bool = False) -> tuple[Any, ...]:
    rows, o = as_rows(p.x).to("cuda"), p.options
    return (
        rows.values, rows.indptr, rows.indices, rows.shape[1], o["cell_ids"].cuda(),
        o["seed"].cuda(), 1, p.n_tokens, None, None, None, None, None,
        o.get("candidates") == "expressed", True, 1e5, ragged,
    )  # fmt: skip


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("candidates", ["observed", "expressed"])
def test_the_registered_op_passes_opcheck(candidates: str, ragged: bool) -> None:
    p = draw(7, 800, 90, candidates=candidates)
    torch.library.opcheck(OP, arguments(p, ragged))


@pytest.mark.parametrize("ragged", [False, True])
def test_a_graph_replays_with_an_advancing_step(ragged: bool) -> None:
    p = draw(9, 3000, 200, candidates="expressed")
    inputs = arguments(p, ragged)
    seed, advance = inputs[5], torch.tensor([0, 1], device="cuda")
    start = seed.clone()

    def step() -> tuple[Tensor, ...]:
        seed.add_(advance)
        found: tuple[Tensor, ...] = OP(*inputs)
        return found

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    seed.copy_(start)
    for i in range(1, 4):
        graph.replay()
        expected = run(p, "cpu", seed=p.options["seed"] + torch.tensor([0, i]), ragged=ragged)
        for mine, theirs in zip(captured, expected, strict=False):
            assert torch.equal(mine.cpu(), theirs)


def test_nothing_synchronises(no_synchronisation: None) -> None:
    rows = Rows(
        torch.zeros(5, dtype=torch.int64, device="cuda"),
        torch.zeros(0, dtype=torch.int32, device="cuda"),
        torch.zeros(0, device="cuda"),
        (4, 3000),
    )
    ids, seed = (torch.ones(n, dtype=torch.int64, device="cuda") for n in (4, 2))
    genes = sample_tokens(rows, 64, cell_ids=ids, seed=seed)[0]
    torch.cuda.set_sync_debug_mode("default")
    assert bool((genes.diff(dim=1) > 0).all())


def test_memory_stays_far_below_a_dense_matrix() -> None:
    cells, genes = 4096, 1_000_000  # dense: 16 GB
    rows = Rows(
        torch.arange(cells + 1), torch.arange(cells) % genes, torch.ones(cells), (cells, genes)
    ).to("cuda")
    ids, seed = torch.arange(cells, device="cuda"), torch.tensor([1, 2], device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    tokens = sample_tokens(rows, 64, cell_ids=ids, seed=seed)[0]
    assert torch.cuda.max_memory_allocated() - before < 100e6
    assert bool((tokens.diff(dim=1) > 0).all())
