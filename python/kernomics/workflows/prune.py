"""One gene pruning, from a run, its cells and an attribution to tables, figures and a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kernomics import pl
from kernomics._optional import require_extra
from kernomics.attribution import Attribution, Pruning, prune, rankings_of, retrain
from kernomics.attribution.pruning import CELLS, SHARES
from kernomics.data import CellCollection, Labels, Split
from kernomics.errors import ConfigError
from kernomics.models import PhenotypeModel, PolyGene
from kernomics.progress import stage
from kernomics.report import Provenance, PruningReport
from kernomics.report.pruning_report import write_pruning_report
from kernomics.train import RunDirectory, TrainConfig, write_json
from kernomics.train.atomic import replace_file

RETRAINED = ("absolute", "signed_by_change", "DE", "HVG", "random")
"""The rankings whose best genes new models are trained on."""


@dataclass(frozen=True)
class PruningResult:
    """What a pruning gave.

    Attributes
    ----------
    pruning
        The scores.
    retrained
        Of models trained on the best genes alone, where asked for.
    report
        Path of the report.
    """

    pruning: Pruning
    retrained: pd.DataFrame | None
    report: Path


def run_pruning(
    model: PhenotypeModel,
    cells: CellCollection,
    attribution: Attribution,
    statistics: pd.DataFrame,
    out: str | Path,
    *,
    rows: NDArray[np.int64],
    which: str,
    source: str,
    dataset: str,
    attributed: str,
    split: Split | None = None,
    n_cells: int = CELLS,
    shares: Sequence[float] = SHARES,
    reversed_too: bool = True,
    min_gene_overlap: float = 0.8,
    n_genes: Sequence[int] = (),
    overwrite: bool = False,
    notes: Sequence[str] = (),
    seed: int = 0,
    progress: bool = False,
) -> PruningResult:
    """Prune by all rankings of an attribution, and write tables, figures and a report.

    Parameters
    ----------
    model, cells, rows
        What predicts, and the cells that it is scored on.
    attribution, statistics
        Where the rankings come from; see `rankings_of`.
    out
        The directory to write.
    which
        Which cells these are, in words.
    source, dataset, attributed
        What the model, the data and the attribution are called.
    split
        The run's division of the cells, for new models.
    n_genes
        On how many of the best genes to train new models; none by default.
    n_cells, shares, reversed_too, min_gene_overlap, seed, progress
        As for `kernomics.attribution.prune`.
    overwrite
        Whether to delete what an earlier pruning left in `out`.
    notes
        Warnings for the report. Those that come up on the way may be added meanwhile.
    """
    require_extra("matplotlib", purpose="the plots of a pruning")
    params = attribution.params
    compared = {name: params[name] for name in ("target", "case", "baseline")}
    rankings = rankings_of(attribution, statistics)
    new = untrained(model, cells, split, seed) if n_genes else None
    config = {
        "system": "analysis of pruning",
        "model": source,
        "dataset": dataset,
        "attribution": attributed,
        **compared,
        "n_cells": n_cells,
        "shares": list(shares),
        "reversed_too": reversed_too,
        "min_gene_overlap": min_gene_overlap,
        "retrain": list(n_genes),
        "seed": seed,
    }
    found = prune(
        cells, model, rankings, **compared, rows=rows, n_cells=n_cells, shares=shares,
        reversed_too=reversed_too, min_gene_overlap=min_gene_overlap, seed=seed, progress=progress,
    )  # fmt: skip
    with RunDirectory.create(out, config, overwrite=overwrite) as run:
        replace_file(run.path / "pruning.csv", found.table.to_csv(index=False).encode())
        results = {**found.to_dict(), "cells": which, "attribution": attributed}
        write_json(run.results, results)
        retrained = None
        if new is not None:
            retrained = retrain(
                new,
                {name: rankings[name] for name in RETRAINED if name in rankings},
                target=params["target"],
                n_genes=n_genes,
                seed=seed,
                progress=progress,
            )
            replace_file(run.path / "retraining.csv", retrained.to_csv(index=False).encode())
            write_json(run.results, {**results, "retrained": retrained.to_dict("records")})
        with stage("figures and the report", progress):
            run.plots.mkdir(exist_ok=True)
            figure: Any = pl.pruning_curves(found).figure
            figure.savefig(run.plots / "pruning.svg", bbox_inches="tight")
            write_pruning_report(
                run.report,
                PruningReport(
                    title=f"How few genes tell {params['case']} from {params['baseline']}",
                    head=[
                        ("Data set", dataset),
                        ("Model", repr(model)),
                        ("Run", source),
                        ("Attribution", attributed),
                        ("Target", params["target"]),
                        ("Case", params["case"]),
                        ("Baseline", params["baseline"]),
                        ("Genes of the model", f"{len(model.genes):,}"),
                        ("Seed", str(seed)),
                    ],
                    which=which,
                    pruning=found,
                    retrained=retrained,
                    warnings=list(notes),
                    provenance=Provenance.of_this_process(run.config, seed),
                ),
            )
        return PruningResult(found, retrained, run.report)


def untrained(
    model: PhenotypeModel, cells: CellCollection, split: Split | None, seed: int
) -> PolyGene:
    """Return a model like the run's, with its cells, before training."""
    if split is None:
        raise ConfigError(
            "new models are trained on the run's own training cells, and these cells are not known "
            "to be the run's: give the run directory and the data that it was trained on"
        )
    obs, labels = cells.obs, {}
    for task in model.tasks:
        if task.name not in obs.columns:
            raise ConfigError(
                f"new models learn all phenotypes of the run, and obs has no column {task.name!r}"
            )
        label = Labels.from_series(obs[task.name], task.name, kind="categorical")
        labels[task.name] = label.aligned(task.classes)
    found = PolyGene(
        cells.with_labels(labels),
        genes=model.genes.tolist(),
        split=split,
        seed=seed,
        config=model.config,
        task_weights={task.name: task.weight for task in model.tasks},
    )
    found.training = TrainConfig(**_known(model.info.get("training", {})))
    return found


def _known(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out settings that this version does not have."""
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    return {name: value for name, value in settings.items() if name in names}
