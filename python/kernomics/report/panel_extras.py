"""Sections on one panel: its map, what its genes are for, which are alike.

Each is empty without its data.
"""

from __future__ import annotations

import math
from functools import partial
from html import escape
from typing import Literal

import numpy as np
import pandas as pd

from kernomics import pl
from kernomics.report.data import LEAST_CELLS, ReportData, TaskReport
from kernomics.report.figures import figure_html
from kernomics.report.html import Cell, count, figures, paragraph, table
from kernomics.report.shared_sections import cells_drawn

GENES_PER_FIGURE = 32
MOST_CELLS = 8_000  # of a heat map of contributions
SHOWN_SHARE = 0.98  # of the contributions that are within the colour scale
LEAST_RISE = 0.005  # less is shown as 0.00


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


# All genes and the panel ------------------------------------------------------------------------


def embedding(data: ReportData) -> str:
    """Return the two maps with what they agree in."""
    found = data.embedding
    if found is None:
        return ""
    drawn = cells_drawn(found)
    kept, chance = 100 * found.neighbours_kept, 100 * found.kept_by_chance
    text = (
        f"The panel keeps on average {kept:.0f}% of a cell's 15 nearest neighbours by all genes "
        f"({chance:.1f}% by chance)."
    )
    if found.classes:
        by_all, by_panel = (100 * share for share in found.same_class)
        text += (
            f" Of the 15 neighbours, {by_all:.0f}% share the cell's {found.label} by all genes "
            f"and {by_panel:.0f}% by the panel."
        )
    grey = len(found.classes) - len(pl.shown_classes(found))
    note = (
        f"Each dot is a cell ({drawn}, the same in both maps). All genes: normalised counts, "
        "log1p, 30 principal components; the panel: log1p of its counts"
        + (", 30 principal components" if found.n_panel > 30 else "")
        + ". The percentages are computed in these spaces, not on the maps, where large "
        "distances mean little."
    )
    if found.classes and (grey or (found.codes < 0).any()):
        note += " Grey: unlabelled cells and classes without a colour."
    both: tuple[tuple[Literal["all", "panel"], str], ...] = (
        ("all", "all genes"),
        ("panel", "the panel's genes only"),
    )
    maps = [
        figure_html(
            partial(pl.embedding_map, found, genes),
            alt=f"UMAP of {drawn} by {words}"
            + (f", coloured by {found.label}." if found.classes else "."),
        )
        for genes, words in both
    ]
    return "\n".join([paragraph(text), figures(maps), paragraph(note, "note")])


# What each gene is for --------------------------------------------------------------------------


def _held_out(task: TaskReport) -> dict[str, int]:
    """Return the held-out cells of each class, where they are known."""
    if task.confusion is None:
        return {}
    return dict(zip(task.classes, np.sum(task.confusion, axis=1).tolist(), strict=True))


def at_chance(task: TaskReport) -> bool:
    """Tell whether the panel's own predictor says nothing of a task on the held-out cells.

    Its R² is not above 0, or Cohen's κ is not above 0 by two standard errors.
    """
    if task.kind == "continuous":
        return float(task.scores[0].metrics.get("r2", math.inf)) <= 0
    if task.confusion is None or not np.sum(task.confusion):
        return False
    table = np.asarray(task.confusion, dtype=np.float64)
    n = table.sum()
    agreed = float(np.trace(table) / n)
    by_chance = float(table.sum(0) @ table.sum(1) / n**2)
    return agreed - by_chance <= 2 * math.sqrt(agreed * (1 - agreed) / n)


def reasons(data: ReportData) -> dict[str, str]:
    """Return for each gene the task and class where it matters most: ``"cell_type: B, +0.42"``.

    Classes with fewer than 10 held-out cells, or with an unknown number, are no reason, nor is a
    task that the panel does not predict; a dash stands for a gene without which no loss rises.
    """
    found = data.contributions
    assert found is not None
    columns: dict[str, pd.Series[float]] = {}
    for task in data.tasks:
        if task.name not in found.loss_without or at_chance(task):
            continue
        if task.name not in found.by_class:
            columns[task.name] = found.loss_without[task.name]
            continue
        n_cells = _held_out(task)
        for name, rises in found.by_class[task.name].items():
            if n_cells.get(str(name), 0) >= LEAST_CELLS:
                columns[f"{task.name}: {name}"] = rises
    reason = {}
    for gene in data.genes:
        best = max(
            ((float(of[gene]), where) for where, of in columns.items() if not np.isnan(of[gene])),
            default=(0.0, ""),
            key=lambda pair: pair[0],
        )
        reason[gene] = f"{best[1]}, {_signed(best[0])}" if best[0] >= LEAST_RISE else "–"
    return reason


