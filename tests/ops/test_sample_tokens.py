"""sample_tokens draws what its plain-torch meaning draws, whatever the layout, split or threads.

Genes are compared exactly. With weights the reference is given the kernel's own float32 exponential
numbers, whose accuracy test_math.py asserts: the float64 ones would order near ties otherwise.

Values: with s = target_sum/library and x = count·s each rounded once, x is off by 2u, u = 2⁻²⁴;
log1p turns a relative error into no larger one, and is itself within 2 ulp, 4u. Second-order terms
are below 0.1u. In float64 the reference rounds as often, and libm's log1p is within 1 ulp, 2u.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from problems.common import Rows, as_rows, peak_resident_bytes
from problems.sample_tokens import OPTIONS, Problem, draw
from torch import Tensor

from kernomics.ops import ObservedGenes, _native, reference, sample_tokens

OP = torch.ops.kernomics.sample_tokens.default
VALUE_TOLERANCE = {torch.float32: 6.1 * 2.0**-24, torch.float64: 10 * 2.0**-53}


def kernel_exponential(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    words = np.ascontiguousarray(words)
    out = np.empty(words.shape, np.float32)
    _native.cpu().exponential(words.ctypes.data, words.size, out.ctypes.data)
    return out


def expected(p: Problem) -> tuple[Tensor, Tensor]:
    """Return the reference's result in float64 on the same, already rounded, numbers."""
    options = dict(p.options)
    panels, library = options.get("observed"), options.get("library")
    options["library"] = None if library is None else library.double()
    n_tokens = p.n_tokens
    if n_tokens is None:
        n_tokens = p.x.shape[1] if panels is None else panels.largest
        if options.get("candidates") == "expressed":
            n_tokens = min(n_tokens, max((p.x != 0).sum(1).tolist(), default=0))
    with mock.patch.object(reference, "exponential_from_words", kernel_exponential):
        return reference.sample_tokens(p.x.double(), n_tokens, **options)


def assert_as_reference(found: tuple[Tensor, ...], p: Problem) -> None:
    genes, values = expected(p)
    assert found[0].dtype == torch.int32
    assert torch.equal(found[0], genes)
    tolerance = VALUE_TOLERANCE[found[1].dtype]
    torch.testing.assert_close(found[1].double(), values, rtol=tolerance, atol=0)


# ---- the meaning --------------------------------------------------------------------------------


