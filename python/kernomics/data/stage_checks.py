"""What genes and cells must be to make stages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd

from kernomics.errors import DataError

if TYPE_CHECKING:
    from kernomics.data.stages import Stages

UNTRAINED = "start"
"""What tables of stages call the network before the first: no stage may be called so."""


def require_stages(stages: Stages) -> None:
    """Refuse genes and cells that cannot be stages."""
    if len(stages.stages) < 2:
        raise DataError(
            f"{len(stages.stages)} stage(s): a first one and at least one that adds genes are "
            "needed"
        )
    repeated = _repeated(stages.names)
    if repeated or "" in stages.names:
        raise DataError(
            f"two stages are called {repeated[0]!r}: name each once"
            if repeated
            else "a stage has an empty name: give it one"
        )
    if UNTRAINED in stages.names:
        raise DataError(
            f"a stage is called {UNTRAINED!r}, which is what tables of losses call the untrained "
            "network: choose another name"
        )
    if not stages.base:
        raise DataError(
            "there are no base genes: at least one that all stages share is needed, or nothing "
            "connects them"
        )
    if stages.stages[0].genes:
        raise DataError(
            f"the first stage, {stages.stages[0].name!r}, has {len(stages.stages[0].genes):,} "
            "specific genes: it has the base genes alone; give them to a later stage"
        )
    _require_genes(stages)
    for stage in stages.stages:
        if not stage.train:
            raise DataError(
                f"stage {stage.name!r} has no cells to train on ({len(stage.cells):,} in all): "
                "give it some, or leave it out"
            )
    cells = [cell for stage in stages.stages for cell in stage.cells]
    repeated = _repeated(cells)
    if repeated:
        raise DataError(
            f"{len(repeated):,} of {len(cells):,} cells are in two stages or parts, first "
            f"{repeated[0]!r}: each belongs to one"
        )


def _require_genes(stages: Stages) -> None:
    repeated = _repeated(stages.base)
    if repeated:
        raise DataError(
            f"base names {len(repeated):,} of its {len(stages.base):,} genes more than once, first "
            f"{repeated[0]!r}; name each once"
        )
    home = dict.fromkeys(stages.base, "base")
    for stage in stages.stages[1:]:
        if not stage.genes:
            raise DataError(
                f"stage {stage.name!r} has no genes of its own: give it some in specific, or leave "
                "it out"
            )
        repeated = _repeated(stage.genes)
        if repeated:
            raise DataError(
                f"stage {stage.name!r} names {len(repeated):,} of its {len(stage.genes):,} genes "
                f"more than once, first {repeated[0]!r}; name each once"
            )
        twice = [gene for gene in stage.genes if gene in home]
        if twice:
            where = home[twice[0]]
            first = "the base genes" if where == "base" else f"stage {where!r}"
            raise DataError(
                f"{len(twice):,} of the {len(stage.genes):,} genes of stage {stage.name!r} are "
                f"among earlier ones, first {twice[0]!r}, which is one of {first}: a gene is base "
                "or belongs to one stage; kernomics.baselines.specific_genes decides such cases"
            )
        home |= dict.fromkeys(stage.genes, stage.name)


def _repeated(names: Iterable[str]) -> list[str]:
    index = pd.Index(list(names), dtype=object)
    return [str(name) for name in index[index.duplicated()].unique()]