def contributions(data: ReportData) -> str:
    """Return heat maps of the rise of the loss, genes × tasks and genes × classes."""
    found = data.contributions
    if found is None:
        return ""
    parts = [
        paragraph(
            "The increase in the loss of the panel's network on held-out cells when the input "
            "of one gene is set to its mean over the training cells. Blue: the network needs "
            "the gene for this class; orange: it does better without it. Of two redundant "
            "genes, each looks dispensable as long as the other is present."
        )
    ]
    tasks = [task.name for task in data.tasks if task.name in found.loss_without]
    if len(tasks) > 1:
        parts += ["<h3>All tasks</h3>", _contribution_blocks(data, None)]
    for task in tasks:
        if task in found.by_class or len(tasks) == 1:
            parts += [f"<h3>{escape(task)}</h3>", _contribution_blocks(data, task)]
    return "\n".join(parts)


def _contribution_blocks(data: ReportData, task: str | None) -> str:
    assert data.contributions is not None
    values = pl.contribution_table(data.contributions, task).loc[list(data.genes)]
    n_shown = min(len(values), max(GENES_PER_FIGURE, MOST_CELLS // values.shape[1]))
    values = values.iloc[:n_shown]
    # Genes for the same class stand together; within a class the better ranked come first.
    by_column = np.nan_to_num(values.to_numpy(), nan=-np.inf)
    by_column = by_column[:, 1:] if by_column.shape[1] > 1 and task is not None else by_column
    order = np.argsort(by_column.argmax(axis=1), kind="stable")
    # A few large rises would leave all others pale.
    sizes = np.abs(values.to_numpy())
    largest = float(np.nanquantile(sizes, SHOWN_SHARE)) if (sizes >= 0).any() else 0.0
    drawn = []
    for block in np.array_split(order, math.ceil(n_shown / GENES_PER_FIGURE)):
        genes = [str(gene) for gene in values.index[block]]
        tops = []
        for gene in genes:
            known = values.loc[gene].dropna()
            if len(known):
                tops.append(f"{gene} {_signed(float(known.to_numpy().max()))} for {known.idxmax()}")
        drawn.append(
            figure_html(
                partial(pl.contributions, data.contributions, task, genes, largest=largest),
                alt=f"Increase in the loss without each of {count(len(genes), 'gene')}, by "
                f"{'task' if task is None else 'class of ' + task}. Largest: {', '.join(tops)}.",
            )
        )
    said = ""
    if n_shown < len(data.genes):
        said = paragraph(
            f"Only the {n_shown} top-ranked of {len(data.genes)} genes are shown; "
            "kernomics.pl.contributions draws any of them."
        )
    few = [
        name
        for one in data.tasks
        if one.name == task
        for name, n in _held_out(one).items()
        if 0 < n < LEAST_CELLS
    ]
    if few:
        said += paragraph(
            f"Fewer than {LEAST_CELLS} held-out cells, so interpret with caution: "
            f"{', '.join(few)}.",
            "note",
        )
    return said + figures(drawn)


# Redundancy and substitutes ---------------------------------------------------------------------


def redundancy(data: ReportData) -> str:
    """Return the correlations within the panel, and each gene's groups and substitutes."""
    found = data.redundancy
    if found is None:
        return ""
    names = found.correlation.index
    r = found.correlation.to_numpy(dtype=np.float64)
    strongest = ""
    if len(r) > 1:
        one, other = divmod(int(np.abs(np.triu(r, 1)).argmax()), len(r))
        strongest = (
            f" The most correlated are {names[one]} and {names[other]}, r = "
            f"{_signed(r[one, other])}."
        )
    groups = "No two genes of the panel are redundant."
    if found.groups:
        alike = [found.correlation.loc[group, group].to_numpy() for group in found.groups]
        least = np.floor(100 * min(np.abs(part).min() for part in alike)) / 100
        groups = (
            f"{count(len(found.groups), 'group')} of redundant genes, with |r| ≥ {least:.2f}: "
            + "; ".join(", ".join(group) for group in found.groups[:8])
            + ("; …" if len(found.groups) > 8 else "")
            + "."
        )
    heat = figure_html(
        partial(pl.panel_correlation, found),
        alt=f"Correlations of the panel's {count(len(r), 'gene')}, similar genes side by "
        f"side.{strongest}",
        caption="Correlation of the panel's genes over the training cells, similar genes side "
        "by side" + ("; frames mark the groups." if found.groups else "."),
    )
    return "\n".join([
        paragraph(groups + strongest),
        heat,
        _substitute_table(data),
    ])  # fmt: skip


def _substitute_table(data: ReportData) -> str:
    found = data.redundancy
    assert found is not None
    alike = {gene: [g for g in group if g != gene] for group in found.groups for gene in group}
    left_out: dict[str, list[str]] = {}
    for gene, substitute, r in found.substitutes.to_numpy().tolist():
        left_out.setdefault(gene, []).append(f"{substitute}\u00a0{_signed(r)}")
    rows = [
        [
            Cell(gene, "name", heads_row=True),
            Cell(", ".join(alike.get(gene, [])) or "–", "name"),
            Cell(", ".join(left_out.get(gene, [])) or "–", "name"),
        ]
        for gene in data.genes
    ]
    return table(
        [Cell("Gene"), Cell("Same group"), Cell("Best substitutes outside the panel")],
        rows,
        caption="For each gene, the redundant genes in the panel and the most correlated genes "
        "outside it (Pearson's r of log(1 + count)).",
        tall=len(rows) > 16,
    )
