"""How YOTO selects, predicts and is trained: its settings and their defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kernomics._arguments import check_fields, checked
from kernomics.errors import ConfigError
from kernomics.models.tasks import ClassWeights
from kernomics.models.yoto.network import Transform
from kernomics.models.yoto.schedule import Schedule
from kernomics.models.yoto.start_rankings import Ranking
from kernomics.models.yoto.start_records import Judge
from kernomics.ops.gumbel_topk import Relaxation
from kernomics.train import TrainConfig


@dataclass(frozen=True)
class YOTOConfig:
    """Settings of how YOTO selects and predicts.

    The paper gives the method but few values; those marked "ours" are our choice.

    Attributes
    ----------
    n_genes
        k, the size of the panel, including forced genes.
    relaxation
        The relaxation whose gradient the mask gets: ``"softsort"`` (ours), ``"neuralsort"``,
        ``"softmax"``.
    tau_start, tau_end
        Temperature τ, annealed exponentially (paper). Ours: the values.
    start_genes
        Subset size at the first step, shrunk geometrically to `n_genes` (the paper lets it
        progress, without a definition). Ours: 64 k, at most the usable genes. Set it to `n_genes`
        for a constant size.
    shrink_until
        Fraction of the steps after which the subset has its final size. Ours.
    noise_start, noise_end, noise_until
        Scale of the Gumbel noise, changed linearly over that fraction of the steps. Ours: full
        noise to the end costs accuracy.
    marker_prior
        How far apart the initial scores are: a gene that is the r-th best marker of some class
        (from 0) starts at −marker_prior · log(1 + r); 0 for equal scores. Ours; see
        `marker_scores`.
    fix_panel_at
        Fraction of the steps after which the panel is fixed and a second network learns from it
        alone. The schedules above cover the steps before. Ours; 0 selects to the end.
    hidden
        Widths of the shared encoder; 128, 128 as in the network of the paper's ablations.
    dropout
        Dropout rate in the encoder during training. Ours.
    private_encoders
        With several labels, the panel's network has a small encoder for each label beside the
        shared one: with only a shared encoder each label is predicted slightly worse than by a
        training run of its own. Ours; the selection uses only the shared one, as in the paper.
    label_smoothing
        Smoothing of the class labels during training: without it the losses, and with them the
        gradients of the scores, vanish on a few thousand cells. Ours.
    transform
        Input of the network: ``"log1p"`` and ``"binary"`` need only the panel's counts,
        ``"lognorm"`` (paper) also each cell's library size, a total over all genes.
    class_weights
        ``"sqrt"`` weights a cell by one over the square root of its class size, so that rare types
        count without too many false positives (ours); ``"balanced"`` by one over the size; None
        gives equal weights.
    score_learning_rate
        Learning rate of the gene scores; the network uses the training's ``learning_rate``. Ours.
    min_cells
        Genes detected in fewer training cells are not used.
    n_starts
        How many selections to make; the panel is that of the best by `judge`. Each
        start takes `fix_panel_at` of the steps of one training, with weights, noise and order of
        cells of its own; the panel's predictor is trained once. 1 is the paper's one training.
    halving
        End most starts early: after a part of its steps each start is judged, and the better half
        goes on. The last one left has the second half of its steps to itself, the two before it
        the second quarter, and so on, so that R starts take 1 + ½·log₂ R times the steps of one
        selection. False lets all of them end.
    start_rankings
        Where the scores of each start begin, taken by turns: ``"markers"``, as `marker_prior` says;
        ``"l1"`` or ``"de"``, with the genes that `kernomics.baselines.L1Baseline` or
        `DEBaseline` chooses on the training cells ahead of the others, as from a list in
        `start_from`.
    judge
        Who judges the panels of several starts: ``"own"``, the selection's network as it is when
        its start ends, on the validation cells; ``"linear"``, a logistic regression (ridge for
        numbers) on the panel's counts, on 1,000 validation cells or more, or else by
        cross-validation within the training cells (ours); ``"both"``, the mean of the two.
    """

    n_genes: int = 64
    relaxation: Relaxation = "softsort"
    tau_start: float = 1.0
    tau_end: float = 0.2
    start_genes: int | None = None
    shrink_until: float = 0.5
    noise_start: float = 0.3
    noise_end: float = 0.0
    noise_until: float = 0.7
    marker_prior: float = 0.2
    fix_panel_at: float = 0.4
    hidden: tuple[int, ...] = (128, 128)
    dropout: float = 0.3
    private_encoders: bool = True
    label_smoothing: float = 0.1
    transform: Transform = "log1p"
    class_weights: ClassWeights | None = "sqrt"
    score_learning_rate: float = 0.1
    min_cells: int = 1
    n_starts: int = 1
    halving: bool = False
    start_rankings: tuple[Ranking, ...] = ("markers",)
    judge: Judge = "linear"

    def __post_init__(self) -> None:
        hidden: object = self.hidden
        if isinstance(hidden, list):  # JSON has no tuples
            object.__setattr__(self, "hidden", tuple(hidden))
        rankings: object = self.start_rankings
        if isinstance(rankings, list):
            object.__setattr__(self, "start_rankings", tuple(rankings))
        check_fields(self)
        if self.n_genes < 1:
            raise ConfigError(f"n_genes is {self.n_genes}: a panel needs at least 1 gene")
        if self.start_genes is not None and self.start_genes < self.n_genes:
            raise ConfigError(
                f"start_genes is {self.start_genes}, below n_genes = {self.n_genes}: the subset "
                "can only shrink"
            )
        for name in ("tau_start", "tau_end", "score_learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)!r}: it must be above 0")
        for name in ("shrink_until", "noise_until", "fix_panel_at"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}: it is a fraction, from 0 to 1"
                )
        if self.min_cells < 1:
            raise ConfigError(
                f"min_cells is {self.min_cells}: a gene detected in no cell carries no information"
            )
        if self.n_starts < 1:
            raise ConfigError(f"n_starts is {self.n_starts}: at least 1 is needed")
        if not 1 <= len(self.start_rankings) <= self.n_starts:
            raise ConfigError(
                f"start_rankings is {self.start_rankings!r} and n_starts is {self.n_starts}: name "
                "at least 1 and at most as many as there are starts"
            )
        if self.n_starts == 1 and self.halving:
            raise ConfigError(
                "halving ends half of several starts early, and n_starts is 1: give n_starts, such "
                "as 4, or leave halving out"
            )
        if self.n_starts > 1 and not 0 < self.fix_panel_at < 1:
            raise ConfigError(
                f"n_starts is {self.n_starts} and fix_panel_at is {self.fix_panel_at}: starts are "
                "compared where the panel is fixed, so fix_panel_at must be between 0 and 1"
            )
        for name in ("noise_start", "noise_end", "marker_prior"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)!r}: it must be 0 or more")
        if not len(self.hidden) or min(self.hidden) < 1:
            raise ConfigError(f"hidden is {self.hidden}: give the width of at least one layer")
        for name in ("dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}: it must be at least 0 and below 1"
                )

    @checked
    def schedule(self, usable: int) -> Schedule:
        """Return the schedules of a selection from so many usable genes."""
        start = 64 * self.n_genes if self.start_genes is None else self.start_genes
        return Schedule(
            n_genes=self.n_genes,
            start_genes=min(start, usable),
            shrink_until=self.shrink_until,
            tau=(self.tau_start, self.tau_end),
            noise=(self.noise_start, self.noise_end),
            noise_until=self.noise_until,
            fix_at=self.fix_panel_at,
        )


def default_training(n_train: int) -> TrainConfig:
    """Training settings for a number of cells: about 2,500 steps, in 4 to 400 epochs (ours)."""
    batch_size = 128 if n_train >= 2000 else 64
    epochs = round(2500 / math.ceil(n_train / batch_size))
    return TrainConfig(
        max_epochs=min(400, max(4, epochs)),
        batch_size=batch_size,
        learning_rate=3e-3,
        schedule="one_cycle",
        weight_decay=0.3,
        max_grad_norm=1.0,
        validate_every=10,
    )
