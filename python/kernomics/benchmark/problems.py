"""One problem for each op: inputs, our call, torch's usual chain, and what is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kernomics import ops
from kernomics.benchmark import bounds
from kernomics.benchmark.timing import Call
from kernomics.ops import reference

DENSITY = 0.08
TARGET_SUM = 1e5
ROWS = 2  # whose random choices are compared with the reference, which is slow


@dataclass(frozen=True)
class Problem:
    """What is computed, the least work it takes, and who computes it.

    ``torch_call(chain)`` is the call of torch's chain, or of what `torch.compile` made of it. A
    check gets a call's result and returns what is wrong with it.
    """

    case: str
    sizes: dict[str, int]
    bytes_moved: int
    ours: Call
    chain: Callable[..., Any]
    torch_call: Callable[[Callable[..., Any]], Call]
    check_ours: Callable[[Any], str | None]
    check_torch: Callable[[Any], str | None]
    flops: int = 0


def gumbel_topk(device: torch.device, generator: torch.Generator, n: dict[str, int]) -> Problem:
    """Choose k genes by perturbed scores, forward and backward."""
    k, tau = n["k"], 0.5
    shape = (n["R"], n["G"])
    scores, upstream = (torch.randn(shape, device=device, generator=generator) for _ in range(2))
    leaf = scores.requires_grad_()
    seed = torch.tensor([1, 2], device=device)

    def ours() -> tuple[Tensor, Tensor]:
        mask = ops.gumbel_topk(leaf, k, tau=tau, seed=seed)[1]
        return mask.detach(), torch.autograd.grad(mask, leaf, upstream)[0]

    def chain(scores: Tensor) -> Tensor:
        y = scores - torch.log(-torch.log(torch.rand_like(scores) + 1e-20) + 1e-20)
        soft = k * torch.softmax(y / tau, dim=-1)
        hard = torch.zeros_like(y).scatter(-1, torch.topk(y, k).indices, 1.0)
        return hard - soft.detach() + soft

    def torch_call(function: Callable[..., Any]) -> Call:
        def call() -> tuple[Tensor, Tensor]:
            mask = function(leaf)
            return mask.detach(), torch.autograd.grad(mask, leaf, upstream)[0]

        return call

    def chosen(result: tuple[Tensor, Tensor]) -> str | None:
        counts = result[0].round().sum(1)
        wrong = int((counts != k).sum())
        return f"{wrong} of {len(counts)} rows do not have {k} genes" if wrong else None

    def check(result: tuple[Tensor, Tensor]) -> str | None:
        rows = slice(ROWS)
        some = leaf.detach()[rows].double().cpu().requires_grad_()
        _, mask = reference.gumbel_topk(
            some, k, tau=tau, seed=(1, 2), row_ids=list(range(len(some)))
        )
        (slope,) = torch.autograd.grad(mask, some, upstream[rows].double().cpu())
        # Scores below 32 with their noise: a softmax's logits are off by 4·32·ε/τ, twice in a
        # quotient, and k rows of G are summed; a slope is at most 2·(Γ + 1)·max|u|/τ, Γ ≤ k.
        terms = 256 / tau + k + 64
        most = 2 * (1 + k**0.5) * float(upstream[rows].abs().max()) / tau
        found = [part[rows].cpu() for part in result]
        bound = terms * bounds.EPS * most
        names = ("the mask", "the scores' gradient")
        return chosen(result) or bounds.differs(names, found, (mask.detach(), slope), (0.0, bound))

    moved = 5 * 4 * n["R"] * n["G"] + 2 * 8 * n["R"] * k
    return Problem("softsort", n, moved, ours, chain, torch_call, check, chosen)


def masked_linear(device: torch.device, generator: torch.Generator, n: dict[str, int]) -> Problem:
    """Let a linear layer see k genes of CSR counts, forward and backward."""
    cells, genes, width, k = n["B"], n["G"], n["H"], n["k"]
    x = _counts(cells, genes, device, generator)
    csr = _csr(x)
    order = torch.randperm(genes, device=device, generator=generator)
    indices = order[:k].sort().values
    mask = torch.zeros(genes, device=device).scatter(0, indices, 1.0)
    weight = torch.randn(genes, width, device=device, generator=generator)
    upstream = torch.randn(cells, width, device=device, generator=generator)

    def chain(x: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        return (x * mask) @ weight

    def both(layer: Callable[[Tensor, Tensor], Tensor], exact: bool = False) -> Any:
        dtype = torch.float64 if exact else torch.float32
        leaves = [t.detach().to(dtype).requires_grad_() for t in (mask, weight)]

        def call() -> tuple[Tensor, ...]:
            y = layer(leaves[0], leaves[1])
            return y.detach(), *torch.autograd.grad(y, leaves, upstream.to(dtype))

        return call

    def check(result: tuple[Tensor, ...]) -> str | None:
        wide = x.double()
        right = both(lambda m, w: reference.masked_linear(wide, m, indices, w), exact=True)()
        eps, sums = bounds.EPS, wide.T @ upstream.double().abs()
        y = (k + 2) * eps * ((wide * mask) @ weight.double().abs())
        slope = (cells + width + 4) * eps * (sums * weight.abs()).sum(1)
        limit = y, slope, (cells + 2) * eps * mask[:, None] * sums
        names = ("the output", "the mask's gradient", "the weight's gradient")
        return bounds.differs(names, result, right, limit)

    stored = csr.values().numel()
    forward = 4 * stored + 4 * k * width + 4 * cells * width
    backward = 8 * stored + 4 * (cells * width + genes + 2 * genes * width)
    return Problem(
        "CSR",
        n,
        forward + backward,
        both(lambda m, w: ops.masked_linear(csr, m, indices, w)),
        chain,
        lambda function: both(lambda m, w: function(csr.to_dense(), m, w)),
        check,
        check,
        flops=2 * stored * width,
    )


def sample_tokens(device: torch.device, generator: torch.Generator, n: dict[str, int]) -> Problem:
    """Draw K genes of each cell with their values, from CSR counts."""
    k = n["K"]
    dense = _counts(n["B"], n["G"], device, generator)
    csr, library = _csr(dense), dense.sum(1)
    seed, ids = torch.tensor([1, 2], device=device), torch.arange(n["B"], device=device)

    def chain(dense: Tensor) -> tuple[Tensor, Tensor]:
        genes = torch.rand_like(dense).topk(k, sorted=False).indices
        return genes, torch.log1p(dense.gather(1, genes) * (TARGET_SUM / library)[:, None])

    def values_of(result: tuple[Tensor, Tensor]) -> str | None:
        genes, values = result[0].long(), result[1]
        again = int((genes.sort(1).values.diff(dim=1) == 0).sum())
        if again:
            return f"{again} of {genes.numel():,} genes are drawn twice"
        unit = TARGET_SUM / library.double()
        right = torch.log1p(dense.double().gather(1, genes) * unit[:, None])
        return bounds.differs(["the values"], [values], [right], [8 * bounds.EPS * (1 + right)])

    def check(result: tuple[Tensor, Tensor]) -> str | None:
        first = dense[:ROWS].cpu()
        genes, _ = reference.sample_tokens(
            first, k, cell_ids=list(range(len(first))), seed=(1, 2), library=library[:ROWS].cpu()
        )
        found = result[0][:ROWS].cpu()
        return bounds.differs(["the genes"], [found], [genes], [0.0]) or values_of(result)

    moved = 8 * csr.values().numel() + 8 * n["B"] * k
    return Problem(
        "observed genes",
        n,
        moved,
        lambda: ops.sample_tokens(csr, k, cell_ids=ids, seed=seed, library=library),
        chain,
        lambda function: lambda: function(csr.to_dense()),
        check,
        values_of,
    )


def dropout(device: torch.device, generator: torch.Generator, n: dict[str, int]) -> Problem:
    """Lose numbers behind a ReLU, forward and backward."""
    p, seed = 0.3, torch.tensor([1, 2], device=device)
    shape = (n["B"], n["H"])
    x, upstream = (torch.randn(shape, device=device, generator=generator) for _ in range(2))
    leaf = x.requires_grad_()

    def both(layer: Callable[[Tensor], Tensor]) -> Call:
        def call() -> tuple[Tensor, Tensor]:
            y = layer(leaf)
            return y.detach(), torch.autograd.grad(y, leaf, upstream)[0]

        return call

    def follow(result: tuple[Tensor, Tensor], stayed: Tensor) -> str | None:
        scale = stayed / (1 - p)
        right = [scale * leaf.detach().double().relu(), scale * (leaf > 0) * upstream]
        names = "the output", "the input's gradient"
        return bounds.differs(names, result, right, [4 * bounds.EPS * r.abs() for r in right])

    def some_draw(result: tuple[Tensor, Tensor]) -> str | None:
        above = leaf > 0
        stayed, count = result[0] != 0, int(above.sum())
        share = float((stayed & above).sum()) / count
        if abs(share - (1 - p)) > 6 * (p * (1 - p) / count) ** 0.5:
            return f"{share:.4f} of {count:,} numbers stay, not {1 - p:.4f}"
        return follow(result, stayed.double())

    def check(result: tuple[Tensor, Tensor]) -> str | None:
        some = leaf.detach()[:ROWS].cpu()
        right = reference.dropout(some, p, (1, 2), rectified=True)
        found = [result[0][:ROWS].cpu()]
        limit = [4 * bounds.EPS * right.abs()]
        return bounds.differs(["the output"], found, [right], limit) or some_draw(result)

    return Problem(
        "ReLU",
        n,
        20 * leaf.numel(),
        both(lambda x: ops.dropout(x, p, seed, rectified=True)),
        lambda x: functional.dropout(x.relu(), p),
        both,
        check,
        some_draw,
    )


def embed_tokens(device: torch.device, generator: torch.Generator, n: dict[str, int]) -> Problem:
    """Make tokens of genes and their values behind CLS, forward and backward."""
    cells, k, genes, width = n["B"], n["K"], n["V"], n["d"]
    rows = [torch.randperm(genes, device=device, generator=generator)[:k] for _ in range(cells)]
    ids = torch.stack(rows).sort(1).values

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, generator=generator)

    values, table, cls = normal(cells, k), normal(genes, width), normal(width)
    upstream = normal(cells, k + 1, width)

    def chain(table: Tensor, cls: Tensor) -> Tensor:
        tokens = torch.cat([functional.embedding(ids, table), values[..., None]], dim=-1)
        return torch.cat([cls.expand(cells, 1, -1), tokens], dim=1)

    def both(embed: Callable[..., Tensor], table: Tensor) -> Call:
        leaves = [t.detach().clone().requires_grad_() for t in (table, cls)]

        def call() -> tuple[Tensor, ...]:
            tokens = embed(*leaves)
            slope, other = torch.autograd.grad(tokens, leaves, upstream)
            return tokens.detach(), slope[:, : width - 1], other

        return call

    def check(result: tuple[Tensor, ...]) -> str | None:
        leaves = [t.double().requires_grad_() for t in (table, cls)]
        tokens = reference.embed_tokens(ids, values.double(), leaves[0], cls=leaves[1])
        wide = upstream.double()
        slope, other = torch.autograd.grad(tokens, leaves, wide, retain_graph=True)
        most, most_cls = torch.autograd.grad(tokens, leaves, wide.abs())
        limit = 0.0, cells * bounds.EPS * most[:, :-1], cells * bounds.EPS * most_cls
        names = ("the tokens", "the table's gradient", "CLS's gradient")
        return bounds.differs(names, result, (tokens.detach(), slope[:, :-1], other), limit)

    n_tokens, written = cells * k, cells * (k + 1) * width
    moved = 4 * (min(n_tokens, genes) * width + n_tokens + 2 * written + genes * width)
    return Problem(
        "concat",
        n,
        moved + 16 * n_tokens,
        both(lambda t, c: ops.embed_tokens(ids, values, t, cls=c), table),
        chain,
        lambda function: both(function, table[:, :-1].contiguous()),
        check,
        check,
    )


def _torch_loss(logits: Tensor, x: Tensor) -> Tensor:
    eta = bounds.ALPHA * torch.relu(torch.tanh(logits / bounds.BETA))
    return (eta.exp() - eta * x.exp()).mean()


def _both(loss: Callable[..., Tensor], leaves: list[Tensor]) -> Call:
    """Return a loss's value and its gradients."""

    def call() -> tuple[Tensor, ...]:
        value = loss(*leaves)
        return value.detach(), *torch.autograd.grad(value, leaves)

    return call


