"""dropout equals its reference to the bit: which numbers stay, what becomes of them, the gradient.

A result is one product of the number and 1/(1 − p) rounded to the dtype that is computed in, on
either side, so nothing is compared within a tolerance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems.dropout import OPTIONS, SHAPES, Problem, assert_same, draw, run
from torch import Tensor

from kernomics.nn import Draws, Dropout, ReluDropout
from kernomics.ops import _native, dropout, reference
from kernomics.ops._common import STREAM_DROPOUT, draw_seed
from kernomics.ops.reference import dropout_kept, philox_words

OP = torch.ops.kernomics.dropout.default
BACKWARD_OP = torch.ops.kernomics.dropout_backward.default


def reference_of(p: Problem) -> dict[str, Tensor]:
    """Compute what is meant in the dtype that the op computes in, rounded to that of x."""
    dtype = p.x.dtype
    wide = p if dtype == torch.float64 else p.to(torch.float32)
    return {name: value.to(dtype) for name, value in run(reference.dropout, wide).items()}


# ---- the meaning --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "p", "first", "kept"),
    [
        ((3, 1), 0.5, 0, "001110111000001101110101"),
        ((-7, 2**32 + 5), 0.25, 2**34 - 4, "111101011100111011101111"),
    ],
)
def test_which_numbers_stay_is_what_it_always_was(
    seed: tuple[int, int], p: float, first: int, kept: str, device: torch.device
) -> None:
    stays = torch.tensor([c == "1" for c in kept])
    found = dropout(
        torch.ones(24, device=device), p, torch.tensor(seed, device=device), first=first
    )
    assert torch.equal(found.cpu(), stays / (1 - p))
    assert torch.equal(dropout_kept(p, seed, 24, first=first), stays)


def test_a_small_case_by_hand(device: torch.device) -> None:
    x = torch.tensor([[-1.0, 2.0, 0.0], [4.0, -0.5, 3.0]], device=device)
    seed = torch.tensor([3, 1], device=device)  # 0, 0, 1, 1, 1, 0 stay at the rate 0.5
    assert dropout(x, 0.5, seed).tolist() == [[0.0, 0.0, 0.0], [8.0, -1.0, 0.0]]
    assert dropout(x, 0.5, seed, rectified=True).tolist() == [[0.0, 0.0, 0.0], [8.0, 0.0, 0.0]]
    assert torch.equal(dropout(x, 0.0, seed), x)
    assert torch.equal(dropout(x, 0.0, seed, rectified=True), x.relu())


def test_a_number_has_the_philox_word_of_its_place() -> None:
    seed = (-5, 2**40 + 1)
    words = philox_words(seed, [0, 1], 40, STREAM_DROPOUT)
    stays = torch.from_numpy((words >> 8) / 2**24 >= 0.3)
    assert torch.equal(dropout_kept(0.3, seed, 40), stays[0])
    assert torch.equal(dropout_kept(0.3, seed, 40, first=2**34), stays[1])


@settings(deadline=None, max_examples=250)
@given(
    shape=SHAPES, isa=st.sampled_from(_native.cpu().isas()), options=st.fixed_dictionaries(OPTIONS)
)
def test_numbers_and_gradients_are_the_references(
    shape: tuple[int, ...], isa: str, options: dict[str, Any]
) -> None:
    p, best = draw(shape, **options), _native.cpu().isa()
    try:
        _native.cpu().use_isa(isa)
        found = run(dropout, p)
    finally:
        _native.cpu().use_isa(best)
    assert found["y"].is_contiguous()
    assert_same(found, reference_of(p))


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("n", [1, 2, 129, 255, 256, 257, 1134, 16_385])
def test_cpu_and_cuda_equal_the_reference(n: int, rectified: bool, device: torch.device) -> None:
    p = draw((n,), rectified=rectified, first=3)
    assert_same(run(dropout, p.to(device)), reference_of(p))


def test_a_rate_that_loses_all_but_one_in_2_to_the_24() -> None:
    p = 1 - 2.0**-24
    x = torch.ones(1000)
    seed = torch.tensor([1, 0])
    assert torch.equal(dropout(x, p, seed), reference.dropout(x, p, seed))
    beyond = 1 - 2.0**-30  # a word has 24 bits: nothing stays
    assert not dropout(x, beyond, seed).any()


@pytest.mark.parametrize("rectified", [False, True])
def test_what_is_not_finite_is_passed_on(rectified: bool, device: torch.device) -> None:
    seed = torch.tensor([1, 0], device=device)
    x = torch.full((64,), torch.nan, device=device)
    assert dropout(x, 0.5, seed, rectified=rectified).isnan().all()
    x = torch.full((64,), torch.inf, device=device)
    found = dropout(x, 0.5, seed, rectified=rectified)
    assert (found.isinf() | found.isnan()).all()  # ∞ · 0, as in torch's
    lost = dropout(-x, 0.5, seed, rectified=True)
    assert not lost.any()


def test_the_share_that_is_lost_is_the_rate() -> None:
    kept = dropout_kept(0.3, (9, 0), 200_000).double()
    # Five standard deviations of a binomial share.
    assert abs(float(kept.mean()) - 0.7) < 5 * (0.3 * 0.7 / 200_000) ** 0.5
    for seed, stream in (((9, 1), STREAM_DROPOUT), ((10, 0), STREAM_DROPOUT), ((9, 0), 3)):
        other = dropout_kept(0.3, seed, 200_000, stream=stream).double()
        both = float((kept * other).mean())
        assert abs(both - 0.49) < 5 * (0.49 * 0.51 / 200_000) ** 0.5


# ---- seeds --------------------------------------------------------------------------------------


def test_a_missing_seed_is_drawn_from_the_generator() -> None:
    x = torch.ones(99)
    found = dropout(x, 0.4, generator=torch.Generator().manual_seed(8))
    seed = draw_seed(torch.Generator().manual_seed(8), x.device)
    assert torch.equal(found, dropout(x, 0.4, seed))
    torch.manual_seed(8)
    assert torch.equal(dropout(x, 0.4), found)
    assert not torch.equal(dropout(x, 0.4), found)


def test_a_seed_that_moves_on_before_backward_is_an_error_and_no_wrong_gradient() -> None:
    seed = torch.tensor([1, 0])
    x = torch.ones(9, requires_grad=True)
    y = dropout(x, 0.5, seed)
    seed[1] += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    y = dropout(x, 0.5, seed, rectified=True)  # y says what stayed
    seed[1] += 1
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_a_seed_in_any_strides() -> None:
    x = torch.ones(99)
    strided = torch.tensor([4, 0, 7, 0])[::2]
    assert torch.equal(dropout(x, 0.4, strided), dropout(x, 0.4, torch.tensor([4, 7])))


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_threads_and_parts_change_nothing(
    rectified: bool, n_threads: int, threads: Callable[[int], None]
) -> None:
    p = draw((70_001,), rectified=rectified)
    threads(n_threads)
    whole = run(dropout, p)
    threads(1)
    parts = []
    for a, b in ((0, 1), (1, 30_002), (30_002, 70_001)):
        part = replace(p, x=p.x[a:b], delta=p.delta[a:b], options=p.options | {"first": a})
        parts.append(run(dropout, part))
    assert_same({name: torch.cat([part[name] for part in parts]) for name in whole}, whole)
    assert_same(whole, reference_of(p))


# ---- derivatives and torch's machinery ----------------------------------------------------------


@pytest.mark.parametrize("rectified", [False, True])
def test_gradcheck(rectified: bool, device: torch.device) -> None:
    p = draw((6, 5), dtype=torch.float64, first=7, rectified=rectified).to(device)
    x = p.x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dropout(x, p.p, p.seed, **p.options), x)


def test_the_rectified_gradient_at_zero_is_zero() -> None:
    x = torch.zeros(64, requires_grad=True)
    dropout(x, 0.1, torch.tensor([1, 2]), rectified=True).sum().backward()
    assert x.grad is not None
    assert not x.grad.any()


def test_a_second_derivative_is_refused() -> None:
    x = torch.randn(5, requires_grad=True)
    y = dropout(x, 0.5, torch.tensor([1, 0]), rectified=True)
    (slope,) = torch.autograd.grad((y * y).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"dropout has no second derivative"):
        slope.sum().backward()


@pytest.mark.parametrize("layout", ["dense", "other_way_round"])
@pytest.mark.parametrize("rectified", [False, True])
def test_the_registered_ops_pass_opcheck(
    rectified: bool, layout: str, device: torch.device
) -> None:
    p = draw((7, 9), layout=layout).to(device)
    torch.library.opcheck(OP, (p.x, p.p, p.seed, STREAM_DROPOUT, 3, rectified))
    y, seed = (p.x.relu(), None) if rectified else (None, p.seed)
    torch.library.opcheck(BACKWARD_OP, (p.delta, y, p.p, seed, STREAM_DROPOUT, 3))


@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("rectified", [False, True])
def test_it_compiles_into_one_graph(rectified: bool, device: torch.device) -> None:
    p = draw((9, 40), rectified=rectified, dtype=torch.bfloat16).to(device)
    compiled = torch.compile(dropout, fullgraph=True, backend="aot_eager")
    assert_same(run(compiled, p), run(dropout, p))


@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")
def test_a_place_that_changes_needs_no_graph_of_its_own() -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    torch.compiler.reset()
    counter, counts = CompileCounterWithBackend("aot_eager"), []
    compiled = torch.compile(dropout, fullgraph=True, backend=counter, dynamic=True)
    p = draw((9, 4))
    for i in range(6):
        other = replace(p, options={"first": 36 * (i + 2)})
        assert_same(run(compiled, other), run(dropout, other))
        counts.append(counter.frame_count)
    torch.compiler.reset()
    # A number is at first taken for a constant, and from its second value on for a variable.
    assert counts[-1] == counts[1]


# ---- kernomics.nn -------------------------------------------------------------------------------


def test_layers_draw_by_turns_and_go_on_from_a_state() -> None:
    draws = Draws(4)
    plain, rectified = Dropout(0.5, draws), ReluDropout(0.5, draws)
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    one, two = plain(x), rectified(x)
    assert torch.equal(one, reference.dropout(x, 0.5, (4, 0)))
    assert torch.equal(two, reference.dropout(x, 0.5, (4, 1), rectified=True))
    state = draws.state()
    three = plain(x)
    draws.restore(state)
    assert torch.equal(plain(x), three)
    assert torch.equal(plain.eval()(x), x)
    assert torch.equal(rectified.eval()(x), x.clamp_min(0))
    order = [torch.randperm(50, generator=Draws(4).generator()) for _ in range(2)]
    assert torch.equal(*order)


def test_layers_go_straight_to_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not through torch's dispatcher, which takes a microsecond for each argument."""
    layer, x = ReluDropout(0.5, Draws(4)), torch.ones(3, 4, requires_grad=True)

    def dispatched(*_: Any) -> Tensor:
        raise AssertionError("through the dispatcher")

    from kernomics.ops import _derivatives

    for name in ("dropout", "dropout_backward"):
        packet = getattr(torch.ops.kernomics, name)
        assert packet in _derivatives._ON_CPU
        monkeypatch.setattr(type(packet), "__call__", dispatched)
    layer(x).sum().backward()
    assert x.grad is not None
