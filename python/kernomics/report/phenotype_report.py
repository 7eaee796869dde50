"""The report of a PolyGene's training, or of its evaluation on other cells."""

from __future__ import annotations

import os
from functools import partial
from html import escape
from pathlib import Path

from kernomics import pl
from kernomics.report import shared_sections
from kernomics.report.figures import figure_html
from kernomics.report.html import Cell, count, figures, number, paragraph, show, table
from kernomics.report.page import render_page, write_page
from kernomics.report.phenotype_data import PhenotypeReport

METRICS = {
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "macro_f1": "Macro-F1",
    "auprc": "AUPRC",
}


def render_phenotype_report(data: PhenotypeReport) -> str:
    """Return the report as one HTML document; see `kernomics.report.page.render_page`."""
    source = data.provenance
    again = shared_sections.reproducibility(
        command=source.command,
        sentence=("" if source.seed is None else f"Seed {source.seed}. ") + data.sentence,
        config=source.config,
        versions=source.versions,
    )
    return render_page(
        title=data.title,
        kind="phenotype report",
        version=source.version,
        created=source.created,
        head=[*data.head, ("Date", source.created)],
        sections=[
            ("key-figures", "Key figures", _key_figures(data)),
            ("confusion", "What is taken for what", _confusion(data)),
            ("training", "Training", _training(data)),
            ("warnings", "Warnings", shared_sections.warning_list(data.warnings)),
            ("reproducibility", "Reproducibility", again),
        ],
    )


def write_phenotype_report(path: str | os.PathLike[str], data: PhenotypeReport) -> Path:
    """Write the report to a file, whole or not at all."""
    return write_page(path, render_phenotype_report(data))


def _key_figures(data: PhenotypeReport) -> str:
    parts = [shared_sections.warning_jump(data.warnings, "this model")]
    if not data.scores:
        return "\n".join([*parts, paragraph(data.sentence), paragraph("Nothing is scored.")])
    tiles = "".join(
        f'<li><span class="task">{escape(score.name)}</span> '
        f'<span class="value">{show(score.metrics["balanced_accuracy"])}</span>'
        f'<span class="small">Balanced accuracy on '
        f"{count(int(score.metrics['n_cells']), data.scored)}</span>"
        f'<span class="small">by chance {show(1 / int((score.confusion.sum(1) > 0).sum()))}</span>'
        "</li>"
        for score in data.scores
    )
    rows = [
        [
            Cell(score.name, "name", heads_row=True),
            number(score.metrics["n_cells"], 0),
            *(number(score.metrics.get(metric)) for metric in METRICS),
            Cell(show(score.majority_share), "number", small=score.majority),
        ]
        for score in data.scores
    ]
    parts += [
        f'<ul class="tiles">{tiles}</ul>',
        paragraph(data.sentence),
        table(
            [
                Cell("Phenotype"),
                Cell("Cells", "number"),
                *(Cell(name, "number") for name in METRICS.values()),
                Cell("Majority share", "number"),
            ],
            rows,
            caption=f"Each phenotype, predicted on {data.scored}s from {data.shown}: it is masked.",
        ),
        paragraph(
            "Balanced accuracy is the mean recall of the values present. The majority share is the "
            f"accuracy of always naming the commonest value of {data.majority_of}.",
            "note",
        ),
    ]
    return "\n".join(filter(None, parts))


def _confusion(data: PhenotypeReport) -> str:
    drawn = []
    for score in data.scores:
        right = int(score.confusion.diagonal().sum())
        drawn.append(
            figure_html(
                partial(pl.confusion, score.confusion, score.classes),
                alt=f"Confusion of {score.name}: {right:,} of "
                f"{count(int(score.confusion.sum()), 'cell')} are called correctly.",
                caption=f"{score.name}: true values in rows, with the number of {data.scored}s; "
                "predicted values in columns.",
            )
        )
    return figures(drawn) if drawn else ""


def _training(data: PhenotypeReport) -> str:
    if not len(data.history):
        return ""
    return shared_sections.training(data.history) + paragraph(
        "The loss is the mean of the phenotypes' cross-entropies, with label smoothing, and a "
        "share of the genes'. Where it falls on the training cells and rises on the validation "
        "cells, the model learns its cells by heart.",
        "note",
    )