def poisson_nll(device: torch.device, generator: torch.Generator, n: dict[str, int]) -> Problem:
    """Compare logits with a dense log1p target, forward and backward."""
    x = _log1p(_counts(n["B"], n["G"], device, generator))
    logits = 4 * torch.randn(n["B"], n["G"], device=device, generator=generator)
    leaf = logits.requires_grad_()

    def check(result: tuple[Tensor, ...]) -> str | None:
        wide = leaf.detach().double()
        right = _both(lambda z: reference.poisson_nll(z, x.double()), [wide.requires_grad_()])()
        limit = bounds.poisson(wide.detach(), x.double())
        return bounds.differs(("the loss", "the logits' gradient"), result, right, limit)

    return Problem(
        "rectified tanh, dense",
        n,
        12 * n["B"] * n["G"],
        _both(lambda z: ops.poisson_nll(z, x), [leaf]),
        _torch_loss,
        lambda function: _both(lambda z: function(z, x), [leaf]),
        check,
        check,
    )


def linear_poisson_nll(
    device: torch.device, generator: torch.Generator, n: dict[str, int]
) -> Problem:
    """Compare a linear layer's logits with a dense log1p target, forward and backward."""
    cells, genes, width = n["B"], n["G"], n["H"]
    x = _log1p(_counts(cells, genes, device, generator))
    hidden = torch.randn(cells, width, device=device, generator=generator)
    weight = torch.randn(genes, width, device=device, generator=generator) * 4 / width**0.5
    leaves = [t.requires_grad_() for t in (hidden, weight, torch.zeros(genes, device=device))]

    def chain(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return _torch_loss(functional.linear(hidden, weight, bias), x)

    def check(result: tuple[Tensor, ...]) -> str | None:
        h, w, b = (t.detach().double() for t in leaves)
        target = x.double()
        z = (h @ w.T + b).requires_grad_()
        value = reference.poisson_nll(z, target)
        (dz,) = torch.autograd.grad(value, z)
        right = value.detach(), dz @ w, dz.T @ h, dz.sum(0)
        off = bounds.product(h, w.T)
        loss, slope = bounds.poisson(z.detach(), target, off)
        limit = (
            loss,
            slope @ w.abs() + bounds.product(dz, w),
            slope.T @ h.abs() + bounds.product(dz.T, h),
            slope.sum(0) + (cells + 2) * bounds.EPS * dz.abs().sum(0),
        )
        names = ("the loss", "hidden's gradient", "the weight's gradient", "the bias's gradient")
        return bounds.differs(names, result, right, limit)

    return Problem(
        "rectified tanh, dense",
        n,
        12 * cells * genes,
        _both(lambda h, w, b: ops.linear_poisson_nll(h, w, b, x), leaves),
        chain,
        lambda function: _both(function, leaves),
        check,
        check,
        flops=3 * 2 * cells * genes * width,
    )


def _counts(cells: int, genes: int, device: torch.device, generator: torch.Generator) -> Tensor:
    shape = (cells, genes)
    counts = torch.randint(1, 9, shape, device=device, generator=generator).float()
    counts *= torch.rand(shape, device=device, generator=generator) < DENSITY
    counts[:, 0] = 1.0  # no cell without counts
    return counts


def _csr(dense: Tensor) -> Tensor:
    """Return CSR with int32 indices."""
    csr = dense.to_sparse_csr()
    parts = csr.crow_indices().int(), csr.col_indices().int(), csr.values()
    return torch.sparse_csr_tensor(*parts, dense.shape)


def _log1p(counts: Tensor) -> Tensor:
    return torch.log1p(counts * (TARGET_SUM / counts.sum(1, keepdim=True)))


PROBLEMS: dict[str, Callable[[torch.device, torch.Generator, dict[str, int]], Problem]] = {
    "gumbel_topk": gumbel_topk,
    "masked_linear": masked_linear,
    "sample_tokens": sample_tokens,
    "embed_tokens": embed_tokens,
    "poisson_nll": poisson_nll,
    "linear_poisson_nll": linear_poisson_nll,
    "dropout": dropout,
}

QUICK = {
    "gumbel_topk": {"R": 8, "G": 1000, "k": 16},
    "masked_linear": {"B": 32, "G": 1000, "H": 16, "k": 16},
    "sample_tokens": {"B": 16, "G": 1000, "K": 100},
    "embed_tokens": {"B": 4, "K": 100, "V": 1000, "d": 32},
    "poisson_nll": {"B": 32, "G": 1000},
    "linear_poisson_nll": {"B": 32, "G": 1000, "H": 32},
    "dropout": {"B": 64, "H": 64},
}
FULL = {
    "gumbel_topk": {"R": 256, "G": 20_000, "k": 256},
    "masked_linear": {"B": 256, "G": 20_000, "H": 128, "k": 64},
    "sample_tokens": {"B": 256, "G": 20_000, "K": 2048},
    "embed_tokens": {"B": 32, "K": 2048, "V": 20_000, "d": 384},
    "poisson_nll": {"B": 256, "G": 20_000},
    "linear_poisson_nll": {"B": 256, "G": 20_000, "H": 256},
    "dropout": {"B": 4096, "H": 512},
}


def sizes_of(op: str, device: torch.device, quick: bool) -> dict[str, int]:
    """Return an op's sizes; a GPU gets sixteen times the cells, or eight with tokens."""
    if quick or device.type == "cpu":
        return dict((QUICK if quick else FULL)[op])
    rows = "R" if op == "gumbel_topk" else "B"
    return FULL[op] | {rows: FULL[op][rows] * (8 if op == "embed_tokens" else 16)}
