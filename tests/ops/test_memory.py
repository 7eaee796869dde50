"""An operation that gets no memory raises MemoryError, and sparse ones need little of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from problems.common import Rows, peak_resident_bytes

from kernomics.ops import embed_tokens, masked_linear, sample_tokens

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc")

# In each case a call that fits goes first, so that threads and libraries are there; then the
# process may grow by what the outputs take and little more. Each `big` needs that much again.
CASES = {
    "gumbel_topk": """
small, big = torch.zeros(4, 99), torch.zeros(2, 8_000_000)
def call(x): return gumbel_topk(x, 2, tau=1.0, noise=False)
room = 2 * 32e6
""",
    "gumbel_topk, backward": """
small, big = torch.zeros(4, 99, requires_grad=True), torch.zeros(2, 8_000_000, requires_grad=True)
masks = {len(x[0]): gumbel_topk(x, 2, tau=1.0, noise=False)[1] for x in (small, big)}
ones = {n: torch.ones_like(m) for n, m in masks.items()}
def call(x): masks[len(x[0])].backward(ones[len(x[0])], retain_graph=True)
room = 2 * 32e6
""",
    "relaxed_mask": """
small, big = torch.zeros(4, 99), torch.rand(2, 8_000_000)
def call(x): return relaxed_mask(x, len(x[0]) // 2, tau=1.0)
room = 2 * 32e6 + 2 * 32e6
""",
    "masked_linear": """
class Rows:
    def __init__(s, genes):
        s.indptr, s.indices = torch.tensor([0, 6, 9]), torch.arange(9) % 6
        s.values, s.shape = torch.ones(9), (2, genes)
small, big = Rows(7), Rows(4_000_000 * 16)
half = 4_000_000
big.indptr, big.indices = torch.tensor([0, half, 2 * half]), torch.arange(2 * half) % half
big.values = torch.ones(2 * half)
def call(x):
    genes = x.shape[1]
    w = torch.ones(1, 1).expand(genes, 1)
    return masked_linear(x, torch.ones(1).expand(genes), torch.arange(2), w)
room = 0
""",
    "masked_linear, backward": """
class Rows:
    def __init__(s, genes):
        s.indptr, s.indices = torch.tensor([0, 3, 6]), torch.arange(6) % 3
        s.values, s.shape = torch.ones(6), (2, genes)
def made(genes):
    mask = torch.ones(1).expand(genes).requires_grad_()
    w = torch.ones(1, 1).expand(genes, 1)
    return masked_linear(Rows(genes), mask, torch.arange(2), w).sum()
small, big = made(99), made(60_000_000)
def call(x): x.backward(retain_graph=True)
room = 240e6
""",
    "sample_tokens": """
class Rows:
    def __init__(s, genes, each):
        s.indptr, s.indices = torch.tensor([0, each, 2 * each]), torch.arange(2 * each) % each
        s.values, s.shape = torch.ones(2 * each), (2, genes)
small, big = Rows(40_000, 9), Rows(40_000_000, 10_000_000)
ids, seed = torch.arange(2), torch.tensor([1, 2])
def call(x): return sample_tokens(x, 5, cell_ids=ids, seed=seed, candidates="expressed")
room = 0
""",
    "embed_tokens, backward": """
def made(genes):
    table = torch.ones(1, 1).expand(genes, 1).requires_grad_()
    return embed_tokens(torch.zeros(9, 9, dtype=torch.int64), torch.ones(9, 9), table).sum()
small, big = made(99), made(20_000_000)
def call(x): x.backward(retain_graph=True)
room = 80e6
""",
}

# Forks a child for each case and number of threads; its parent has no threads yet.
PROGRAM = """
import json, os, resource, sys
import torch
from kernomics.ops import *
torch.set_num_threads(1)

def child(case, threads):
    torch.set_num_threads(threads)
    given = dict(globals())
    exec(case, given)
    call, small, big = given["call"], given["small"], given["big"]
    call(small)
    now = int(open("/proc/self/statm").read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (int(now + given["room"] + 24e6), -1))
    try:
        call(big)
    except MemoryError as error:
        call(small)
        print(error, flush=True)

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
for name, case in json.loads(sys.argv[1]).items():
    for threads in (1, 2):
        print("#", name, threads, flush=True)
        pid = os.fork()
        if pid == 0:
            try:
                child(case, threads)
            except Exception as error:
                print(repr(error))
            finally:
                sys.stdout.flush()
                os._exit(0)
        if status := os.waitpid(pid, 0)[1]:
            print("ended by", status, flush=True)
"""


@pytest.fixture(scope="module")
def reports() -> dict[str, str]:
    """What each case and number of threads printed."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(CASES)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parts = done.stdout.split("# ")[1:]
    return {head: text for head, _, text in (part.partition("\n") for part in parts)}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("operation", CASES)
def test_no_memory_is_an_error_that_is_survived(
    operation: str, threads: int, reports: dict[str, str]
) -> None:
    start, _, rest = reports[f"{operation} {threads}"].partition(" got no memory for ")
    # relaxed_mask chooses the genes first.
    assert start == ("gumbel_topk" if operation == "relaxed_mask" else operation)
    assert int(rest.split()[0]) > 8e6
    assert "fewer threads" in rest


# ---- 2³¹ − 1 genes, five entries ----------------------------------------------------------------

GENES = 2**31 - 1
COLUMNS = [0, 7, 2**20, 2**30, GENES - 1]


@pytest.fixture
def rows() -> Rows:
    return Rows(
        torch.tensor([0, 3, 5]), torch.tensor([*COLUMNS[:3], *COLUMNS[3:]]),
        torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), (2, GENES),
    )  # fmt: skip


