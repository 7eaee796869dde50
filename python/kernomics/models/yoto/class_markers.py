"""Markers of its own that every class is to keep in a panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kernomics.data import CellCollection
from kernomics.errors import ConfigError
from kernomics.models.tasks import Task
from kernomics.models.yoto.gene_bounds import GeneBounds
from kernomics.models.yoto.marker_prior import marker_strengths

LEAST_T = 3.0
"""Welch's t below which a gene is no marker of a class."""
SERVES_WITHIN = 10
"""A forced gene counts for a class if it is among so many times m of its best markers."""


@dataclass(frozen=True, eq=False)
class ClassMarkers:
    """Genes kept for classes: by gene all of them, forced ones too, and those to force besides."""

    added: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    of: Mapping[int, list[tuple[str, str]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def class_markers(
    cells: CellCollection,
    train: NDArray[np.int64],
    tasks: Sequence[Task],
    per_class: int,
    *,
    bounds: GeneBounds,
    n_genes: int,
) -> ClassMarkers:
    """Choose the markers that every class of every categorical label keeps.

    A gene's strength for a class is Welch's t against the other labelled training cells, as in
    `marker_scores`. Forced genes among the 10 m best count; what is missing to m are the strongest
    of the other usable genes, from t = 3 on. A gene may serve several classes.
    """
    if per_class == 0:
        return ClassMarkers()
    named = [task for task in tasks if task.classes]
    if not named:
        raise ConfigError(
            f"n_markers_per_class is {per_class}, but no label has classes: "
            f"{', '.join(task.name for task in tasks)}; leave it out"
        )
    usable, forced = np.ones(cells.n_genes, bool), np.zeros(cells.n_genes, bool)
    usable[bounds.forbidden], forced[bounds.forced] = False, True
    of: dict[int, list[tuple[str, str]]] = {}
    short: list[str] = []
    for task, (known, strengths) in zip(named, marker_strengths(cells, train, named), strict=True):
        row_of = {int(code): i for i, code in enumerate(known)}
        for code, name in enumerate(task.classes):
            found: list[int] = []
            if code in row_of:
                found = _best(strengths[row_of[code]], usable, forced, per_class)
            for gene in found:
                of.setdefault(gene, []).append((task.name, name))
            if len(found) < per_class:
                short.append(f"{name!r} of {task.name} ({len(found)})")
    added = np.array(sorted(gene for gene in of if not forced[gene]), dtype=np.int64)
    needed = len(added) + len(bounds.forced)
    if needed > n_genes:
        raise ConfigError(
            f"n_markers_per_class = {per_class} needs {needed:,} genes: {len(added):,} markers"
            + (f" beside {len(bounds.forced):,} forced" if len(bounds.forced) else "")
            + f", and n_genes is {n_genes:,}; raise n_genes to at least {needed:,} or ask for "
            "fewer markers"
        )
    return ClassMarkers(added, of, (_note(per_class, short),) if short else ())


def _best(
    strength: NDArray[np.float64], usable: NDArray[np.bool_], forced: NDArray[np.bool_], m: int
) -> list[int]:
    """Return the markers that one class keeps: forced ones, then the best of the others."""
    order = np.argsort(-strength, kind="stable")
    order = order[usable[order] & (strength[order] >= LEAST_T)]
    near = order[: SERVES_WITHIN * m]
    own: list[int] = near[forced[near]].tolist()
    rest: list[int] = order[~forced[order]][: max(0, m - len(own))].tolist()
    return own + rest


def _note(per_class: int, short: Sequence[str]) -> str:
    more = f" and {len(short) - 5} more" if len(short) > 5 else ""
    which = "1 class has" if len(short) == 1 else f"{len(short)} classes have"
    return (
        f"n_markers_per_class = {per_class}: {which} fewer markers than that among the usable "
        f"genes (Welch's t of {LEAST_T:g} or more on the training cells): "
        f"{', '.join(short[:5])}{more}; all they have are included"
    )
