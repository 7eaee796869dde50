"""Made-up data of a TxFM's report for its tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from kernomics.data import Labels
from kernomics.evaluation.perturbations import PerturbationScores
from kernomics.evaluation.relationships import RelationshipScores
from kernomics.evaluation.representation_maps import RepresentationMaps
from kernomics.evaluation.representations import RepresentationScores
from kernomics.metrics import PerturbationConsistency
from kernomics.report import Provenance, RepresentationReport

HOSTILE = '<b>x&"'
PROBES = ("knn_accuracy", "knn_macro_f1", "linear_accuracy", "linear_macro_f1")
NAMES = ("TxFM", "PCA", "normalised counts")


def scores(labels: list[str]) -> RepresentationScores:
    """TxFM 0.8, PCA 0.7, counts 0.6 by every probe, ± 0.02, and differences ± 0.01; NMI without."""
    index = pd.MultiIndex.from_product([labels, NAMES], names=["label", "representation"])
    values = np.tile([0.8, 0.7, 0.6], len(labels))
    table = pd.DataFrame(dict.fromkeys((*PROBES, "nmi"), values), index=index)
    errors = pd.DataFrame(0.02, index=index, columns=table.columns)
    errors["nmi"] = np.nan
    rows = [
        (label, name, metric, 0.1 * (place + 1), 0.01)
        for label in labels
        for place, name in enumerate(NAMES[1:])
        for metric in PROBES
    ]
    columns = ["label", "representation", "metric", "difference", "error"]
    return RepresentationScores(table, 64, 500, 140, errors, pd.DataFrame(rows, columns=columns))


def maps(labels: dict[str, Labels], batch: str | None, n: int = 120) -> RepresentationMaps:
    rng = np.random.default_rng(3)
    points = {name: rng.normal(size=(n, 2)).astype(np.float32) for name in NAMES[:2]}
    return RepresentationMaps(
        points=points,
        rows=np.arange(n),
        labels=labels,
        batch=batch,
        library_size=rng.lognormal(8, 0.5, n).astype(np.float32),
        n_dimensions={"TxFM": 64, "PCA": 64},
        part="held-out",
        n_from=2_470,
        seed=0,
        neighbours_kept=0.314,
        same_class={
            name: {"TxFM": 0.812, "PCA": 0.793}
            for name, label in labels.items()
            if label.kind == "categorical"
        },
    )


def relationships() -> RelationshipScores:
    rows = [
        (name, size, database, recall, 0.0, 400, 900)
        for name, recall in (("TxFM encoder tokens", 0.3), ("PCA loadings", 0.2))
        for size in (32, 256)
        for database in ("CORUM", HOSTILE)
    ]
    columns = ["representation", "n_components", "database", "recall", "spread", "n_pairs"]
    return RelationshipScores(
        pd.DataFrame(rows, columns=[*columns, "n_given"]), pd.DataFrame(), 300, 700
    )


def perturbations() -> PerturbationScores:
    rows = [
        ("TxFM, block 1", 1, 64, "tvn", 0.25, 5, 0.4, 0.6, 0.5),
        ("TxFM", 2, 64, "tvn", 0.5, 10, 0.5, 0.7, 0.6),
        ("PCA", None, 64, "centre", 0.0, 0, 0.3, 0.5, 0.4),
    ]
    columns = ["representation", "block", "n_dimensions", "alignment", "consistency"]
    columns += ["n_consistent", "spearman", "structural_integrity", "invertibility"]
    statistic = np.linspace(0.05, 0.6, 20)
    one = PerturbationConsistency(
        table=pd.DataFrame(
            {"statistic": statistic, "p": 1 - statistic, "consistent": statistic > 0.3}
        ),
        score=0.5,
        threshold=0.01,
        null="cells",
        n_null=100,
        n_components=20,
        null_histogram=np.r_[np.zeros(30), np.arange(20), np.zeros(50)].astype(int),
    )
    return PerturbationScores(
        pd.DataFrame(rows, columns=columns).astype({"block": "Int64"}).set_index(columns[0]),
        pd.DataFrame(),
        {"TxFM": one},
        900, 80, 3, 20, 900,
    )  # fmt: skip


def representation_report(*, long: bool = False, bare: bool = False) -> RepresentationReport:
    """A report with everything, or of a training without labels (`bare`)."""
    n_classes = 30 if long else 4
    kinds = tuple(f"{'very long name of cell type ' * long}{c}" for c in range(n_classes))
    codes = np.arange(120) % (n_classes + 1) - 1
    labels = {
        name: Labels(name, "categorical", codes, kinds)
        for name in ("cell_type" + "_x" * 40 * long, HOSTILE)
    }
    donor = tuple(f"donor {c}" for c in range(7))
    batch = {"donor": Labels("donor", "categorical", np.arange(120) % 7, donor)}
    age = {"age": Labels("age", "continuous", np.linspace(1, 90, 120).astype(np.float32))}
    found: dict[str, Any] = {"maps": maps({}, None)}
    if not bare:
        found = {
            "scores": scores(list(labels)),
            "maps": maps(labels | age | batch, "donor"),
            "relationships": relationships(),
            "perturbations": perturbations(),
        }
    history = [
        {"step": step, "split": split, "loss": -190.0 - step / 10}
        for step in range(10, 200, 10)
        for split in ("train", "validation")
    ]
    return RepresentationReport(
        title=f"Pre-training of a TxFM {HOSTILE}",
        head=[("Data set", "cells.h5ad" * (1 + 9 * long)), ("Cells", "700"), ("Seed", "0")],
        sentence="Cells were split by donor.",
        by_group="donor",
        omitted=["No labels <here>."] if bare else [],
        history=history,
        warnings=[] if bare else ["5 classes are small."],
        provenance=Provenance(
            command=f"kernomics pretrain {HOSTILE}",
            config={"d_model": 64},
            versions={"torch": "2.13.0"},
            seed=0,
            version="0.1.0",
            created="2025-11-22 03:28",
        ),
        **found,
    )
