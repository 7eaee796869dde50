"""Devices, score tables, and the folder of problems that the tests of the ops draw from."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from emulated import Emulator, NoCompiler, build
from torch import Tensor

# The tests of this folder import problems/, whose assertions are to show their values as theirs do.
sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("problems")

Scores = Callable[..., Tensor]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture
def raise_data_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA errors that depend on data are raised on request; the CPU always raises them."""
    monkeypatch.setenv("KERNOMICS_CHECK", "1")


@pytest.fixture
def no_synchronisation() -> Iterator[None]:
    """Raise wherever the CPU would wait for the GPU, until the test sets the mode back."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set torch's thread count for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def draw_scores() -> Scores:
    """Draw scores [rows, genes], optionally with ties, forced and forbidden genes in each row."""

    def draw(
        rows: int,
        genes: int,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        step: float | None = None,
        forced: int = 0,
        forbidden: int = 0,
    ) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        scores = torch.randn((rows, genes), generator=generator, dtype=torch.float64)
        if step is not None:  # multiples of a step: equal scores when it is coarse
            scores = (scores / step).round() * step
        for row in scores:
            special = torch.randperm(genes, generator=generator)[: forced + forbidden]
            row[special[:forced]] = float("inf")
            row[special[forced:]] = -float("inf")
        return scores.to(dtype)

    return draw


@pytest.fixture(scope="session")
def emulator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    """Build the CUDA kernels for the host, once for the same sources."""
    cache = getattr(request.config, "cache", None)
    folder = tmp_path_factory.mktemp("kept") if cache is None else cache.mkdir("emulated")
    try:
        with (folder / "lock").open("w") as lock:  # workers of one run build it once
            fcntl.flock(lock, fcntl.LOCK_EX)
            return Emulator(*build(folder / "cuda"))
    except NoCompiler as error:
        pytest.skip(str(error))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(0, id="in_turn"),
        pytest.param(1, id="at_random", marks=pytest.mark.slow),
    ],
)
def emulated_cuda(request: pytest.FixtureRequest, emulator: Emulator) -> Iterator[Emulator]:
    """Run a module's tests on emulated kernels, whose threads take turns or run at random."""
    emulator.schedule(request.param)
    with emulator.in_place():
        yield emulator
    emulator.schedule(0)


@pytest.fixture(autouse=True)
def _emulated_kernels_run(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test on emulated kernels that launched none has compared the CPU with itself."""
    if "emulated_cuda" not in request.fixturenames:
        yield
        return
    emulated = request.getfixturevalue("emulated_cuda")
    before = emulated.launches
    yield
    assert emulated.launches > before, "no emulated kernel was launched"
