"""YOTOModule: what YOTO trains, which sees all genes and learns which k of them to keep."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from kernomics.data import Cells
from kernomics.models.tasks import Task, mean_task_loss, task_losses
from kernomics.models.yoto.budget import EVERY, Budget
from kernomics.models.yoto.network import (
    PRIVATE,
    PanelNetwork,
    Transform,
    encoder_layers,
    transformed,
)
from kernomics.models.yoto.schedule import Schedule
from kernomics.models.yoto.start_records import StartRecords
from kernomics.nn import Draws, GeneSelector, MaskedLinear, Selection
from kernomics.ops.gumbel_topk import Relaxation


class YOTOModule(nn.Module):
    """What YOTO trains.

    Gene scores, and a network over all genes (first layer, shared encoder, heads) to learn them
    with; then, from the step at which the panel is fixed, a network of its own for the panel,
    `predictor` on the genes of `fixed_panel`. A step trains one of the two.

    With several starts there is `starts`: selection then happens as often, each time from the
    beginning, and the panel is that of the start that is judged best.

    `gene_means` is taken off the input before the first layer while genes are selected: without it
    a gene that is high in all cells acts as a second bias, and its score's gradient is mostly
    noise.
    """

    fixed_panel: Tensor
    gene_means: Tensor

    def __init__(
        self,
        n_genes: int,
        tasks: Sequence[Task],
        hidden: Sequence[int],
        transform: Transform,
        schedule: Schedule,
        *,
        relaxation: Relaxation = "softsort",
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        private_encoders: bool = False,
        seed: int = 0,
        forced: Sequence[int] = (),
        forbidden: Sequence[int] = (),
        budget: Budget | None = None,
    ) -> None:
        super().__init__()
        self.tasks, self.transform, self.hidden = tuple(tasks), transform, tuple(hidden)
        self.budget = budget
        self.schedule = schedule
        self.relaxation: Relaxation = relaxation
        self.label_smoothing = label_smoothing
        self.seed = seed
        self.draws = Draws(seed)
        self.starts: StartRecords | None = None
        self.selector = GeneSelector(n_genes, forced=forced, forbidden=forbidden)
        self.first = MaskedLinear(n_genes, hidden[0], fan_in=schedule.n_genes, sparse_grad=True)
        self.trunk = encoder_layers(hidden, dropout, self.draws)
        self.heads = nn.ModuleList(nn.Linear(hidden[-1], task.n_out) for task in tasks)
        self.predictor = (
            PanelNetwork(
                schedule.n_genes,
                tasks,
                hidden,
                transform,
                dropout,
                self.draws,
                private_encoders=private_encoders and len(tasks) > 1,
            )
            if 0 < schedule.fix_at < 1
            else None
        )
        self.register_buffer("fixed_panel", torch.full((schedule.n_genes,), -1))
        self.register_buffer("gene_means", torch.zeros(n_genes))
        self.on_step(0, 1)

    def on_step(self, step: int, total_steps: int) -> None:
        """Set subset size, temperature and noise for an optimiser step; fix the panel in time."""
        self.step = step
        self.subset_size, self.tau, self.noise = self.schedule.at(step, total_steps)
        selecting = self.schedule.selection_steps(total_steps)
        ended = self.schedule.leg_ended(step)
        if ended is not None and self.starts is not None:
            self._end_leg(self.starts, ended)
        if step == selecting or step % EVERY == 0:
            self.set_prices()
        if step == selecting:
            self.fixed_panel.copy_(self._best_panel().indices)

    def cycle(self, step: int, total_steps: int) -> tuple[int, int] | None:
        """Return which step of how many the learning rate has; None for what the plan says."""
        return self.schedule.cycle(step, total_steps)

    def _end_leg(self, starts: StartRecords, number: int) -> None:
        """Judge the panel of a start, then go to the next leg, or take the best one's scores."""
        self.set_prices()
        training = self.training
        self.eval()
        with torch.no_grad():
            starts.end(number, self, self._best_panel().indices, self.selector.scores)
            if number + 1 < len(starts.legs):
                starts.begin(number + 1, self)
            else:
                self.selector.scores.copy_(starts.best_scores)
        self.train(training)
        self.set_prices()

    def news(self) -> list[tuple[str, dict[str, float]]]:
        """Return what the history is to tell of this step: how a start that ended was judged."""
        return [] if self.starts is None else self.starts.news()

    def operations(self, cells: int) -> int:
        """Count the floating-point operations of a forward pass over cells, at the start."""
        widths = [self.schedule.start_genes, *self.hidden]
        outputs = sum(task.n_out for task in self.tasks)
        layers = sum(a * b for a, b in pairwise(widths)) + self.hidden[-1] * outputs
        return 2 * cells * layers

    @property
    def fixed(self) -> bool:
        """Whether the panel is fixed, and `predictor` the network in use."""
        return bool(self.fixed_panel[0] >= 0)

    def _select(self, cells: Cells) -> Selection:
        if not self.training:
            return self._best_panel()
        # One panel per optimiser step: every batch that is accumulated sees the same.
        seed = torch.tensor([self.seed, self.step], device=cells.device)
        drawn: Selection = self.selector(
            self.subset_size,
            tau=self.tau,
            relaxation=self.relaxation,
            noise=self.noise,
            seed=seed,
        )
        return drawn

    def _best_panel(self) -> Selection:
        chosen: Selection = self.selector(self.schedule.n_genes)
        return chosen

    def set_prices(self) -> None:
        """Bring the panel that the scores stand for within the budget, if there is one."""
        if self.budget is not None:
            self.selector.penalty = self.budget.penalty(self.selector.scores)

    def forward(self, cells: Cells) -> list[Tensor]:
        """Return each task's output [B, n_out]; noise and schedules apply in training alone."""
        if self.fixed and self.predictor is not None:
            if cells.n_genes != len(self.fixed_panel):  # the panel's genes alone may be given
                cells = cells.select_genes(self.fixed_panel)
            outputs: list[Tensor] = self.predictor(cells)
            return outputs
        selection = self._select(cells)
        x = transformed(cells, self.transform)
        hidden = self.trunk(self.first(x, selection, self.gene_means))
        return [head(hidden) for head in self.heads]

    def task_losses(self, cells: Cells) -> dict[str, Tensor]:
        """Return the weighted mean over tasks as ``"loss"``, and ``"loss/<task>"`` for each."""
        found = task_losses(self.tasks, self(cells), cells, label_smoothing=self.label_smoothing)
        named = {f"loss/{task.name}": loss for task, loss in zip(self.tasks, found, strict=True)}
        return {"loss": mean_task_loss(self.tasks, found), **named}

    def training_loss(self, cells: Cells) -> dict[str, Tensor]:
        """Losses of a batch, and the monitors that the history keeps."""
        losses = self.task_losses(cells)
        scores = self.selector.scores
        free = scores.detach().index_select(0, self.selector.free)
        return {
            **losses,
            "temperature": scores.new_tensor(self.tau),
            "subset_size": scores.new_tensor(float(self.subset_size)),
            "noise": scores.new_tensor(self.noise),
            "score_variance": free.var(correction=0) if len(free) else scores.new_zeros(()),
        }

    def panel_network(self, ranked: Tensor) -> PanelNetwork:
        """Return the network on some genes, int64 [k], in that order.

        Once the panel is fixed these must be its genes.
        """
        if self.fixed and self.predictor is not None:
            weights = dict(self.predictor.state_dict())
            columns = torch.searchsorted(self.fixed_panel, ranked)
            for name, tensor in weights.items():
                if name == "first.weight" or (
                    name.startswith(PRIVATE) and name.endswith(".0.weight")
                ):
                    weights[name] = tensor[:, columns]
        else:
            weights = {
                name: tensor
                for name, tensor in self.state_dict().items()
                if name.startswith(("first.", "trunk.", "heads."))
            }
            weights["first.weight"] = weights["first.weight"][ranked].T
            offset = weights["first.weight"] @ self.gene_means[ranked]
            weights["first.bias"] = weights["first.bias"] - offset
        return PanelNetwork.from_weights(weights, self.tasks, self.hidden, self.transform)
