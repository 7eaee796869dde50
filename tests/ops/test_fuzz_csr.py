"""Rows of any kind, sound or broken, into every op: the reference's result, or an error by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from broken_csr import Csr, broken
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

REFUSALS = (ValueError, TypeError)  # a KernomicsError is a ValueError
EXAMPLES = 250


def as_tensors(x: Csr, strided: bool) -> Rows | None:
    """Return the rows as an op takes them; None where torch has no such dtype."""
    parts = []
    for part in (x.indptr, x.indices, x.values):
        try:
            tensor = torch.from_numpy(np.ascontiguousarray(part))
        except TypeError:
            return None
        if strided and tensor.dim() == 1:
            tensor = tensor.repeat_interleave(2)[::2]
        parts.append(tensor)
    return Rows(*parts, x.shape)


def meaning(x: Rows) -> Tensor | None:
    """Return the dense rows in the values' dtype, if an op may take them."""
    arrays = [part.numpy() for part in (x.indptr, x.indices, x.values)]
    dense = Csr(*arrays, x.shape).rows()  # type: ignore[arg-type]
    integers = (torch.int32, torch.int64)
    if dense is None or x.indptr.dtype not in integers or x.indices.dtype not in integers:
        return None
    return torch.from_numpy(dense).to(x.values.dtype) if x.values.is_floating_point() else None


def as_torch(x: Rows) -> Any:
    """Return the same as torch's own rows, unchecked; None where torch refuses them at once."""
    try:
        with torch.sparse.check_sparse_tensor_invariants(False):
            return torch.sparse_csr_tensor(x.indptr, x.indices, x.values, x.shape)
    except (RuntimeError, ValueError, IndexError):
        return None


def check(x: Csr, how: tuple[bool, bool], op: Callable[[Any], Any], wanted: Callable[[Any], Any]):
    """Hold an op against its reference on the same rows, where these have a meaning."""
    rows = as_tensors(x, how[0])
    if rows is None:
        return
    dense = meaning(rows)
    given: Any = as_torch(rows) if how[1] else rows
    if given is None:
        return
    if dense is None:
        with pytest.raises(REFUSALS) as caught:
            op(given)
        assert str(caught.value)
        return
    try:
        expected = wanted(dense)
    except REFUSALS:  # of the values, dense as they are
        with pytest.raises(REFUSALS):
            op(given)
        return
    found = op(given)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a.double(), b.double(), rtol=2e-5, atol=1e-5, equal_nan=True)


HOW = st.tuples(st.booleans(), st.booleans())


@settings(max_examples=EXAMPLES, deadline=None)
@given(broken(), HOW, st.integers(0, 2**32 - 1))
def test_masked_linear_and_its_gradients(x: Csr, how: tuple[bool, bool], seed: int) -> None:
    genes = x.shape[1]
    dice = torch.Generator().manual_seed(seed)
    weight = torch.randn(genes, 3, generator=dice)
    mask = torch.rand(genes, generator=dice)
    chosen = torch.randperm(genes, generator=dice)[: (genes + 1) // 2].sort().values

    def results(function: Callable[..., Tensor]) -> Callable[[Any], list[Tensor]]:
        def run(rows: Any) -> list[Tensor]:
            leaves = [t.clone().requires_grad_() for t in (mask, weight)]
            y = function(rows, *leaves)
            y.backward(torch.ones_like(y))
            return [y.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

        return run

    check(
        x,
        how,
        results(lambda rows, m, w: masked_linear(rows, m, chosen, w)),
        results(lambda dense, m, w: masked_linear(dense.contiguous(), m, chosen, w)),
    )
    rows = as_tensors(x, how[0])
    dense = None if rows is None else meaning(rows)
    if dense is not None:  # and the dense form is the sum over the chosen genes
        part = (dense.float() * mask)[:, chosen] @ weight[chosen]
        torch.testing.assert_close(masked_linear(rows, mask, chosen, weight), part)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    broken(),
    HOW,
    st.sampled_from(["observed", "expressed"]),
    st.sampled_from(["log1p", "counts"]),
    st.integers(1, 12),
)
def test_sample_tokens(
    x: Csr, how: tuple[bool, bool], candidates: Any, transform: Any, n_tokens: int
) -> None:
    options: dict[str, Any] = {
        "cell_ids": torch.arange(x.shape[0]) * 3,
        "seed": torch.tensor([5, 2]),
        "candidates": candidates,
        "transform": transform,
    }

    def wanted(dense: Tensor) -> Any:
        wide = dense if dense.dtype == torch.float64 else dense.float()
        if transform == "log1p" and (not torch.isfinite(wide).all() or (wide < 0).any()):
            raise ValueError("as the op says it")
        return reference.sample_tokens(wide, n_tokens, **options)

    check(x, how, lambda rows: sample_tokens(rows, n_tokens, **options), wanted)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    broken(),
    HOW,
    st.sampled_from(["log1p", "counts", "rate"]),
    st.sampled_from(["mean", "genes", "sum", "cell"]),
)
def test_poisson_nll_and_its_gradient(
    x: Csr, how: tuple[bool, bool], target_kind: str, reduction: str
) -> None:
    logits = torch.linspace(-2, 3, x.shape[0] * x.shape[1]).reshape(x.shape)

    def run(target: Any) -> list[Tensor]:
        z = logits.clone().requires_grad_()
        loss = poisson_nll(z, target, target_kind=target_kind, reduction=reduction)
        loss.sum().backward()
        assert z.grad is not None
        return [loss.detach(), z.grad]

    check(x, how, run, lambda dense: run(dense.contiguous()))


