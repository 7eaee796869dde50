"""TxFM's step: one graph when compiled, no waiting for the device, and its options."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kernomics.data import Cells
from kernomics.errors import ConfigError
from kernomics.models import TxFMConfig
from kernomics.models.txfm.module import TxFMModule
from kernomics.nn.philox import STREAM_DEPTH, uniforms
from kernomics.ops import ObservedGenes
from kernomics.train import TrainConfig, fit

# dynamo's own, of the place where it makes room for an autograd.Function's context.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


GENES = 60


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    """Each test compiles for itself: what others compiled counts against dynamo's limit."""
    yield
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


def cells_of(rows: int) -> Cells:
    generator = torch.Generator().manual_seed(rows)
    return Cells.from_scipy(torch.poisson(torch.ones(rows, GENES), generator=generator).numpy())


def cells_of_two_panels(rows: int) -> Cells:
    """Of 25 and of 50 genes, in turn."""
    lists = [torch.arange(0, 25), torch.arange(10, GENES)]
    panel_id = torch.arange(rows, dtype=torch.int32) % 2
    return replace(cells_of(rows), observed=ObservedGenes.from_lists(lists, GENES, panel_id))


def module_of(**options: Any) -> TxFMModule:
    torch.manual_seed(0)
    shape = {"d_model": 16, "n_layers": 2, "n_heads": 2, "n_tokens": 12, "decoder_layers": 1}
    config = TxFMConfig(**(shape | {"stochastic_depth": 0.2} | options))
    return TxFMModule(GENES, config, seed=1).train()