def test_a_small_case_by_hand() -> None:
    x = torch.tensor([[0.0, 4.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    panels = ObservedGenes.from_lists([[3, 0, 1], [2]], 4, [0, 1])
    p = Problem(x, None, {"cell_ids": None, "seed": None, "observed": panels})
    genes, values = p.run(transform="counts")
    assert genes.tolist() == [[0, 1, 3], [2, -1, -1]]
    assert values.tolist() == [[0, 4, 1], [0, 0, 0]]
    genes, values, offsets = p.run(candidates="expressed", target_sum=10.0, ragged=True)
    assert genes.tolist() == [1, 3, -1, -1]
    torch.testing.assert_close(values, torch.tensor([8.0, 2.0, 0.0, 0.0]).log1p())
    assert offsets.tolist() == [0, 2, 2]


@settings(max_examples=300, deadline=None)
@given(
    cells=st.integers(0, 9),
    genes=st.one_of(st.integers(1, 40), st.integers(250, 1100)),
    share=st.none() | st.floats(0, 1.1),
    layout=st.sampled_from(["csr32", "csr64", "rows32", "rows64"]),
    ragged=st.booleans(),
    **OPTIONS,
)
def test_tokens_equal_the_reference(
    cells: int,
    genes: int,
    share: float | None,
    dtype: torch.dtype,
    layout: str,
    ragged: bool,
    **options: Any,
) -> None:
    n_tokens = None if share is None else max(1, round(share * genes))
    p = draw(cells, genes, n_tokens, dtype=dtype, **options)
    found = p.run(layout, ragged=ragged)
    assert found[1].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    if ragged:
        flat_genes, flat_values, offsets = found
        padded = p.run(layout)
        assert flat_genes.shape == flat_values.shape == (padded[0].numel(),)
        kept = padded[0] >= 0
        assert torch.equal(offsets, torch.cat([torch.zeros(1).long(), kept.sum(1).cumsum(0)]))
        used = int(offsets[-1])
        assert torch.equal(flat_genes[:used], padded[0][kept])
        assert torch.equal(flat_values[:used], padded[1][kept])
        assert bool((flat_genes[used:] == -1).all())
        assert not flat_values[used:].any()
        found = padded
    assert_as_reference(found, p)


@pytest.mark.parametrize("n_tokens", [1, 300, 2048, 5999, 6000, 6001])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("candidates", ["observed", "expressed"])
@pytest.mark.parametrize("density", [0.1, 0.6])
def test_wide_rows_equal_the_reference(
    n_tokens: int, weighted: bool, candidates: str, density: float
) -> None:
    p = draw(
        12, 6000, n_tokens, weighted=weighted, candidates=candidates, density=density, panels=2
    )
    assert_as_reference(p.run(), p)


def test_a_bracket_that_misses_changes_nothing() -> None:
    p = draw(6, 4000, 200)
    half = ObservedGenes.from_lists(
        [torch.arange(0, 4000, 2)], 4000, torch.zeros(6, dtype=torch.int32)
    )
    p = replace(p, options=p.options | {"observed": half})
    wrong = replace(half, counts=torch.tensor([4000]))  # expects the 200th at half its rank
    assert_as_reference(p.run(observed=wrong), p)
    small = replace(p, n_tokens=3000)
    padded = small.run(observed=wrong)
    assert torch.equal(padded[0][:, :2000], half.genes.expand(6, 2000))
    # Only the genes of the sample are likely to be drawn.
    weights = torch.full((4000,), 1e-3)
    weights[8::16] = 1000.0
    p = draw(6, 4000, 200, weights=weights)
    assert_as_reference(p.run(), p)


def test_genes_of_weight_zero_are_never_drawn() -> None:
    weights = torch.zeros(300)
    weights[[5, 70, 299]] = torch.tensor([1e-30, 1.0, 1e20])
    for n_tokens in (1, 2, 3, 9, 400, None):
        genes = draw(20, 300, n_tokens, weights=weights).run()[0]
        assert set(genes.unique().tolist()) <= {-1, 5, 70, 299}
        wanted = 3 if n_tokens is None else min(3, n_tokens)
        assert bool(((genes >= 0).sum(1) == wanted).all())
    assert bool((draw(20, 300, 4, weights=torch.zeros(300)).run()[0] == -1).all())


def test_stored_zeros_are_not_expressed() -> None:
    x = Rows(torch.tensor([0, 3]), torch.tensor([1, 4, 6]), torch.tensor([2.0, 0.0, 3.0]), (1, 9))
    genes, values = sample_tokens(
        x, None, cell_ids=None, seed=None, candidates="expressed", transform="counts"
    )
    assert genes.tolist() == [[1, 6, -1]]
    assert values.tolist() == [[2, 3, 0]]


@pytest.mark.parametrize("library", [None, torch.zeros(3)])
def test_cells_of_library_zero_have_values_zero(library: Tensor | None) -> None:
    p = draw(3, 40, 7, density=0.0 if library is None else 0.5, library=False)
    genes, values = p.run(library=library)
    assert bool((genes >= 0).all())
    assert not values.any()


def test_tensors_may_have_any_strides() -> None:
    p = draw(11, 90, 12, library=True, weighted=True, panels=2)
    twice = {
        name: torch.stack([v, v], 1)[:, 0] for name, v in p.options.items() if isinstance(v, Tensor)
    }
    assert not any(v.is_contiguous() for v in twice.values())
    panels = p.options["observed"]
    turned = replace(panels, mask=panels.mask.t().contiguous().t())
    torch.testing.assert_close(p.run(**twice, observed=turned), p.run(), rtol=0, atol=0)


# ---- what a draw depends on ---------------------------------------------------------------------

CASES: dict[str, dict[str, Any]] = {
    "observed": {},
    "weighted": {"weighted": True},
    "panels": {"panels": 3, "library": True, "weighted": True},
    "expressed": {"candidates": "expressed", "n_tokens": 100},
}


def case(name: str) -> Problem:
    return draw(**{"cells": 37, "genes": 3000, "n_tokens": 400, **CASES[name]})


@pytest.mark.parametrize("name", CASES)
def test_threads_do_not_change_a_bit(threads: Callable[[int], None], name: str) -> None:
    p = case(name)
    for ragged in (False, True):
        results = []
        for count in (1, 2, 3):
            threads(count)
            results.append(p.run(ragged=ragged))
        for other in results[1:]:
            torch.testing.assert_close(other, results[0], rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_the_batch_split_and_the_order_of_cells_change_nothing(name: str) -> None:
    p = case(name)
    genes, values = p.run()
    parts = [p.some(rows).run() for rows in (slice(0, 1), slice(1, 30), slice(30, 37))]
    assert torch.equal(torch.cat([part[0] for part in parts]), genes)
    assert torch.equal(torch.cat([part[1] for part in parts]), values)
    order = torch.randperm(37, generator=torch.Generator().manual_seed(1))
    shuffled = p.some(order).run()
    assert torch.equal(shuffled[0], genes[order])
    assert torch.equal(shuffled[1], values[order])


def test_seeds_steps_streams_and_cells_give_other_draws() -> None:
    p = draw(1, 2000, 100)
    base = set(p.run()[0][0].tolist())
    others = [
        p.run(seed=p.options["seed"] + torch.tensor([1, 0])),
        p.run(seed=p.options["seed"] + torch.tensor([0, 1])),
        p.run(stream=0),
        p.run(stream=2**16 - 1),
        p.run(cell_ids=p.options["cell_ids"] ^ 1),
    ]
    for genes, _ in others:  # 5 of 100 in common on average; 25 lie beyond eight deviations
        assert len(base & set(genes[0].tolist())) < 25


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_memory_stays_far_below_a_dense_matrix() -> None:
    cells, genes = 512, 1_000_000  # dense: 2 GB
    columns = torch.arange(cells) % genes
    x = Rows(torch.arange(cells + 1), columns, torch.ones(cells), (cells, genes))
    ids, seed = torch.arange(cells), torch.tensor([1, 2])
    Path("/proc/self/clear_refs").write_text("5")  # starts the peak anew
    before = peak_resident_bytes()
    tokens = sample_tokens(x, 64, cell_ids=ids, seed=seed)[0]
    assert peak_resident_bytes() - before < 100e6
    assert bool((tokens.diff(dim=1) > 0).all())


# ---- torch's machinery --------------------------------------------------------------------------


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_the_registered_op_passes_opcheck(name: str, ragged: bool) -> None:
    p = case(name)
    rows, panels = as_rows(p.x), p.options.get("observed")
    table = (None,) * 3 if panels is None else (panels.panel_id, panels.mask, panels.counts)
    library = None if "library" not in p.options else p.options["library"].double()
    torch.library.opcheck(
        OP,
        (
            rows.values, rows.indptr, rows.indices, rows.shape[1], p.options["cell_ids"],
            p.options["seed"], 1, p.n_tokens, library, *table,
            p.options.get("weights"), name == "expressed", True, 1e5, ragged,
        ),
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_compiles_into_one_graph(name: str) -> None:
    p = case(name)  # as rows: torch.compile takes no sparse tensor
    compiled = torch.compile(sample_tokens, fullgraph=True, backend="aot_eager")
    found = compiled(as_rows(p.x), p.n_tokens, **p.options, ragged=True)
    torch.testing.assert_close(found, p.run(ragged=True), rtol=0, atol=0)
