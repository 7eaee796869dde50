"""Every op in one compiled graph and in an exported one, for batches of any size: eager's bits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from problems.common import Rows, as_rows
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from kernomics import ops
from kernomics.ops import (
    dropout,
    embed_tokens,
    gumbel_topk,
    linear_poisson_nll,
    masked_linear,
    poisson_nll,
    relaxed_mask,
    sample_tokens,
)

pytestmark = pytest.mark.filterwarnings(  # what torch's compiler itself does with a Function
    "ignore:.*Function'> should not be instantiated:DeprecationWarning"
)

GENES = 9
SEED = torch.tensor([3, 1])
Inputs = tuple[Tensor, ...]


class Layer(torch.nn.Module):
    """A call of an op beside a parameter [genes, 5]."""

    def __init__(self, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, GENES * 5).view(GENES, 5))
        self.register_buffer("mask", torch.linspace(0.1, 1, GENES))
        self.register_buffer("chosen", torch.arange(GENES))
        self.register_buffer("seed", SEED)
        self.call = call

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.call(self, *inputs)


def tokens_of(
    layer: Any, indptr: Tensor, columns: Tensor, values: Tensor, cell_ids: Tensor
) -> Tensor:
    rows = Rows(indptr, columns, values, (cell_ids.shape[0], GENES))
    return sample_tokens(rows, 3, cell_ids=cell_ids, seed=layer.seed)[1]


# By op: the inputs that it takes, by their names in `draw`, and the call.
CALLS: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "dropout": ("z", lambda m, z: dropout(z, 0.4, m.seed)),
    "dropout, rectified": ("z", lambda m, z: dropout(z, 0.4, m.seed, rectified=True, first=5)),
    "embed_tokens": ("ids x", lambda m, ids, x: embed_tokens(ids, x, m.weight)),
    "gumbel_topk": ("z", lambda m, z: gumbel_topk(z, 3, tau=0.5, seed=m.seed)[1]),
    "linear_poisson_nll": ("h t", lambda m, h, t: linear_poisson_nll(h, m.weight, None, t)),
    "linear_poisson_nll by cell": (
        "h t", lambda m, h, t: linear_poisson_nll(h, m.weight, None, t, reduction="cell"),
    ),
    "masked_linear": ("t", lambda m, t: masked_linear(t, m.mask, m.chosen, m.weight)),
    "poisson_nll": ("z t", lambda m, z, t: poisson_nll(z, t)),
    "poisson_nll of each": ("z t", lambda m, z, t: poisson_nll(z, t, reduction="none")),
    "relaxed_mask": ("z", lambda m, z: relaxed_mask(z, 3, tau=0.5)),
    "sample_tokens": ("indptr columns values cells", tokens_of),
}  # fmt: skip


def draw(cells: int, names: str) -> Inputs:
    g = torch.Generator().manual_seed(cells)
    t = 2 * (torch.rand(cells, GENES, generator=g) < 0.4).float()
    rows = as_rows(t)
    found = {
        "z": torch.randn(cells, GENES, generator=g), "t": t,
        "h": torch.randn(cells, 5, generator=g), "x": torch.rand(cells, 4, generator=g),
        "ids": torch.randint(0, GENES, (cells, 4), generator=g), "cells": torch.arange(cells),
        "indptr": rows.indptr, "columns": rows.indices, "values": rows.values,
    }  # fmt: skip
    return tuple(found[name] for name in names.split())


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_every_op_is_called() -> None:
    assert {re.split("[, ]", name)[0] for name in CALLS} == set(ops.__all__) - {
        "ObservedGenes",
        "build_info",
    }


def run(call: Callable[..., Tensor], weight: Tensor, inputs: Inputs) -> list[Tensor]:
    """Compute the result and, of the weight and the first input, the gradients it has."""
    leaves = [t for t in (weight, inputs[0]) if t.requires_grad]
    out = call(*inputs)
    if not out.requires_grad:
        return [out.detach()]
    grads = torch.autograd.grad(out, leaves, torch.ones_like(out), allow_unused=True)
    return [out.detach(), *(g for g in grads if g is not None)]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_one_graph_takes_batches_of_any_size(name: str, training: bool) -> None:
    names, call = CALLS[name]
    layer = Layer(call).train(training)
    layer.weight.requires_grad_(training)
    counter, counts = CompileCounterWithBackend("aot_eager"), []
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
    for cells in (6, 7):
        inputs = draw(cells, names)
        if training and names[0] in "zh":  # the other inputs receive no gradient
            inputs[0].requires_grad_()
        found, expected = (run(f, layer.weight, inputs) for f in (compiled, layer))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        counts.append(counter.frame_count)
    assert counts[1] == counts[0]  # torch may try more than once at the first batch


@pytest.mark.parametrize("name", CALLS)
def test_an_exported_graph_takes_batches_of_any_size(name: str) -> None:
    names, call = CALLS[name]
    layer = Layer(call)
    batch = torch.export.Dim("batch", min=2, max=999)
    stored = {0: torch.export.Dim("stored")}
    shapes = {"indptr": {0: batch + 1}, "columns": stored, "values": stored}
    dynamic = (tuple(shapes.get(n, {0: batch}) for n in names.split()),)
    exported = torch.export.export(layer, draw(6, names), dynamic_shapes=dynamic)
    for cells in (6, 7):
        inputs = draw(cells, names)
        with torch.no_grad():  # of a Function an exported graph holds forward alone
            found, expected = exported.module()(*inputs), layer(*inputs)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


ANNEALED: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "tau": lambda s, tau: gumbel_topk(s, 3, tau=tau, seed=SEED)[1],
    "tau of relaxed_mask": lambda s, tau: relaxed_mask(s, 3, tau=tau),
    "noise": lambda s, noise: gumbel_topk(s, 3, tau=0.5, noise=noise, seed=SEED)[1],
}


@pytest.mark.parametrize("kind", ["tensor", "float64 tensor", "number"])
@pytest.mark.parametrize("name", ANNEALED)
def test_an_annealed_number_needs_no_graph_of_its_own(name: str, kind: str) -> None:
    function = ANNEALED[name]
    counter, counts = CompileCounterWithBackend("aot_eager"), []
    compiled = torch.compile(function, fullgraph=True, backend=counter)
    scores, above = torch.linspace(-1, 2, GENES), torch.linspace(1, 3, GENES).square()
    for i in range(12):
        value: Any = 1 / (i + 1)
        if kind != "number":
            value = torch.tensor(value, dtype=torch.float32 if kind == "tensor" else torch.float64)
        grads = []
        for f, number in ((compiled, value), (function, float(value))):
            leaf = scores.clone().requires_grad_()
            grads += torch.autograd.grad(f(leaf, number), leaf, above)
        assert torch.equal(*grads)
        counts.append(counter.frame_count)
    # A number is at first taken for a constant, and from its second value on for a variable.
    assert counts[-1] == counts[1 if kind == "number" else 0]


@pytest.mark.parametrize("function", [gumbel_topk, relaxed_mask])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), float("inf")])
def test_a_tensor_tau_must_be_positive(tau: float, compiled: bool, function: Any) -> None:
    run = torch.compile(function, fullgraph=True, backend="aot_eager") if compiled else function
    with pytest.raises(ValueError, match=r"tau = .* must be positive and finite"):
        run(torch.zeros(GENES), 3, tau=torch.tensor(tau))


@pytest.mark.parametrize("noise", [-1.0, float("nan"), float("inf")])
def test_a_tensor_noise_must_be_a_scale(noise: float) -> None:
    with pytest.raises(ValueError, match=r"noise = .* must be a finite scale"):
        gumbel_topk(torch.zeros(GENES), 3, tau=1.0, noise=torch.tensor(noise))


def test_a_noise_of_zero_as_a_tensor_is_none() -> None:
    scores = torch.linspace(-1, 2, GENES)
    found = gumbel_topk(scores, 3, tau=1.0, noise=torch.tensor(0.0))
    assert torch.equal(found[0], torch.tensor([6, 7, 8]))


@pytest.mark.parametrize("name", ["tau", "noise"])
def test_what_a_tensor_of_a_number_must_be(name: str) -> None:
    def run(value: Tensor) -> None:
        gumbel_topk(torch.zeros(GENES), 3, **{"tau": 1.0, name: value})

    for wrong in (torch.ones(1), torch.tensor(1)):
        with pytest.raises(ValueError, match=rf"{name} is torch\..* of shape .*; a number or a"):
            run(wrong)
    with pytest.raises(ValueError, match=rf"{name} requires a gradient.*pass {name}.detach\(\)"):
        run(torch.tensor(1.0, requires_grad=True))
    with pytest.raises(ValueError, match=rf"{name} is on meta.*keep it on the CPU"):
        run(torch.tensor(1.0, device="meta"))
