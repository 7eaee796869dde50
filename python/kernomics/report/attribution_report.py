"""The report of an attribution: which genes, how far to trust it, and other rankings."""

from __future__ import annotations

import os
from functools import partial
from html import escape
from pathlib import Path

import pandas as pd

from kernomics import pl
from kernomics.report import shared_sections
from kernomics.report.attribution_data import AttributionReport
from kernomics.report.figures import figure_html
from kernomics.report.html import Cell, count, figures, number, paragraph, show, table
from kernomics.report.page import render_page, write_page

N_LISTED = 30
SHOWN = {
    "absolute": "Absolute",
    "signed_by_change": "Signed by change",
    "effect": "Effect",
    "presence": "Presence",
    "forward": "Forward",
    "backward": "Backward",
    "importance": "Importance",
    "expression_change": "Change in expression",
}
MEANINGS = (
    "The absolute score says how much a gene matters: the mean size of its forward and backward "
    "scores. Signed by change is the same with the sign of the change in expression. Effect says "
    "which way a gene argues, above 0 for the case: half of forward minus backward. Importance is "
    "the mean of forward and backward, as in the paper; the two cancel for a gene that argues the "
    "same way in both directions."
)
PRESENCE = (
    "Presence is the part of forward that is due to a gene's being there in one cell of a pair "
    "alone; the rest is due to how much of it there is."
)


def render_attribution_report(data: AttributionReport) -> str:
    """Return the report as one HTML document; see `kernomics.report.page.render_page`."""
    source = data.provenance
    again = shared_sections.reproducibility(
        command=source.command,
        sentence=("" if source.seed is None else f"Seed {source.seed}. ") + f"On {data.which}.",
        config=source.config,
        versions=source.versions,
        genes=data.attribution.top(N_LISTED).index.tolist(),
    )
    return render_page(
        title=data.title,
        kind="attribution report",
        version=source.version,
        created=source.created,
        head=[*data.head, ("Date", source.created)],
        sections=[
            ("key-figures", "Key figures", _key_figures(data)),
            ("genes", "Genes", _genes(data)),
            ("truth", "Recall of known gene sets", _truth(data)),
            ("beside", "Rankings without a model", _beside(data)),
            ("distributions", "Distributions", _distributions(data)),
            ("groups", "Groups of pairs", _groups(data)),
            ("warnings", "Warnings", shared_sections.warning_list(data.warnings)),
            ("reproducibility", "Reproducibility", again),
        ],
    )


def write_attribution_report(path: str | os.PathLike[str], data: AttributionReport) -> Path:
    """Write the report of an attribution to a file, whole or not at all."""
    return write_page(path, render_attribution_report(data))


def _key_figures(data: AttributionReport) -> str:
    found = data.attribution
    summary = found.summary()
    params, cells, off = found.params, summary["n_cells"], summary["completeness"]
    best = found.top(3).index.tolist()
    tiles = [
        ("Genes that matter most", ", ".join(best), ["by absolute score"]),
        (
            "Pairs",
            f"{len(found.pairs):,}",
            [
                f"{count(cells['case'], 'cell')} of {params['case']}",
                f"{count(cells['baseline'], 'cell')} of {params['baseline']}",
            ],
        ),
        (
            "Not explained",
            _digits(off["median"]),
            [
                "of the difference in output",
                f"median over the pairs; at most {_digits(off['max'])}",
            ],
        ),
    ]
    shown = "".join(
        f'<li><span class="task">{escape(name)}</span> <span class="value">{escape(value)}</span>'
        + "".join(f'<span class="small">{escape(line)}</span>' for line in lines)
        + "</li>"
        for name, value, lines in tiles
    )
    complete = (
        "The scores of this engine add up to the difference between the model's outputs, but for "
        "the share that is not explained."
        if params["complete"]
        else "The scores of this engine need not add up to the difference between the model's "
        "outputs: the share that is not explained says how far off they are."
    )
    parts = [
        shared_sections.warning_jump(data.warnings, "these scores"),
        f'<ul class="tiles">{shown}</ul>',
        paragraph(f"Attributed on {data.which}."),
    ]
    if summary["left_out"]:
        said = ", ".join(f"{n:,} ({why})" for why, n in summary["left_out"].items())
        parts.append(paragraph(f"Cells left out: {said}."))
    return "\n".join(filter(None, [*parts, paragraph(complete, "note")]))


