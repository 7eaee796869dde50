"""What the report of a TxFM is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kernomics.report.provenance import Provenance

if TYPE_CHECKING:
    from kernomics.evaluation.perturbations import PerturbationScores
    from kernomics.evaluation.relationships import RelationshipScores
    from kernomics.evaluation.representation_maps import RepresentationMaps
    from kernomics.evaluation.representations import RepresentationScores


@dataclass(frozen=True, kw_only=True)
class RepresentationReport:
    """Everything that the report of a TxFM shows. All names are escaped, so any text is allowed.

    Attributes
    ----------
    title
        The headline.
    head
        Terms and values below it, such as the data set and the size of the model.
    sentence
        How the cells were divided, in a sentence.
    by_group
        The column of groups that the cells were divided by, if any.
    scores, maps, relationships, perturbations
        What was found; each is a section of its own, left out if None.
    omitted
        Why one of these is left out, one sentence each.
    history
        Records of the training run; None where none was trained.
    warnings
        What a reader must know, one sentence each.
    provenance
        How to make it again.
    """

    title: str
    head: Sequence[tuple[str, str]]
    sentence: str
    by_group: str | None = None
    scores: RepresentationScores | None = None
    maps: RepresentationMaps | None = None
    relationships: RelationshipScores | None = None
    perturbations: PerturbationScores | None = None
    omitted: Sequence[str] = ()
    history: Sequence[Mapping[str, Any]] | None = None
    warnings: Sequence[str] = ()
    provenance: Provenance
