"""Sections on selections made again: starts, sizes, seeds; each is empty without its data."""

from __future__ import annotations

import math
from functools import partial
from html import escape

import numpy as np
import pandas as pd

from kernomics import pl
from kernomics.report.data import MAIN_METRIC, METRICS, ReportData
from kernomics.report.figures import figure_html
from kernomics.report.html import Cell, count, figures, number, paragraph, show, table

GENES_PER_FIGURE = 32
MOST_BARS = 96  # genes of the frequency plot
SURE = 0.8  # certainty from which a choice among starts is called clear


# Several starts ---------------------------------------------------------------------------------


def starts(data: ReportData) -> str:
    """Return how the starts of the training were judged, how alike they are, and what is sure."""
    found = data.starts
    if found is None:
        return ""
    n, inclusion = len(found.panels), found.inclusion
    always = sum(share == 1 for share in inclusion.values())
    where = "on the validation cells"
    if found.cross_validated:
        where = "by cross-validation within the training cells"
    judges = {"own": found.own, "linear": found.linear}
    asked = {
        "own": "the network that made the selection, on the validation cells",
        "linear": f"a regression on the panel's counts, {where}",
        "both": "the mean of the network that made the selection, on the validation cells, and a "
        f"regression on the panel's counts, {where}",
    }[found.judge]
    rivals = 2 if found.halved else n  # the last two are compared last
    said = "told them apart well" if found.certainty >= SURE else "hardly told them apart"
    parts = [
        paragraph(
            f"One training made {n} selections and one predictor, on the panel of start "
            f"{found.chosen + 1}. It was chosen by {asked}. The held-out cells play no part in "
            f"this choice. The cells judged on {said}: start {found.chosen + 1} is the best in "
            f"{100 * found.certainty:.0f}% of their resamples ({100 / rivals:.0f}% would be "
            "chance). The best score of several is a little too good; only the held-out cells tell "
            "what the panel reaches."
            + (
                " Each time the steps of the starts had doubled, the better half went on; scores "
                "after different shares of their steps are not comparable."
                if found.halved
                else ""
            )
        ),
        paragraph(
            f"The starts selected {count(len(inclusion), 'different gene')}, {always} of them in "
            f"every start. On average two panels have a Jaccard index of "
            f"{show(found.mean_overlap, 2)} (1: the same genes)."
        ),
    ]
    columns = [Cell("Start")]
    columns += [
        Cell(title, "number")
        for by, title in (("own", "By its network"), ("linear", "By a regression"))
        if found.judge in (by, "both")
    ]
    columns += [Cell("Mean of both", "number")] if found.judge == "both" else []
    columns += [Cell("Judged after", "number")] if found.halved else []
    columns += [Cell("Jaccard index with the chosen", "number")]
    rows = []
    for i in range(n):
        row = [Cell(str(i + 1), small="chosen" if i == found.chosen else "", heads_row=True)]
        row += [number(values[i]) for by, values in judges.items() if found.judge in (by, "both")]
        row += [number(found.scores[i])] if found.judge == "both" else []
        row += [Cell(f"{found.after[i]:.0%} of its steps", "number")] if found.halved else []
        rows.append([*row, Cell(show(found.overlap(i, found.chosen), 2), "number")])
    parts.append(
        table(
            columns,
            rows,
            caption="Macro-F1 (R² for numbers), mean over the tasks.",
        )
    )
    missed = [g for g, share in inclusion.items() if share >= 0.5 and g not in data.genes]
    columns = [Cell("Gene"), Cell("In the panels of", "number")]
    rows = [
        [
            Cell(
                gene, "name", heads_row=True, small="" if gene in data.genes else "not in the panel"
            ),
            Cell(f"{inclusion[gene] * n:.0f} of {n} starts", "number", bar=inclusion[gene]),
        ]
        for gene in [*data.genes, *missed]
        if gene in inclusion
    ]
    caption = "How many starts selected each gene of the panel"
    caption += ", and genes outside it that half of them selected." if missed else "."
    parts.append(table(columns, rows, caption=caption, tall=len(rows) > 16))
    return "\n".join(parts)


# How many genes ---------------------------------------------------------------------------------


def curve(data: ReportData) -> str:
    """Return a plot per task and part, and the means by size."""
    if data.curve is None:
        return ""
    scores = data.curve.table
    sizes = sorted(set(scores["n_genes"]))
    n_seeds = scores["seed"].nunique()
    parts = [
        paragraph(
            f"Panels of {', '.join(map(str, sizes))} genes were selected with "
            f"{count(n_seeds, 'seed')} each. Suggested: {count(data.curve.suggested, 'gene')}, "
            "the smallest size whose score on the validation cells is within one standard error "
            "of the best. The held-out cells play no part in this choice. Each dot is one "
            "training run; the lines connect their means."
        )
    ]
    for task in data.tasks:
        metric = MAIN_METRIC[task.kind]
        own = scores[(scores["task"] == task.name) & (scores["metric"] == metric)]
        own = own.dropna(subset=["value"])
        if own.empty:
            continue
        title = METRICS[task.kind][metric]
        means = own.groupby(["part", "predictor", "n_genes"], sort=False)["value"].mean()
        parts.append(f"<h3>{escape(task.name)}</h3>")
        parts.append(figures([
            figure_html(
                partial(
                    pl.panel_curve, data.curve, task=task.name, metric=metric, part=part, name=title
                ),
                alt=f"{title} of {task.name} on {pl.PARTS[part]} by the number of genes. "
                + "; ".join(
                    f"{predictor}: "
                    + ", ".join(f"{n} genes {show(v)}" for n, v in found.droplevel(0).items())
                    for predictor, found in means[part].groupby(level=0, sort=False)
                )
                + f". Suggested: {data.curve.suggested}.",
            )
            for part in pl.curve_parts(data.curve, task.name, metric)
        ]))  # fmt: skip
        parts.append(_curve_table(means, data.curve.suggested, f"{title} of {task.name}"))
    return "\n".join(parts)


