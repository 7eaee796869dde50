"""Finite arguments however large or small: the right result, or an error; never inf or NaN."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems.common import Rows
from torch import Tensor

from kernomics.ops import (
    dropout,
    embed_tokens,
    gumbel_topk,
    linear_poisson_nll,
    masked_linear,
    poisson_nll,
    reference,
    relaxed_mask,
    sample_tokens,
)

DTYPES = [torch.float32, torch.float64]
ACTIVATIONS = ["rectified_tanh", "relu", "clamped_relu", "exp", "softplus", "identity"]


def magnitudes(width: int = 32) -> st.SearchStrategy[float]:
    """Zero and positive numbers of every size, subnormal ones included."""
    largest = torch.finfo(torch.float32 if width == 32 else torch.float64).max
    low, high = (-149, 127) if width == 32 else (-1074, 1023)
    powers = st.integers(low, high).map(lambda e: math.ldexp(1.0, e))
    return st.one_of(st.just(0.0), st.just(largest), st.floats(0, 100, width=32), powers)


def signed(width: int = 32) -> st.SearchStrategy[float]:
    return st.tuples(magnitudes(width), st.booleans()).map(lambda x: -x[0] if x[1] else x[0])


def assert_finite(*tensors: Tensor | None) -> None:
    for tensor in tensors:
        assert tensor is not None
        assert bool(tensor.isfinite().all()), tensor


# ---- sample_tokens ------------------------------------------------------------------------------


def log1p_exactly(count: float, target_sum: float | None, library: float) -> float:
    """log(1 + count·L/library), by logarithms where the quotient leaves a float64."""
    if count == 0 or library == 0:
        return 0.0
    logarithm = math.log(count)
    if target_sum is not None:
        logarithm += math.log(target_sum) - math.log(library)
    return logarithm if logarithm > 40 else math.log1p(math.exp(logarithm))


def one_cell(values: Tensor) -> Rows:
    n = len(values)
    return Rows(torch.tensor([0, n]), torch.arange(n), values, (1, n))


@settings(max_examples=300, deadline=None)
@given(
    counts=st.lists(magnitudes(), min_size=1, max_size=5),
    library=st.none() | magnitudes(64),
    target_sum=st.none() | magnitudes(64).filter(bool),
    double=st.booleans(),
)
def test_tokens_have_their_values(
    counts: list[float], library: float | None, target_sum: float | None, double: bool
) -> None:
    dtype = DTYPES[double]
    given_library = None if library is None else torch.tensor([library], dtype=torch.float64)
    values = sample_tokens(
        one_cell(torch.tensor(counts, dtype=dtype)), None, cell_ids=None, seed=None,
        library=given_library, target_sum=target_sum,
    )[1]  # fmt: skip
    total = math.fsum(counts) if library is None else library
    if target_sum is None:
        total = 1.0
    expected = [log1p_exactly(count, target_sum, total) for count in counts]
    # Through logarithms up to 2,200 the expected value loses 2,200·2⁻⁵³; the sum of the row rounds,
    # and where a product is subnormal so does it.
    rtol, atol = (2e-12, 1e-320) if double else (5e-7, 1.5e-45)
    torch.testing.assert_close(
        values, torch.tensor([expected], dtype=torch.float64).to(dtype), rtol=rtol, atol=atol
    )


def test_a_row_whose_sum_is_no_float64_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"library is negative, NaN or infinite in 1 rows"):
        sample_tokens(
            one_cell(torch.full((4,), 1e308, dtype=torch.float64)), None, cell_ids=None, seed=None
        )


@settings(max_examples=100, deadline=None)
@given(
    weights=st.lists(magnitudes(64), min_size=4, max_size=4),
    double=st.booleans(),
    candidates=st.sampled_from(["observed", "expressed"]),
)
def test_weights_draw_as_their_ratios_or_are_refused(
    weights: list[float], double: bool, candidates: Any
) -> None:
    w = torch.tensor(weights, dtype=torch.float64)
    w = w if double else w.float()
    options: dict[str, Any] = {
        "cell_ids": torch.tensor([3]), "seed": torch.tensor([1, 2]), "candidates": candidates,
    }  # fmt: skip
    x = one_cell(torch.ones(4))
    possible = bool(((w == 0) | ((w >= 1e-36) & (w <= 1e27))).all())
    if not possible:
        with pytest.raises(ValueError, match=r"weights are neither 0 nor from 1e-36 to 1e27 for"):
            sample_tokens(x, 2, weights=w, **options)
        return
    genes = sample_tokens(x, 2, weights=w, **options)[0][0].tolist()
    drawn = [g for g in genes if g >= 0]
    assert len(drawn) == min(2, int((w > 0).sum()))
    assert all(weights[g] > 0 for g in drawn)


# ---- gumbel_topk --------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(
    scores=st.lists(signed(), min_size=2, max_size=6),
    tau=magnitudes(64),
    noise=magnitudes(64),
    relaxation=st.sampled_from(["softsort", "neuralsort", "softmax"]),
    double=st.booleans(),
)
def test_masks_and_their_gradients_are_finite(
    scores: list[float], tau: float, noise: float, relaxation: Any, double: bool
) -> None:
    s = torch.tensor(scores, dtype=DTYPES[double], requires_grad=True)
    options: dict[str, Any] = {"tau": tau, "relaxation": relaxation}

    def choose() -> tuple[Tensor, Tensor]:
        return gumbel_topk(s, 1, noise=noise, seed=torch.tensor([1, 2]), **options)

    if not 1e-28 <= tau <= 1e28:
        with pytest.raises(ValueError, match="tau = "):
            relaxed_mask(s, 1, **options)
        with pytest.raises(ValueError, match="tau = "):
            choose()
        return
    gamma = relaxed_mask(s, 1, **options)
    assert_finite(gamma)
    assert abs(float(gamma.detach().sum()) - 1) < 1e-5
    if noise > 1e28:
        with pytest.raises(ValueError, match=r"would take scores beyond float32"):
            choose()
        return
    indices, mask = choose()
    assert 0 <= int(indices[0]) < len(scores)
    (mask * torch.arange(len(scores))).sum().backward()
    assert_finite(mask.detach(), s.grad)


def test_more_genes_than_an_index_holds_are_refused() -> None:
    scores = torch.zeros(1, 1).expand(1, 2**31)
    for call in (gumbel_topk, relaxed_mask):
        with pytest.raises(ValueError, match=r"2,147,483,648 genes; fewer than 2³¹ are possible"):
            call(scores, 1, tau=1.0)


# ---- the losses ---------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None)
@given(
    logits=st.lists(signed(), min_size=3, max_size=3),
    target=st.lists(magnitudes(), min_size=3, max_size=3),
    library=st.none() | magnitudes(64),
    target_sum=magnitudes(64).filter(bool),
    eps=magnitudes(),
    activation=st.sampled_from(ACTIVATIONS),
    target_kind=st.sampled_from(["log1p", "counts", "rate"]),
    reduction=st.sampled_from(["mean", "cell", "none"]),
    sparse=st.booleans(),
    full=st.booleans(),
)
def test_poisson_losses_are_finite_or_refused(
    logits: list[float], target: list[float], library: float | None, sparse: bool, **options: Any
) -> None:
    z = torch.tensor([logits], requires_grad=True)
    y: Any = torch.tensor([target])
    if sparse and options["reduction"] != "none":
        y = one_cell(y[0])
    if options["target_kind"] == "counts" and library is not None:
        options["library"] = torch.tensor([library], dtype=torch.float64)
    try:
        loss = poisson_nll(z, y, **options)
    except ValueError as error:
        refused = ("eps is", "rates are NaN, or so large", "finite logits have a loss", "library")
        assert str(error).startswith(refused) or "rates are" in str(error)  # noqa: PT017
        return
    assert_finite(loss.detach())
    try:
        loss.sum().backward()
    except ValueError as error:
        assert "finite logits have a loss or gradient" in str(error)  # noqa: PT017
        return
    assert_finite(z.grad)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_tiny_library_of_a_cell_without_counts_is_no_fault(sparse: bool) -> None:
    target: Any = torch.zeros(1, 3)
    loss = poisson_nll(
        torch.ones(1, 3), one_cell(target[0]) if sparse else target, target_kind="counts",
        library=torch.tensor([1e-35]),
    )  # fmt: skip
    assert loss == poisson_nll(torch.ones(1, 3), torch.zeros(1, 3))


def test_a_row_that_overflows_is_named() -> None:
    z, target = torch.zeros(4, 3), torch.zeros(4, 3)
    z[2, 1] = 1e4
    with pytest.raises(ValueError, match=r"not finite in 1 cells, first cell 2; scale them down"):
        poisson_nll(z, target, activation="exp")
    z[2, 1], target[1:3, 0] = 0, 1e3
    with pytest.raises(ValueError, match=r"loss overflows, in 2 cells, first cell 1; compare targ"):
        poisson_nll(z, target)


def test_a_layer_that_overflows_is_an_error_and_nan_is_passed_on() -> None:
    h, w, x = torch.full((2, 4), 1e30), torch.full((3, 4), 1e30), torch.zeros(2, 3)
    w.requires_grad_()
    for reduction in ("mean", "cell"):
        with pytest.raises(ValueError, match=r"logits or a loss that are not finite; scale them"):
            linear_poisson_nll(h, w, None, x, activation="exp", reduction=reduction)
    h[0, 0] = math.nan
    assert linear_poisson_nll(h, w, None, x, activation="exp").isnan()


# ---- masked_linear and embed_tokens -------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    x=st.lists(signed(), min_size=3, max_size=3),
    weight=st.lists(signed(), min_size=3, max_size=3),
    mask=magnitudes(),
    sparse=st.booleans(),
)
def test_products_are_finite_or_refused(
    x: list[float], weight: list[float], mask: float, sparse: bool
) -> None:
    w, dense = torch.tensor(weight)[:, None], torch.tensor([x])
    arguments = torch.full((3,), mask), torch.arange(3), w
    exact = math.fsum(mask * a * b for a, b in zip(x, weight, strict=True))
    size = math.fsum(abs(mask * a * b) for a, b in zip(x, weight, strict=True))
    try:
        y = masked_linear(one_cell(dense[0]) if sparse else dense, *arguments)
    except ValueError as error:
        assert "beyond float32" in str(error)  # noqa: PT017
        # Some sum or product on the way was too large, mask·x among them.
        largest = max([size, *(abs(mask * a) for a in x)])
        assert largest > 0.9 * torch.finfo(torch.float32).max
        return
    # Three products of two roundings and three sums; a product mask·x may be subnormal.
    bound = 6 * 2.0**-24 * size + 2.0**-149 * (1 + sum(map(abs, weight)))
    assert abs(float(y) - exact) <= bound


def test_a_product_of_what_is_not_finite_is_passed_on() -> None:
    mask, genes, w = torch.ones(3), torch.arange(3), torch.ones(3, 2)
    assert masked_linear(torch.tensor([[1.0, math.nan, 0.0]]), mask, genes, w).isnan().all()
    w[2, 1] = math.inf
    y = masked_linear(torch.ones(1, 3), mask, genes, w)
    assert y.tolist() == [[3.0, math.inf]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_values_that_the_table_cannot_hold_are_named(dtype: torch.dtype) -> None:
    ids, table = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(4, 2, dtype=dtype)
    values = torch.ones(2, 3, dtype=torch.float64)
    values[1, 2] = 1e39
    with pytest.raises(ValueError, match=r"1 numbers of values are beyond table's .* at \[1, 2\]"):
        embed_tokens(ids, values, table)
    values[1, 2] = math.inf  # not finite itself: passed on
    assert embed_tokens(ids, values, table)[1, 2, 1] == math.inf
    with pytest.raises(ValueError, match=r"1 numbers of cls are beyond table's"):
        embed_tokens(ids, values, table, cls=torch.tensor([0.0, 1e300], dtype=torch.float64))


# ---- dropout ------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(
    x=st.lists(signed(), min_size=1, max_size=6),
    p=st.floats(0, 1, exclude_max=True),
    rectified=st.booleans(),
    double=st.booleans(),
)
def test_numbers_that_stay_are_finite_or_refused(
    x: list[float], p: float, rectified: bool, double: bool
) -> None:
    given_x, seed = torch.tensor(x, dtype=DTYPES[double]), torch.tensor([1, 2])
    expected = reference.dropout(given_x, p, seed, rectified=rectified)
    try:
        found = dropout(given_x, p, seed, rectified=rectified)
    except ValueError as error:
        assert "when divided by 1 − p" in str(error)  # noqa: PT017
        assert not expected.isfinite().all()
        return
    assert_finite(found)
    assert torch.equal(found, expected)