def loss_and_gradients(module: TxFMModule, cells: Cells) -> list[Tensor]:
    module.zero_grad(set_to_none=True)
    loss = module.training_loss(cells)["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    return [loss.detach(), *(p.grad for p in module.parameters() if p.grad is not None)]


@pytest.mark.slow
@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("padded", [False, True])
def test_the_step_is_one_graph(padded: bool, n_layers: int) -> None:
    # dynamo alone, which finds the breaks; what it traced runs as it is.
    cells = cells_of_two_panels(4) if padded else cells_of(4)
    module = module_of(n_tokens=30, n_layers=n_layers)
    assert (module.tokens(cells, 30).padding is not None) == padded
    explained = torch._dynamo.explain(module.training_loss)(cells)
    assert explained.graph_count == 1
    assert explained.graph_break_count == 0


def agrees_with_eager(module: TxFMModule, cells: Cells) -> bool:
    """Whether loss and gradients of a batch are those of a module that is not compiled."""
    plain = module_of(n_tokens=module.config.n_tokens, n_layers=module.config.n_layers)
    found, expected = loss_and_gradients(module, cells), loss_and_gradients(plain, cells)
    return len(found) == len(expected) and all(
        torch.allclose(one, other, rtol=1e-4, atol=1e-5)
        for one, other in zip(found, expected, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("recompute", ["nothing", "feed_forward"])
def test_traced_steps_equal_eager_ones_whatever_the_batch(
    monkeypatch: pytest.MonkeyPatch, recompute: str
) -> None:
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda *a, **options: compile_(*a, **options, backend="aot_eager")
    )
    module = module_of(recompute=recompute)
    module.compile_step()
    assert [agrees_with_eager(module, cells_of(rows)) for rows in (4, 4, 7)] == [True] * 3


@pytest.mark.slow
@pytest.mark.parametrize("n_layers", [1, 2])
def test_traced_steps_leave_padding_out_too(monkeypatch: pytest.MonkeyPatch, n_layers: int) -> None:
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda *a, **options: compile_(*a, **options, backend="aot_eager")
    )
    module = module_of(n_tokens=30, n_layers=n_layers)
    module.compile_step()
    batches = cells_of(4), cells_of_two_panels(4), cells_of_two_panels(7)
    assert [agrees_with_eager(module, cells) for cells in batches] == [True] * 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, by its compiler
def test_compiled_steps_equal_eager_ones() -> None:
    module = module_of()
    module.compile_step()
    assert [agrees_with_eager(module, cells_of(4)) for _ in range(2)] == [True] * 2


class Noting(TorchDispatchMode):
    """Notes which operations run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        self.seen.add(packet)
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        masks = packet in INDEXING and any(t.dtype == torch.bool for t in tensors[1:])
        if masks or (packet is REPEAT and (kwargs or {}).get("output_size") is None):
            self.seen.add(torch.ops.aten.nonzero)  # the size of the result is that of its data
        return func(*args, **(kwargs or {}))


# Numbers asked of a device, or sizes; and lift_fresh, by which torch.tensor copies from the host.
WAITING = {
    getattr(torch.ops.aten, name)
    for name in ("_local_scalar_dense", "item", "nonzero", "equal", "is_nonzero", "lift_fresh")
}


INDEXING = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_}
REPEAT = torch.ops.aten.repeat_interleave


def test_what_makes_a_step_wait_is_seen() -> None:
    two = torch.ones(2)
    for waits in (
        lambda: torch.ones(()).item(),
        lambda: torch.tensor([1, 2]),
        lambda: two[two > 0],
        lambda: torch.repeat_interleave(two, torch.arange(2)),
    ):
        with Noting() as noting:
            waits()
        assert noting.seen & WAITING


@pytest.mark.parametrize("panels", [False, True])
@pytest.mark.parametrize(
    ("loss", "activation"),
    [
        *itertools.product(["poisson", "mse", "smooth_l1"], ["softplus", "softmax"]),
        *itertools.product(["negative_binomial", "zinb"], ["softplus", "softmax"]),
        ("mse", "rectified_tanh"),
    ],
)
def test_no_loss_asks_the_device_for_a_number(loss: Any, activation: Any, panels: bool) -> None:
    module = module_of(loss=loss, activation=activation)
    cells = cells_of_two_panels(4) if panels else cells_of(4)
    with Noting() as noting:
        module.training_loss(cells)
    assert noting.seen & WAITING == set()


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("padded", [False, True])
def test_a_step_neither_asks_the_device_for_a_number_nor_copies_one_to_it(
    padded: bool, n_layers: int
) -> None:
    module = module_of(n_tokens=30, n_layers=n_layers)
    cells = cells_of_two_panels(4) if padded else cells_of(4)
    with Noting() as noting:
        module.on_step(3, 10)
        module.training_loss(cells)
    # In backward the loss looks at what stands above it, but on the CPU alone.
    ops = torch.ops.kernomics
    assert {ops.sample_tokens, ops.linear_poisson_nll} <= noting.seen
    assert noting.seen & WAITING == set()


def test_a_step_draws_by_seed_and_step_from_one_place_that_is_not_saved() -> None:
    module, cells = module_of(), cells_of(4)
    place = module.drawn_by
    for step in (0, 7):
        module.on_step(step, 10)
        assert module.drawn_by is place
        assert place.tolist() == [1, step]
        drawn = module.tokens(cells, 12), module.depth_uniforms(cells)
        torch.testing.assert_close(
            drawn,
            (module.tokens(cells, 12, step), module.depth_uniforms(cells, step)),
            rtol=0,
            atol=0,
        )
        assert place.tolist() == [1, step]
    assert module.seed_of(-3).tolist() == [1, -3]
    ids = torch.arange(4)
    expected = uniforms(torch.tensor([1, 7]), ids, 4, STREAM_DEPTH)
    assert torch.equal(module.depth_uniforms(cells), expected)
    assert "drawn_by" not in module.state_dict()


def test_a_module_that_cannot_be_compiled_is_refused() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def training_loss(self, cells: Cells) -> dict[str, Tensor]:
            return {"loss": self.weight * len(cells)}

    class OneBatch:
        n_batches = 1

        def epoch(self, epoch: int, start: int = 0) -> Any:
            return iter([cells_of(2)])

    config = TrainConfig(max_epochs=1, compile=True, progress=False)
    with pytest.raises(ConfigError, match="compile is set, but a Plain cannot be compiled"):
        fit(Plain(), OneBatch(), config)
    with pytest.raises(ConfigError, match="compile is 'yes'"):
        TrainConfig(compile="yes")  # type: ignore[arg-type]
