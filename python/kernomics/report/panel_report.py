"""Builds the report of a panel, section by section, from `ReportData`."""

from __future__ import annotations

import os
from pathlib import Path

from kernomics.report import panel_extras as panel_sections
from kernomics.report import repeat_sections, sections, shared_sections
from kernomics.report.data import ReportData
from kernomics.report.html import count, duration
from kernomics.report.page import render_page, write_page

__all__ = ["render_report", "write_report"]


def render_report(data: ReportData) -> str:
    """Return the report as one HTML document.

    Styles and images are inside it, no script is, and it asks for nothing over the network. The
    text depends on ``data`` alone, so equal data give equal bytes (with equal versions of
    matplotlib).
    """
    again = shared_sections.reproducibility(
        command=data.command,
        sentence=f"Seed {data.seed}. {data.split.sentence()}",
        config=data.config,
        versions=data.versions,
        genes=data.genes,
    )
    return render_page(
        title=data.title,
        kind="gene panel report",
        version=data.version,
        created=data.created,
        head=[
            ("Data set", data.dataset),
            ("Cells", f"{data.n_cells:,}"),
            ("Candidate genes", f"{data.n_genes:,}"),
            ("Panel", count(len(data.genes), "gene")),
            ("Tasks", ", ".join(task.name for task in data.tasks)),
            ("Date", data.created),
            ("Duration", duration(data.duration_seconds)),
            ("Seed", str(data.seed)),
        ],
        sections=[
            ("key-figures", "Key figures", sections.key_figures(data)),
            ("panel", "The panel", sections.panel(data)),
            ("starts", "The starts", repeat_sections.starts(data)),
            ("curve", "Panel size", repeat_sections.curve(data)),
            ("stability", "Other seeds", repeat_sections.stability(data)),
            ("expression", "Expression by class", sections.expression(data)),
            ("embedding", "All genes and the panel", panel_sections.embedding(data)),
            ("contributions", "What each gene is for", panel_sections.contributions(data)),
            ("redundancy", "Redundancy and substitutes", panel_sections.redundancy(data)),
            ("confusion", "Confusion matrices", sections.confusions(data)),
            ("training", "Training", shared_sections.training(data.history)),
            ("warnings", "Warnings", shared_sections.warning_list(data.warnings)),
            ("reproducibility", "Reproducibility", again),
        ],
    )


def write_report(path: str | os.PathLike[str], data: ReportData) -> Path:
    """Write the report to a file, whole or not at all."""
    return write_page(path, render_report(data))
