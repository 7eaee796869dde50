"""Made-up report data of any size for the tests of the report."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from kernomics.evaluation.panels import (
    Contributions,
    PanelCurve,
    PanelEmbedding,
    Redundancy,
    Stability,
)
from kernomics.metrics import class_expression, confusion_matrix
from kernomics.models.yoto.starts import Starts
from kernomics.report import MethodScore, ReportData, SplitReport, TaskReport

HOSTILE = '<b>x&"'


def class_names(n: int, *, long: bool = False) -> list[str]:
    if long:
        return [
            f"CD4+/CD45RA+/CD25- naive T lymphocyte of subtype {c} (unpublished)" for c in range(n)
        ]
    return [f"class {c}" for c in range(n)]


def categorical_task(
    name: str, n_classes: int, rng: np.random.Generator, *, long: bool = False
) -> TaskReport:
    truth = rng.integers(0, n_classes, 60 * n_classes)
    slips = rng.random(truth.size) < 0.15
    predicted = np.where(slips, rng.integers(0, n_classes, truth.size), truth)
    return TaskReport(
        name=name,
        kind="categorical",
        classes=class_names(n_classes, long=long),
        class_cells=np.bincount(truth, minlength=n_classes) * 5,
        confusion=confusion_matrix(truth, predicted, n_classes),
        n_train=truth.size * 3,
        n_validation=truth.size,
        n_test=truth.size,
        scores=[
            MethodScore(
                method="YOTO",
                predictor="its own network",
                metrics={"accuracy": 0.912, "macro_f1": 0.874, "auprc": 0.903},
            ),
            MethodScore(
                method="YOTO",
                predictor="logistic regression",
                metrics={"accuracy": 0.905, "macro_f1": 0.861},
            ),
            MethodScore(
                method="DE (Wilcoxon)",
                predictor="logistic regression",
                metrics={"accuracy": 0.881, "macro_f1": 0.802},
            ),
            MethodScore(
                method="random",
                predictor="logistic regression",
                metrics={"accuracy": 0.523, "macro_f1": 0.301},
                spread={"accuracy": 0.031, "macro_f1": 0.04},
            ),
        ],
    )


def regression_task(name: str) -> TaskReport:
    return TaskReport(
        name=name,
        kind="continuous",
        n_train=700,
        n_validation=100,
        n_test=200,
        scores=[
            MethodScore(
                method="YOTO",
                predictor="its own network",
                metrics={"r2": 0.41, "mae": 7.2, "pearson": 0.65},
            ),
            MethodScore(
                method="random",
                predictor="ridge regression",
                metrics={"r2": -0.12, "mae": 11.9, "pearson": float("nan")},
            ),
        ],
    )


def history(tasks: list[str], n_epochs: int = 40) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for epoch in range(n_epochs):
        fall = float(np.exp(-epoch / 10))
        step = 40 * (epoch + 1)
        for split, extra in (("train", 0.0), ("validation", 0.12)):
            record = {"step": step, "epoch": epoch, "split": split, "loss": 0.3 + 2 * fall + extra}
            for place, task in enumerate(tasks):
                record[f"loss_{task}"] = 0.2 + (2 + place) * fall + extra
            if split == "train":
                record["temperature"] = 0.1 ** (epoch / n_epochs)
                record["score_variance"] = 1.2 * (1 - fall)
                record["subset_size"] = max(64, round(400 * fall))
            records.append(record)
    return records


def curve(tasks: list[TaskReport]) -> PanelCurve:
    """Sizes 4, 8 and 16 with two seeds; larger is better, and 8 is suggested."""
    rows = [
        {"n_genes": size, "seed": seed, "task": task.name, "predictor": predictor,
         "metric": "macro_f1" if task.classes else "r2", "part": part,
         "value": 0.5 + size / 100 + seed / 50 + place / 25 + (part == "test") / 200}
        for size in (4, 8, 16)
        for seed in (0, 1)
        for task in tasks
        for place, predictor in enumerate(("its own network", "regression"))
        for part in ("validation", "test")
    ]  # fmt: skip
    summary = pd.DataFrame(
        {"value": [0.55, 0.59, 0.67], "standard_error": 0.1}, index=pd.Index([4, 8, 16])
    )
    return PanelCurve(
        table=pd.DataFrame(rows), summary=summary, suggested=8, chosen={4: [], 8: [], 16: []}
    )


def stability(genes: list[str], tasks: list[TaskReport]) -> Stability:
    """Three seeds: the panel, the same, and one that shares half of its genes with them."""
    k = len(genes)
    others = [f"OTHER{g}" for g in range(k - k // 2)]
    third = genes[: k // 2] + others
    jaccard = (k // 2) / (k + len(others))
    overlap = pd.DataFrame(
        [[1, 1, jaccard], [1, 1, jaccard], [jaccard, jaccard, 1]],
        index=[0, 1, 2],
        columns=[0, 1, 2],
    )
    frequency = pd.Series(
        [1.0] * (k // 2) + [2 / 3] * (k - k // 2) + [1 / 3] * len(others), index=genes + others
    )
    scores = {f"{task.name}/{metric}": [0.5, 0.6, 0.7] for task in tasks
              for metric in ("macro_f1", "r2")}  # fmt: skip
    return Stability(
        panels={0: list(genes), 1: list(genes), 2: third},
        scores=pd.DataFrame(scores, index=[0, 1, 2]),
        regression_scores=pd.DataFrame(),
        overlap=overlap,
        kuncheva=0.623,
        frequency=frequency,
        consensus=list(genes),
    )


def starts(genes: list[str]) -> Starts:
    """Three starts: the panel, one that shares half of its genes with it, and the panel again."""
    k = len(genes)
    other = genes[: k // 2] + [f"OTHER{g}" for g in range(k - k // 2)]
    own, linear = [0.8, 0.7, 0.75], [0.6, 0.65, 0.55]
    scores = [(a + b) / 2 for a, b in zip(own, linear, strict=True)]
    return Starts("both", [list(genes), other, list(genes)], own, linear, scores, 0, 0.61, True)


def embedding(classes: list[str], n_panel: int, rng: np.random.Generator) -> PanelEmbedding:
    n = 120
    codes = np.arange(n) % (len(classes) + 1) - 1
    points = rng.normal(size=(n, 2)) + 3 * np.stack([codes % 5, codes // 5], axis=1)
    return PanelEmbedding(
        all_genes=points.astype(np.float32),
        panel=(points + rng.normal(size=(n, 2))).astype(np.float32),
        rows=np.arange(n),
        codes=codes,
        classes=tuple(classes),
        label="cell_type",
        n_all=20_000,
        n_panel=n_panel,
        part="held-out",
        n_from=2_470,
        seed=0,
        neighbours_kept=0.314,
        same_class=(0.812, 0.793),
    )


def contributions(
    genes: list[str], tasks: list[TaskReport], rng: np.random.Generator
) -> Contributions:
    """Rises below 0.4, but for the first gene: 0.42 in the first task's last class."""
    by_class = {
        task.name: pd.DataFrame(
            rng.uniform(-0.1, 0.39, (len(genes), len(task.classes))),
            index=genes,
            columns=list(task.classes),
        )
        for task in tasks
        if task.classes
    }
    first = by_class[tasks[0].name]
    first.iloc[0, -1] = 0.42
    whole = pd.DataFrame(rng.uniform(0, 0.2, (len(genes), len(tasks))), index=genes)
    return Contributions(
        loss_without=whole.set_axis([task.name for task in tasks], axis=1), by_class=by_class
    )