def _genes(data: AttributionReport) -> str:
    top = data.attribution.top(N_LISTED)
    columns = [name for name in SHOWN if name in top]
    rows = [
        [
            Cell(f"{rank}", "number"),
            Cell(str(gene), "gene", heads_row=True),
            *(_short(values[name]) for name in columns),
            number(values["n_pairs"], 0),
        ]
        for rank, (gene, values) in enumerate(top.iterrows(), 1)
    ]
    return "\n".join(
        [
            figures(
                [
                    figure_html(
                        partial(pl.attribution_by_gene, data.attribution, name),
                        alt=f"Sorted {name} scores of {count(len(data.attribution.table), 'gene')}"
                        f"; highest {data.attribution.top(1, name).index[0]}.",
                        caption=f"Genes by their {name} score. Dotted: percentiles.",
                    )
                    for name in ("absolute", "signed_by_change")
                ]
            ),
            table(
                [
                    Cell("Rank", "number"),
                    Cell("Gene"),
                    *(Cell(SHOWN[name], "number") for name in columns),
                    Cell("Pairs with the gene", "number"),
                ],
                rows,
                caption=f"The {len(rows)} genes with the highest absolute scores; means over all "
                "pairs. attribution.csv lists all genes.",
                tall=True,
            ),
            paragraph(" ".join([MEANINGS, *[PRESENCE] * ("presence" in columns)]), "note"),
        ]
    )


def _short(value: float) -> Cell:
    """Return a cell of three digits: scores of thousands of genes are small."""
    return Cell(f"{value:.3g}".replace("-", "−"), "number")


def _digits(value: float) -> str:
    """Return two digits, also of the very little that an engine misses which is complete."""
    return f"{value:.2g}".replace("-", "−")


def _truth(data: AttributionReport) -> str:
    if data.recall is None or data.recall.empty:
        return ""
    n_column = next(name for name in map(str, data.recall) if name.startswith("in_top_"))
    n = int(n_column.removeprefix("in_top_"))
    rows: list[str | list[Cell]] = []
    for name, part in data.recall.groupby("set", sort=False):
        first = part.iloc[0]
        rows.append(
            f"{name}: {count(int(first['genes']), 'gene')} of the set are scored; average "
            f"precision by chance {show(first['by_chance'])}"
        )
        best = part["average_precision"].max()
        for row in part.to_dict("records"):
            css = "number best" if row["average_precision"] == best else "number"
            rows.append(
                [
                    Cell(row["ranking"], "name", heads_row=True),
                    Cell(show(row["average_precision"]), css),
                    number(row[n_column], 0),
                    number(row[n_column] / n),
                ]
            )
    return table(
        [
            Cell("Ranking"),
            Cell("Average precision", "number"),
            Cell(f"Genes of the set in the top {n}", "number"),
            Cell(f"Precision at {n}", "number"),
        ],
        rows,
        caption=f"How high each ranking places the genes of {data.truth or 'the sets'}.",
    )


def _beside(data: AttributionReport) -> str:
    tops = table(
        [Cell("Rank", "number"), *(Cell(str(name)) for name in data.tops)],
        [
            [Cell(str(rank), "number"), *(Cell(str(gene), "gene") for gene in genes)]
            for rank, genes in zip(data.tops.index, data.tops.to_numpy(), strict=True)
        ],
        caption=f"The top {len(data.tops)} genes of each ranking.",
        tall=True,
    )
    shared = table(
        [Cell("Ranking"), *(Cell(str(name), "number") for name in data.overlap)],
        [
            [Cell(str(name), "name", heads_row=True), *(number(x, 0) for x in row)]
            for name, row in data.overlap.iterrows()
        ],
        caption=f"How many of their top {len(data.tops)} genes each two rankings share.",
    )
    return "\n".join([shared, tops])


def _distributions(data: AttributionReport) -> str:
    zeros = data.attribution.zeros
    said = ", ".join(f"{name} {share:.0%}" for name, share in zeros.items())
    return figures(
        [
            figure_html(
                partial(pl.attribution_distributions, data.attribution),
                alt=f"Histograms of the genes' scores. Zeros: {said}.",
                caption="Scores of the genes, means over the pairs; the counts are on a log scale. "
                "A gene that the case cell lacks scores 0 forward, and one that the baseline cell "
                "lacks scores 0 backward.",
            )
        ]
    )


def _groups(data: AttributionReport) -> str:
    found = data.attribution
    if len(found.pairs.groups) < 2:
        return ""
    n = pd.Series(found.summary()["pairs_per_group"])
    rows = [[Cell(str(name), "name", heads_row=True), number(k, 0)] for name, k in n.items()]
    drawn = figure_html(
        partial(pl.attribution_heatmap, found),
        alt=f"Absolute scores of the top genes in {len(n)} groups of pairs.",
        caption="Absolute scores in each group of pairs, of the genes that matter most overall.",
    )
    return figures([drawn]) + table(
        [Cell(" and ".join(found.params["controlled"])), Cell("Pairs", "number")],
        rows,
        caption="Pairs in each combination of the controlled columns.",
        tall=True,
    )
