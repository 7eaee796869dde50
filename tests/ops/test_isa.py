"""The kernels give the same bits on every instruction set that this machine has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from kernomics.ops import (
    ObservedGenes,
    _native,
    build_info,
    dropout,
    embed_tokens,
    gumbel_topk,
    linear_poisson_nll,
    masked_linear,
    poisson_nll,
    relaxed_mask,
    sample_tokens,
)
from kernomics.train import RowAdamW

ISAS = _native.cpu().isas()
Run = Callable[[torch.Generator], Iterator[Tensor]]
CELLS = 3


@pytest.fixture
def use_isa() -> Iterator[Callable[[str], None]]:
    """Set the instruction set for one test."""
    before = _native.cpu().isa()
    yield _native.cpu().use_isa
    _native.cpu().use_isa(before)


def counts(g: torch.Generator, genes: int, dtype: torch.dtype, density: float = 0.3) -> Tensor:
    """Draw counts, at least one in each cell."""
    x = torch.randint(1, 9, (CELLS, genes), generator=g).to(dtype)
    x *= torch.rand(x.shape, generator=g) < density
    x[:, 0] = 1
    return x


def csr(x: Tensor, columns: torch.dtype = torch.int64) -> Tensor:
    found = x.to_sparse_csr()
    crow, col = found.crow_indices().to(columns), found.col_indices().to(columns)
    return torch.sparse_csr_tensor(crow, col, found.values(), x.shape)


def leaf(g: torch.Generator, *shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=g, dtype=dtype).requires_grad_()


def with_gradients(y: Tensor, *inputs: Tensor) -> Iterator[Tensor]:
    yield y
    weights = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).to(y.dtype).reshape(y.shape)
    yield from torch.autograd.grad((y * weights).sum(), inputs)


FLOATS = (torch.float32, torch.float64)


def run_gumbel_topk(g: torch.Generator) -> Iterator[Tensor]:
    seed = torch.tensor([5, 6])
    for genes, dtype in product((2, 15, 16, 255, 256, 257, 3001), FLOATS):
        k = max(1, genes // 20)
        for relaxation in ("softsort", "neuralsort", "softmax"):
            scores = leaf(g, CELLS, genes, dtype=dtype)
            reach = None if relaxation == "softmax" else min(genes, 2 * k)
            options: dict[str, Any] = {"tau": 0.7, "relaxation": relaxation, "reach": reach}
            indices, mask, *reached = gumbel_topk(scores, k, seed=seed, **options)
            yield from (indices, *reached)
            yield from with_gradients(mask, scores)
            yield from with_gradients(
                relaxed_mask(scores, k, tau=0.7, relaxation=relaxation), scores
            )
        tied = (2 * torch.randn(CELLS, genes, generator=g, dtype=dtype)).round()
        tied[:, genes // 2] = float("inf")
        tied[:, 0] = -float("inf")
        yield from gumbel_topk(tied, k, tau=1.0, noise=False)[:2]


def run_masked_linear(g: torch.Generator) -> Iterator[Tensor]:
    for width, dtype in product((1, 7, 16, 40, 133), FLOATS):
        genes = 67
        x = counts(g, genes, dtype)
        indices = torch.randperm(genes, generator=g)[:11].sort().values
        mask = torch.zeros(genes, dtype=dtype)
        mask[indices] = 1
        mask.requires_grad_()
        weight, bias = leaf(g, genes, width, dtype=dtype), leaf(g, width, dtype=dtype)
        for form in (x, csr(x), csr(x, torch.int32)):
            y = masked_linear(form, mask, indices, weight, bias)
            yield from with_gradients(y, mask, weight, bias)


def run_sample_tokens(g: torch.Generator) -> Iterator[Tensor]:
    ids, seed = torch.tensor([3, 2**40, 9]), torch.tensor([1, 2])
    for genes, dtype in product((1, 31, 255, 1000, 5003), FLOATS):
        for share, density in ((2, 0.05), (9, 0.3), (3, 0.9)):
            x, k = csr(counts(g, genes, dtype, density)), max(1, genes // share)
            weights = torch.rand(genes, generator=g) + 0.01
            weights[1::7] = 0
            half = list(range(0, genes, 2))
            every = list(range(genes))
            panels = ObservedGenes.from_lists(
                [every, half + every[-1:] * (genes % 2 == 0)], genes, [0, 1, 0]
            )
            options: dict[str, Any] = {"cell_ids": ids, "seed": seed}
            yield from sample_tokens(x, k, **options)
            yield from sample_tokens(x, k, weights=weights, **options)
            for given in (None, weights):
                yield from sample_tokens(x, k, candidates="expressed", weights=given, **options)
            yield from sample_tokens(x, k, observed=panels, ragged=True, **options)


def run_embed_tokens(g: torch.Generator) -> Iterator[Tensor]:
    for width, dtype in product((2, 16, 51), (*FLOATS, torch.bfloat16, torch.float16)):
        genes = torch.randint(-1, 20, (CELLS, 33), generator=g)
        table, cls = leaf(g, 20, width, dtype=dtype), leaf(g, width, dtype=dtype)
        values = leaf(g, CELLS, 33, dtype=dtype)
        added = leaf(g, CELLS, 33, width, dtype=dtype)
        y = embed_tokens(genes, values, table, cls=cls)
        yield from with_gradients(y, table, values, cls)
        y = embed_tokens(genes, None, table, cls=cls, combine="add", value_embedding=added)
        yield from with_gradients(y, table, added, cls)


def run_poisson_nll(g: torch.Generator) -> Iterator[Tensor]:
    activations = ("rectified_tanh", "relu", "clamped_relu", "exp", "softplus")
    for genes, dtype, activation in product((1, 17, 1030), FLOATS, activations):
        x = counts(g, genes, dtype)
        logits = (3 * leaf(g, CELLS, genes, dtype=dtype)).detach().requires_grad_()
        for target in (x.log1p(), csr(x.log1p())):
            y = poisson_nll(logits, target, activation=activation, reduction="cell")
            yield from with_gradients(y, logits)
        library = x.sum(1)
        y = poisson_nll(
            logits, csr(x), target_kind="counts", library=library, activation=activation, full=True
        )
        yield from with_gradients(y, logits)


def run_linear_poisson_nll(g: torch.Generator) -> Iterator[Tensor]:
    for dtype in FLOATS:
        hidden, weight = leaf(g, CELLS, 9, dtype=dtype), leaf(g, 130, 9, dtype=dtype)
        bias = leaf(g, 130, dtype=dtype)
        y = linear_poisson_nll(hidden, weight, bias, csr(counts(g, 130, dtype).log1p()))
        yield from with_gradients(y, hidden, weight, bias)


def run_dropout(g: torch.Generator) -> Iterator[Tensor]:
    seed = torch.tensor([-5, 2**33])
    for n, dtype, rectified in product((1, 15, 16, 255, 257, 3001), FLOATS, (False, True)):
        for first in (0, 3, 2**34 - 9):
            x = leaf(g, n, dtype=dtype)
            yield from with_gradients(dropout(x, 0.3, seed, rectified=rectified, first=first), x)


def run_adamw(g: torch.Generator) -> Iterator[Tensor]:
    for n, dtype in product((1, 7, 8, 31, 1000), FLOATS):
        for settings in ({}, {"one_scale": True}, {"rows": lambda n=n: torch.arange(0, n, 2)}):
            param = torch.nn.Parameter(torch.randn(n, 5, generator=g, dtype=dtype))
            optimizer = RowAdamW([{"params": [param], **settings}], weight_decay=0.1)
            for _ in range(3):
                param.grad = torch.randn(n, 5, generator=g, dtype=dtype)
                yield torch.tensor(optimizer.gradient_norm(), dtype=torch.float64)
                optimizer.step(factor=0.7)
            yield param.detach()


RUNS: dict[str, Run] = {
    "adamw": run_adamw,
    "dropout": run_dropout,
    "gumbel_topk": run_gumbel_topk,
    "masked_linear": run_masked_linear,
    "sample_tokens": run_sample_tokens,
    "embed_tokens": run_embed_tokens,
    "poisson_nll": run_poisson_nll,
    "linear_poisson_nll": run_linear_poisson_nll,
}


def bits(x: Tensor) -> Tensor:
    return x.detach().reshape(-1).view(torch.uint8)


@pytest.mark.skipif(len(ISAS) == 1, reason="this machine has one instruction set")
@pytest.mark.parametrize("op", RUNS)
def test_every_instruction_set_gives_the_same_bits(op: str, use_isa: Callable[[str], None]) -> None:
    found = {}
    for isa in ISAS:
        use_isa(isa)
        found[isa] = list(RUNS[op](torch.Generator().manual_seed(0)))
    expected = found.pop("portable")
    assert len(expected) > 1
    for isa, outputs in found.items():
        for i, (ours, plain) in enumerate(zip(outputs, expected, strict=True)):
            assert torch.equal(bits(ours), bits(plain)), f"output {i} of {op} differs on {isa}"


def imported(isa: str | None) -> subprocess.CompletedProcess[str]:
    """Import the ops with KERNOMICS_ISA set and print what is in use."""
    environment = {k: v for k, v in os.environ.items() if k != "KERNOMICS_ISA"}
    if isa is not None:
        environment["KERNOMICS_ISA"] = isa
    program = "from kernomics.ops import build_info; print(build_info()['isa'])"
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )


@pytest.mark.parametrize("isa", [None, "", *ISAS])
def test_the_environment_chooses_the_instruction_set(isa: str | None) -> None:
    done = imported(isa)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [isa or ISAS[0]]


@pytest.mark.parametrize("isa", ["sse9", *({"avx512", "avx2", "portable"} - set(ISAS))])
def test_an_instruction_set_that_is_not_there_is_an_error(isa: str) -> None:
    done = imported(isa)
    assert done.returncode != 0
    assert (
        f"ValueError: KERNOMICS_ISA is '{isa}', but of avx512, avx2 and portable this processor "
        f"and build have {', '.join(ISAS)}: set one of these, or unset it for the best"
    ) in done.stderr


def test_build_info_names_the_instruction_set(use_isa: Callable[[str], None]) -> None:
    for isa in ISAS:
        use_isa(isa)
        assert build_info()["isa"] == isa
