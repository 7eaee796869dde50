"""What the report of a panel's evaluation on other cells shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kernomics.data import CellCollection
from kernomics.data.gene_columns import counts_of
from kernomics.metrics import bootstrap_scores, class_expression, confusion_matrix
from kernomics.metrics.uncertainty import spread
from kernomics.models import Panel
from kernomics.models.seen_cells import without_digests
from kernomics.models.tasks import score_task
from kernomics.models.yoto.missing_genes import absent_genes, partly_measured
from kernomics.report import MethodScore, Provenance, ReportData, SplitReport, TaskReport


def panel_evaluation_data(
    panel: Panel,
    cells: CellCollection,
    labels: Mapping[str, str],
    dataset: str,
    notes: Sequence[str] = (),
    *,
    allow_missing: bool = False,
) -> tuple[ReportData, dict[str, dict[str, float]]]:
    """Predict the cells and gather what the report shows, with the scores' standard errors.

    `labels`, `allow_missing` and the errors raised are those of `Panel.evaluate`; `notes` are
    warnings. Genes that these cells lack, or have not all measured, are in no table or figure.
    """
    predicted = panel.labelled_outputs(cells, labels, allow_missing=allow_missing)
    absent = absent_genes(panel.genes, cells) + partly_measured(panel.genes, cells)
    genes = [gene for gene in panel.genes if gene not in absent]
    counts = counts_of(cells.with_genes(genes, 1.0), np.arange(cells.n_cells))
    tasks, expression = [], []
    errors: dict[str, dict[str, float]] = {}
    for task in panel.tasks:
        if task.name not in predicted:
            continue
        truth, outputs = predicted[task.name]
        own = score_task(task, truth, outputs)
        confusion = None
        n_labelled = int(np.isfinite(truth).sum())
        if task.classes:
            n_labelled = int((truth >= 0).sum())
            guess = outputs.argmax(axis=1)
            confusion = confusion_matrix(truth, guess, len(task.classes))
            drawn = bootstrap_scores(truth, {"panel": guess})["panel"]
            errors[task.name] = {name: spread(values) for name, values in drawn.items()}
            expression.append(class_expression(counts, truth, task.classes, task=task.name))
        tasks.append(
            TaskReport(
                name=task.name,
                kind=task.kind,
                scores=[MethodScore(method="panel", predictor="its own network", metrics=own)],
                n_train=0,
                n_validation=0,
                n_test=n_labelled,
                classes=task.classes,
                confusion=confusion,
            )
        )
    source = Provenance.of_this_process({"model": without_digests(panel.info)}, None)
    data = ReportData(
        title=f"{len(panel.genes)}-gene panel, on {dataset}",
        dataset=dataset,
        n_cells=cells.n_cells,
        n_genes=cells.n_genes,
        genes=genes,
        absent=absent,
        seen_is_known="seen_cells" in panel.info,
        detection_rate=np.diff(counts.tocsc().indptr) / cells.n_cells,
        mean_count=np.asarray(counts.mean(axis=0)).ravel(),
        tasks=tasks,
        split=SplitReport(how="not", n_train=0, n_validation=0, n_test=cells.n_cells),
        expression=expression,
        warnings=notes,
        command=source.command,
        config=source.config,
        versions=source.versions,
        seed=0,
        version=source.version,
        created=source.created,
        duration_seconds=float("nan"),
    )
    return data, errors