@settings(max_examples=EXAMPLES, deadline=None)
@given(broken(), HOW, st.sampled_from(["log1p", "counts"]), st.sampled_from([1e-4, 64.0]))
def test_linear_poisson_nll_and_its_gradients(
    x: Csr, how: tuple[bool, bool], target_kind: str, chunk_mb: float
) -> None:
    n, genes = x.shape
    dice = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(n, 3, generator=dice), torch.randn(genes, 3, generator=dice)

    def run(target: Any) -> list[Tensor]:
        leaves = [t.clone().requires_grad_() for t in (hidden, weight)]
        loss = linear_poisson_nll(*leaves, None, target, target_kind=target_kind, chunk_mb=chunk_mb)
        loss.backward()
        return [loss.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    check(x, how, run, lambda dense: run(dense.contiguous()))


# -- ops without rows of cells ---------------------------------------------------------------------

IDS = st.lists(st.sampled_from([-(2**63), -2, -1, 0, 1, 4, 5, 2**31, 2**32 + 1]), max_size=6)
KINDS = st.sampled_from([torch.int32, torch.int64, torch.int16, torch.float32, torch.bool])


@settings(max_examples=EXAMPLES, deadline=None)
@given(IDS, KINDS, st.booleans())
def test_embed_tokens_of_any_ids(ids: list[int], kind: torch.dtype, flat: bool) -> None:
    given = torch.tensor(ids, dtype=torch.int64).to(kind)
    given = given if flat else given.reshape(1, -1)
    values = torch.ones(given.shape)
    table = torch.arange(15.0).reshape(5, 3).requires_grad_()
    known = given.to(torch.int64)
    sound = (
        not flat
        and kind in (torch.int32, torch.int64)
        and bool(((known >= -1) & (known < 5)).all())
    )
    if not sound:
        with pytest.raises(REFUSALS):
            embed_tokens(given, values, table)
        return
    found = embed_tokens(given, values, table)
    expected = reference.embed_tokens(known, values, table)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert table.grad is not None
    counts = torch.bincount(known[known >= 0], minlength=5).float()
    torch.testing.assert_close(table.grad[:, 0], counts)


NUMBERS = st.sampled_from([0.0, -1.0, 2.5, float("nan"), float("inf"), -float("inf"), 3e38])


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.lists(NUMBERS, min_size=4, max_size=4), max_size=4), st.integers(-1, 6))
def test_gumbel_topk_and_relaxed_mask_of_any_scores(scores: list[list[float]], k: int) -> None:
    given = torch.tensor(scores).reshape(-1, 4)
    forced, forbidden = (given == float("inf")).sum(1), (given == -float("inf")).sum(1)
    sound = (
        0 <= k <= 4
        and not bool(given.isnan().any())
        and bool((forced <= k).all())
        and bool((4 - forbidden >= k).all())
    )
    for op in (
        lambda: gumbel_topk(given, k, tau=1.0, seed=torch.tensor([1, 0]))[1],
        lambda: relaxed_mask(given, k, tau=1.0),
    ):
        try:
            mask = op()
        except REFUSALS:
            assert not sound or k == 0
            continue
        assert sound
        sums = torch.full((len(given),), float(k))
        torch.testing.assert_close(mask.sum(1), sums, rtol=1e-4, atol=1e-4)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.lists(NUMBERS, max_size=9),
    st.sampled_from([-1.0, 0.0, 0.3, 0.99, 1.0, float("nan")]),
    st.sampled_from([-1, 0, 7, 2**34 - 3, 2**62, 2**63]),
    st.lists(IDS.filter(bool).map(lambda ids: ids[0]), max_size=3),
    KINDS,
    st.booleans(),
)
def test_dropout_of_any_numbers(
    numbers: list[float], p: float, first: int, key: list[int], kind: torch.dtype, rectified: bool
) -> None:
    x, seed = torch.tensor(numbers), torch.tensor(key, dtype=torch.int64).to(kind)
    sound = kind == torch.int64 and len(key) == 2 and 0 <= p < 1 and 0 <= first <= 2**62
    if not sound:
        with pytest.raises(REFUSALS):
            dropout(x, p, seed, rectified=rectified, first=first)
        return
    expected = reference.dropout(x, p, seed, rectified=rectified, first=first)
    if bool((x.isfinite() & ~expected.isfinite()).any()):
        with pytest.raises(ValueError, match="when divided by 1 − p"):
            dropout(x, p, seed, rectified=rectified, first=first)
        return
    found = dropout(x, p, seed, rectified=rectified, first=first)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
