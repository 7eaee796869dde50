"""One attribution, from a run and its cells to tables, figures and a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kernomics import pl
from kernomics._files import bytes_of, json_of
from kernomics._optional import require_extra
from kernomics._warnings import warn
from kernomics.attribution import (
    Attribution,
    Pairs,
    attribute,
    gene_statistics,
    overlap,
    read_gene_sets,
    recall_of_sets,
    top_genes,
)
from kernomics.attribution.attribution import classes_of
from kernomics.data import CellCollection
from kernomics.errors import CheckpointError
from kernomics.models import Panel, PhenotypeModel
from kernomics.progress import stage
from kernomics.report import AttributionReport, Provenance
from kernomics.report.attribution_report import write_attribution_report
from kernomics.train import RunDirectory, write_json
from kernomics.train.atomic import replace_file
from kernomics.train.distributed import ranks
from kernomics.train.shared_work import sharing

TABLE, GROUPS, STATISTICS, TOPS = (
    "attribution.csv", "by_group.csv", "gene_statistics.csv", "top_genes.csv",
)  # fmt: skip
COMPARED = ("effect", "forward", "absolute", "signed_by_change")
"""Scores of an attribution that truths judge."""
REFERENCES = {
    "DE": "Wilcoxon (DE)",
    "DE within strata": "DE within strata",
    "HVG": "HVG",
    "random": "random",
}
"""What stands beside them, by the column of `gene_statistics`."""
N_TOP = 30


@dataclass(frozen=True)
class AttributionResult:
    """What an attribution gave.

    Attributes
    ----------
    attribution
        The scores.
    statistics
        Scores without any model, of the same genes and cells.
    recall
        Of the gene sets given as truth, by ranking.
    report
        Path of the report.
    """

    attribution: Attribution
    statistics: pd.DataFrame
    recall: pd.DataFrame | None
    report: Path


def run_attribution(
    model: PhenotypeModel | Panel,
    cells: CellCollection,
    out: str | Path,
    *,
    rows: NDArray[np.int64],
    which: str,
    part: str,
    source: str,
    dataset: str,
    target: str,
    case: str,
    baseline: str,
    controlled: Sequence[str] = (),
    truth: str | Path | None = None,
    overwrite: bool = False,
    notes: Sequence[str] = (),
    seed: int = 0,
    progress: bool = False,
    **options: Any,
) -> AttributionResult:
    """Attribute, compare with what needs no model, and write tables, figures and a report.

    Several ranks share the pairs; the first one does the rest, and the others end.

    Parameters
    ----------
    model, cells, rows
        What is attributed, and on which cells.
    out
        The directory to write.
    which, part
        Which cells these are, in words, and whether the run's training cells (``"train"``) or all
        (``"all"``).
    source, dataset
        What the model and the data are called.
    target, case, baseline, controlled, seed, progress, **options
        As for `kernomics.attribution.attribute`.
    truth
        A GMT file of gene sets.
    overwrite
        Whether to delete what an earlier attribution left in `out`.
    notes
        Warnings for the report. Those that come up on the way may be added meanwhile.
    """
    require_extra("matplotlib", purpose="the plots of an attribution")
    require_extra("scanpy", purpose="differential expression")
    sets = None if truth is None else read_gene_sets(truth)
    config = {
        "system": "attribution",
        "model": source,
        "dataset": dataset,
        "target": target,
        "case": case,
        "baseline": baseline,
        "controlled": list(controlled),
        "truth": truth,
        "n_cells": len(rows),
        "seed": seed,
        **options,
    }
    with sharing():  # after which the first rank is alone
        found = attribute(
            cells, model, target=target, case=case, baseline=baseline, controlled=list(controlled),
            rows=rows, seed=seed, progress=progress and ranks().first, **options,
        )  # fmt: skip
    with stage("statistics of the genes without a model", progress):
        statistics = statistics_of(found, cells, rows)
    scores = compared_scores(found, statistics)
    recall = None if sets is None else recall_of_sets(scores, sets, n=N_TOP)
    tops = top_genes(scores, N_TOP)
    with RunDirectory.create(out, config, overwrite=overwrite) as run:
        _write_table(run.path / TABLE, found.table, "gene")
        _write_table(run.path / GROUPS, _named_groups(found.by_group["absolute"]), "gene")
        _write_table(run.path / STATISTICS, statistics, "gene")
        _write_table(run.path / TOPS, tops, "rank")
        results = {
            **found.summary(),
            "cells": which,
            "part": part,
            "model": source,
            "trained": trained_by(model),
            "dataset": dataset,
            "top": {name: tops[name].tolist() for name in tops},
            "truth": [] if recall is None else recall.to_dict("records"),
        }
        write_json(run.results, results)
        with stage("figures and the report", progress):
            run.plots.mkdir(exist_ok=True)
            draw(found, run.plots)
            write_attribution_report(
                run.report,
                AttributionReport(
                    title=f"Which genes tell {case} from {baseline}: {target}",
                    head=_head(found, dataset, source),
                    which=which,
                    attribution=found,
                    tops=tops,
                    overlap=overlap(tops),
                    recall=recall,
                    truth=None if truth is None else Path(truth).name,
                    warnings=list(notes),
                    provenance=Provenance.of_this_process(run.config, seed),
                ),
            )
        return AttributionResult(found, statistics, recall, run.report)


def trained_by(model: PhenotypeModel | Panel) -> dict[str, Any]:
    """Return what tells one training from another: its data, division and settings."""
    names = ("data_sha256", "split", "training", "seed")
    found: dict[str, Any] = json.loads(json.dumps({n: model.info.get(n) for n in names}))
    return found


def statistics_of(
    found: Attribution, cells: CellCollection, rows: NDArray[np.int64]
) -> pd.DataFrame:
    """Score the model's genes without it; a gene that the data lack has nothing."""
    genes, there = found.table.index, set(cells.genes)
    present = [gene for gene in genes if gene in there]
    params = found.params
    table = gene_statistics(
        cells, present, classes_of(cells, params["target"]), params["case"], params["baseline"],
        rows, controlled=[classes_of(cells, key) for key in params["controlled"]],
        seed=params["seed"],
    )  # fmt: skip
    if len(present) < len(genes):
        warn(
            f"the data lack {len(genes) - len(present):,} of the model's {len(genes):,} genes, "
            f"first {next(g for g in genes if g not in there)!r}: their statistics are 0"
        )
        table = table.reindex(genes).fillna({"dropout": 1.0}).fillna(0.0)
    return table


