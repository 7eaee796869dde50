"""Errors of poisson_nll say what was found, where, how many, the first, and what is needed."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from problems.common import rows
from problems.poisson_nll import draw

from kernomics.ops import ObservedGenes, poisson_nll

Z, TARGET = (t.float() for t in draw(2, 10, "rectified_tanh", "counts"))
PANELS = ObservedGenes.from_lists([torch.arange(10), torch.arange(10)], 10, [0, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": Z[0]}, "logits have shape (10,); [cells, genes] is needed"),
        ({"logits": Z.int()}, "logits has dtype torch.int32; a floating-point dtype is needed"),
        ({"target": TARGET[:, :9]}, "target has shape (2, 9); [2, 10], a target for each cell"),
        ({"target": TARGET.int()}, "target has dtype torch.int32"),
        ({"target": TARGET.to_sparse_coo()}, "target has layout torch.sparse_coo; pass it dense"),
        ({"target": TARGET.clone().requires_grad_()}, "target requires a gradient, and the loss"),
        ({"target": TARGET.to("meta")}, "target is on meta and logits on cpu; move one of them"),
        ({"activation": "tanh"}, "activation is 'tanh'; it is one of 'rectified_tanh', 'relu', "),
        (
            {"target_kind": "count"},
            "target_kind is 'count'; it is one of 'log1p', 'counts', 'rate'",
        ),
        (
            {"reduction": "row"},
            "reduction is 'row'; it is one of 'mean', 'genes', 'sum', 'cell', 'no",
        ),
        ({"target_sum": 0.0}, "target_sum is 0.0; a positive number is needed"),
        ({"target_sum": math.nan}, "target_sum is nan; a positive number is needed"),
        ({"library": torch.ones(2)}, "library is given, but target_kind is 'log1p'; only counts"),
        (
            {"library": torch.ones(3), "target_kind": "counts"},
            "library has shape (3,); [2] is needed",
        ),
        (
            {"library": torch.tensor([-1.0, math.nan]), "target_kind": "counts"},
            "must be finite and not negative: 2 cells are not, first cell 0 with -1.0; pass each",
        ),
        (
            {"target": -TARGET - 1, "target_kind": "counts"},
            "library sizes must be finite and not negative: 2 cells are not, first cell 0",
        ),
        (
            {"observed": replace(PANELS, panel_id=torch.tensor([0, 1]))},
            "observed.panel_id is torch.int64 of shape (2,); torch.int32 [2] is needed",
        ),
        (
            {"observed": replace(PANELS, mask=PANELS.mask[:, :9])},
            "observed.mask is torch.uint8 of shape (2, 9); torch.uint8 [2, 10] is needed",
        ),
        (
            {"observed": replace(PANELS, counts=PANELS.counts.int())},
            "observed.counts is torch.int32 of shape (2,); torch.int64 [2] is needed",
        ),
        (
            {"observed": replace(PANELS, panel_id=torch.tensor([1, 2]).int())},
            "panels that do not exist in 1 cells, first cell 1 with panel 2 of 2; use 0 to 1",
        ),
        (
            {"target": TARGET.to_sparse_csr(), "reduction": "none"},
            "needs a dense target; pass targ",
        ),
        (
            {"target": rows([0, 1, 3], [0, 5, 10])},
            "target has columns outside its 10 genes in 1 rows, first row 1: entry 1 has column "
            "10; target and logits must share one gene order",
        ),
        ({"target": rows([0, 2, 4], [5, 5, 3, 1])}, "columns of target do not ascend in 2 rows"),
        (
            {"target": rows([0, 3, 2], [1, 2, 3])},
            "the row pointers of target fall or leave its sto",
        ),
    ],
)
def test_an_error_says_what_where_and_how_many(change: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        poisson_nll(**({"logits": Z, "target": TARGET} | change))
