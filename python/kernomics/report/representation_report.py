"""The report of a TxFM: of its training, or of its evaluation on other cells."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernomics.report import representation_sections as sections
from kernomics.report import shared_sections
from kernomics.report.page import render_page, write_page
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


def render_representation_report(data: RepresentationReport) -> str:
    """Return the report of a TxFM as one HTML document; see `kernomics.report.page.render_page`."""
    source = data.provenance
    seed = "" if source.seed is None else f"Seed {source.seed}. "
    again = shared_sections.reproducibility(
        command=source.command,
        sentence=seed + data.sentence,
        config=source.config,
        versions=source.versions,
    )
    trained = "" if data.history is None else sections.training(data.history)
    return render_page(
        title=data.title,
        kind="cell representation report",
        version=source.version,
        created=source.created,
        head=[*data.head, ("Date", source.created)],
        sections=[
            ("key-figures", "Key figures", sections.key_figures(data)),
            ("maps", "TxFM and PCA on a map", sections.maps(data)),
            ("perturbations", "Perturbations", sections.perturbations(data)),
            ("relationships", "Known relationships of genes", sections.relationships(data)),
            ("training", "Training", trained),
            ("warnings", "Warnings", shared_sections.warning_list(data.warnings)),
            ("reproducibility", "Reproducibility", again),
        ],
    )


def write_representation_report(path: str | os.PathLike[str], data: RepresentationReport) -> Path:
    """Write the report of a TxFM to a file, whole or not at all."""
    return write_page(path, render_representation_report(data))
