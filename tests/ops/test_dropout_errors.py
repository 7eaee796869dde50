"""Errors of dropout say what was found, where, how many, the first, and what is needed."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from kernomics.ops import dropout

GOOD = {"x": torch.ones(2, 3), "p": 0.5, "seed": torch.tensor([1, 2])}
MANY = torch.ones(2, 3)
MANY[1] = torch.tensor([3e38, 0.0, -2e38])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": [1.0]}, "x is [1.0]; a torch.Tensor is needed"),
        ({"x": torch.ones(3).int()}, "x has dtype torch.int32; a floating-point dtype is needed"),
        ({"x": torch.ones(3) * 1j}, "x has dtype torch.complex64; a floating-point dtype"),
        ({"x": torch.eye(3).to_sparse_csr()}, "x has layout torch.sparse_csr; pass it dense"),
        ({"p": 1.0}, "p = 1.0 must lie from 0 to below 1"),
        ({"p": 1}, "p = 1 must lie from 0 to below 1"),
        ({"p": -1e-9}, "p = -1e-09 must lie from 0 to below 1"),
        ({"p": float("nan")}, "p = nan must lie from 0 to below 1"),
        ({"p": float("inf")}, "p = inf must lie from 0 to below 1"),
        ({"p": torch.tensor(0.5)}, "p is a Tensor of shape (); a number is needed"),
        ({"p": True}, "p is True; a number is needed"),
        ({"p": "0.5"}, "p is '0.5'; a number is needed"),
        ({"seed": 3}, "seed is a int; an int64 tensor of two is needed"),
        ({"seed": torch.tensor([1])}, "seed is torch.int64 of shape (1,); int64 (key, step) is"),
        ({"seed": torch.ones(2)}, "seed is torch.float32 of shape (2,); int64 (key, step) is"),
        ({"seed": torch.zeros(2, device="meta").long()}, "seed is on meta and x on cpu; move one"),
        ({"rectified": 1}, "rectified is 1; true or false is needed"),
        ({"first": -1}, "first = -1 must lie between 0 and 2⁶²"),
        ({"first": 2**62 + 1}, "first = 4611686018427387905 must lie between 0 and 2⁶²"),
        ({"first": 0.0}, "first is 0.0; an integer is needed"),
        ({"stream": 2**16}, "stream = 65536 must lie between 0 and 65535"),
        ({"stream": True}, "stream is True; an integer is needed"),
        (
            {"x": MANY, "p": 0.5, "seed": torch.tensor([3, 1]), "first": 1},
            "finite numbers of x are beyond float32 when divided by 1 − p: 2 of 6, first number 3 "
            "with 3e+38; scale x down",
        ),
    ],
)
def test_an_error_says_what_where_and_how_many(change: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        dropout(**(GOOD | change))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threads_used", [1, 3])
def test_numbers_that_overflow_are_counted_by_all_threads(
    dtype: torch.dtype, threads_used: int, threads: Any
) -> None:
    threads(threads_used)
    x = torch.ones(200_000, dtype=dtype)
    at = torch.tensor([70_001, 70_002, 130_000, 199_999])
    x[at] = torch.finfo(dtype).max
    x[3] = torch.inf  # passed on
    seed = torch.tensor([1, 0])
    kept = at[dropout(torch.ones_like(x), 0.25, seed)[at] != 0]
    assert len(kept) > 1
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(
        ValueError, match=rf"beyond {name} .*: {len(kept)} of 200,000, first number {kept[0]:,} "
    ):
        dropout(x, 0.25, seed)
    with pytest.raises(ValueError, match=rf"first number {kept[0]:,} "):
        dropout(x, 0.25, seed, rectified=True)
    assert dropout(-x, 0.25, seed, rectified=True)[4:].isfinite().all()


def test_a_gradient_that_overflows_is_infinite() -> None:
    x = torch.ones(64, requires_grad=True)
    dropout(x, 0.5, torch.tensor([1, 0])).backward(torch.full((64,), 3e38))
    assert x.grad is not None
    assert (x.grad.isinf() | (x.grad == 0)).all()


def test_what_is_beyond_half_precision_alone_is_infinite_as_in_torch() -> None:
    x = torch.full((64,), 6e4, dtype=torch.float16)
    found = dropout(x, 0.5, torch.tensor([1, 0]))
    assert found.isinf().any()
    assert (found.isinf() | (found == 0)).all()
    assert torch.nn.functional.dropout(x, 0.5).isinf().any()
