"""The report of a gene pruning."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from kernomics import pl
from kernomics.report import shared_sections
from kernomics.report.attribution_data import PruningReport
from kernomics.report.figures import figure_html
from kernomics.report.html import Cell, figures, number, paragraph, show, table
from kernomics.report.page import render_page, write_page

ORDERS = ("lowest first", "highest first")


def render_pruning_report(data: PruningReport) -> str:
    """Return the report as one HTML document; see `kernomics.report.page.render_page`."""
    source = data.provenance
    again = shared_sections.reproducibility(
        command=source.command,
        sentence=("" if source.seed is None else f"Seed {source.seed}. ") + f"On {data.which}.",
        config=source.config,
        versions=source.versions,
    )
    return render_page(
        title=data.title,
        kind="gene pruning report",
        version=source.version,
        created=source.created,
        head=[*data.head, ("Date", source.created)],
        sections=[
            ("key-figures", "Key figures", _key_figures(data)),
            ("curves", "Curves", _curves(data)),
            ("retraining", "Retrained on the top genes", _retrained(data)),
            ("warnings", "Warnings", shared_sections.warning_list(data.warnings)),
            ("reproducibility", "Reproducibility", again),
        ],
    )


def write_pruning_report(path: str | os.PathLike[str], data: PruningReport) -> Path:
    """Write the report of a gene pruning to a file, whole or not at all."""
    return write_page(path, render_pruning_report(data))


def _key_figures(data: PruningReport) -> str:
    pruning = data.pruning
    shares = sorted(map(float, set(pruning.table["removed"])))
    areas = {(row["ranking"], row["order"]): row["area"] for row in pruning.to_dict()["areas"]}
    rows: list[str | list[Cell]] = []
    genes = pruning.table.groupby("removed")["n_genes"].first()
    for order in ORDERS:
        part = pruning.table[pruning.table["order"] == order]
        if part.empty:
            continue
        rows.append(f"Removed with the {order.replace(' first', '')} scores first")
        scores = dict(
            zip(
                zip(part["ranking"], part["removed"], strict=True),
                part["balanced_accuracy"].tolist(),
                strict=True,
            )
        )
        for name in dict.fromkeys(part["ranking"]):
            rows.append(
                [
                    Cell(name, "name", heads_row=True),
                    *(number(scores[name, share]) for share in shares),
                    number(areas[name, order]),
                ]
            )
    called, probability = pruning.empty
    said = ", ".join(f"{name} {n:,}" for name, n in pruning.n_cells.items())
    return "\n".join(
        filter(
            None,
            [
                shared_sections.warning_jump(data.warnings, "these scores"),
                paragraph(f"Pruned on {data.which}; cells: {said}."),
                paragraph(
                    f"A cell without any gene is called {called} (probability "
                    f"{show(probability, 2)}). Once the evidence is gone, every cell is called "
                    "that; so accuracy is balanced over case and baseline cells, and 0.5 is chance."
                ),
                table(
                    [
                        Cell("Ranking"),
                        *(
                            Cell(f"−{100 * share:.3g}% ({genes[share]:,})", "number")
                            for share in shares
                        ),
                        Cell("Area", "number"),
                    ],
                    rows,
                    caption="Balanced accuracy by the share of the genes removed (in brackets how "
                    "many are left), and the area under the curve.",
                ),
            ],
        )
    )


def _curves(data: PruningReport) -> str:
    there = set(data.pruning.table["order"])
    return figures(
        [
            figure_html(
                partial(pl.pruning_curves, data.pruning, order=order),
                alt=f"Balanced accuracy by genes kept, {order}.",
                caption=f"Genes are removed {order}.",
            )
            for order in ORDERS
            if order in there
        ]
    )


def _retrained(data: PruningReport) -> str:
    found = data.retrained
    if found is None or found.empty:
        return ""
    rows: list[str | list[Cell]] = []
    for n, part in found.groupby("n_genes", sort=True):
        rows.append(f"{n:,} genes")
        best = part["balanced_accuracy"].max()
        rows += [
            [
                Cell(row["ranking"], "name", heads_row=True),
                Cell(
                    show(row["balanced_accuracy"]),
                    "number best" if row["balanced_accuracy"] == best else "number",
                ),
                number(row["macro_f1"]),
            ]
            for row in part.to_dict("records")
        ]
    return table(
        [Cell("Ranking"), Cell("Balanced accuracy", "number"), Cell("Macro-F1", "number")],
        rows,
        caption="New models, trained on the top genes of each ranking alone and scored on the "
        "held-out cells.",
    )
