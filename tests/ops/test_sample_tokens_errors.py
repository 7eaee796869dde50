"""What sample_tokens and ObservedGenes say when something is wrong."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from problems.common import rows
from torch import Tensor

from kernomics.ops import ObservedGenes, sample_tokens

NAN, INF = float("nan"), float("inf")

GOOD = rows([0, 2, 4], [1, 2, 3, 4])
PANELS = ObservedGenes.from_lists([[1, 2, 5], [3]], 10, [0, 1])
DEFAULTS = {
    "counts": GOOD,
    "n_tokens": 3,
    "cell_ids": torch.arange(2),
    "seed": torch.tensor([1, 2]),
}


def with_weight(gene: int, weight: float) -> Tensor:
    return torch.ones(10).index_fill(0, torch.tensor([gene, 9]), weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": torch.ones(2, 10)}, "counts have layout torch.strided; pass counts.to_sparse"),
        ({"counts": replace(GOOD, shape=(2,))}, "counts have shape (2,); [cells, genes] is needed"),
        ({"counts": replace(GOOD, shape=(2, 2**31))}, "counts have 2,147,483,648 genes; fewer"),
        ({"counts": rows([0, 2], [1, 2])}, "counts of shape (2, 10) has (2,) row pointers"),
        (
            {"counts": replace(GOOD, values=torch.ones(4).int())},
            "the value tensor of counts has dtype torch.int32",
        ),
        (
            {"counts": replace(GOOD, values=torch.ones(4).requires_grad_())},
            "counts requires a gradient, and sample_tokens gives it none; pass counts.detach()",
        ),
        ({"library": torch.ones(2).requires_grad_()}, "library requires a gradient"),
        ({"weights": torch.ones(10).requires_grad_()}, "weights requires a gradient"),
        ({"n_tokens": 0}, "n_tokens = 0 must be at least 1; None takes every candidate gene"),
        ({"candidates": "all"}, "unknown candidates 'all'; choose one of observed, expressed"),
        ({"transform": "log"}, "unknown transform 'log'; choose one of log1p, counts"),
        ({"target_sum": 0.0}, "target_sum = 0.0 must be positive and finite; None divides by no"),
        ({"target_sum": NAN}, "target_sum = nan must be positive"),
        ({"stream": 2**16}, "stream = 65536 must lie between 0 and 65535"),
        ({"cell_ids": None}, "cell_ids is needed to draw tokens; n_tokens=None draws none"),
        ({"seed": None}, "seed is needed to draw tokens"),
        ({"seed": 3}, "seed is a int; an int64 tensor of two is needed"),
        ({"seed": torch.ones(2)}, "seed is torch.float32 of shape (2,); int64 (key, step)"),
        ({"cell_ids": torch.arange(3)}, "cell_ids are torch.int64 of shape (3,); int64 [2]"),
        ({"cell_ids": torch.arange(2).int()}, "cell_ids are torch.int32 of shape (2,)"),
        (
            {"cell_ids": torch.tensor([-3, 2**48])},
            "cell_ids lie outside [0, 2**48) in 2 rows, first row 0: -3; give each cell its index",
        ),
        ({"library": torch.ones(3)}, "library has shape (3,); [2] is needed"),
        ({"library": torch.ones(2).int()}, "library has dtype torch.int32"),
        (
            {"library": torch.tensor([1.0, -2.0])},
            "library is negative, NaN or infinite in 1 rows, first row 1: -2; pass each cell's",
        ),
        ({"library": torch.tensor([INF, NAN])}, "infinite in 2 rows, first row 0: inf"),
        ({"weights": torch.ones(9)}, "weights has shape (9,); [10] is needed"),
        ({"weights": torch.ones(10).int()}, "weights has dtype torch.int32"),
        (
            {"weights": with_weight(4, -1.0)},
            "weights are neither 0 nor from 1e-36 to 1e27 for 2 of 10 genes, first gene 4 with -1",
        ),
        ({"weights": with_weight(0, NAN)}, "for 2 of 10 genes, first gene 0 with nan"),
        ({"weights": with_weight(8, INF)}, "for 2 of 10 genes, first gene 8 with inf"),
        (
            {"counts": rows([0, 1, 3], [0, 5, 9], [1.0, 2.0, -0.5])},
            "counts are negative, NaN or infinite in 1 rows, first row 1: entry 1 is -0.5; pass",
        ),
        ({"counts": rows([0, 1, 2], [0, 5], [NAN, INF])}, "in 2 rows, first row 0: entry 0 is nan"),
        (
            {"counts": rows([0, 1, 3], [0, 5, 10])},
            "counts has columns outside its 10 genes in 1 rows, first row 1: entry 1 has column 10",
        ),
        (
            {"counts": rows([0, 2, 4], [5, 5, 3, 1])},
            "the columns of counts do not ascend in 2 rows, first row 0: entry 1 with column 5",
        ),
        (
            {"counts": rows([0, 2, 5], [5, 6, 3, 4])},
            "the row pointers of counts fall or leave its stored entries in 1 rows, first row 1, "
            "which would run from entry 2 to 5; build counts with torch.sparse_csr_tensor",
        ),
        (
            {"observed": ObservedGenes.from_lists([[1]], 9, [0, 0])},
            "observed has a mask of shape (1, 9) and counts have 10 genes; [panels, 10] is needed",
        ),
        (
            {"observed": PANELS.with_panel_id([0])},
            "observed.panel_id is torch.int32 of shape (1,); torch.int32 [2] is needed; build it",
        ),
        (
            {"observed": replace(PANELS, panel_id=torch.zeros(2).long())},
            "observed.panel_id is torch.int64 of shape (2,)",
        ),
        (
            {"observed": replace(PANELS, mask=PANELS.mask.bool())},
            "observed.mask is torch.bool of shape (2, 10); torch.uint8 [2, 10] is needed",
        ),
        (
            {"observed": replace(PANELS, counts=PANELS.counts[:1])},
            "observed.counts is torch.int64 of shape (1,); torch.int64 [2] is needed",
        ),
        (
            {"observed": PANELS.with_panel_id([1, 2])},
            "observed.panel_id is none of the 2 panels in 1 rows, first row 1: 2; use ids from 0 t",
        ),
        ({"observed": PANELS.with_panel_id([-1, 2])}, "in 2 rows, first row 0: -1"),
        (
            {"weights": torch.ones(10, device="meta")},
            "weights is on meta and counts on cpu; move one of them",
        ),
        (
            {"observed": replace(PANELS, counts=PANELS.counts.to("meta"))},
            "observed.counts is on meta and counts on cpu; move one of them",
        ),
        (
            {"counts": replace(GOOD, indptr=GOOD.indptr.to("meta"))},
            "counts' row pointers is on meta and counts on cpu; move one of them",
        ),
    ],
)
def test_an_error_says_what_where_and_how_many(change: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        sample_tokens(**DEFAULTS | change)


def test_an_error_leaves_nothing_behind() -> None:
    before = sample_tokens(**DEFAULTS)
    with pytest.raises(ValueError, match="negative"):
        sample_tokens(**DEFAULTS | {"counts": rows([0, 2, 4], [1, 2, 0, 7], [1.0, 2.0, 3.0, NAN])})
    torch.testing.assert_close(sample_tokens(**DEFAULTS), before, rtol=0, atol=0)


def test_raw_counts_may_be_any_number() -> None:
    counts = rows([0, 2, 4], [1, 2, 3, 4], [-1.0, INF, 2.0, 0.25])
    values = sample_tokens(counts, None, cell_ids=None, seed=None, transform="counts")[1]
    assert values[0, 1:3].tolist() == [-1.0, INF]


def test_no_gradient_is_needed_without_one() -> None:
    counts = replace(GOOD, values=torch.ones(4).requires_grad_())
    with torch.no_grad():
        assert not sample_tokens(**DEFAULTS | {"counts": counts})[1].requires_grad


# ---- panels -------------------------------------------------------------------------------------


def test_a_panel_table_holds_sorted_genes_mask_and_counts() -> None:
    panels = ObservedGenes.from_lists([torch.tensor([4, 0, 2]), [], [1]], 5, [2, 0])
    assert panels.panel_id.tolist() == [2, 0]
    assert panels.indptr.tolist() == [0, 3, 3, 4]
    assert panels.genes.tolist() == [0, 2, 4, 1]
    assert panels.mask.tolist() == [[1, 0, 1, 0, 1], [0] * 5, [0, 1, 0, 0, 0]]
    assert panels.counts.tolist() == [3, 0, 1]
    assert (panels.largest, panels.n_genes) == (3, 5)
    dtypes = [t.dtype for t in (panels.panel_id, panels.indptr, panels.genes, panels.mask)]
    assert dtypes == [torch.int32, torch.int64, torch.int32, torch.uint8]
    assert panels.counts.dtype == torch.int64


def test_a_panel_table_is_shared_by_batches() -> None:
    other = PANELS.with_panel_id(torch.tensor([1, 1, 0]))
    assert other.panel_id.tolist() == [1, 1, 0]
    assert other.mask is PANELS.mask
    moved = PANELS.to("meta")
    assert {part.device.type for part in vars(moved).values() if isinstance(part, Tensor)} == {
        "meta"
    }
    assert moved.largest == 3


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([], "no panels are given; name at least one list of genes"),
        ([[1], [3, 10, -1]], "panel 1 holds 2 genes outside the 10 of the vocabulary, first -1"),
        ([[3, 1, 3, 4, 3]], "panel 0 repeats 2 of its 5 genes, first gene 3; give each gene once"),
    ],
)
def test_a_bad_panel_is_named(lists: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ObservedGenes.from_lists(lists, 10)
