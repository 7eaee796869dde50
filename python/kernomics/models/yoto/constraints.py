"""What a `YOTO` is made of before it is trained: labelled cells, tasks and constraints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kernomics.data import CellCollection
from kernomics.data.expression import measured_everywhere
from kernomics.data.gene_stats import GeneSummary
from kernomics.data.readers.inputs import ReadOptions
from kernomics.errors import ConfigError, closest
from kernomics.models.base import as_collection, checked_integer
from kernomics.models.tasks import Task
from kernomics.models.yoto.budget import Budget, costs_of_column, make_budget
from kernomics.models.yoto.class_markers import class_markers
from kernomics.models.yoto.config import YOTOConfig
from kernomics.models.yoto.gene_bounds import GeneBounds, gene_bounds
from kernomics.models.yoto.warm_start import PanelSource, WarmStart, extended_genes, read_panel

if TYPE_CHECKING:
    from anndata import AnnData


def read_cells(
    adata: AnnData | str | Path | CellCollection, reading: ReadOptions, **more: Any
) -> CellCollection:
    """Read the cells to select from; parameters as in `as_collection`."""
    cells = as_collection(adata, reading, **more)
    if not cells.labels:
        raise ConfigError(f"labels_key is empty; {closest('', cells.obs.columns)}")
    return cells


@dataclass(frozen=True, eq=False)
class Constraints:
    """What limits a selection beside its size."""

    bounds: GeneBounds
    budget: Budget | None
    start: WarmStart | None
    options: dict[str, Any]  # what YOTO was asked, once read: no paths and columns
    markers: Mapping[str, list[tuple[str, str]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def description(self) -> dict[str, Any]:
        """All that decides a result and is not in `bounds`, fit for JSON; digests for the long."""
        names = (
            *("exclude_patterns", "min_detection", "max_detection", "budget"),
            "n_markers_per_class",
        )
        return {
            **{name: self.options[name] for name in names},
            "gene_costs_sha256": self.budget and self.budget.sha256,
            "start_from_sha256": self.start and self.start.sha256,
        }

    def outcome(self, panel: NDArray[np.int64]) -> dict[str, Any]:
        """Say how many genes each rule named, and what a panel of gene indices costs."""
        found: dict[str, Any] = {"excluded": dict(self.bounds.excluded)}
        if self.budget is not None:
            found["costs"] = {"total": self.budget.total(panel), "budget": self.budget.limit}
        if self.options["n_markers_per_class"]:
            found["markers"] = {
                gene: [list(one) for one in of] for gene, of in self.markers.items()
            }
        return found

    def marker_for(self, genes: Sequence[str]) -> list[str]:
        """Say of each gene for which classes it is kept; empty for none."""
        several = len({label for of in self.markers.values() for label, _ in of}) > 1
        return [
            "; ".join(
                f"{label}: {name}" if several else name
                for label, name in self.markers.get(gene, [])
            )
            for gene in genes
        ]


def make_constraints(
    cells: CellCollection,
    summary: GeneSummary,
    config: YOTOConfig,
    *,
    tasks: Sequence[Task],
    train: NDArray[np.int64],
    adata: AnnData | str | Path | CellCollection,
    reading: ReadOptions,
    forced_genes: str | Sequence[str],
    forbidden_genes: str | Sequence[str],
    exclude_patterns: str | Sequence[str],
    min_detection: float,
    max_detection: float,
    extend: PanelSource | None,
    start_from: PanelSource | None,
    gene_costs: Mapping[str, float] | str | None,
    budget: float | None,
    n_markers_per_class: int,
) -> Constraints:
    """Read and check all constraints; parameters as in `YOTO`."""
    per_class = checked_integer("n_markers_per_class", n_markers_per_class, least=0)
    forced, forbidden, patterns = (
        [names] if isinstance(names, str) else list(names)
        for names in (forced_genes, forbidden_genes, exclude_patterns)
    )
    extended = None if extend is None else extended_genes(extend, config.n_genes)
    bounds = gene_bounds(
        cells.genes,
        summary.n_expressing,
        n_cells=int(summary.n_cells),
        n_genes=config.n_genes,
        min_cells=config.min_cells,
        forced=[*(extended or ()), *forced],
        forbidden=forbidden,
        exclude_patterns=patterns,
        min_detection=min_detection,
        max_detection=max_detection,
        var=cells.var,
        measured=measured_everywhere(cells),
    )
    costs = _costs(gene_costs, budget, adata, reading)
    limit = _limit(costs, budget, cells, bounds, config.n_genes)
    kept = class_markers(cells, train, tasks, per_class, bounds=bounds, n_genes=config.n_genes)
    if len(kept.added):
        forced_too = np.sort(np.concatenate([bounds.forced, kept.added]))
        bounds = replace(bounds, forced=forced_too)
        try:
            limit = _limit(costs, budget, cells, bounds, config.n_genes)
        except ConfigError as error:
            raise ConfigError(
                f"{error}, or ask for fewer than n_markers_per_class = {per_class}, which forces "
                f"{len(kept.added):,} of them"
            ) from None
    start = None if start_from is None else WarmStart(read_panel(start_from, "start_from"))
    options = {
        "forced_genes": forced,
        "forbidden_genes": forbidden,
        "exclude_patterns": patterns,
        "min_detection": min_detection,
        "max_detection": max_detection,
        "extend": extended,
        "start_from": start and start.source,
        "gene_costs": costs,
        "budget": budget,
        "n_markers_per_class": per_class,
    }
    markers = {str(cells.genes[gene]): of for gene, of in sorted(kept.of.items())}
    return Constraints(bounds, limit, start, options, markers, kept.notes)


def _limit(
    costs: dict[str, float] | None,
    budget: float | None,
    cells: CellCollection,
    bounds: GeneBounds,
    n_genes: int,
) -> Budget | None:
    if costs is None or budget is None:
        return None
    return make_budget(
        costs,
        budget,
        cells.genes,
        forced=bounds.forced,
        forbidden=bounds.forbidden,
        n_genes=n_genes,
    )


def _costs(
    gene_costs: Mapping[str, float] | str | None,
    budget: float | None,
    adata: AnnData | str | Path | CellCollection,
    reading: ReadOptions,
) -> dict[str, float] | None:
    if (gene_costs is None) != (budget is None):
        missing = "budget" if budget is None else "gene_costs"
        raise ConfigError(f"{missing} is missing: gene_costs and budget are given together")
    if isinstance(gene_costs, str):
        if isinstance(adata, CellCollection):
            raise ConfigError(
                f"gene_costs is {gene_costs!r}, a var column, but a CellCollection has no var; "
                "give the costs by gene name"
            )
        return costs_of_column(adata, gene_costs, reading)
    return None if gene_costs is None else dict(gene_costs)
