"""Beginning a selection from a panel that is there already, or building one around it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from kernomics._warnings import warn
from kernomics.data.gene_lists import read_genes
from kernomics.data.genes import id_mismatch
from kernomics.errors import ConfigError, DataError, closest
from kernomics.models.tasks import Task
from kernomics.models.yoto.module import YOTOModule
from kernomics.models.yoto.network import Transform
from kernomics.models.yoto.panel import Panel, require_base

PanelSource: TypeAlias = Panel | Sequence[str] | str | Path
"""A panel, names of genes, or the path of either: a saved model, a run directory, a ``panel.csv``,
a text file with one gene per line."""

SPREAD = 0.5
"""Standard deviation of the scores at a warm start, about that of a finished training (ours)."""
BONUS = 1.5
"""How far the genes of a list begin above where they would otherwise: three times `SPREAD`, as a
panel's genes usually are above the mean (ours)."""
START_FACTOR = 4
"""The subset of a warm start begins with this many times k genes."""


def read_panel(source: PanelSource, what: str) -> Panel | list[str]:
    """Read a panel or a list of genes."""
    if isinstance(source, Panel):
        require_base(source, what)
        return source
    if not isinstance(source, str | Path):
        genes = [str(gene) for gene in source]
    elif Path(source).is_dir():
        return read_panel(Panel.load(source), what)
    elif Path(source).is_file() or Path(source).is_fifo():  # a shell's <(…) is a pipe
        genes = read_genes(source, named=True)
    else:
        raise ConfigError(
            f"{what} is {str(source)!r}, and there is no such file or directory; give a saved "
            "model, a panel.csv, a file with one gene per line, or a list of names"
        )
    if not genes:
        raise ConfigError(f"{what} names no genes")
    return list(dict.fromkeys(genes))


def extended_genes(source: PanelSource, n_genes: int) -> list[str]:
    """Return the genes of a panel that is to be extended to `n_genes`."""
    found = read_panel(source, "extend")
    genes = found.genes if isinstance(found, Panel) else found
    if n_genes <= len(genes):
        raise ConfigError(
            f"extend has {len(genes)} genes and n_genes is {n_genes}: n_genes counts all genes of "
            f"the new panel, so it must be at least {len(genes) + 1}"
        )
    return list(genes)


@dataclass(frozen=True, eq=False)
class WarmStart:
    """What a selection begins with instead of, or beside, the marker prior.

    Scores of a panel are standardised over the genes it was selected from, to mean 0 and standard
    deviation `SPREAD`. Genes it was forced to take begin with its best score, genes it could not
    take with its worst, genes it did not know with 0. The genes of a list begin `BONUS` above the
    scores of a cold start, the others at these.

    If a panel's labels, classes, hidden widths and transform are those of the new selection, its
    network is taken over too: encoder, heads, and the first layer's weights of its genes. They
    serve the selection; once the panel is fixed (``fix_panel_at``), a new one learns.

    Attributes
    ----------
    source
        The panel, or names of genes.
    """

    source: Panel | list[str]

    def check(
        self,
        genes: NDArray[Any],
        tasks: Sequence[Task],
        hidden: Sequence[int],
        transform: Transform,
        var: pd.DataFrame | None = None,
    ) -> None:
        """Compare the start with what is to be selected."""
        known = set(genes)
        absent = [name for name in self.names if name not in known]
        if len(absent) == len(self.names):
            raise DataError(
                f"none of the {len(absent)} genes of start_from is in the data, first "
                f"{absent[0]!r}; {closest(absent[0], genes)}"
                f"{id_mismatch('that panel has', absent, genes, var)}"
            )
        if absent:
            warn(
                f"{len(absent)} of {len(self.names)} genes of start_from are not in the data, "
                f"first {absent[0]!r}; the selection starts from the others"
            )
        if misfit := self.misfit(tasks, hidden, transform):
            warn(f"start_from: the panel's scores are reused, but not its network: {misfit}")

    def scores(self, genes: NDArray[Any], cold: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the initial scores of genes by name, given those of a cold start, float32 [G]."""
        if isinstance(self.source, Panel):
            given = self.source.ranking["score"].astype(np.float64)
            finite = given[np.isfinite(given)]
            if len(finite) and (spread := finite.std(ddof=0)) > 0:
                begin = given.clip(finite.min(), finite.max())
                begin = (begin - finite.mean()) / spread * SPREAD
                return begin.reindex(genes, fill_value=0.0).to_numpy(np.float32)
        scores: NDArray[np.float32] = cold + np.float32(BONUS) * pd.Index(genes).isin(self.names)
        return scores

    def misfit(self, tasks: Sequence[Task], hidden: Sequence[int], transform: Transform) -> str:
        """Say why the panel's network cannot be taken over; empty when it can, or there is none."""
        if not isinstance(self.source, Panel):
            return ""
        network = self.source.network
        for name, old, new in (
            ("transform", network.transform, transform),
            ("hidden", tuple(network.hidden), tuple(hidden)),
            ("label", [task.name for task in network.tasks], [task.name for task in tasks]),
        ):
            if old != new:
                return f"its {name} is {old!r}, not {new!r}"
        for before, now in zip(network.tasks, tasks, strict=True):
            if (before.kind, before.classes) != (now.kind, now.classes):
                return f"its label {now.name!r} has other classes"
        return ""

    def apply(self, module: YOTOModule, genes: NDArray[Any]) -> None:
        """Set the scores of an untrained module, and where it fits its network."""
        with torch.no_grad():
            scores = module.selector.scores
            scores.copy_(torch.from_numpy(self.scores(genes, scores.numpy())))
            if not isinstance(self.source, Panel) or self.misfit(
                module.tasks, module.hidden, module.transform
            ):
                return
            network = self.source.network
            place = {gene: i for i, gene in enumerate(genes)}
            pairs = [(place[g], i) for i, g in enumerate(self.source.genes) if g in place]
            rows, columns = torch.tensor(pairs).T
            module.first.weight[rows] = network.first.weight.T[columns].cpu()
            offset = module.gene_means[rows] @ module.first.weight[rows]
            module.first.bias.copy_(network.first.bias + offset)
            module.trunk.load_state_dict(network.trunk.state_dict())
            module.heads.load_state_dict(network.heads.state_dict())

    @property
    def names(self) -> list[str]:
        """The genes of the panel or the list."""
        return self.source.genes if isinstance(self.source, Panel) else self.source

    @property
    def sha256(self) -> str:
        """Digest of everything that a selection takes from here."""
        whole = hashlib.sha256("\0".join(self.names).encode())
        if isinstance(self.source, Panel):
            ranking = self.source.ranking
            whole.update("\0".join(ranking.index).encode())
            whole.update(ranking["score"].to_numpy("<f4").tobytes())
            for name, tensor in self.source.network.state_dict().items():
                whole.update(name.encode() + tensor.cpu().numpy().astype("<f4").tobytes())
        return whole.hexdigest()
