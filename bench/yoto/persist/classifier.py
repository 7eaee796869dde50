"""What the baselines with a network of their own share: checked cells, batches, a classifier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from torch import Tensor, nn

from kernomics._arguments import check_fields
from kernomics.baselines.labelled import checked_codes, log1p
from kernomics.errors import ConfigError, DataError
from kernomics.nn.philox import DrawingFrom, Draws, Dropout

CELLS_AT_A_TIME = 4096


# ---- cells --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LabelledCells:
    """The labelled cells of a training set, ready for a network.

    Attributes
    ----------
    values
        log(1 + count), scipy CSR float32 [n, G], without stored zeros.
    codes
        Class codes, int64 [n], all 0 or more.
    n_classes
        Classes that the codes run over, those without a cell included.
    """

    values: sparse.csr_matrix
    codes: NDArray[np.int64]
    n_classes: int

    @classmethod
    def from_counts(
        cls, counts: Any, labels: ArrayLike, n_genes: int, n_classes: int | None = None
    ) -> LabelledCells:
        """Check the arguments of a baseline's ``train`` and keep the labelled cells."""
        codes, n_classes = checked_codes(counts, labels, n_genes, n_classes)
        labelled = codes >= 0
        values = sparse.csr_matrix(log1p(counts)[labelled])
        n_seen = np.unique(values.indices).size
        if n_seen < n_genes:
            raise DataError(
                f"a panel of {n_genes} genes was asked for, but only {n_seen:,} of "
                f"{counts.shape[1]:,} genes are seen in a labelled training cell; ask for fewer"
            )
        return cls(values, codes[labelled], n_classes)

    def genes(self, columns: NDArray[np.int64]) -> LabelledCells:
        """Return the same cells over some genes, in that order."""
        part = sparse.csr_matrix(self.values[:, columns])
        return LabelledCells(part, self.codes, self.n_classes)

    def rows(self, rows: NDArray[np.int64]) -> LabelledCells:
        """Return some of the cells; the classes stay the same."""
        return LabelledCells(sparse.csr_matrix(self.values[rows]), self.codes[rows], self.n_classes)

    def batches(self, size: int, rng: np.random.Generator) -> Iterator[LabelledCells]:
        """Go through the cells once, in random order."""
        order = rng.permutation(len(self.codes))
        for start in range(0, len(order), size):
            yield self.rows(order[start : start + size])

    def dense(self) -> Tensor:
        """Return the values as float32 [n, G]: for batches over a panel's genes."""
        return torch.from_numpy(self.values.toarray())

    def targets(self) -> Tensor:
        """Return the codes as int64 [n]."""
        return torch.from_numpy(self.codes)


