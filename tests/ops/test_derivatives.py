"""Every derivative of every op: the reference's, or an error that names the op and what to use.

Tolerance: all is in float64 with some 100 operations of numbers below 100 behind each result, so
10⁻¹⁰ is a thousandfold of what rounding explains and far below any missing term.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fw
from problems.common import as_rows
from torch import Tensor

from kernomics import ops
from kernomics.ops import ObservedGenes, poisson_nll, reference

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning",  # torch's own, on first jvp
    "ignore:There is a performance drop:UserWarning",  # vmap takes the examples in turn
)

CELLS, GENES = 3, 7
G = torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=G, dtype=torch.float64)


COUNTS = torch.randint(0, 4, (CELLS, GENES), generator=G).double()
IDS = torch.tensor([[0, 3, -1], [1, 1, 2], [6, 5, 4]])
LAYER, SCORES, MASK = normal(GENES, 2), normal(GENES), normal(GENES)
HIDDEN, LOGITS, VALUES = normal(CELLS, 2), normal(CELLS, GENES), normal(*IDS.shape)
TABLE, CELL_IDS, ROWS = normal(GENES, 2), torch.arange(CELLS), as_rows(COUNTS)
CHOSEN, SEED = torch.tensor([1, 4]), torch.tensor([3, 1])

Function = Callable[[Any, Tensor], Tensor]
# By public function: an input to differentiate, and the result from a module of functions.
CASES: dict[str, list[tuple[Tensor, Function]]] = {
    "dropout": [
        (LOGITS, lambda m, x: m.dropout(x, 0.4, SEED)),
        (LOGITS, lambda m, x: m.dropout(x, 0.4, SEED, rectified=True)),
    ],
    "embed_tokens": [
        (TABLE, lambda m, x: m.embed_tokens(IDS, VALUES, x)),
        (VALUES, lambda m, x: m.embed_tokens(IDS, x, TABLE)),
    ],
    "gumbel_topk": [(SCORES, lambda m, x: m.gumbel_topk(x, 2, tau=0.7, seed=SEED)[1])],
    "relaxed_mask": [(SCORES, lambda m, x: m.relaxed_mask(x, 2, tau=0.7))],
    "linear_poisson_nll": [
        (LAYER, lambda m, x: m.linear_poisson_nll(HIDDEN, x, None, COUNTS)),
        (HIDDEN, lambda m, x: m.linear_poisson_nll(x, LAYER, None, COUNTS, reduction="cell")),
    ],
    "masked_linear": [
        (LAYER, lambda m, x: m.masked_linear(COUNTS, MASK, CHOSEN, x)),
        (MASK, lambda m, x: m.masked_linear(COUNTS, x, CHOSEN, LAYER)),
    ],
    "poisson_nll": [
        (LOGITS, lambda m, x, r=r: m.poisson_nll(x, COUNTS, reduction=r))
        for r in ("mean", "genes", "sum", "cell", "none")
    ],
    "sample_tokens": [
        (
            ROWS.values,
            lambda _, x: ops.sample_tokens(
                replace(ROWS, values=x), 2, cell_ids=CELL_IDS, seed=SEED
            )[1],
        )
    ],
}

DERIVATIVES: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Any]] = {
    "gradient": lambda f, x: torch.autograd.functional.vjp(f, x, torch.ones_like(f(x)))[1],
    "hessian": lambda f, x: torch.autograd.functional.hessian(lambda x: f(x).square().sum(), x),
    "hvp": lambda f, x: torch.autograd.functional.hvp(lambda x: f(x).sum(), x, x)[1],
    "penalty": lambda f, x: _penalty(f, x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
    "forward_ad": lambda f, x: _forward(f, x),
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
    "vjp": lambda f, x: torch.func.vjp(lambda x: f(x).sum(), x)[1](torch.ones((), dtype=x.dtype)),
    "func_hessian": lambda f, x: torch.func.hessian(lambda x: f(x).square().sum())(x),
    "vmap": lambda f, x: torch.func.vmap(f)(torch.stack([x, 2 * x])),
    "vmap_of_grad": lambda f, x: torch.func.vmap(torch.func.grad(lambda x: f(x).sum()))(x[None]),
}


def _penalty(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    scale = torch.tensor(0.5, dtype=x.dtype, requires_grad=True)
    z = x * scale
    (slope,) = torch.autograd.grad(f(z).square().sum(), z, create_graph=True)
    (found,) = torch.autograd.grad(slope.square().sum(), scale, allow_unused=True)
    return torch.zeros_like(scale) if found is None else found


def _forward(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with fw.dual_level():
        tangent = fw.unpack_dual(f(fw.make_dual(x, torch.ones_like(x)))).tangent
        return torch.zeros_like(x) if tangent is None else tangent


def public_functions() -> list[str]:
    others = {"ObservedGenes", "build_info"}
    return sorted(set(ops.__all__) - others)


def registered_ops() -> list[str]:
    names = torch._C._dispatch_get_all_op_names()
    return sorted({n.split("::")[1].split(".")[0] for n in names if n.startswith("kernomics::")})


def outcome(take: Callable[..., Any], f: Function, module: Any, x: Tensor) -> Any:
    """Return the derivative, or the error if there is none."""
    try:
        return take(lambda x: f(module, x), x)
    except (NotImplementedError, ValueError) as error:
        return error


@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize("name", public_functions())
def test_a_derivative_is_right_or_its_absence_is_named(name: str, derivative: str) -> None:
    take, supported = DERIVATIVES[derivative], []
    for x, f in CASES[name]:
        found = outcome(take, f, ops, x)
        supported.append(not isinstance(found, Exception))
        if isinstance(found, NotImplementedError):
            assert re.search(rf"{name} .*(or|use) kernomics\.ops\.reference\.{name}", str(found))
        elif isinstance(found, ValueError):
            assert re.search(rf"requires a gradient, and {name} gives it none", str(found))
        elif derivative == "vmap":
            assert_near(found, torch.stack([f(reference, x), f(reference, 2 * x)]))
        else:
            assert_near(found, take(lambda x, f=f: f(reference, x), x))
    twice = derivative in ("hessian", "hvp", "penalty")
    if name != "sample_tokens" and (derivative == "gradient" or (twice and name == "poisson_nll")):
        assert all(supported)


def assert_near(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def dummies(op: Any) -> list[Any]:
    """Make an argument of each kind that a schema names; the check comes before any is read."""
    values = {"Tensor": torch.ones(2, 2), "str": "", "float": 1.0, "int": 1, "SymInt": 1,
              "bool": True}  # fmt: skip
    kinds = [str(argument.real_type) for argument in op._schema.arguments]
    return [None if kind.startswith("Optional") else values[kind] for kind in kinds]


@pytest.mark.parametrize("name", registered_ops())
def test_a_registered_op_called_by_itself_does_not_lose_the_graph(name: str) -> None:
    op = getattr(torch.ops.kernomics, name).default
    arguments = dummies(op)
    for i, argument in enumerate(arguments):
        if not isinstance(argument, Tensor):
            continue
        leaf = torch.ones(2, 2, requires_grad=True)
        with pytest.raises(NotImplementedError, match=rf"torch\.ops\.kernomics\.{name}, .*no_grad"):
            op(*arguments[:i], leaf, *arguments[i + 1 :])

        def call(x: Tensor, i: int = i) -> Tensor:
            out = op(*arguments[:i], x, *arguments[i + 1 :])
            return out[0] if isinstance(out, tuple) else out  # type: ignore[no-any-return]

        with pytest.raises(NotImplementedError, match=r"kernomics\.ops\.reference\."):
            torch.func.grad(lambda x: call(x).sum())(torch.ones(2, 2))
        with pytest.raises(NotImplementedError, match="forward-mode derivative"):
            torch.func.jvp(call, (torch.ones(2, 2),), (torch.ones(2, 2),))
        with fw.dual_level(), pytest.raises(NotImplementedError, match="forward-mode derivative"):
            call(fw.make_dual(torch.ones(2, 2), torch.ones(2, 2)))


@pytest.mark.parametrize("reduction", ["mean", "genes", "sum", "cell", "none"])
@pytest.mark.parametrize("kind", ["log1p", "counts", "rate"])
@pytest.mark.parametrize(
    "activation", ["rectified_tanh", "relu", "clamped_relu", "exp", "softplus", "identity"]
)
def test_poisson_nll_has_the_references_second_derivative(
    activation: str, kind: str, reduction: str
) -> None:
    z = LOGITS.abs() + 0.1 if activation == "identity" else LOGITS
    z = z * 9 if activation == "clamped_relu" else z  # some beyond the clamp
    panels = ObservedGenes.from_lists([[0, 2, 5], list(range(GENES)), []], GENES, [0, 1, 2])
    library = torch.tensor([4.0, 0.0, 7.0]) if kind == "counts" else None
    unobserved = panels.mask[panels.panel_id.long()] == 0
    garbage = torch.where(unobserved, torch.nan, COUNTS)
    options = {"activation": activation, "target_kind": kind, "library": library,
               "observed": panels, "reduction": reduction, "target_sum": 20.0}  # fmt: skip

    def value(f: Callable[..., Tensor], target: Any, z: Tensor) -> Tensor:
        return f(z, target, **options).square().sum()

    hessian = torch.autograd.functional.hessian
    expected = hessian(lambda z: value(reference.poisson_nll, COUNTS, z), z)
    targets = [garbage] if reduction == "none" else [garbage, COUNTS.to_sparse_csr()]
    for target in targets:
        found = hessian(lambda z, t=target: value(poisson_nll, t, z), z)  # type: ignore[misc]
        assert_near(found, expected)


def test_the_first_derivative_does_not_depend_on_create_graph() -> None:
    z = LOGITS.clone().requires_grad_()
    loss = poisson_nll(z, COUNTS)
    (plain,) = torch.autograd.grad(loss, z, retain_graph=True)
    (again,) = torch.autograd.grad(loss, z, create_graph=True)
    assert again.requires_grad
    torch.testing.assert_close(again, plain, rtol=1e-12, atol=0)


def test_every_public_function_is_walked_over() -> None:
    assert sorted(CASES) == public_functions()
    assert all(inspect.isfunction(getattr(ops, name)) for name in CASES)
    assert set(public_functions()) <= set(registered_ops())