def redundancy(genes: list[str]) -> Redundancy:
    """The first two genes are one group, r = 0.91; OTHER0 can stand in for the first."""
    r = np.eye(len(genes))
    groups = []
    if len(genes) > 1:
        r[0, 1] = r[1, 0] = 0.91
        groups = [[genes[0], genes[1]]]
    return Redundancy(
        groups=groups,
        correlation=pd.DataFrame(r, index=genes, columns=genes),
        substitutes=pd.DataFrame(
            [(genes[0], "OTHER0", -0.77)], columns=["gene", "substitute", "correlation"]
        ),
    )


def report_data(
    *,
    n_genes: int = 64,
    n_classes: int = 10,
    n_tasks: int = 1,
    long: bool = False,
    regression: bool = False,
    further: bool = False,
) -> ReportData:
    rng = np.random.default_rng(5)
    name = "cell_type" if not long else "author_annotated_cell_type_of_the_third_revision_fine"
    names = [name, *(f"task_{t}" for t in range(1, n_tasks))]
    tasks = [categorical_task(task, n_classes, rng, long=long) for task in names]
    codes = rng.integers(0, n_classes, 400)
    top = rng.integers(0, n_classes, n_genes)
    rate = np.where(codes[:, None] == top[None, :], 3.0, 0.15) * rng.random(n_genes)
    counts = rng.poisson(rate)
    genes = [f"GENE{g}" if not long else f"ENSG{g:011d}.12_PAR_Y_fusion_transcript" for g in top]
    genes = [f"{gene}-{place}" for place, gene in enumerate(genes)]
    genes[0] = HOSTILE
    if regression:
        tasks.append(regression_task("age"))
    found: dict[str, Any] = {}
    if further:
        found = {
            "starts": starts(genes),
            "curve": curve(tasks),
            "stability": stability(genes, tasks),
            "embedding": embedding(class_names(n_classes, long=long), n_genes, rng),
            "contributions": contributions(genes, tasks, rng),
            "redundancy": redundancy(genes),
        }
    return ReportData(
        title="64 genes for PBMC cell types" if not long else "A very long title " * 9,
        dataset="pbmc68k (700 cells × 765 genes)" if not long else "file_" * 40 + ".h5ad",
        n_cells=12_345,
        n_genes=20_000,
        genes=genes,
        scores=np.sort(rng.normal(size=n_genes))[::-1],
        detection_rate=(counts > 0).mean(axis=0),
        mean_count=counts.mean(axis=0),
        tasks=tasks,
        split=SplitReport(
            how="group", by="donor", seed=0, n_train=8_641, n_validation=1_234, n_test=2_470
        ),
        expression=[class_expression(counts, codes, tasks[0].classes, task=tasks[0].name)],
        **found,
        history=history([task.name for task in tasks]),
        warnings=[
            "The rarest class of cell_type, 'class 3', has 8 cells; its scores say little.",
            "The 765 genes hold 11–28% of a cell's counts, so library sizes are those of a subset "
            f"of the genes ({HOSTILE}).",
        ],
        command="kernomics select pbmc68k --labels-key cell_type --n-genes 64 --seed 0 "
        "--out runs/pbmc68k" + (" --config " + "x" * 300 if long else ""),
        config={"n_genes": n_genes, "hidden": [128, 128], "path": "y" * (300 if long else 5)},
        versions={"kernomics": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6"},
        seed=0,
        version="0.1.0",
        created="2025-11-22 03:28 UTC",
        duration_seconds=133.2,
    )
