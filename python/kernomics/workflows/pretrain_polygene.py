"""One PolyGene training in a run directory, from data to a saved model and its scores."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernomics import pl
from kernomics._optional import require_extra
from kernomics.models import PolyGene
from kernomics.progress import stage
from kernomics.report import PhenotypeReport, PhenotypeScores, Provenance, SplitReport
from kernomics.report.html import duration
from kernomics.report.phenotype_report import write_phenotype_report
from kernomics.train import RunDirectory, config_hash, write_json
from kernomics.train.device import require_precision, usable_device
from kernomics.train.distributed import first_alone
from kernomics.train.skipping import Steps
from kernomics.workflows.evaluate_polygene import scores_of

FEW_CELLS = 10
"""Held-out cells of a value below which its recall says little."""


@dataclass(frozen=True)
class PolyGeneResult:
    """What a training gave.

    Attributes
    ----------
    model
        The trained model.
    seconds
        Of training, this session's.
    report
        Path of the report.
    scores
        Of each phenotype on the test cells, predicted from the genes alone.
    """

    model: PolyGene
    seconds: float
    report: Path
    scores: list[PhenotypeScores]


def run_polygene(
    model: PolyGene,
    out: str | Path,
    *,
    dataset: str,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
    log_dir: str | Path | None = None,
    skip_steps: Steps = (),
    **training: Any,
) -> PolyGeneResult:
    """Train a model in a run directory, save it, and score it on its test cells."""
    require_extra("matplotlib", purpose="the plots of a training")
    where = usable_device(device)
    model.configure(**training)
    require_precision(where, model.training.precision)
    config = run_config(model, dataset)
    with RunDirectory.create(out, config, resume=resume, overwrite=overwrite) as run:
        if run.writes:
            write_json(run.split, model.split.to_dict())
        begun = time.monotonic()
        model.train(
            run_dir=run.path, resume=resume, device=device, log_dir=log_dir, skip_steps=skip_steps,
            **training,
        )  # fmt: skip
        seconds = time.monotonic() - begun
        first_alone()
        model.save(run.model)
        run.plots.mkdir(exist_ok=True)
        figure = pl.training_curves(list(model.history))
        figure.savefig(run.plots / "training.svg", bbox_inches="tight")
        with stage("scoring the held-out cells", model.training.progress):
            scores = held_out_scores(model)
        results = {
            "seconds": round(seconds, 2),
            "best_epoch": model.history.best_epoch,
            "last": {r["split"]: r["loss"] for r in model.history if "loss" in r},
            "phenotypes": {score.name: score.to_dict() for score in scores},
        }
        write_json(run.results, results)
        run.record(config)
        with stage("the report", model.training.progress):
            write_phenotype_report(
                run.report, training_report(model, scores, dataset, seconds, run.config)
            )
        return PolyGeneResult(model, seconds, run.report, scores)


def held_out_scores(model: PolyGene) -> list[PhenotypeScores]:
    """Score each phenotype that test cells have, beside what naming the commonest value gives."""
    split, cells = model.split, model.cells
    if not len(split.test):
        return []
    predicted = model.trained.probabilities(cells, rows=split.test, empty_cells="keep")
    found = []
    for task in model.tasks:
        truth = cells.labels[task.name].values[split.test]
        if not (truth >= 0).any():
            continue
        trained_on = cells.labels[task.name].values[split.train]
        found.append(scores_of(task, truth, predicted[task.name], trained_on))
    return found


def training_report(
    model: PolyGene,
    scores: list[PhenotypeScores],
    dataset: str,
    seconds: float,
    config: dict[str, Any],
) -> PhenotypeReport:
    """Gather what the report of a training shows."""
    split, trained = model.split, model.trained
    return PhenotypeReport(
        title=f"Training of a {trained!r}",
        head=[
            ("Data set", dataset),
            ("Cells", f"{model.cells.n_cells:,}"),
            ("Genes of the model", f"{len(model.genes):,}"),
            ("Phenotypes", ", ".join(task.name for task in model.tasks)),
            ("Blocks", str(model.config.n_layers)),
            ("Width", str(model.config.d_model)),
            ("Genes shown in training", f"at most {model.config.n_tokens:,}"),
            ("Training", duration(seconds)),
            ("Seed", str(model.seed)),
        ],
        sentence=SplitReport(
            how=split.how,
            by=split.by,
            seed=split.seed,
            n_train=len(split.train),
            n_validation=len(split.validation),
            n_test=len(split.test),
        ).sentence(),
        scores=scores,
        history=model.history,
        warnings=[*model.warnings, *_warnings(model, scores)],
        provenance=Provenance.of_this_process(config, model.seed),
    )


def _warnings(model: PolyGene, scores: list[PhenotypeScores]) -> list[str]:
    notes = []
    for score in scores:
        n = score.confusion.sum(1)
        few = [f"{value} ({k})" for value, k in zip(score.classes, n, strict=True) if k < FEW_CELLS]
        if few:
            notes.append(
                f"{len(few)} of {len(n)} values of {score.name} have fewer than {FEW_CELLS} "
                f"held-out cells, so balanced accuracy is uncertain: {', '.join(few[:6])}."
            )
    unscored = {task.name for task in model.tasks} - {score.name for score in scores}
    if unscored and len(model.split.test):
        notes.append(f"No held-out cell has a value of {', '.join(sorted(unscored))}: not scored.")
    if model.cells.library_is_subset:
        notes.append(
            "The genes are a subset of those measured, so a cell's total over them is not its "
            "library size."
        )
    return notes


def run_config(model: PolyGene, dataset: str) -> dict[str, Any]:
    """Everything that decides the result of a training, the data included."""
    return {
        "system": "polygene",
        "dataset": dataset,
        "data_sha256": model.cells.fingerprint,
        "labels": [task.name for task in model.tasks],
        "n_genes": len(model.genes),
        "library": model.cells.library_source,
        "seed": model.seed,
        "split": {
            "how": model.split.how,
            "by": model.split.by,
            "seed": model.split.seed,
            "sha256": config_hash(model.split.to_dict()),
        },
        "task_weights": {task.name: task.weight for task in model.tasks},
        "model": dataclasses.asdict(model.config),
        "train": dataclasses.asdict(model.training),
    }
