"""PERSIST's first stage: a binary gate per gene, shut by a penalty on the gates left open.

Each gate is a hard-concrete variable (Louizos et al. 2018): with u uniform on (0, 1) and the gate's
logit α,

    s = σ((log u − log(1 − u) + α) / β),  z = min(1, max(0, s (ζ − γ) + γ)),
    P(z > 0) = σ(α − β log(−γ/ζ)),

and the loss is the cross-entropy of a classifier on x ∘ z plus λ Σ_g P(z_g > 0). A gate plays no
part where its gene's count is 0, so noise is drawn for the non-zeros alone, per cell: the same
distribution as a full [cells, genes] table of noise at a twentieth of its size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bench.yoto.persist.classifier import LabelledCells, class_weights, generators, mlp
from bench.yoto.persist.config import PersistConfig
from kernomics.nn.philox import Draws

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1  # the hard-concrete paper's values
OPEN_SHIFT = BETA * math.log(-GAMMA / ZETA)


@dataclass(frozen=True, eq=False)
class Gates:
    """What one training of gates left.

    Attributes
    ----------
    penalty
        λ.
    logits
        float32 [G], α.
    losses
        Cross-entropy without the penalty, mean over each epoch.
    """

    penalty: float
    logits: NDArray[np.float32]
    losses: list[float]

    @property
    def open(self) -> NDArray[np.int64]:
        """The genes whose gates are more likely open than shut, int64, ascending."""
        return np.flatnonzero(self.logits > OPEN_SHIFT).astype(np.int64)


class _SparseLinear(torch.autograd.Function):
    """x·W for CSR x with a gradient for its values, from the non-zeros of x alone."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, columns: Tensor, starts: Tensor
    ) -> Tensor:
        ctx.save_for_backward(values, weight, columns, starts)
        return F.embedding_bag(columns, weight, starts[:-1], mode="sum", per_sample_weights=values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor, Tensor, None, None]:
        values, weight, columns, starts = ctx.saved_tensors
        x = sparse.csr_matrix(
            (values.numpy(), columns.numpy(), starts.numpy()), (len(starts) - 1, len(weight))
        )
        # ∂x_bj = ⟨δ_b, W_j⟩: a cell at a time, so that its rows of W stay in the cache.
        delta, ends = delta.contiguous(), starts.tolist()
        gradient = torch.empty_like(values)
        room = weight.new_empty(int(starts.diff().max()), weight.shape[1])
        for cell, (start, end) in enumerate(pairwise(ends)):
            if start == end:
                continue
            rows = torch.index_select(weight, 0, columns[start:end], out=room[: end - start])
            torch.mv(rows, delta[cell], out=gradient[start:end])
        return gradient, torch.from_numpy(x.T @ delta.numpy()), None, None


