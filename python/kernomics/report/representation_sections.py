"""The sections of a TxFM's report; each function returns the HTML below its heading."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from kernomics import pl
from kernomics.errors import percent
from kernomics.evaluation.relationships import PROFILES
from kernomics.metrics import proportion_error
from kernomics.pl.cell_map import largest_classes
from kernomics.report import shared_sections
from kernomics.report.figures import figure_html
from kernomics.report.html import Cell, count, figures, paragraph, show, table
from kernomics.report.shared_sections import cells_drawn, warning_jump

if TYPE_CHECKING:
    from kernomics.data import Labels
    from kernomics.evaluation.representation_maps import RepresentationMaps
    from kernomics.evaluation.representations import RepresentationScores
    from kernomics.report.representation_data import RepresentationReport

METRICS = {
    "linear_accuracy": "Linear accuracy",
    "linear_macro_f1": "Linear macro-F1",
    "knn_accuracy": "kNN accuracy",
    "knn_macro_f1": "kNN macro-F1",
    "linear_top1": "Top-1 accuracy",
    "linear_top5": "Top-5 accuracy",
    "mlp_accuracy": "Network accuracy",
    "mlp_macro_f1": "Network macro-F1",
    "nmi": "NMI",
    "ari": "ARI",
    "asw": "Silhouette",
    "ilisi": "iLISI",
}
"""The columns of a table of scores, with their names."""
PROBES = ("linear_accuracy", "linear_macro_f1", "knn_accuracy", "knn_macro_f1")


def scored(value: float, error: float, css: str = "") -> Cell:
    """Return a cell of a score with its standard error below, where it has one."""
    small = "" if math.isnan(error) else f"± {show(error)}"
    return Cell(show(value), f"number {css}".strip(), small=small)


# Key figures ------------------------------------------------------------------------------------


def key_figures(data: RepresentationReport) -> str:
    """Return how well classes can be read off the representations, with errors."""
    parts = [warning_jump(data.warnings, "this model")]
    scores = data.scores
    if scores is not None:
        labels = list(dict.fromkeys(label for label, _ in scores.table.index))
        if "linear_accuracy" in scores.table:
            tiles = "".join(_tile(scores, label) for label in labels)
            parts.append(f'<ul class="tiles">{tiles}</ul>')
        parts += [paragraph(data.sentence), _score_table(scores)]
        if len(scores.differences):
            parts.append(_difference_table(scores))
        parts += _what_scores_tell(data, scores)
    else:
        parts.append(paragraph(data.sentence))
    parts += [paragraph(sentence, "note") for sentence in data.omitted]
    return "\n".join(filter(None, parts))


def _with_error(value: float, error: float) -> str:
    return show(value) if math.isnan(error) else f"{show(value)} ± {show(error)}"


def _tile(scores: RepresentationScores, label: str) -> str:
    metric = "linear_accuracy"
    values, errors = scores.table[metric].to_dict(), scores.errors[metric].to_dict()
    names = [name for of, name in scores.table.index if of == label]
    own, others = names[0], names[1:]
    lines = [f"Linear accuracy of {own} on {count(scores.n_test, 'held-out cell')}"]
    lines += [f"{name} {_with_error(values[label, name], errors[label, name])}" for name in others]
    small = "".join(f'<span class="small">{escape(line)}</span>' for line in lines)
    return (
        f'<li><span class="task">{escape(label)}</span> '
        f'<span class="value">{_with_error(values[label, own], errors[label, own])}</span>'
        f"{small}</li>"
    )


def _score_table(scores: RepresentationScores) -> str:
    shown = [metric for metric in METRICS if metric in scores.table]
    values = {metric: scores.table[metric].to_dict() for metric in shown}
    errors = {metric: scores.errors[metric].to_dict() for metric in shown}
    labels = list(dict.fromkeys(label for label, _ in scores.table.index))
    rows: list[str | list[Cell]] = []
    for label in labels:
        rows.append(f"{label}: {count(scores.n_test, 'held-out cell')}")
        keys = [key for key in scores.table.index if key[0] == label]
        best = {metric: max(values[metric][key] for key in keys) for metric in shown}
        for key in keys:
            row = [Cell(key[1], "name", heads_row=True)]
            for metric in shown:
                value = values[metric][key]
                css = "best" if value == best[metric] else ""
                row.append(scored(value, errors[metric][key], css))
            rows.append(row)
    return table(
        [Cell("Representation"), *(Cell(METRICS[metric], "number") for metric in shown)],
        rows,
        caption="How well classes can be predicted from each representation. Classifiers are "
        f"fitted on {count(scores.n_train, 'training cell')} and scored on held-out cells. ± is "
        "the standard error over held-out cells; the best score for each label is in bold, even "
        "where the difference is within that error.",
    )


def _difference_table(scores: RepresentationScores) -> str:
    found = scores.differences
    first = scores.table.index[0][1]
    pairs = list(dict.fromkeys(zip(found["label"], found["representation"], strict=True)))
    lookup = {
        (label, name, metric): (gap, error)
        for label, name, metric, gap, error in found.itertuples(index=False)
    }
    rows: list[str | list[Cell]] = []
    for label in dict.fromkeys(label for label, _ in pairs):
        rows.append(str(label))
        for of, name in pairs:
            if of == label:
                cells = []
                for metric in PROBES:
                    gap, error = lookup[label, name, metric]
                    sign = "+" if gap > 0 else ""
                    css = "number best" if gap > 2 * error else "number"  # NaN: no draw differs
                    small = "" if math.isnan(error) else f"± {show(error)}"
                    cells.append(Cell(sign + show(gap), css, small=small))
                rows.append([Cell(f"minus {name}", "name", heads_row=True), *cells])
    return table(
        [Cell(f"{first} …"), *(Cell(METRICS[metric], "number") for metric in PROBES)],
        rows,
        caption=f"{first} minus each other representation. ± is the standard error of the "
        "difference, with both scored on the same held-out cells; differences above twice their "
        "error are in bold.",
    )


def _what_scores_tell(data: RepresentationReport, scores: RepresentationScores) -> list[str]:
    said = (
        "Linear: a logistic regression on the representation; kNN: a vote of the nearest cells. "
        "They tell how well these classes can be distinguished, and nothing about what else a "
        "representation captures. Macro-F1 is the unweighted mean of the F1 scores of the "
        "classes, so rare classes count as much as common ones. "
    )
    errors = (
        "The errors of accuracy and macro-F1 are bootstrap standard errors over held-out cells. "
        "They tell how much a score would vary with other cells of the same kind, not with "
        "another training seed, another split of the cells, or other donors or laboratories."
    )
    if data.by_group is not None:
        errors += (
            f" Cells of one {data.by_group} are similar, and never both trained on and held out, "
            f"so on another {data.by_group} the scores may vary more than ± suggests."
        )
    shown = [metric for metric in METRICS if metric in scores.table]
    bare = [METRICS[m] for m in shown if scores.errors[m].isna().all()]
    if "linear_accuracy" in shown:
        errors += " A score that is the same in every bootstrap sample, such as 1, has no error."
    if bare:
        errors += f" No error is given for {', '.join(bare)}."
    parts = [paragraph(said + errors, "note")]
    if "ilisi" in shown:
        parts.append(
            paragraph("iLISI: how well batches mix among neighbours, regardless of class; "
                      "mixing that also breaks up classes is no gain.", "note")
        )  # fmt: skip
    return parts


# Maps -------------------------------------------------------------------------------------------


def maps(data: RepresentationReport) -> str:
    """Return both maps coloured by each label, with what they agree in."""
    found = data.maps
    if found is None:
        return ""
    drawn = cells_drawn(found)
    kept, chance = 100 * found.neighbours_kept, 100 * found.kept_by_chance
    parts = [
        paragraph(
            f"On average {kept:.0f}% of a cell's 15 nearest neighbours in PCA are also among its "
            f"15 nearest in TxFM's representation ({chance:.1f}% by chance)."
        )
    ]
    for name in found.labels or [pl.LIBRARY_SIZE]:
        parts += [f"<h3>{escape(_heading(found, name))}</h3>", _shares(found, name)]
        pairs = [
            figure_html(
                partial(pl.representation_map, found, of, name),
                alt=f"UMAP of {drawn} by {of}, {found.n_dimensions[of]:,} dimensions, coloured by "
                f"{name}.",
            )
            for of in found.points
        ]
        parts.append(figures(pairs))
    some = found.part == "all" and data.history is not None
    trained = " Some of these cells were used in training." if some else ""
    note = (
        f"Each dot is a cell ({drawn}, the same in all maps, which use the same seed).{trained} "
        "PCA: normalised counts, log(1 + x), as many components as TxFM has dimensions. The "
        "percentages are computed in the representations, not on the maps. A map shows which "
        "cells are neighbours. The sizes of clusters and the distances between them mean "
        "little, and clusters that look well separated are not necessarily easier to "
        "distinguish; see the scores for that."
    )
    if any(_has_grey(label) for label in found.labels.values()):
        note += " Grey: unlabelled cells, and classes beyond the 18 largest."
    return "\n".join(filter(None, [*parts, paragraph(note, "note")]))


def _has_grey(label: Labels) -> bool:
    if label.kind == "continuous":
        return bool(np.isnan(label.values).any())
    coloured = largest_classes(label.values, len(label.categories))
    return not np.isin(label.values, coloured).all()


def _heading(found: RepresentationMaps, name: str) -> str:
    return f"{name} (batch)" if name == found.batch else name


def _shares(found: RepresentationMaps, name: str) -> str:
    if name not in found.same_class:
        return ""
    said = ", ".join(
        f"{percent(share)} in {of}" if not math.isnan(share) else f"unknown in {of}"
        for of, share in found.same_class[name].items()
    )
    text = f"Neighbours that share the cell's {name}: {said}."
    if name == found.batch:
        text += (
            " Lower means better mixed if the batches contain the same kinds of cells; if not, "
            "the difference may come from the cells."
        )
    return paragraph(text)


# Perturbations and relationships ----------------------------------------------------------------


def perturbations(data: RepresentationReport) -> str:
    """Return how consistent the effects of perturbations are, and how invertible."""
    found = data.perturbations
    if found is None:
        return ""
    columns = [
        Cell("Representation"), Cell("Alignment"), Cell("Consistent", "number"),
        Cell("Spearman", "number"), Cell("Structural integrity", "number"),
    ]  # fmt: skip
    best = found.table["consistency"].max()
    rows = []
    for name, row in found.table.iterrows():
        share = float(row["consistency"])
        error = proportion_error(share, found.n_perturbations)
        rows.append(
            [
                Cell(str(name), "name", heads_row=True),
                Cell(str(row["alignment"]), "name"),
                scored(share, error, "best" if share == best else ""),
                Cell(show(float(row["spearman"])), "number"),
                Cell(show(float(row["structural_integrity"])), "number"),
            ]
        )
    parts = [
        paragraph(
            f"{count(found.n_cells, 'cell')} of {count(found.n_perturbations, 'perturbation')}, "
            f"including {found.n_controls:,} controls, in "
            f"{count(found.n_batches, 'batch', 'batches')}."
        ),
        table(
            columns,
            rows,
            caption="Consistent: the share of perturbations whose cells agree in direction more "
            "than under the null. ± is the standard error √(p(1 − p)/n) over n perturbations, "
            "treating them as a sample from many; a share of 0 or 1 has none. Spearman and "
            "structural integrity: how well expression can be reconstructed, on "
            f"{count(found.n_reconstructed, 'cell')}, without an error.",
        ),
    ]
    drawn = []
    if found.table["block"].notna().sum() > 1:
        shares = "; ".join(f"{n} {v:.3f}" for n, v in found.table["consistency"].items())
        drawn.append(
            figure_html(
                partial(pl.consistency_by_block, found),
                alt=f"Share of consistent perturbations by block of the model: {shares}.",
            )
        )
    first = "TxFM" if "TxFM" in found.consistencies else next(iter(found.consistencies))
    if found.consistencies[first].table["statistic"].notna().any():
        drawn.append(
            figure_html(
                partial(pl.consistency_null, found.consistencies[first]),
                alt="Histogram of the cosines under the null, and the statistic of each "
                f"perturbation, in {first}.",
                caption=f"{first}: cosines under the null and, below them, the statistic of each "
                "perturbation.",
            )
        )
    note = (
        "For each representation the alignment with the most consistent perturbations is shown. "
        "It was chosen on the same cells, which slightly favours all of them. A consistent "
        "effect is a repeatable one: it may be weak, and it may come from how the cells were "
        "handled."
    )
    return "\n".join([*parts, figures(drawn), paragraph(note, "note")])


def relationships(data: RepresentationReport) -> str:
    """Return how many known relationships the gene parameters recall."""
    found = data.relationships
    if found is None:
        return ""
    databases = list(dict.fromkeys(found.table["database"]))
    lookup = {
        (r["representation"], r["n_components"], r["database"]): (r["recall"], r["n_pairs"])
        for r in found.table.to_dict("records")
    }
    rows = []
    averages: dict[Any, float] = found.summary["mean"].to_dict()
    for (name, size), mean in averages.items():
        cells = [
            Cell(name, "name", heads_row=True),
            Cell(f"{size:,}{' cells' * (name == PROFILES)}", "number"),
        ]
        for database in databases:
            recall, n = lookup.get((name, size, database), (math.nan, 0))
            cells.append(scored(float(recall), proportion_error(float(recall), int(n))))
        rows.append([*cells, Cell(show(float(mean)), "number")])
    n_pairs = found.table.drop_duplicates("database").set_index("database")["n_pairs"]
    said = ", ".join(f"{name} {n:,}" for name, n in n_pairs.items())
    parts = [
        paragraph(
            f"{count(found.n_genes, 'gene')} and {count(found.n_cells, 'cell')}. Known pairs "
            f"with both genes present: {said}."
        ),
        table(
            [
                Cell("Gene vectors"),
                Cell("Components", "number"),
                *(Cell(name, "number") for name in databases),
                Cell("Mean", "number"),
            ],
            rows,
            caption="Recall: the share of known pairs that are more similar or more dissimilar "
            "than 90% of random pairs; 0.100 by chance. ± is the standard error √(p(1 − p)/n) "
            "over n known pairs, treating them as independent; pairs share genes, so it is too "
            "small.",
            tall=len(rows) > 16,
        ),
    ]
    only = databases[0] if len(databases) == 1 else None
    means = "; ".join(f"{n} with {s:,} {m:.3f}" for (n, s), m in averages.items())
    if found.table.groupby("representation")["n_components"].nunique().max() > 1:
        parts.append(
            figure_html(
                partial(pl.recall_curve, found.table, database=only),
                alt=f"Recall of {only or 'all databases'} by number of components: {means}.",
            )
        )
    note = (
        "Recall tells whether the model's vectors of related genes stand out from those of "
        "random pairs. Pairs of genes that are merely both highly expressed can be recalled "
        "too. Expression profiles and PCA of the same cells show how much the counts alone tell."
    )
    return "\n".join([*parts, paragraph(note, "note")])


# Training ---------------------------------------------------------------------------------------


def training(history: Sequence[Mapping[str, Any]]) -> str:
    """Return the curves of the training, and how to read them."""
    return shared_sections.training(history) + paragraph(
        "The loss is that of reconstructing the counts, up to a constant, so its level cannot "
        "be compared between data sets or losses. If it falls on the training cells and rises "
        "on the validation cells, the model is overfitting.",
        "note",
    )
