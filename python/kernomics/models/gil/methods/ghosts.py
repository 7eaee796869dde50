"""Ghost-gene distillation: old genes that the new cells lack are shown hidden all the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.func import functional_call

from kernomics._arguments import require_least
from kernomics.data import Cells
from kernomics.data.staged import StagedCells
from kernomics.errors import ConfigError
from kernomics.models.gil.methods.base import Method, Step
from kernomics.models.gil.methods.distillation import require_weight
from kernomics.models.gil.module import HIDDEN, GILModule, Outputs
from kernomics.models.gil.tokens import Tokens
from kernomics.nn.philox import STREAM_GHOSTS, uniforms
from kernomics.train.distributed import over_ranks

if TYPE_CHECKING:
    from kernomics.models.gil.lesson import Lesson


@dataclass(frozen=True)
class Ghosts(Method):
    """The squared difference to the previous model's predictions of genes the new cells lack.

    Gene distillation never touches the specific genes of earlier stages: they are absent from the
    cells at hand. Here a batch is shown a second time as an earlier stage would have had it: with
    the genes known then alone, and with some of the absent ones, the ghosts, as hidden tokens. The
    previous model, which sees the same, is the teacher of the ghosts' values, by token and by
    query. No cell is kept, and the ghosts' embeddings stay as they are. In the second stage there
    are no ghosts, and nothing is added.

    Attributes
    ----------
    weight
        Of this loss beside that of the values: a larger one keeps more and learns less.
    n_ghosts
        Shown of each cell, at most; each step draws others.
    """

    name: ClassVar[str] = "ghosts"
    needs_previous: ClassVar[bool] = True
    weight: float = 0.2
    n_ghosts: int = 16

    def check(self, staged: StagedCells) -> None:
        """Refuse a weight of 0 or less, and stages in which there never are ghosts."""
        require_weight("weight", self.weight)
        require_least(1, n_ghosts=self.n_ghosts)
        if len(staged.stages) < 3:
            raise ConfigError(
                f"method 'ghosts' holds on to specific genes of earlier stages, and of these "
                f"{len(staged.stages)} stages only the last has any: it would do nothing; leave it "
                "out, or take 'distillation'"
            )

    def loss(self, lesson: Lesson, step: Step) -> Tensor | None:
        """Return the weight times the mean squared differences at the ghosts."""
        previous = lesson.situation.previous
        n_base = len(lesson.situation.staged.stages.base)
        if previous is None or previous.n_genes <= n_base:
            return None
        tokens = step.tokens.of(step.tokens.gene_ids < previous.n_genes)
        tokens = with_ghosts(tokens, step.cells, n_base, previous.n_genes, self.n_ghosts, step.draw)
        with torch.no_grad():
            wanted = previous(tokens)
        found = _with_fixed_rows(lesson.module, tokens, n_base)
        ghost = tokens.values[tokens.hidden] == HIDDEN
        (n,) = over_ranks(int(ghost.sum()))
        of_tokens, of_queries = (
            (one - other)[ghost].square().sum() / n
            for one, other in ((found.tokens, wanted.tokens), (found.queries, wanted.queries))
        )
        return self.weight * torch.add(of_tokens, of_queries, alpha=lesson.query_weight)


def _with_fixed_rows(module: GILModule, tokens: Tokens, first: int) -> Outputs:
    """Predict hidden values; the embeddings from gene `first` on learn nothing from that."""
    genes = torch.cat([module.genes[:first], module.genes[first:].detach()])
    found: Outputs = functional_call(module, {"genes": genes}, (tokens,))
    return found


def with_ghosts(
    tokens: Tokens, cells: Cells, first: int, stop: int, n: int, seed: Tensor
) -> Tokens:
    """Show of each cell n genes more of those from `first` to `stop`, hidden, that it lacks.

    Their value is `HIDDEN`, which no other gene has.

    Parameters
    ----------
    tokens
        Of genes below `stop`.
    cells
        B cells; what is measured in one is no ghost there.
    n
        Of each cell, or as many as it lacks.
    seed
        int64 [2], (key, step).
    """
    drawn = uniforms(seed, cells.cell_ids, stop - first, STREAM_GHOSTS)
    if cells.observed is not None:
        measured = cells.observed.mask.bool()[cells.observed.panel_id.long(), first:stop]
        drawn = drawn.masked_fill(measured, 2.0)
    least, genes = drawn.topk(min(n, stop - first), largest=False)
    rows, places = (least < 1).nonzero(as_tuple=True)
    genes = first + genes[rows, places]
    gene_ids, of = torch.cat([tokens.gene_ids, genes]), torch.cat([tokens.cells, rows])
    order = torch.argsort(of * stop + gene_ids)
    none = torch.full_like(genes, HIDDEN, dtype=tokens.values.dtype)
    hidden = torch.cat([tokens.hidden, torch.ones_like(genes, dtype=torch.bool)])
    lengths = tokens.lengths + torch.bincount(rows, minlength=len(tokens.lengths)).cpu()
    values = torch.cat([tokens.values, none])
    return Tokens(gene_ids[order], values[order], hidden[order], lengths, of[order])
