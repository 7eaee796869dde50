"""embed_tokens reads, rounds and sums bfloat16 and float16 as it should."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernomics.ops import embed_tokens


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_half_precision_number_is_read_and_written_as_torch_does(dtype: torch.dtype) -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    every = bits.view(dtype).reshape(64, 1024)
    every = torch.where(every.isnan(), torch.zeros((), dtype=dtype), every)
    ids = torch.arange(64)[None]

    def add(other: Tensor) -> Tensor:
        return embed_tokens(ids, None, every, combine="add", value_embedding=other[None])[0]

    # x − 0 keeps the sign of zero; reversing and rolling meet ties, subnormals and infinities.
    minus_zero = torch.full_like(every, -0.0)
    assert torch.equal(add(minus_zero).view(torch.int16), every.view(torch.int16))
    for other in (every.flip(0), every.flip(1), every.roll(1, 1), every.roll(7, 0), every.roll(77)):
        found, expected = add(other), every + other
        assert torch.equal(found.isnan(), expected.isnan())
        numbers = ~expected.isnan()
        assert torch.equal(found[numbers], expected[numbers])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gradients_are_rounded_once(dtype: torch.dtype) -> None:
    delta = torch.ones((1, 3000, 2), dtype=dtype)
    table = torch.zeros((1, 2), dtype=dtype, requires_grad=True)
    cls = torch.zeros(2, dtype=dtype, requires_grad=True)
    ids = torch.zeros((1, 3000), dtype=torch.int64)
    tokens = embed_tokens(ids, torch.zeros(1, 3000), table)
    tokens.backward(delta)
    assert table.grad is not None
    assert table.grad[0, 0] == torch.tensor(3000.0).to(dtype)  # summed in bfloat16: 256
    embed_tokens(ids[:, :0].expand(3000, 0), torch.zeros(3000, 0), table, cls=cls).sum().backward()
    assert cls.grad is not None
    assert cls.grad[0] == torch.tensor(3000.0).to(dtype)