def start_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return peak_resident_bytes()


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_expressed_tokens_of_very_many_genes(rows: Rows, dtype: torch.dtype) -> None:
    rows = Rows(rows.indptr, rows.indices.to(dtype), rows.values, rows.shape)
    seed, before = torch.tensor([1, 2]), start_peak()
    for k in (None, 2, 4):
        genes, values = sample_tokens(
            rows, k, cell_ids=torch.arange(2), seed=seed, candidates="expressed",
            transform="counts",
        )  # fmt: skip
        counts = dict(zip(COLUMNS, [1.0, 2.0, 3.0, 4.0, 5.0], strict=True))
        for b, own in enumerate((COLUMNS[:3], COLUMNS[3:])):
            drawn = [int(g) for g in genes[b] if g >= 0]
            assert len(drawn) == min(len(own), k or 5)
            assert set(drawn) <= set(own)
            assert values[b, : len(drawn)].tolist() == [counts[g] for g in drawn]
    assert peak_resident_bytes() - before < 20e6


def test_masked_linear_of_very_many_genes(rows: Rows) -> None:
    before = start_peak()
    bias = torch.ones(3, requires_grad=True)
    mask, weight = torch.full((1,), 2.0).expand(GENES), torch.ones(1, 3).expand(GENES, 3)
    chosen = torch.tensor([7, 5_000, 2**20, GENES - 1])
    y = masked_linear(rows, mask, chosen, weight, bias)
    assert y.tolist() == [[1 + 2 * (2 + 3)] * 3, [1 + 2 * 5] * 3]
    y.sum().backward()
    assert bias.grad is not None
    assert bias.grad.tolist() == [2.0] * 3
    assert peak_resident_bytes() - before < 20e6


@pytest.mark.parametrize("combine", ["concat", "add"])
def test_gradients_of_values_beside_a_very_long_table(combine: str) -> None:
    before = start_peak()
    ids = torch.tensor([COLUMNS, [-1, 3, 3, -1, 0]])
    table = torch.zeros(1, 2).expand(GENES, 2)
    shape = (2, 5) if combine == "concat" else (2, 5, 2)
    values = torch.arange(float(torch.Size(shape).numel())).reshape(shape).requires_grad_()
    given = {"values": values, "value_embedding": None}
    if combine == "add":
        given = {"values": None, "value_embedding": values}
    tokens = embed_tokens(ids, table=table, combine=combine, **given)  # type: ignore[arg-type]
    (3 * tokens).sum().backward()
    there = (ids >= 0).float()
    expected = 3 * there if combine == "concat" else 3 * there[..., None].expand(shape)
    assert values.grad is not None
    assert torch.equal(values.grad, expected)
    assert peak_resident_bytes() - before < 20e6
