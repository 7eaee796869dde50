"""Errors of masked_linear say what was found, where, how many, the first, and what is needed."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from problems.common import rows
from problems.masked_linear import draw

from kernomics.ops import masked_linear

SMALL = draw(4, 10, 3, 2).to(torch.float32)


@pytest.mark.usefixtures("raise_data_errors")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": SMALL.x[0]}, "x has shape (10,); [cells, genes] is needed"),
        ({"x": SMALL.x.int()}, "x has dtype torch.int32; a floating-point dtype is needed"),
        ({"x": SMALL.x.to_sparse_coo()}, "x has layout torch.sparse_coo; pass it dense or as"),
        ({"x": SMALL.x.clone().requires_grad_()}, "x requires a gradient, and masked_linear gives"),
        ({"weight": SMALL.weight[:9]}, "weight has shape (9, 3) and x 10 genes; a weight [10, out"),
        ({"weight": SMALL.weight.int()}, "weight has dtype torch.int32"),
        ({"mask": SMALL.mask[:9]}, "mask has shape (9,); [10] is needed"),
        ({"mask": SMALL.mask > 0}, "mask has dtype torch.bool"),
        ({"bias": torch.ones(4)}, "bias has shape (4,); [3] is needed"),
        ({"indices": SMALL.indices.int()}, "indices are torch.int32 of shape (2,); int64 [k]"),
        ({"grad_indices": torch.zeros(1, 1).long()}, "grad_indices are torch.int64 of shape (1, 1"),
        ({"indices": torch.tensor([3, 10])}, "indices[1] = 10 is not one of 10 genes; use indices"),
        ({"indices": torch.tensor([-1, 3])}, "indices[0] = -1 is not one of 10 genes"),
        ({"indices": torch.tensor([4, 4])}, "indices must ascend without repeats: indices[1] = 4"),
        ({"grad_indices": torch.tensor([3, -1, 4])}, "ascend without repeats, −1 only at the end"),
        ({"grad_indices": torch.tensor([3, 12])}, "grad_indices[1] = 12 is not one of 10 genes"),
        (
            {"x": rows([0, 1, 3], [0, 5, 10])},
            "x has columns outside its 10 genes in 1 rows, first row 1: entry 1 has column 10",
        ),
        (
            {"x": rows([0, 2, 4], [5, 5, 3, 1])},
            "the columns of x do not ascend in 2 rows, first row 0: entry 1 with column 5 repeats",
        ),
        (
            {"x": rows([0, 2, 5], [5, 6, 3, 4])},
            "the row pointers of x fall or leave its stored entries in 1 rows, first row 1, which "
            "would run from entry 2 to 5",
        ),
        ({"x": rows([0, 3, 2], [1, 2, 3])}, "in 1 rows, first row 1, which would run from entry 3"),
        ({"x": rows([0, 2], [1, 2])}, "x of shape (2, 10) has (2,) row pointers"),
        (
            {"x": replace(rows([0, 1, 2], [1, 2]), indices=torch.ones(2))},
            "the columns of x have dtype torch.float32; int64 is needed",
        ),
        (
            {"x": replace(rows([0, 1, 2], [1, 2]), values=torch.ones(2).int())},
            "the value tensor of x has dtype torch.int32",
        ),
    ],
)
def test_an_error_says_what_where_and_how_many(
    change: dict[str, Any], message: str, device: torch.device
) -> None:
    arguments = vars(replace(SMALL, delta=None)) | change
    arguments.pop("delta")
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        masked_linear(**{name: v if v is None else v.to(device) for name, v in arguments.items()})


def test_an_error_names_the_devices() -> None:
    x = torch.empty(4, 10, device="meta")
    with pytest.raises(ValueError, match="x is on meta and weight on cpu; move one of them"):
        masked_linear(x, SMALL.mask, SMALL.indices, SMALL.weight)
