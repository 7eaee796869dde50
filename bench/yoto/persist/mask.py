"""PERSIST's second stage: a relaxed mask of k picks among d genes, drawn anew for every cell.

Pick i has logits over the d genes; for each cell a Gumbel-softmax sample of it is drawn at
temperature τ (Maddison et al. 2017), and a gene's entry in the mask is its largest over the picks:

    p_bi = softmax((logits_i + g_bi) / τ),  m_bj = max_i p_bij.

A classifier learns on x ∘ m while τ falls, until every pick stands for one gene.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.yoto.persist.classifier import LabelledCells, class_weights, generators, mlp
from bench.yoto.persist.config import PersistConfig
from kernomics.train import schedules


@dataclass(frozen=True, eq=False)
class Mask:
    """A trained mask.

    Attributes
    ----------
    logits
        float32 [k, d].
    losses
        Mean cross-entropy of each epoch.
    sharpness
        Mean over the picks of their largest probability, after each epoch.
    """

    logits: NDArray[np.float32]
    losses: list[float]
    sharpness: list[float]


def draw_mask(logits: Tensor, n_cells: int, tau: float, generator: torch.Generator) -> Tensor:
    """Draw a mask for each of some cells, [n_cells, d] in 0 … 1, from logits [k, d]."""
    # u = 0 comes up once in 2²⁴ draws; its noise would be −∞, and nothing else would be lost.
    u = torch.empty(n_cells, *logits.shape).uniform_(generator=generator).clamp_min_(1e-10)
    noise = u.log_().neg_().log_().neg_()
    return ((logits + noise) / tau).softmax(-1).max(1).values


def distinct_picks(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """Read k different genes off the logits of k picks.

    The surest picks (largest probability) choose first; each takes its best gene not yet taken.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    largest = 1 / np.exp(shifted).sum(axis=1)  # the probability of a pick's best gene
    taken: dict[int, None] = {}
    for pick in np.argsort(-largest, kind="stable"):
        order = np.argsort(-logits[pick], kind="stable")
        taken[next(int(gene) for gene in order if int(gene) not in taken)] = None
    return np.fromiter(taken, dtype=np.int64, count=len(taken))


def train_mask(cells: LabelledCells, k: int, config: PersistConfig, *, seed: int) -> Mask:
    """Train a mask of k picks and a classifier together."""
    rng, draws = generators(seed, 2)
    n_genes = cells.values.shape[1]
    network = mlp(n_genes, config.hidden, cells.n_classes, draws)
    start = torch.randn(k, n_genes, generator=draws.generator())
    logits = nn.Parameter(0.01 * start)  # picks must not be all alike
    groups: list[dict[str, Any]] = [
        {"params": network.parameters()},
        {"params": [logits], "lr": config.mask_learning_rate},
    ]
    optimizer = torch.optim.Adam(groups, lr=config.learning_rate)
    weights = class_weights(cells, config.class_weights)
    total_steps = config.mask_epochs * -(-len(cells.codes) // config.batch_size)
    step = 0
    losses: list[float] = []
    sharpness: list[float] = []
    for _ in range(config.mask_epochs):
        total = 0.0
        for batch in cells.batches(config.batch_size, rng):
            tau = schedules.exponential(
                step, total_steps, start=config.tau_start, end=config.tau_end
            )
            mask = draw_mask(logits, len(batch.codes), tau, draws.generator())
            optimizer.zero_grad()
            loss = F.cross_entropy(network(batch.dense() * mask), batch.targets(), weight=weights)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(loss.detach()) * len(batch.codes)
            step += 1
        losses.append(total / len(cells.codes))
        sharpness.append(float(logits.detach().softmax(-1).max(-1).values.mean()))
        if sharpness[-1] >= config.converged:
            break
    return Mask(logits.detach().numpy().copy(), losses, sharpness)
