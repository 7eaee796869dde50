"""The report of a panel's evaluation on other cells."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

from kernomics.report import sections, shared_sections
from kernomics.report.data import METRICS, ReportData
from kernomics.report.html import Cell, count, paragraph, table
from kernomics.report.page import render_page, write_page
from kernomics.report.representation_sections import scored


def render_panel_evaluation(data: ReportData, errors: Mapping[str, Mapping[str, float]]) -> str:
    """Return the report of an evaluation as one HTML document."""
    known = (
        "Cells that it was trained on are told by their counts: see the warnings."
        if data.seen_is_known
        else "This report does not know whether some of them were used to train it."
    )
    sentence = (
        f"All {count(data.n_cells, 'cell')} were predicted by the panel without retraining. {known}"
    )
    again = shared_sections.reproducibility(
        command=data.command,
        sentence=sentence,
        config=data.config,
        versions=data.versions,
        genes=[*data.genes, *data.absent],
    )
    return render_page(
        title=data.title,
        kind="gene panel evaluation",
        version=data.version,
        created=data.created,
        head=[
            ("Data set", data.dataset),
            ("Cells", f"{data.n_cells:,}"),
            ("Genes in the data", f"{data.n_genes:,}"),
            ("Panel", _panel_size(data)),
            ("Tasks", ", ".join(task.name for task in data.tasks)),
            ("Date", data.created),
        ],
        sections=[
            ("key-figures", "Key figures", _scores(data, errors, sentence)),
            ("panel", "The panel in these cells", sections.panel(data, over="these cells")),
            ("expression", "Expression by class", sections.expression(data)),
            ("confusion", "Confusion matrices", sections.confusions(data)),
            ("warnings", "Warnings", shared_sections.warning_list(data.warnings)),
            ("reproducibility", "Reproducibility", again),
        ],
    )


def write_panel_evaluation(
    path: str | os.PathLike[str], data: ReportData, errors: Mapping[str, Mapping[str, float]]
) -> Path:
    """Write the report of an evaluation to a file, whole or not at all."""
    return write_page(path, render_panel_evaluation(data, errors))


def _panel_size(data: ReportData) -> str:
    if not data.absent:
        return count(len(data.genes), "gene")
    return f"{count(len(data.genes) + len(data.absent), 'gene')}, {len(data.absent):,} missing here"


def _scores(data: ReportData, errors: Mapping[str, Mapping[str, float]], sentence: str) -> str:
    parts = [shared_sections.warning_jump(data.warnings, "these scores"), paragraph(sentence)]
    for kind, names in METRICS.items():
        rows = [
            [
                Cell(task.name, "name", heads_row=True),
                Cell(f"{task.n_test:,}", "number"),
                *(
                    scored(
                        task.scores[0].metrics.get(metric, math.nan),
                        errors.get(task.name, {}).get(metric, math.nan),
                    )
                    for metric in names
                ),
            ]
            for task in data.tasks
            if task.kind == kind
        ]
        if rows:
            heads = [Cell("Task"), Cell("Labelled cells", "number")]
            heads += [Cell(name, "number") for name in names.values()]
            what = "classification" if kind == "categorical" else "regression"
            parts.append(
                table(
                    heads,
                    rows,
                    caption=f"Scores of the panel's own network, {what}. ± is the standard error "
                    "over these cells, where it is defined.",
                )
            )
    parts.append(
        paragraph(
            "The errors of accuracy and macro-F1 are bootstrap standard errors over these "
            "cells. They tell how much a score would vary with other cells of the same kind, "
            "not with other donors or laboratories. Macro-F1 is the unweighted mean of the F1 "
            "scores of the classes present in these cells; cells of classes the panel does not "
            "know are left out.",
            "note",
        )
    )
    return "\n".join(filter(None, parts))
