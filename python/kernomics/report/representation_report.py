"""The report of a TxFM: of its training, or of its evaluation on other cells."""

from __future__ import annotations

import os
from pathlib import Path

from kernomics.report import representation_sections as sections
from kernomics.report import shared_sections
from kernomics.report.page import render_page, write_page
from kernomics.report.representation_data import RepresentationReport


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
            ("maps", "Maps of TxFM and PCA", sections.maps(data)),
            ("perturbations", "Perturbations", sections.perturbations(data)),
            ("relationships", "Known relationships between genes", sections.relationships(data)),
            ("training", "Training", trained),
            ("warnings", "Warnings", shared_sections.warning_list(data.warnings)),
            ("reproducibility", "Reproducibility", again),
        ],
    )


def write_representation_report(path: str | os.PathLike[str], data: RepresentationReport) -> Path:
    """Write the report of a TxFM to a file, whole or not at all."""
    return write_page(path, render_representation_report(data))