def compared_scores(found: Attribution, statistics: pd.DataFrame) -> dict[str, pd.Series[float]]:
    """Return the rankings that truths judge: an attribution's, and those without a model."""
    scores = {name: found.table[name] for name in COMPARED}
    return scores | {
        said: statistics[name] for name, said in REFERENCES.items() if name in statistics
    }


def draw(found: Attribution, folder: Path) -> None:
    """Draw the plots of an attribution into a folder."""
    drawn: dict[str, Any] = {
        "distributions": pl.attribution_distributions(found),
        "absolute": pl.attribution_by_gene(found, "absolute"),
        "signed_by_change": pl.attribution_by_gene(found, "signed_by_change"),
    }
    if len(found.pairs.groups) > 1:
        drawn["groups"] = pl.attribution_heatmap(found)
    for name, axes in drawn.items():
        figure = getattr(axes, "figure", axes)
        figure.savefig(folder / f"{name}.svg", bbox_inches="tight")


def read_attribution(path: str | Path) -> tuple[Attribution, pd.DataFrame, dict[str, Any]]:
    """Read what `run_attribution` wrote, pairs left out: scores, statistics and results.

    Raises
    ------
    CheckpointError
        When there is no attribution, or one that was not finished.
    """
    folder = Path(path)
    try:
        results = json_of(bytes_of(folder / "results.json"))
        params = results["params"]
        table = _read_table(folder / TABLE)
        statistics = _read_table(folder / STATISTICS)
        _ = params["target"], params["case"], params["baseline"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = str(error)
        if isinstance(error, FileNotFoundError):
            why = f"it has no {Path(error.filename).name}"
        raise CheckpointError(
            f"'{path}' holds no attribution, for {why}: give the directory that kernomics "
            "attribute wrote"
        ) from error
    none = np.empty(0, np.int64)
    pairs = Pairs(none, none, none, list(results["pairs_per_group"]), none)
    found = Attribution(table, {}, pairs, params, np.empty(0), results["zeros"])
    return found, statistics, results


def _named_groups(table: pd.DataFrame) -> pd.DataFrame:
    return table.rename(columns={"": "all"})


def _head(found: Attribution, dataset: str, source: str) -> list[tuple[str, str]]:
    params = found.params
    return [
        ("Data set", dataset),
        ("Model", params["model"]),
        ("Run", source),
        ("Target", params["target"]),
        ("Case", params["case"]),
        ("Baseline", params["baseline"]),
        ("Controlled for", ", ".join(params["controlled"]) or "nothing"),
        ("Engine", params["engine"]),
        ("Contrast", params["contrast"]),
        ("Attributed", params["output"]),
        ("Told apart by the model (ROC AUC)", f"{params['separation']:.2f}"),
        ("Pairs", f"{len(found.pairs):,}"),
        ("Seed", str(params["seed"])),
    ]


def _write_table(path: Path, table: pd.DataFrame, index: str) -> None:
    replace_file(path, table.to_csv(index_label=index).encode())


def _read_table(path: Path) -> pd.DataFrame:
    table = pd.read_csv(
        path, index_col=0, dtype={"gene": str}, keep_default_na=False,
        float_precision="round_trip",
    )  # fmt: skip
    return table.set_axis(table.index.astype(str)).astype(float)
