"""RowAdamW is AdamW on the rows that a step touches, and leaves the others alone."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kernomics.errors import ConfigError
from kernomics.train import RowAdamW, load_checkpoint, save_checkpoint

KWARGS: dict[str, Any] = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}


def parameter(*shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    generator = torch.Generator().manual_seed(4)
    return nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype))


def gradients(steps: int, *shape: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(steps)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7,), (5, 3), (4, 2, 3)])
@pytest.mark.parametrize("how", ["ordinary", "all rows by None", "all rows by index"])
def test_when_all_rows_are_touched_it_is_adamw(
    how: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    ours, theirs = parameter(*shape, dtype=dtype), parameter(*shape, dtype=dtype)
    rows = {
        "ordinary": None,
        "all rows by None": lambda: None,
        "all rows by index": lambda: torch.arange(shape[0]).flip(0),
    }[how]
    optimizer = RowAdamW([{"params": [ours], "rows": rows}], **KWARGS)
    reference = torch.optim.AdamW([theirs], **KWARGS)
    for gradient in gradients(60, *shape, dtype=dtype):
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        reference.step()
    ulp = torch.finfo(dtype).eps
    torch.testing.assert_close(ours, theirs, rtol=4 * ulp, atol=4 * ulp)
    for name in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(
            optimizer.state[ours][name], reference.state[theirs][name], rtol=4 * ulp, atol=ulp
        )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sets(st.integers(0, 5)), min_size=1, max_size=12))
def test_each_row_is_adamw_over_the_steps_that_touched_it(touched: list[set[int]]) -> None:
    param = parameter(6, 3)
    rows: list[Tensor] = [torch.empty(0, dtype=torch.int64)]
    optimizer = RowAdamW([{"params": [param], "rows": lambda: rows[0]}], **KWARGS)
    alone = [nn.Parameter(row.detach().clone()) for row in param]
    references = [torch.optim.AdamW([row], **KWARGS) for row in alone]
    for chosen, gradient in zip(touched, gradients(len(touched), 6, 3), strict=True):
        before = param.detach().clone()
        rows[0] = torch.tensor(sorted(chosen), dtype=torch.int64)
        # Untouched rows may even have a gradient, and it must not matter.
        param.grad = gradient
        optimizer.step()
        for i in range(6):
            if i in chosen:
                alone[i].grad = gradient[i].clone()
                references[i].step()
            else:
                assert torch.equal(param[i], before[i])
    torch.testing.assert_close(param, torch.stack(list(alone)), rtol=5e-7, atol=5e-7)


def test_moments_and_counts_of_untouched_rows_stay_to_the_bit() -> None:
    param = parameter(4, 2)
    rows = [torch.tensor([0, 1, 2, 3])]
    optimizer = RowAdamW([{"params": [param], "rows": lambda: rows[0]}], **KWARGS)
    first, second = gradients(2, 4, 2)
    param.grad = first
    optimizer.step()
    before = {name: value.clone() for name, value in optimizer.state[param].items()}
    rows[0] = torch.tensor([2])
    param.grad = second
    optimizer.step()
    others = torch.tensor([0, 1, 3])
    for name, value in optimizer.state[param].items():
        assert torch.equal(value[others], before[name][others]), name
        assert not torch.equal(value[2], before[name][2]), name
    assert optimizer.state[param]["step"].tolist() == [1, 1, 2, 1]


def test_what_the_steps_left_can_be_put_back_in_place() -> None:
    table, plain, one = parameter(4, 2), parameter(3), parameter(5)
    groups: list[dict[str, Any]] = [
        {"params": [table], "rows": lambda: None},
        {"params": [plain]},
        {"params": [one], "one_scale": True},
    ]
    optimizer, params = RowAdamW(groups, **KWARGS), [plain, table, one]
    assert not any(t.any() for t in optimizer.moments(params))  # before any step

    def step(i: int) -> None:
        for param in params:
            param.grad = gradients(3, *param.shape)[i]
        optimizer.step()

    step(0)
    held = [*[p.data for p in params], *optimizer.moments(params)]
    assert len(optimizer.moments([plain])) == 3
    kept = [tensor.clone() for tensor in held]
    step(1)
    expected = [tensor.clone() for tensor in held]
    step(2)
    for tensor, before in zip(held, kept, strict=True):
        tensor.copy_(before)
    step(1)
    assert all(torch.equal(a, b) for a, b in zip(held, expected, strict=True))


def test_with_one_scale_entries_move_in_proportion_to_their_gradients() -> None:
    param = parameter(5)
    optimizer = RowAdamW([{"params": [param], "one_scale": True}], **KWARGS)
    lr, decay, (beta1, beta2) = KWARGS["lr"], KWARGS["weight_decay"], optimizer.defaults["betas"]
    expected = param.detach().double()
    mean, square = torch.zeros(5, dtype=torch.float64), 0.0
    for t, gradient in enumerate(gradients(4, 5), start=1):
        param.grad = gradient
        optimizer.step()
        g = gradient.double()
        mean = beta1 * mean + (1 - beta1) * g
        square = beta2 * square + (1 - beta2) * float(g.abs().max()) ** 2
        root = (square / (1 - beta2**t)) ** 0.5 + optimizer.defaults["eps"]
        expected = expected * (1 - lr * decay) - lr * mean / (1 - beta1**t) / root
    # A few roundings of float32 per step and entry.
    torch.testing.assert_close(param.double(), expected, rtol=1e-6, atol=1e-6)
    assert optimizer.state[param]["exp_avg_sq"].shape == ()


def test_with_one_scale_no_gradient_moves_nothing() -> None:
    param = parameter(3)
    before = param.detach().clone()
    optimizer = RowAdamW([{"params": [param], "one_scale": True, "weight_decay": 0.0}])
    param.grad = torch.zeros(3)
    optimizer.step()
    assert torch.equal(param, before)


def test_row_given_twice_is_updated_once() -> None:
    once, twice = parameter(3, 2), parameter(3, 2)
    for param, rows in ((once, [1]), (twice, [1, 1])):
        optimizer = RowAdamW([{"params": [param], "rows": lambda r=rows: torch.tensor(r)}])
        param.grad = gradients(1, 3, 2)[0]
        optimizer.step()
    assert torch.equal(once, twice)


def test_parameter_without_gradient_is_left_out() -> None:
    param = parameter(3, 2)
    before = param.detach().clone()
    optimizer = RowAdamW([{"params": [param], "rows": lambda: None}], **KWARGS)
    optimizer.step()
    assert torch.equal(param, before)
    assert not optimizer.state


def test_closure_is_evaluated_with_gradients() -> None:
    param = parameter(3)
    optimizer = RowAdamW([param])

    def closure() -> float:
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss.item()

    expected = float(param.detach().square().sum())
    assert optimizer.step(closure) == pytest.approx(expected)
    assert float(param.detach().square().sum()) < expected


def test_state_comes_back_from_a_checkpoint_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    chosen = [torch.tensor(c) for c in ([0, 2], [1], [2, 3], [0, 1, 2, 3], [3])]
    steps = gradients(len(chosen), 4, 2)

    def make(param: nn.Parameter, bias: nn.Parameter, rows: list[Tensor]) -> RowAdamW:
        groups = [{"params": [param], "rows": lambda: rows[0]}, {"params": [bias]}]
        return RowAdamW(groups, **KWARGS)

    def advance(pair: tuple[nn.Parameter, nn.Parameter], rows: list[Tensor],
                optimizer: RowAdamW, part: slice) -> None:  # fmt: skip
        for indices, gradient in zip(chosen[part], steps[part], strict=True):
            rows[0] = indices
            pair[0].grad, pair[1].grad = gradient.clone(), gradient.sum(0)
            optimizer.step()

    whole, rows = (parameter(4, 2), parameter(2)), [torch.empty(0)]
    optimizer = make(*whole, rows)
    advance(whole, rows, optimizer, slice(0, 3))
    half = tuple(nn.Parameter(p.detach().clone()) for p in whole)
    save_checkpoint(tmp_path, 3, {"optimizer": optimizer.state_dict()})
    advance(whole, rows, optimizer, slice(3, None))

    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    assert "rows" not in checkpoint.parts["optimizer"]["param_groups"][0]
    again_rows = [torch.empty(0)]
    again = make(half[0], half[1], again_rows)
    again.load_state_dict(checkpoint.parts["optimizer"])
    advance((half[0], half[1]), again_rows, again, slice(3, None))
    for one, other in zip(whole, half, strict=True):
        assert torch.equal(one, other)
        for name, value in optimizer.state[one].items():
            assert torch.equal(value, again.state[other][name]), name
            assert value.dtype == again.state[other][name].dtype


def test_mistakes_are_told() -> None:
    with pytest.raises(ConfigError, match="lr is -1"):
        RowAdamW([parameter(2)], lr=-1.0)
    with pytest.raises(ConfigError, match="betas are"):
        RowAdamW([parameter(2)], betas=(0.9, 1.0))
    with pytest.raises(ConfigError, match="a scalar, which has no rows"):
        RowAdamW([{"params": [parameter()], "rows": lambda: None}])
    with pytest.raises(ConfigError, match="both 'rows' and 'one_scale'"):
        RowAdamW([{"params": [parameter(2)], "rows": lambda: None, "one_scale": True}])
    param = parameter(3, 2)
    param.grad = torch.ones(3, 2)
    for wrong in (torch.tensor([0], dtype=torch.int32), torch.ones(3, dtype=torch.bool),
                  torch.zeros(1, 1, dtype=torch.int64)):  # fmt: skip
        optimizer = RowAdamW([{"params": [param], "rows": lambda w=wrong: w}])
        with pytest.raises(ConfigError, match="must return int64 indices"):
            optimizer.step()
    param.grad = torch.ones(3, 2).to_sparse()
    with pytest.raises(ConfigError, match="dense gradients only for a group"):
        RowAdamW([param]).step()


def test_norm_and_factor_are_those_of_clipping() -> None:
    pairs = [(parameter(5, 3), parameter(5, 3)), (parameter(4), parameter(4))]
    double = (parameter(2, 2, dtype=torch.float64), parameter(2, 2, dtype=torch.float64))
    ours, theirs = (list(side) for side in zip(*pairs, double, strict=True))
    optimizer, reference = RowAdamW(ours, **KWARGS), torch.optim.AdamW(theirs, **KWARGS)
    for step in range(5):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = 3 * gradients(step + 1, *one.shape, dtype=one.dtype)[-1]
            other.grad = one.grad.clone()
        norm = optimizer.gradient_norm()
        expected = torch.cat([p.grad.double().flatten() for p in theirs]).norm()  # type: ignore[union-attr]
        assert norm == pytest.approx(float(expected), rel=1e-6)
        nn.utils.clip_grad_norm_(theirs, 0.5)
        optimizer.step(factor=min(1.0, 0.5 / (norm + 1e-6)))
        reference.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_sparse_gradient_moves_its_rows_as_a_dense_one_does() -> None:
    dense, sparse = parameter(6, 3), parameter(6, 3)
    rows = torch.tensor([1, 4, 5])
    optimizers = [
        RowAdamW([{"params": [p], "rows": lambda: rows}], **KWARGS) for p in (dense, sparse)
    ]
    for gradient in gradients(4, 6, 3):
        dense.grad = gradient
        halves = [torch.sparse_coo_tensor(rows[None], gradient[rows] / 2, (6, 3)) for _ in range(2)]
        sparse.grad = halves[0] + halves[1]  # not coalesced, as accumulated ones are
        short = torch.zeros(6, 3)
        short[rows] = gradient[rows]
        assert optimizers[1].gradient_norm() == pytest.approx(float(short.norm()), rel=1e-6)
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(dense, sparse)


@pytest.mark.parametrize("strided", [False, True])
def test_numbers_that_do_not_lie_in_one_piece_are_updated_too(strided: bool) -> None:
    whole = parameter(3, 4)
    other = (
        nn.Parameter(whole.detach().clone().t().contiguous().t()) if strided else parameter(3, 4)
    )
    optimizers = [RowAdamW([p], **KWARGS) for p in (whole, other)]
    for gradient in gradients(3, 3, 4):
        whole.grad = gradient.clone()
        other.grad = gradient.t().contiguous().t()
        for optimizer in optimizers:
            optimizer.step(factor=0.5)
    torch.testing.assert_close(whole, other, rtol=1e-6, atol=1e-6)


def test_state_of_torchs_adamw_is_taken() -> None:
    ours, theirs = parameter(4, 3), parameter(4, 3)
    reference = torch.optim.AdamW([theirs], fused=True, **KWARGS)
    steps = gradients(6, 4, 3)
    for gradient in steps[:3]:
        theirs.grad = gradient.clone()
        reference.step()
    optimizer = RowAdamW([ours], **KWARGS)
    optimizer.load_state_dict(copy.deepcopy(reference.state_dict()))
    assert set(optimizer.param_groups[0]) == {
        "params", "lr", "betas", "eps", "weight_decay", "rows", "one_scale",
    }  # fmt: skip
    with torch.no_grad():
        ours.copy_(theirs)
    for gradient in steps[3:]:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_threads_do_not_change_a_bit() -> None:
    large = 600_000
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            plain, by_row = parameter(large), parameter(large // 30, 30)
            optimizer = RowAdamW([{"params": [plain]}, {"params": [by_row], "rows": lambda: None}])
            for param in (plain, by_row):
                param.grad = gradients(1, *param.shape)[0]
            norm = optimizer.gradient_norm()
            optimizer.step()
            found.append((norm, plain.detach(), by_row.detach()))
    finally:
        torch.set_num_threads(before)
    for norm, *parameters in found[1:]:
        assert norm == found[0][0]
        assert all(torch.equal(a, b) for a, b in zip(parameters, found[0][1:], strict=True))


def test_a_step_does_not_import_torchs_compiler() -> None:
    code = (
        "import sys, torch; from kernomics.train import RowAdamW; p = torch.nn.Parameter("
        "torch.ones(3)); o = RowAdamW([p]); o.zero_grad(); p.sum().backward(); o.step(); "
        "o.load_state_dict(o.state_dict()); print('torch._dynamo' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
