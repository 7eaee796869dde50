"""`Lesson`: one stage of a training, the module with the methods that look after it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kernomics.data import Cells
from kernomics.models.gil.methods.base import Method, Situation, Step
from kernomics.models.gil.module import STEPS_OF_A_STAGE, Outputs
from kernomics.nn.philox import STREAM_GHOSTS, uniforms


class Lesson(nn.Module):
    """What `fit` trains in one stage: the loss of the values and what the methods add.

    Its weights are the module's and no others, so a checkpoint of it is one of the module.
    """

    by_total_steps = False

    def __init__(self, situation: Situation, methods: Sequence[Method]) -> None:
        super().__init__()
        self.module = situation.module
        # In a tuple, so that torch does not take the previous model for a part of this one.
        self._held = (situation, list(methods))
        self._taught: tuple[Tensor, Outputs] | None = None

    @property
    def situation(self) -> Situation:
        """Where the training stands."""
        return self._held[0]

    @property
    def query_weight(self) -> float:
        """Weight of predictions by query beside those by token."""
        return self.module.config.query_weight

    def asked(self, step: Step, n: int) -> Tensor:
        """Return the mean squared difference to what the previous model says of genes asked for.

        Of each cell these are n of the genes that it knows, or as many as there are, drawn with
        replacement.
        """
        previous, teacher = self.situation.previous, self.taught(step)
        assert previous is not None
        assert teacher is not None
        n_known = previous.n_genes
        n = min(n, n_known)
        drawn = uniforms(step.draw, step.cells.cell_ids, n, STREAM_GHOSTS)
        genes = (drawn * n_known).long().clamp_max(n_known - 1).flatten()
        cells = torch.arange(len(step.cells), device=genes.device).repeat_interleave(n)
        with torch.no_grad():
            wanted = previous.predicted(previous.ask(teacher.cls, cells, genes))
        module = self.module
        found = module.predicted(module.ask(step.outputs.cls, cells, genes))
        return (found - wanted).square().mean()

    def on_step(self, step: int, total_steps: int) -> None:
        """Note the step, by which everything is drawn."""
        self.module.drawn_by[1].fill_(self.situation.number * STEPS_OF_A_STAGE + step)

    def training_loss(self, cells: Cells) -> dict[str, Tensor]:
        """Return the losses of a batch."""
        module, self._taught = self.module, None
        draw = module.drawn_by
        tokens = module.tokens(cells, draw)
        outputs = module(tokens)
        losses = module.value_losses(outputs)
        step = Step(cells, tokens, outputs, draw)
        for method in self._held[1]:
            added = method.loss(self, step)
            if added is not None:
                losses["loss"] = losses["loss"] + added
                losses[f"loss/{method.name}"] = added
        self._taught = None
        return losses

    def taught(self, step: Step) -> Outputs | None:
        """Return what the previous model makes of a batch, of which it sees the genes it knows.

        Computed once a batch, whichever methods ask.
        """
        previous = self.situation.previous
        if previous is None:
            return None
        if self._taught is None or self._taught[0] is not step.tokens.gene_ids:
            with torch.no_grad():
                known = step.tokens.of(step.tokens.gene_ids < previous.n_genes)
                self._taught = step.tokens.gene_ids, previous(known)
        return self._taught[1]