class GatedClassifier(nn.Module):
    """An MLP whose first layer sees every gene through its gate."""

    def __init__(self, n_genes: int, hidden: tuple[int, ...], n_classes: int, draws: Draws) -> None:
        super().__init__()
        self.draws = draws
        # The scale for a sum over G inputs is 1/√G; a cell has a count in a few hundred of them.
        bound = 1 / math.sqrt(n_genes)
        start = torch.empty(n_genes, hidden[0])
        self.weight = nn.Parameter(start.uniform_(-bound, bound, generator=draws.generator()))
        self.bias = nn.Parameter(torch.zeros(hidden[0]))
        self.rest = nn.Sequential(nn.ReLU(), mlp(hidden[0], hidden[1:], n_classes, draws))
        self.logits = nn.Parameter(torch.full((n_genes,), 2.0))

    def forward(self, cells: LabelledCells) -> Tensor:
        """Return logits [B, n_classes] of cells seen through gates drawn anew."""
        x = cells.values
        columns = torch.from_numpy(x.indices.astype(np.int64))
        starts = torch.from_numpy(x.indptr.astype(np.int64))
        u = torch.empty(len(columns)).uniform_(1e-6, 1 - 1e-6, generator=self.draws.generator())
        s = torch.sigmoid((torch.logit(u) + self.logits.index_select(0, columns)) / BETA)
        z = (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
        values = torch.from_numpy(x.data) * z
        first: Tensor = _SparseLinear.apply(values, self.weight, columns, starts)  # type: ignore[no-untyped-call]
        output: Tensor = self.rest(first + self.bias)
        return output

    def expected_open(self) -> Tensor:
        """Return Σ_g P(z_g > 0)."""
        return torch.sigmoid(self.logits - OPEN_SHIFT).sum()


def train_gates(cells: LabelledCells, penalty: float, config: PersistConfig, *, seed: int) -> Gates:
    """Train gates and a classifier together for one penalty λ."""
    rng, draws = generators(seed, 1)
    network = GatedClassifier(cells.values.shape[1], config.hidden, cells.n_classes, draws)
    others = [p for name, p in network.named_parameters() if name != "logits"]
    groups: list[dict[str, Any]] = [
        {"params": others},
        {"params": [network.logits], "lr": config.gate_learning_rate},
    ]
    optimizer = torch.optim.Adam(groups, lr=config.learning_rate, fused=True)
    weights = class_weights(cells, config.class_weights)
    losses = []
    for _ in range(config.gate_epochs):
        total = 0.0
        for batch in cells.batches(config.batch_size, rng):
            optimizer.zero_grad()
            loss = F.cross_entropy(network(batch), batch.targets(), weight=weights)
            (loss + penalty * network.expected_open()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(loss.detach()) * len(batch.codes)
        losses.append(total / len(cells.codes))
    return Gates(penalty, network.logits.detach().numpy().copy(), losses)


@dataclass(frozen=True, eq=False)
class Survivors:
    """Genes that the gates left, and how they were found.

    Attributes
    ----------
    genes
        int64, ascending.
    tried
        The trainings, in order.
    hit
        Whether one came within the tolerance; if not, `genes` are those with the largest logits of
        the training that came closest.
    """

    genes: NDArray[np.int64]
    tried: list[Gates]
    hit: bool


def eliminate(
    train: Callable[[float], Gates],
    target: int,
    *,
    first: float,
    tolerance: float,
    max_trainings: int,
) -> Survivors:
    """Search for the penalty λ that leaves about so many genes.

    The number of genes falls with λ. Until it has been on both sides of the target, λ is
    extrapolated, by at most a factor of 100; then it is interpolated, away from the ends of the
    bracket. Both are done in log λ against the log number of genes.
    """
    tried: list[Gates] = []
    seen: list[tuple[float, float]] = []  # (log λ, log n)
    log_penalty, log_target = math.log(first), math.log(target)
    for _ in range(max_trainings):
        gates = train(math.exp(log_penalty))
        tried.append(gates)
        n = gates.open.size
        if abs(n - target) <= tolerance * target:
            return Survivors(gates.open, tried, True)
        seen.append((log_penalty, math.log(max(n, 1))))
        log_penalty = _next_log_penalty(seen, log_target)
    nearest = min(tried, key=lambda gates: abs(math.log(max(gates.open.size, 1)) - log_target))
    best = np.argsort(-nearest.logits, kind="stable")[:target]
    return Survivors(np.sort(best).astype(np.int64), tried, False)


def _next_log_penalty(seen: list[tuple[float, float]], log_target: float) -> float:
    """Return the log λ to try after those in `seen`, pairs of log λ and log n."""
    too_many = [(x, y) for x, y in seen if y > log_target]
    too_few = [(x, y) for x, y in seen if y <= log_target]
    if too_many and too_few:
        (low, many), (high, few) = max(too_many), min(too_few)
        share = (many - log_target) / max(many - few, 1e-9)
        return low + min(0.8, max(0.2, share)) * (high - low)
    x, y = seen[-1]
    fall = 1.0  # of log n with log λ: as if n went with 1/λ
    if len(seen) > 1:
        before = seen[-2]
        fall = min(1.0, max(0.1, (before[1] - y) / (x - before[0])))
    step = (y - log_target) / fall
    return x + math.copysign(min(max(abs(step), 0.4), math.log(100)), step)
