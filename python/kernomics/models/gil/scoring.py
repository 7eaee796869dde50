"""How well a module predicts hidden values, gene by gene, under masks that all models share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kernomics._warnings import warn
from kernomics.data.rng import keys_of_names
from kernomics.data.row_numbers import parts
from kernomics.data.staged import StagedCells
from kernomics.models.gil.module import GILModule

CELLS_AT_A_TIME = 128
SCORING_DRAW = -1


@dataclass(frozen=True, eq=False)
class GeneErrors:
    """Squared errors of hidden values, log-normalised, gene by gene.

    Attributes
    ----------
    tokens, queries
        float64 [V], sums of squared errors: of what masked tokens predict, and of what the cell's
        state predicts when asked.
    counts
        int64 [V], hidden values of each gene.
    """

    tokens: NDArray[np.float64]
    queries: NDArray[np.float64]
    counts: NDArray[np.int64]

    def of_groups(self, group: NDArray[np.int64], n_groups: int) -> dict[str, list[float]]:
        """Return the mean squared error of each group of genes; NaN where nothing was hidden."""
        n = np.bincount(group, self.counts, n_groups)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                name: (np.bincount(group, sums, n_groups) / n).tolist()
                for name, sums in (("tokens", self.tokens), ("queries", self.queries))
            }

    def to_dict(self) -> dict[str, Any]:
        """Return a form for JSON."""
        return {
            "tokens": self.tokens.tolist(),
            "queries": self.queries.tolist(),
            "counts": self.counts.tolist(),
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Sequence[float]]) -> GeneErrors:
        """Read what `to_dict` wrote."""
        return cls(
            np.array(saved["tokens"], np.float64),
            np.array(saved["queries"], np.float64),
            np.array(saved["counts"], np.int64),
        )


def tell_of_untested(staged: StagedCells) -> None:
    """Warn of stages without test cells, whose genes cannot be scored."""
    names = staged.stages.names
    without = [name for i, name in enumerate(names) if not len(staged.rows(i, "test"))]
    if without:
        warn(
            f"{len(without)} of the {len(names)} stages have no test cells, first {without[0]!r}: "
            "the losses of their genes will be NaN; make stages of more cells, or of a larger "
            "share to test on (fractions of kernomics.data.gene_stages)"
        )


@torch.inference_mode()
def gene_errors(module: GILModule, staged: StagedCells, part: str) -> GeneErrors:
    """Score a module on a part of the cells: each stage's own genes in its own cells.

    Which genes are shown and hidden hangs on the cells' names and the seed alone, so it is the
    same for every model of that seed. Genes that the module does not know yet have random
    embeddings, by the seed, wherever they will start.
    """
    stages = staged.stages
    device = module.genes.device
    ready = module.grown(stages.n_known)
    group = torch.from_numpy(stages.group_of_gene()).to(device)
    n_genes = len(group)
    sums = [torch.zeros(n_genes, dtype=torch.float64, device=device) for _ in range(2)]
    counts = torch.zeros(n_genes, dtype=torch.int64, device=device)
    for stage in range(len(stages)):
        rows = staged.rows(stage, part)
        for some in parts(len(rows), CELLS_AT_A_TIME):
            keys = torch.from_numpy(keys_of_names(staged.cells.cell_names[rows[some]]))
            cells = replace(staged.cells.batch(rows[some]), cell_ids=keys).to(device)
            tokens = ready.tokens(cells, ready.at(SCORING_DRAW))
            outputs = ready(tokens)
            genes, values = tokens.gene_ids[tokens.hidden], tokens.values[tokens.hidden]
            mine = group[genes] == stage
            for total, found in zip(sums, (outputs.tokens, outputs.queries), strict=True):
                error = (found - values)[mine].double() ** 2
                total += torch.bincount(genes[mine], error, n_genes)
            counts += torch.bincount(genes[mine], minlength=n_genes)
    tokens_, queries = (total.cpu().numpy() for total in sums)
    return GeneErrors(tokens_, queries, counts.cpu().numpy())
