"""Dropout against its reference: which numbers stay, what becomes of them, and the gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernomics.nn import Draws, Dropout, ReluDropout
from kernomics.ops import _native
from kernomics.ops._dropout import dropout
from kernomics.ops.reference import dropout_kept

KEYS = st.integers(-(2**63), 2**63 - 1)
FIRSTS = st.one_of(st.integers(0, 3000), st.integers(2**34 - 700, 2**34 + 5), st.just(2**50 + 1))


def expected(x: Tensor, p: float, drawn: tuple[int, int, int], rectified: bool) -> Tensor:
    kept = dropout_kept(p, *drawn, x.numel()).view(x.shape)
    x = x.clamp_min(0) if rectified else x
    return x * torch.where(
        kept, torch.tensor(1 / (1 - p), dtype=x.dtype), torch.zeros((), dtype=x.dtype)
    )


@given(
    n=st.integers(0, 700), p=st.one_of(st.floats(0, 0.99), st.sampled_from([0.0, 0.5, 2**-24])),
    key=KEYS, draw=st.integers(0, 2**33), first=FIRSTS, rectified=st.booleans(),
    wide=st.booleans(), isa=st.sampled_from(_native.cpu().isas()),
)  # fmt: skip
@settings(deadline=None, max_examples=150)
def test_numbers_are_the_references(n, p, key, draw, first, rectified, wide, isa):
    best = _native.cpu().isa()
    x = torch.randn(n, generator=torch.Generator().manual_seed(n)).to(
        torch.float64 if wide else torch.float32
    )
    try:
        _native.cpu().use_isa(isa)
        found = dropout(x, p, key, draw, first, rectified=rectified)
    finally:
        _native.cpu().use_isa(best)
    assert torch.equal(found, expected(x, p, (key, draw, first), rectified))


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_and_parts_change_nothing(rectified, threads):
    x = torch.randn(70_001, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        whole = dropout(x, 0.3, 5, 2, 0, rectified=rectified)
    finally:
        torch.set_num_threads(before)
    parts = [
        dropout(x[a:b], 0.3, 5, 2, a, rectified=rectified)
        for a, b in ((0, 1), (1, 30_002), (30_002, 70_001))
    ]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(whole, expected(x, 0.3, (5, 2, 0), rectified))


@pytest.mark.parametrize("rectified", [False, True])
def test_the_gradient_is_that_of_the_formula(rectified):
    x = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dropout(x, 0.4, 3, 1, 7, rectified=rectified), x)
    g = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).t()
    (found,) = torch.autograd.grad(dropout(x, 0.4, 3, 1, 7, rectified=rectified), x, g)
    (formula,) = torch.autograd.grad(expected(x, 0.4, (3, 1, 7), rectified), x, g)
    assert torch.equal(found, formula)


@pytest.mark.parametrize("rectified", [False, True])
def test_what_is_not_finite_is_passed_on(rectified):
    x = torch.full((64,), torch.nan)
    assert dropout(x, 0.5, 1, 0, 0, rectified=rectified).isnan().all()
    x = torch.full((64,), torch.inf)
    found = dropout(x, 0.5, 1, 0, 0, rectified=rectified)
    assert (found.isinf() | found.isnan()).all()  # ∞ · 0, as in torch's


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    x = torch.randn(300, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = dropout(x, 0.3, 1, 0, 0, rectified=True)
    assert found.dtype == dtype
    assert torch.equal(found, expected(x.float(), 0.3, (1, 0, 0), True).to(dtype))


def test_rows_in_any_strides():
    x = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    for other in (x.t().contiguous().t(), x[::2], x[:, ::3]):
        found = dropout(other, 0.3, 1, 0, 4, rectified=False)
        assert torch.equal(found, expected(other.contiguous(), 0.3, (1, 0, 4), False))


def test_the_share_that_is_lost_is_the_rate():
    kept = dropout_kept(0.3, 9, 0, 0, 200_000).double()
    # Five standard deviations of a binomial share.
    assert abs(float(kept.mean()) - 0.7) < 5 * (0.3 * 0.7 / 200_000) ** 0.5
    other = dropout_kept(0.3, 9, 1, 0, 200_000).double()
    both = float((kept * other).mean())
    assert abs(both - 0.49) < 5 * (0.49 * 0.51 / 200_000) ** 0.5


def test_layers_draw_by_turns_and_go_on_from_a_state():
    draws = Draws(4)
    plain, rectified = Dropout(0.5, draws), ReluDropout(0.5, draws)
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    one, two = plain(x), rectified(x)
    assert torch.equal(one, expected(x, 0.5, (4, 0, 0), False))
    assert torch.equal(two, expected(x, 0.5, (4, 1, 0), True))
    state = draws.state()
    three = plain(x)
    draws.restore(state)
    assert torch.equal(plain(x), three)
    assert torch.equal(plain.eval()(x), x)
    assert torch.equal(rectified.eval()(x), x.clamp_min(0))
    order = [torch.randperm(50, generator=Draws(4).generator()) for _ in range(2)]
    assert torch.equal(*order)


def test_a_second_derivative_is_refused():
    x = torch.randn(5, requires_grad=True)
    y = dropout(x, 0.5, 1, 0, 0, rectified=True)
    (slope,) = torch.autograd.grad((y * y).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="dropout"):
        slope.sum().backward()