def _curve_table(means: pd.Series[float], suggested: int, what: str) -> str:
    wide = means.unstack(["part", "predictor"]).sort_index()
    words = {"validation": "validation", "test": "held-out"}
    parts, predictors = (wide.columns.get_level_values(level) for level in ("part", "predictor"))
    columns = [Cell("Genes", "number")]
    columns += [
        Cell(f"{words.get(part, part)}, {predictor}", "number")
        for part, predictor in zip(parts, predictors, strict=True)
    ]
    rows = [
        [
            Cell(
                str(size), "number", small="suggested" if size == suggested else "", heads_row=True
            ),
            *(number(value) for value in wide.loc[size]),
        ]
        for size in wide.index
    ]
    return table(columns, rows, caption=f"{what} by the number of genes, mean over the seeds.")


# Other seeds ------------------------------------------------------------------------------------


def stability(data: ReportData) -> str:
    """Return how alike the panels of several seeds are, and what they agree on."""
    found = data.stability
    if found is None:
        return ""
    n, frequency = len(found.panels), found.frequency
    overlap = found.overlap.to_numpy(dtype=np.float64)
    jaccard = float(overlap[np.triu_indices(n, 1)].mean())
    by_all = int((frequency >= 1).sum())
    text = (
        f"{count(n, 'seed')} selected {count(len(frequency), 'different gene')}, {by_all} of "
        "them in every seed. "
    )
    if found.resampled:
        text += "Each additional seed used 80% of the training cells. "
    text += (
        f"On average two panels have a Jaccard index of {show(jaccard, 2)} (1: the same genes). "
        f"Kuncheva's index, the overlap corrected for chance, is {show(found.kuncheva, 2)} (1: "
        "the same genes, 0: no more alike than random panels)."
    )
    shown = [str(gene) for gene in frequency.index[:MOST_BARS]]
    blocks = np.array_split(np.array(shown, dtype=object), math.ceil(len(shown) / GENES_PER_FIGURE))
    bars = [
        figure_html(
            partial(pl.gene_frequency, found, block.tolist()),
            alt="Share of seeds that selected each gene: "
            + ", ".join(f"{gene} {100 * frequency[gene]:.0f}%" for gene in block)
            + ".",
        )
        for block in blocks
    ]
    heat = figure_html(
        partial(pl.panel_overlap, found),
        alt=f"Jaccard index of each pair of {n} panels: {show(jaccard, 2)} on average.",
        caption="Jaccard index of each pair of panels.",
    )
    said = (
        f"the {len(shown)} most frequent of {len(frequency)}"
        if len(frequency) > len(shown)
        else "all"
    )
    return "\n".join(
        [
            paragraph(text),
            f'<div class="beside">{_seed_table(data)}<div class="stack">{heat}</div></div>',
            paragraph(
                f"Genes selected by any seed ({said}) and the share of seeds that selected them. "
                "In colour: the consensus panel, the most frequently selected genes."
            ),
            figures(bars),
        ]
    )


def _seed_table(data: ReportData) -> str:
    found = data.stability
    assert found is not None
    # All metrics of several tasks would not fit; `Stability.scores` has them.
    metrics = [
        (f"{task.name}/{metric}", f"{task.name}: {title}")
        for task in data.tasks
        for metric, title in METRICS[task.kind].items()
        if f"{task.name}/{metric}" in found.scores
        and (len(data.tasks) == 1 or metric == MAIN_METRIC[task.kind])
    ]
    if not metrics:
        return ""
    columns = [Cell("Panel of"), *(Cell(title, "number") for _, title in metrics)]
    own = found.scores[[key for key, _ in metrics]]
    rows = [
        [Cell(f"seed {seed}", heads_row=True), *(number(value) for value in own.loc[seed])]
        for seed in own.index
    ]
    rows.append([
        Cell("mean", small="± standard deviation", heads_row=True),
        *(
            Cell(show(mean), "number", small=f"± {show(deviation)}")
            for mean, deviation in zip(own.mean(), own.std(ddof=1), strict=True)
        ),
    ])  # fmt: skip
    for predictor in found.consensus_scores.index:
        scores = found.consensus_scores.loc[predictor]
        rows.append([
            Cell("the consensus", small=str(predictor), heads_row=True),
            *(number(scores.get(key, math.nan)) for key, _ in metrics),
        ])  # fmt: skip
    return table(
        columns, rows, caption="Scores on held-out cells, each panel with its own network."
    )
