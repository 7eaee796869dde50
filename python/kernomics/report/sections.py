"""The sections of the report; each function returns the HTML below its heading."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from html import escape

import numpy as np
from numpy.typing import NDArray

from kernomics import pl
from kernomics.metrics import ClassExpression
from kernomics.metrics.expression import EVERYWHERE
from kernomics.metrics.panel_score import DIGITS, MethodScore, shared_ranks
from kernomics.report.data import LEAST_CELLS, MAIN_METRIC, METRICS, ReportData, TaskReport
from kernomics.report.figures import figure_html
from kernomics.report.html import Cell, count, figures, number, paragraph, show, table
from kernomics.report.panel_extras import reasons
from kernomics.report.shared_sections import warning_jump

GENES_PER_FIGURE = 32
MOST_DOTS = 8_000  # more would take a large part of a minute and several megabytes
LOWER_IS_BETTER = {"mae"}


def _label(score: MethodScore) -> str:
    return f"{score.method}\n{score.predictor}" if score.predictor else score.method


# Key figures ------------------------------------------------------------------------------------


def _with_error(score: MethodScore, metric: str) -> str:
    error = score.spread.get(metric)
    return show(score.metrics.get(metric)) + ("" if error is None else f" ± {show(error)}")


def _tile(task: TaskReport) -> str:
    main, names = MAIN_METRIC[task.kind], METRICS[task.kind]
    shown = task.over_splits or task.scores
    own = shown[0]
    where = (
        f"mean ± standard error over {task.n_splits} splits"
        if task.over_splits
        else f"on {count(task.n_test, 'held-out cell')}"
    )
    lines = [f"{names[main]} {where}"]
    rest = [f"{names[m]} {show(own.metrics[m])}" for m in names if m != main and m in own.metrics]
    lines.append(", ".join(rest))
    others = [
        (score.metrics[main], score.method)
        for score in shown
        if score.method != own.method and not math.isnan(score.metrics.get(main, math.nan))
    ]
    if others:
        value, method = max(others)
        lines.append(f"Best other method: {method}, {show(value)}")
    small = "".join(f'<span class="small">{escape(line)}</span>' for line in lines if line)
    return (
        f'<li><span class="task">{escape(task.name)}</span> '
        f'<span class="value">{_with_error(own, main)}</span>{small}</li>'
    )


def _best(task: TaskReport, metric: str) -> float:
    values = [score.metrics.get(metric, math.nan) for score in task.over_splits or task.scores]
    values = [value for value in values if not math.isnan(value)]
    if len(values) < 2:
        return math.nan
    return min(values) if metric in LOWER_IS_BETTER else max(values)


def _score_table(tasks: Sequence[TaskReport], kind: str) -> str:
    names = {
        metric: title
        for metric, title in METRICS[kind].items()
        if any(metric in score.metrics for task in tasks for score in task.scores)
    }
    columns = [Cell("Genes selected by"), *(Cell(title, "number") for title in names.values())]
    rows: list[str | list[Cell]] = []
    for task in tasks:
        on = f"{task.n_splits} splits" if task.over_splits else count(task.n_test, "held-out cell")
        rows.append(f"{task.name}: {on}")
        best = {metric: _best(task, metric) for metric in names}
        for score in task.over_splits or task.scores:
            row = [Cell(score.method, "name", small=score.predictor, heads_row=True)]
            for metric in names:
                value = score.metrics.get(metric, math.nan)
                spread = score.spread.get(metric)
                row.append(
                    Cell(
                        show(value),
                        "number best" if value == best[metric] else "number",
                        small="" if spread is None else f"± {show(spread)}",
                    )
                )
            rows.append(row)
    what = "classification" if kind == "categorical" else "regression"
    repeated = any(score.spread for task in tasks for score in task.scores)
    over_splits = any(task.over_splits for task in tasks)
    meaning = "standard error over splits" if over_splits else "standard deviation over panels"
    return table(
        columns,
        rows,
        caption=f"Scores on held-out cells, {what}. Below each method is the predictor used on "
        "its genes. The best score for each task is in bold."
        + (f" ± is the {meaning}." if repeated or over_splits else ""),
    )


def _comparison(task: TaskReport) -> str:
    metric = MAIN_METRIC[task.kind]
    title = METRICS[task.kind][metric]
    shown = task.over_splits or task.scores
    values = {_label(score): score.metrics.get(metric, math.nan) for score in shown}
    spread = {_label(score): score.spread[metric] for score in shown if metric in score.spread}
    stated = "; ".join(
        f"{name.replace(chr(10), ', ')} {show(value)}" for name, value in values.items()
    )
    return figure_html(
        partial(pl.method_comparison, values, metric=title, spread=spread),
        alt=f"Bar chart of {title} for task {task.name}: {stated}.",
        caption=f"{title} of task {task.name}"
        + (f", mean ± standard error over {task.n_splits} splits." if task.over_splits else "."),
    )


def key_figures(data: ReportData) -> str:
    """Return the headline numbers, the table of scores and a bar chart per task."""
    parts = [warning_jump(data.warnings, "this panel")]
    parts.append(f'<ul class="tiles">{"".join(_tile(task) for task in data.tasks)}</ul>')
    parts.append(paragraph(data.split.sentence()))
    for task in data.tasks:
        if task.verdict:
            said = f"{task.name}: {task.verdict}" if len(data.tasks) > 1 else task.verdict
            parts.append(paragraph(said))
    for kind in METRICS:
        tasks = [task for task in data.tasks if task.kind == kind]
        if tasks:
            bars = "".join(_comparison(task) for task in tasks if len(task.scores) > 1)
            parts.append(
                f'<div class="beside">{_score_table(tasks, kind)}<div class="stack">{bars}</div>'
                "</div>"
            )
    parts.append(
        paragraph(
            "Macro-F1 is the unweighted mean of the F1 scores of the classes present among the "
            "held-out cells, so rare classes count as much as common ones.",
            "note",
        )
        if any(task.kind == "categorical" for task in data.tasks)
        else ""
    )
    return "\n".join(filter(None, parts))


# The panel --------------------------------------------------------------------------------------


def panel(data: ReportData, over: str = "the training cells") -> str:
    """Return the table of genes."""
    scores = None if data.scores is None else np.asarray(data.scores, dtype=np.float64)
    top = data.expression[0].top_class if data.expression else None
    columns = [Cell("Rank", "number"), Cell("Gene")]
    columns += [Cell("Score", "number")] if scores is not None else []
    columns += [Cell("Detected in", "number"), Cell("Mean count", "number")]
    columns += [Cell("Highest in")] if top is not None else []
    columns += [Cell("Marker for")] if data.marker_for else []
    everywhere = [False] * len(data.genes) if data.everywhere is None else data.everywhere
    why = reasons(data) if data.contributions is not None else None
    columns += [Cell("Why it is included")] if why is not None else []
    span = low = 0.0
    if scores is not None and np.isfinite(scores).any():
        finite = scores[np.isfinite(scores)]
        low = min(0.0, float(finite.min()))
        span = float(finite.max()) - low
    rows = []
    ranks = np.arange(1, len(data.genes) + 1) if scores is None else shared_ranks(scores)
    for place, gene in enumerate(data.genes):
        row = [Cell(str(ranks[place]), "number"), Cell(gene, "name", heads_row=True)]
        if scores is not None:
            score = float(scores[place])
            if score == math.inf:
                row.append(Cell("forced", "number"))
            else:
                bar = (score - low) / span if span > 0 and math.isfinite(score) else None
                row.append(Cell(show(score, DIGITS), "number", bar=bar))
        rate = float(data.detection_rate[place])
        flag = "in nearly every cell" if everywhere[place] else ""
        row.append(Cell(f"{100 * rate:.1f}%", "number", small=flag, bar=rate))
        row.append(number(float(data.mean_count[place])))
        if top is not None:
            row.append(Cell(top[place] or "–", "name"))
        if data.marker_for:
            row.append(Cell(data.marker_for[place] or "–", "name"))
        if why is not None:
            row.append(Cell(why[gene], "name"))
        rows.append(row)
    caption = f"The panel's genes, best first; detected in and mean count: over {over}"
    if len(set(ranks.tolist())) < len(ranks):
        caption += "; genes whose scores agree to three digits share a rank"
    if top is not None:
        caption += f"; highest in: the class of {data.expression[0].task} with the highest "
        caption += "mean of log(1 + count)"
    if any(everywhere):
        caption += (
            f"; in nearly every cell: detected in at least {100 * EVERYWHERE:.0f}% of the cells "
            f"of every class with at least {LEAST_CELLS} cells; imaging panels avoid such genes"
        )
    if data.marker_for:
        caption += "; marker for: the classes it was included for as a marker"
    if why is not None:
        caption += (
            "; why it is included: where the loss of the panel's network rises most without the "
            f"gene, and by how much (classes with at least {LEAST_CELLS} held-out cells, labels "
            "that the network predicts better than chance)"
        )
    omitted = "".join(paragraph(sentence, "note") for sentence in data.omitted)
    return table(columns, rows, caption=caption + ".", tall=len(rows) > 16) + omitted


# Expression by class ----------------------------------------------------------------------------


def _n_shown(expression: ClassExpression) -> int:
    """Return how many genes, from the best ranked on, are drawn."""
    n_genes, n_classes = len(expression.detection), len(expression.classes)
    return min(n_genes, max(GENES_PER_FIGURE, MOST_DOTS // n_classes))


def _dot_blocks(data: ReportData, expression: ClassExpression) -> str:
    shown = _n_shown(expression)
    means = np.nan_to_num(expression.mean_log1p[:shown])
    # Genes that mark the same class stand together; within a class the better ranked come first.
    order = np.argsort(means.argmax(axis=1), kind="stable")
    n_blocks = math.ceil(order.size / GENES_PER_FIGURE)
    largest = float(means.max(initial=0.0))
    drawn = []
    for block in np.array_split(order, n_blocks):
        genes = [data.genes[gene] for gene in block]
        part = ClassExpression(
            task=expression.task,
            classes=expression.classes,
            n_cells=expression.n_cells,
            detection=expression.detection[block],
            mean_log1p=expression.mean_log1p[block],
        )
        tops = ", ".join(
            f"{gene} in {top}" for gene, top in zip(genes, part.top_class, strict=True) if top
        )
        drawn.append(
            figure_html(
                partial(pl.dot_plot, part, genes, largest_mean=largest),
                alt=f"Dot plot of {count(len(genes), 'gene')} by the "
                f"{count(len(part.classes), 'class', 'classes')} of {part.task}. "
                f"Each gene's mean is highest: {tops}.",
            )
        )
    return figures(drawn)


def expression(data: ReportData) -> str:
    """Return a dot plot per task, in blocks of genes that fit a screen."""
    if not data.expression:
        return paragraph("No task has classes to compare.")
    parts = [
        paragraph(
            "A larger dot means that the gene is detected in more cells of the class; a "
            "stronger colour means higher mean expression. Genes are ordered by the class in "
            "which they are highest."
            + (" Computed over the training cells." if data.split.how != "not" else "")
        )
    ]
    for table_ in data.expression:
        parts.append(f"<h3>{escape(table_.task)}</h3>")
        if _n_shown(table_) < len(data.genes):
            parts.append(
                paragraph(
                    f"The {_n_shown(table_)} top-ranked of {len(data.genes)} genes are shown; "
                    "kernomics.pl.dot_plot draws any of them."
                )
            )
        parts.append(_dot_blocks(data, table_))
    return "\n".join(parts)


# Confusion matrices -----------------------------------------------------------------------------


def _confusion_alt(task: TaskReport, counts: NDArray[np.int64]) -> str:
    total, right = int(counts.sum()), int(np.trace(counts))
    text = (
        f"Confusion matrix of {task.name}, {count(len(task.classes), 'class', 'classes')}: "
        f"{right:,} of {count(total, 'held-out cell')} on the diagonal."
    )
    wrong = counts - np.diag(np.diagonal(counts))
    if wrong.any():
        row, column = divmod(int(wrong.argmax()), wrong.shape[1])
        text += (
            f" The most frequent error: {task.classes[row]} predicted as {task.classes[column]}, "
            f"{count(int(wrong[row, column]), 'cell')}."
        )
    return text


def _class_table(task: TaskReport, counts: NDArray[np.int64], scored: str) -> str:
    truth, predicted = counts.sum(axis=1), counts.sum(axis=0)
    columns = [Cell("Class")]
    columns += [Cell("All cells", "number")] if task.class_cells is not None else []
    columns += [Cell(t, "number") for t in (scored, "Recall", "Precision", "F1")]
    rows = []
    for c, name in enumerate(task.classes):
        right = float(counts[c, c])
        row = [Cell(name, "name", heads_row=True)]
        if task.class_cells is not None:
            row.append(Cell(f"{int(task.class_cells[c]):,}", "number"))
        row += [
            Cell(f"{int(truth[c]):,}", "number"),
            number(right / truth[c] if truth[c] else None),
            number(right / predicted[c] if predicted[c] else None),
            number(2 * right / (truth[c] + predicted[c]) if truth[c] else None),
        ]
        rows.append(row)
    inner = table(columns, rows, caption=f"All classes of {task.name}, with their full names.")
    return f"<details><summary>{escape(task.name)}, class by class</summary>{inner}</details>"


def confusions(data: ReportData) -> str:
    """Return a confusion matrix and a table of classes per categorical task."""
    parts = []
    for task in data.tasks:
        if task.confusion is None:
            continue
        counts = np.asarray(task.confusion)
        parts.append(f"<h3>{escape(task.name)}</h3>")
        parts.append(
            figure_html(
                partial(pl.confusion, counts, task.classes),
                alt=_confusion_alt(task, counts),
                caption=pl.confusion_key(len(task.classes)),
            )
        )
        parts.append(
            _class_table(task, counts, "Cells" if data.split.how == "not" else "Held-out cells")
        )
    return "\n".join(parts) or paragraph("No task has a confusion matrix.")
