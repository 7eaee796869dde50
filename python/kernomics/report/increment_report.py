"""The report of a training in stages."""

from __future__ import annotations

import os
from functools import partial
from html import escape
from pathlib import Path

import pandas as pd

from kernomics import pl
from kernomics.report import shared_sections
from kernomics.report.figures import figure_html
from kernomics.report.html import Cell, count, figures, number, paragraph, show, table
from kernomics.report.increment_data import IncrementReport
from kernomics.report.page import render_page, write_page

KINDS = {"tokens": "from masked tokens", "queries": "from the cell's state"}
PREDICTORS = {
    "detection": "Share of cells",
    "expression": "Mean expression",
    "with_base": "Correlation with a base gene",
}
PROBES = {
    "linear_accuracy": "Linear accuracy",
    "linear_macro_f1": "Linear macro-F1",
    "knn_accuracy": "kNN accuracy",
    "knn_macro_f1": "kNN macro-F1",
}
MOST_GENES = 20


def render_increment_report(data: IncrementReport) -> str:
    """Return the report as one HTML document; see `kernomics.report.page.render_page`."""
    source = data.provenance
    again = shared_sections.reproducibility(
        command=source.command,
        sentence="" if source.seed is None else f"Seed {source.seed}.",
        config=source.config,
        versions=source.versions,
    )
    return render_page(
        title=data.title,
        kind="gene-incremental report",
        version=source.version,
        created=source.created,
        head=[*data.head, ("Date", source.created)],
        sections=[
            ("key-figures", "Key figures", _key_figures(data)),
            ("losses", "Losses by stage", _losses(data)),
            ("classes", f"Classes of {escape(data.label)}", _classes(data)),
            ("genes", "Gene by gene", _genes(data)),
            ("stages", "Stages", _stages(data.counts)),
            ("training", "Training", shared_sections.training(data.history)),
            ("warnings", "Warnings", shared_sections.warning_list(data.warnings)),
            ("reproducibility", "Reproducibility", again),
        ],
    )


def write_increment_report(path: str | os.PathLike[str], data: IncrementReport) -> Path:
    """Write the report of a training in stages to a file, whole or not at all."""
    return write_page(path, render_increment_report(data))


def _key_figures(data: IncrementReport) -> str:
    found = data.forgotten["tokens"]
    tiles = "".join(
        f'<li><span class="task">{escape(str(name))}</span> '
        f'<span class="value">{_signed(row["delta"])}</span>'
        f'<span class="small">Δ, loss forgotten</span>'
        f'<span class="small">{show(row["learned"])} when learnt, {show(row["last"])} now</span>'
        "</li>"
        for name, row in found.groups.iterrows()
    )
    rows: list[str | list[Cell]] = []
    for kind, said in KINDS.items():
        rows.append(f"Predicted {said}")
        oracle = data.oracle.get(kind)
        for name, row in data.forgotten[kind].groups.iterrows():
            rows.append(
                [
                    Cell(str(name), "name", heads_row=True),
                    *(number(row[key]) for key in ("untrained", "before", "learned", "last")),
                    Cell(_signed(row["delta"]), "number"),
                    number(None if oracle is None else float(oracle[name].iloc[-1])),
                ]
            )
    said = "; ".join(
        f"{KINDS[kind]}: backward {_signed(one.backward_transfer)}, forward "
        f"{_signed(one.forward_transfer)}"
        for kind, one in data.forgotten.items()
    )
    return "\n".join(
        filter(
            None,
            [
                shared_sections.warning_jump(data.warnings, "these figures"),
                f'<ul class="tiles">{tiles}</ul>',
                table(
                    [
                        Cell("Genes of"),
                        *(
                            Cell(head, "number")
                            for head in (
                                "Untrained",
                                "Before",
                                "When learnt",
                                "Now",
                                "Δ",
                                "All at once",
                            )
                        ),
                    ],
                    rows,
                    caption="Mean squared error of hidden log-normalised values, on the test cells "
                    "of each group's own stage.",
                ),
                paragraph(
                    "Δ is the loss now less the loss when the genes were learnt: what was "
                    "forgotten. “All at once” is a training on all stages together, which forgets "
                    "nothing. Which values are hidden is the same for every model of this seed."
                    + (
                        ""
                        if data.oracle
                        else " It was not trained here (kernomics increment --oracle)."
                    ),
                    "note",
                ),
                paragraph(
                    f"Transfer, {said}. Backward: the fall of earlier genes' loss through later "
                    "stages (the mean of −Δ); forward: the fall of genes' loss before they are "
                    "seen, against the untrained network. Above 0, stages help one another.",
                    "note",
                ),
            ],
        )
    )


