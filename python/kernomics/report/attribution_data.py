"""What the reports of an attribution and of a gene pruning show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernomics.report.provenance import Provenance

if TYPE_CHECKING:
    import pandas as pd

    from kernomics.attribution import Attribution, Pruning


@dataclass(frozen=True, kw_only=True)
class AttributionReport:
    """Everything that the report of an attribution shows. All names are escaped.

    Attributes
    ----------
    title
        The headline.
    head
        Terms and values below it.
    which
        Which cells were attributed, in words.
    attribution
        The scores.
    tops, overlap
        The top genes of each ranking, and how many each two rankings share; see `top_genes`.
    recall, truth
        How well each ranking recalls known gene sets, and the name of their file.
    warnings
        What a reader must know, one sentence each.
    provenance
        How to make it again.
    """

    title: str
    head: Sequence[tuple[str, str]]
    which: str
    attribution: Attribution
    tops: pd.DataFrame
    overlap: pd.DataFrame
    recall: pd.DataFrame | None = None
    truth: str | None = None
    warnings: Sequence[str] = ()
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class PruningReport:
    """Everything that the report of a gene pruning shows. All names are escaped.

    Attributes
    ----------
    title
        The headline.
    head
        Terms and values below it.
    which
        Which cells were pruned on, in words.
    pruning
        The scores.
    retrained
        Scores of models trained on the top genes alone; see `kernomics.attribution.retrain`.
    warnings
        What a reader must know, one sentence each.
    provenance
        How to make it again.
    """

    title: str
    head: Sequence[tuple[str, str]]
    which: str
    pruning: Pruning
    retrained: pd.DataFrame | None = None
    warnings: Sequence[str] = ()
    provenance: Provenance
