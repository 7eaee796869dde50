"""DeepLIFT of models as people write them: modes, layers that run as one, threads, precisions."""

from __future__ import annotations

import math
import threading
import time
import warnings

import pytest
import torch
import torch.nn.functional as F
from completeness import error_of, numbers, require_complete, w
from torch import nn

from kernomics.attribution import deeplift
from kernomics.errors import ConfigError

X, Y = numbers(4, 6, seed=1), numbers(4, 6, seed=2)
STEPS = torch.arange(1, 4)[:, None]


def of_steps(x):
    """Three tokens of each cell."""
    return x[:, None] * STEPS


def test_a_model_that_predicts_in_inference_mode():
    """There an operation such as linear comes before torch takes it apart."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
    models = {
        dtype: nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).to(dtype).eval()
        for dtype in (torch.float64, torch.float32)
    }

    def plain(x, hidden):
        return (models[x.dtype](of_steps(x), src_key_padding_mask=hidden) * w(x)[0]).sum((1, 2))

    masks = [torch.tensor([[False, False, i == 1]] * 4) for i in (0, 1)]
    found = require_complete(torch.inference_mode()(plain), [X, masks[0]], [Y, masks[1]])
    expected = deeplift(plain, [X.float(), masks[0]], [Y.float(), masks[1]])
    for one, two in zip(found.contributions, expected.contributions, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}, {"proj_size": 2}]
)
def test_an_lstm_in_any_precision(options):
    torch.manual_seed(1)
    double = nn.LSTM(6, 3, batch_first=True, **options).double().requires_grad_(False)
    single = nn.LSTM(6, 3, batch_first=True, **options).requires_grad_(False)
    single.load_state_dict(double.state_dict())
    models = {torch.float64: double, torch.float32: single}

    def function(x):
        return models[x.dtype](of_steps(x))[0].sin().sum((1, 2))

    found = require_complete(function, [X], [Y])
    torch.testing.assert_close(found.case, function(X.float()), rtol=1e-6, atol=1e-6)


GRAPH = torch.eye(6, dtype=torch.float64).roll(1, 0).to_sparse()


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_sparse_constants(layout):
    graphs = {
        dtype: GRAPH.to(dtype).to_sparse(layout=layout) for dtype in (torch.float64, torch.float32)
    }
    functions = [
        lambda x: (graphs[x.dtype] @ x.T).sin().sum(0),
        lambda x: (x @ graphs[x.dtype]).sin().sum(1),
    ]
    for function in functions:
        found = require_complete(function, [X], [Y])
        dense = deeplift(lambda x: x.roll(1, 1).sin().sum(1), [X.float()], [Y.float()])
        assert found.contributions[0].any()
    torch.testing.assert_close(
        deeplift(functions[0], [X], [Y]).contributions[0].float(),
        dense.contributions[0], rtol=1e-5, atol=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("function", "inputs", "match"),
    [
        (lambda x: (x.to_sparse() @ w(x)).sum(1), [X, Y], "makes a sparse tensor"),
        (lambda x: x.sum(), [X.to_sparse(), Y.to_sparse()], r"case\[0\] is torch.sparse_coo"),
        (lambda x: x.sum(), [X.to_sparse_csr(), Y.to_sparse_csr()], r"case\[0\] is .*sparse_csr"),
        (lambda x: x.real.sum(1), [X + 1j, Y + 1j], r"case\[0\] is torch.complex128"),
        (lambda x: x.sum(1), [X[:0], Y[:0]], "no outputs: at least"),
        (lambda x: (x,), [X, Y], "returned tuple: one tensor is needed, such as its logits"),
        (
            lambda x: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)).sum(1), [X, Y],
            "cond in no module",
        ),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_told_by_name(function, inputs, match):
    with pytest.raises(ConfigError, match=match):
        deeplift(function, inputs[:1], inputs[1:])


def test_a_number_where_another_side_has_a_tensor_is_told():
    runs = []

    def function(x):
        runs.append(0)
        return (x * (2.0 if len(runs) > 1 else torch.tensor(2.0))).sum(1)

    with pytest.raises(ConfigError, match="different ways through"):
        deeplift(function, [X], [Y])


def test_threads_leave_the_fast_path_as_it_was():
    """The first call ends while the second runs, which had found the path off."""
    began, ended = threading.Event(), threading.Event()
    seen = []

    def first(x):
        began.wait(10)
        return x.sum(1)

    def second(x):
        began.set()
        if not seen:
            ended.wait(10)
        seen.append(torch.backends.mha.get_fastpath_enabled())
        return x.sum(1)

    def run():
        deeplift(first, [X], [Y])
        ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.1)
    deeplift(second, [X], [Y])
    thread.join()
    assert seen == [False, False]
    assert torch.backends.mha.get_fastpath_enabled()


def put(value, at=lambda mask: (mask,)):
    def function(x, mask):
        z = x.clone()
        z[at(mask)] = value(z)
        return (z.softmax(1) * w(x)[0]).sum(1)

    return function


HERE = torch.tensor([[True, True, False, False, False, False]] * 4)
THERE = torch.tensor([[True, False, True, False, False, False]] * 4)


@pytest.mark.parametrize(
    ("function", "part"),
    [
        (put(lambda z: 0), slice(None)),
        (put(lambda z: -math.inf), slice(None)),
        (put(lambda z: z.mean()), slice(None)),
        (put(lambda z: 0, lambda mask: (slice(None), mask)), 0),
    ],
    ids=["zero", "minus infinity", "of the cells", "columns"],
)
def test_numbers_put_where_a_mask_is(function, part):
    found = require_complete(function, [X, HERE[part]], [Y, THERE[part]])
    moved = HERE[part] != THERE[part]
    assert found.contributions[1][moved].ne(0).any()
    assert not found.contributions[1][~moved].any()


def test_where_a_mask_puts_a_number_it_has_the_difference_that_this_makes():
    def function(x, mask):
        z = x.clone()
        z[mask] = 0
        return z.sum(1)

    found = deeplift(function, [X, HERE], [Y, THERE])
    by_hand = torch.zeros_like(X)
    by_hand[:, 1], by_hand[:, 2] = -Y[:, 1], X[:, 2]
    torch.testing.assert_close(found.contributions[1], by_hand)
    torch.testing.assert_close(found.contributions[0], (X - Y) * (~HERE & ~THERE))


def test_tokens_that_are_equal_on_both_sides_may_be_looked_up():
    ids = torch.tensor([3, 0, 5, 1])
    found = require_complete(lambda x, i: (x * F.embedding(i, w(x))).sum(1), [X, ids], [Y, ids])
    torch.testing.assert_close(found.contributions[0], ((X - Y) * w(X)[ids]).float())
    assert not found.contributions[1].any()
    with pytest.raises(ConfigError, match="looks up whole numbers"):
        deeplift(lambda x, i: (x * F.embedding(i, w(x))).sum(1), [X, ids], [Y, ids.flip(0)])


ONES = torch.ones(4, 6, dtype=torch.float64)


@pytest.mark.parametrize(
    ("function", "at"),
    [
        (lambda x: x.pow(100), 1.5),
        (lambda x: 2000.0**x, 1.0),
        (lambda x: F.softplus(x, threshold=1), 1.0),
        (lambda x: F.softplus(x, beta=4, threshold=2), 0.5),
    ],
)
@pytest.mark.parametrize("step", [1e-7, 2e-6, 1e-3])
def test_powers_and_thresholds_near_and_far(function, at, step):
    found = deeplift(lambda x: function(x).sum(1), [at * ONES + step], [at * ONES - step])
    expected = function(at * ONES + step) - function(at * ONES - step)
    # What is left is the rounding of the function itself, as a share of its change.
    bound = 1e-9 + 1e-15 * float(function(at * ONES).max() / expected.abs().max())
    torch.testing.assert_close(found.contributions[0], expected, rtol=bound, atol=0)


def test_gates_and_quotients_that_run_as_one():
    require_complete(lambda x: F.glu(x, 1).sum(1) + F.glu(x, 0).sum(), [X], [Y])
    require_complete(
        lambda x: torch.addcdiv(x, x, x.exp(), value=2).sum(1)
        + x.clone().addcdiv_(x, x.exp()).sin().sum(1), [X], [Y]
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_whole_numbers_of_any_size(dtype):
    case, baseline = torch.full((4, 1), 123_456_789), torch.full((4, 1), 3)
    found = deeplift(lambda n: (n * 1e-4).to(dtype).sum(1), [case], [baseline])
    assert error_of(found) <= 1e-7
    assert found.contributions[0].dtype == torch.float64
    found = deeplift(lambda n: n.double().sum(1), [case], [baseline])
    assert found.contributions[0].eq(123_456_786).all()


def deep():
    torch.manual_seed(2)
    inner = [nn.Sequential(nn.Linear(128, 128), nn.GELU(), nn.LayerNorm(128)) for _ in range(4)]
    return nn.Sequential(nn.Linear(6, 128), nn.GELU(), *inner, nn.Linear(128, 1)).eval()


@pytest.mark.parametrize("kind", ["autocast", "inside", "all"])
def test_half_precision_is_as_exact_as_it_is_and_says_so(kind):
    model = deep()
    exact = deeplift(model, [X.float()], [Y.float()], 0)

    def function(x):
        if kind == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                return model(x).float()[:, 0]
        return model.bfloat16()(x.bfloat16()).to(x.dtype)[:, 0]

    dtype = torch.bfloat16 if kind == "all" else torch.float32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = deeplift(function, [X.to(dtype)], [Y.to(dtype)])
    effect = (exact.case - exact.baseline).abs().sum()
    assert (
        found.contributions[0].sum(1) - exact.contributions[0].sum(1)
    ).abs().sum() < 0.1 * effect
    with pytest.warns(UserWarning, match=r"miss .* by .*%, as the function computes in bfloat16"):
        deeplift(function, [X.to(dtype)], [(X + 0.02 * Y).to(dtype)])
    with pytest.raises(ConfigError, match=r"miss the difference.*not seen"):
        deeplift(lambda x: torch.tensor(x.tolist()).sum(1), [X.to(dtype)], [Y.to(dtype)])