def _losses(data: IncrementReport) -> str:
    drawn = [
        figure_html(
            partial(pl.stage_losses, losses, oracle=data.oracle.get(kind), title=KINDS[kind]),
            alt=f"Loss of each group of genes after each stage, predicted {KINDS[kind]}.",
            caption="A ring marks the stage that brings the genes"
            + (", dotted lines the training on all stages at once." if data.oracle else "."),
        )
        for kind, losses in data.losses.items()
        if losses.shape[1] <= pl.forgetting.MOST_LINES
    ]
    tables = [
        table(
            [Cell("After"), *(Cell(str(name), "number") for name in losses.columns)],
            [
                [Cell(str(name), "name", heads_row=True), *(number(v) for v in row)]
                for name, row in zip(
                    ["untrained", *losses.index[1:]], losses.to_numpy().tolist(), strict=True
                )
            ],
            caption=f"Loss of the genes of each stage, predicted {KINDS[kind]}.",
        )
        for kind, losses in data.losses.items()
    ]
    return "\n".join([figures(drawn), *tables])


def _classes(data: IncrementReport) -> str:
    if data.probes is None:
        return ""
    of_stage = data.probes.groupby("after", sort=False)
    means, errors = of_stage[list(PROBES)].mean(), of_stage[list(PROBES)].sem(ddof=1)
    n_trials = int(data.probes["trial"].nunique())
    n_cells = int(data.probes["n_cells"].iloc[0])
    rows = [
        [
            Cell(str(name), "name", heads_row=True),
            *(
                Cell(
                    show(float(means[key][name])),
                    "number",
                    small="" if n_trials == 1 else f"± {show(float(errors[key][name]))}",
                )
                for key in PROBES
            ),
        ]
        for name in means.index
    ]
    return table(
        [Cell("After"), *(Cell(head, "number") for head in PROBES.values())],
        rows,
        caption=f"Classifiers on the frozen features of {count(n_cells, 'labelled cell')}; mean "
        f"of {count(n_trials, 'division')} into 70 % to fit and 30 % to score"
        + ("." if n_trials == 1 else ", ± its standard error."),
    ) + paragraph(
        "Their strength and number of neighbours are chosen on cells that score nothing. The "
        "model sees all genes that it knows after each stage, without the labels.",
        "note",
    )


def _genes(data: IncrementReport) -> str:
    specific = data.genes[data.genes["stage"].isin(list(data.predictors))]
    worst = specific.sort_values("delta", ascending=False, kind="stable").head(MOST_GENES)
    if worst.empty:
        return ""
    rows = [
        [
            Cell(str(gene), "name", heads_row=True),
            Cell(str(row["stage"])),
            number(row["n"], 0),
            number(row["learned"]),
            number(row["last"]),
            Cell(_signed(row["delta"]), "number"),
            number(row["detection"], 2),
            number(row["with_base"], 2),
        ]
        for gene, row in worst.iterrows()
    ]
    heads = ("Hidden values", "When learnt", "Now", "Δ", "Share of cells", "With base")
    parts = [
        table(
            [Cell("Gene"), Cell("Stage"), *(Cell(head, "number") for head in heads)],
            rows,
            caption="The genes most forgotten, of the stages before the last.",
            tall=True,
        ),
        table(
            [Cell("Stage"), *(Cell(head, "number") for head in PREDICTORS.values())],
            [
                [
                    Cell(str(stage), "name", heads_row=True),
                    *(Cell(_signed(found[key]), "number") for key in PREDICTORS),
                ]
                for stage, found in data.predictors.items()
            ],
            caption="Rank correlation (Spearman's ρ) of what was forgotten of a gene with what "
            "describes it.",
        ),
        paragraph(
            "“With base” is the largest correlation with a base gene. A gene with few hidden "
            "values has an uncertain Δ.",
            "note",
        ),
    ]
    return "\n".join(parts)


def _stages(counts: pd.DataFrame) -> str:
    heads = ("Genes", "Known by then", "Train", "Validate", "Test")
    return table(
        [Cell("Stage"), *(Cell(head, "number") for head in heads)],
        [
            [Cell(str(name), "name", heads_row=True), *(number(v, 0) for v in row)]
            for name, row in zip(counts.index, counts.to_numpy().tolist(), strict=True)
        ],
        caption="Genes that each stage brings, and its cells.",
    )


def _signed(value: float) -> str:
    """Write a number with its sign."""
    text = show(value)
    return f"+{text}" if value > 0 else text