def hold_out(
    codes: NDArray[np.int64], share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Put a share of every class's cells aside.

    A class with fewer than 1/share cells may lend none; every class keeps at least one cell.
    """
    aside = np.zeros(codes.size, dtype=bool)
    for code in np.unique(codes):
        rows = rng.permutation(np.flatnonzero(codes == code))
        # A random one of the two neighbouring numbers, so that small classes lend some, too.
        n = min(int(share * rows.size + rng.random()), rows.size - 1)
        aside[rows[:n]] = True
    return np.flatnonzero(~aside), np.flatnonzero(aside)


# ---- randomness ---------------------------------------------------------------------------------


def generators(seed: int, stage: int) -> tuple[np.random.Generator, Draws]:
    """Make numpy's and torch's random numbers of one part of a training."""
    entropy = np.random.SeedSequence([seed % 2**64, stage])
    draws = Draws(int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1)))
    return np.random.default_rng(entropy), draws


# ---- the classifier -----------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassifierConfig:
    """How the classifier on a panel is trained.

    Attributes
    ----------
    hidden
        Widths of its layers.
    learning_rate, batch_size
        Adam's, constant; cells per step.
    max_epochs, patience
        Epochs at most; epochs without a lower loss on the cells held out before it stops.
    held_out
        Share of every class's training cells that it stops by.
    dropout, weight_decay
        Dropout after every layer; decoupled weight decay.
    class_weights
        ``"balanced"`` weighs a class by the inverse of its size, None not.
    """

    hidden: tuple[int, ...] = (128, 128)
    learning_rate: float = 1e-3
    batch_size: int = 64
    max_epochs: int = 200
    patience: int = 20
    held_out: float = 0.1
    dropout: float = 0.3
    weight_decay: float = 1e-2
    class_weights: str | None = "balanced"

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("batch_size", "max_epochs", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.learning_rate <= 0:
            raise ConfigError(f"learning_rate is {self.learning_rate}: it must be above 0")
        if self.weight_decay < 0:
            raise ConfigError(f"weight_decay is {self.weight_decay}: it must be 0 or more")
        for name in ("held_out", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: a share from 0 to below 1")
        if any(width < 1 for width in self.hidden):
            raise ConfigError(f"hidden is {self.hidden}: the widths must be at least 1")


def mlp(
    n_in: int, hidden: Sequence[int], n_out: int, draws: Draws, dropout: float = 0.0
) -> nn.Sequential:
    """Make Linear → ReLU → dropout for each hidden layer, and a last Linear, drawn of `draws`."""
    layers: list[nn.Module] = []
    with DrawingFrom(draws.generator()):
        for before, after in pairwise((n_in, *hidden)):
            layers += [nn.Linear(before, after), nn.ReLU(), Dropout(dropout, draws)]
        return nn.Sequential(*layers, nn.Linear(hidden[-1] if hidden else n_in, n_out))


def class_weights(cells: LabelledCells, how: str | None) -> Tensor | None:
    """Return n / (C n_c) for each class, 0 for one without cells; None for equal weights."""
    if how is None:
        return None
    if how != "balanced":
        raise ConfigError(f"class_weights is {how!r}; use 'balanced' or None")
    sizes = np.bincount(cells.codes, minlength=cells.n_classes)
    weights = cells.codes.size / (np.count_nonzero(sizes) * np.maximum(sizes, 1))
    return torch.from_numpy(np.where(sizes > 0, weights, 0.0).astype(np.float32))


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained classifier on some genes; call it with counts over all genes.

    Attributes
    ----------
    genes
        int64 [k], the columns it reads.
    network
        From log(1 + count) [n, k] to logits [n, n_classes].
    losses
        Per epoch, the mean loss over the training cells (with dropout).
    held_out_losses
        Per epoch, the loss on the cells held out; the weights are those of its minimum.
    """

    genes: NDArray[np.int64]
    network: nn.Module
    losses: list[float]
    held_out_losses: list[float]

    def __call__(self, counts: Any) -> NDArray[np.float32]:
        """Return class probabilities, float32 [n, n_classes], for counts [n, G]."""
        panel = log1p(sparse.csr_matrix(counts)[:, self.genes])
        parts = []
        with torch.inference_mode():
            for start in range(0, panel.shape[0], CELLS_AT_A_TIME):
                x = torch.from_numpy(panel[start : start + CELLS_AT_A_TIME].toarray())
                parts.append(self.network(x).softmax(1).numpy())
        return np.concatenate(parts) if parts else np.empty((0, self._n_classes()), np.float32)

    def _n_classes(self) -> int:
        return int(list(self.network.parameters())[-1].shape[0])


def fit_classifier(
    cells: LabelledCells, genes: NDArray[np.int64], config: ClassifierConfig, *, seed: int
) -> Classifier:
    """Train a classifier on a panel's genes; keep the weights that did best on held-out cells."""
    panel = cells.genes(genes)
    rng, draws = generators(seed, 3)
    kept, aside = hold_out(cells.codes, config.held_out, rng)
    train, other = panel.rows(kept), panel.rows(aside if aside.size else kept)
    network = mlp(len(genes), config.hidden, cells.n_classes, draws, config.dropout)
    weights = class_weights(train, config.class_weights)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    x, y = other.dense(), other.targets()
    losses: list[float] = []
    others: list[float] = []
    best = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for epoch in range(config.max_epochs):
        network.train()
        total = 0.0
        for batch in train.batches(config.batch_size, rng):
            optimizer.zero_grad()
            loss = F.cross_entropy(network(batch.dense()), batch.targets(), weight=weights)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(loss.detach()) * len(batch.codes)
        losses.append(total / len(train.codes))
        network.eval()
        with torch.no_grad():
            others.append(float(F.cross_entropy(network(x), y, weight=weights)))
        if others[-1] == min(others):
            best = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        if epoch - int(np.argmin(others)) >= config.patience:
            break
    network.load_state_dict(best)
    return Classifier(np.array(genes, dtype=np.int64), network, losses, others)
