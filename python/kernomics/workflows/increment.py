"""One training in stages in a run directory, from data and stages to scores and a report."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kernomics import pl
from kernomics._optional import require_extra
from kernomics.evaluation.forgetting import gene_forgetting, stage_probes, what_predicts
from kernomics.evaluation.probed_cells import probed_cells
from kernomics.metrics import Forgetting, forgetting
from kernomics.models import GIL
from kernomics.models.gil.record import SETTINGS, STAGES, require_same_stages
from kernomics.progress import stage
from kernomics.report import IncrementReport, Provenance
from kernomics.report.html import duration
from kernomics.report.increment_report import write_increment_report
from kernomics.train import RunDirectory, write_json
from kernomics.train.device import require_precision, usable_device
from kernomics.train.distributed import first_alone, ranks
from kernomics.train.skipping import Steps

KINDS = ("tokens", "queries")
FEW_VALUES = 100
"""Hidden values of a group below which its loss says little."""
ORACLE = "oracle"


@dataclass(frozen=True)
class IncrementResult:
    """What a training in stages gave.

    Attributes
    ----------
    model
        The trained model.
    seconds
        Of training, this session's.
    report
        Path of the report.
    losses, forgotten
        Per kind of prediction, ``"tokens"`` and ``"queries"``.
    oracle
        The losses of a training of all stages at once; empty where there was none.
    probes
        Classes told after each stage; None where no label was named.
    """

    model: GIL
    seconds: float
    report: Path
    losses: dict[str, pd.DataFrame]
    forgotten: dict[str, Forgetting]
    oracle: dict[str, pd.DataFrame]
    probes: pd.DataFrame | None


def run_increment(
    model: GIL,
    out: str | Path,
    *,
    dataset: str,
    labels_key: str | None = None,
    unlabelled_category: str | None = None,
    groups_key: str | None = None,
    oracle: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
    log_dir: str | Path | None = None,
    skip_steps: Steps = (),
    **training: Any,
) -> IncrementResult:
    """Train a model in a run directory, save it, and score what it kept and lost.

    With `oracle` another model is trained on all stages at once, in a directory within.
    """
    require_extra("matplotlib", purpose="the plots of a training")
    where = usable_device(device)
    model.configure(**training)
    require_precision(where, model.training.precision)
    if resume and (Path(out) / STAGES).is_file():
        require_same_stages(Path(out), model.stages)
    if labels_key is not None:  # before anything takes time
        require_extra("sklearn", purpose="scoring features")
        probed_cells(model.cells, labels_key, unlabelled_category, groups_key)
    config = run_config(model, dataset)
    config["classes"] = {
        "labels_key": labels_key,
        "unlabelled_category": unlabelled_category,
        "groups_key": groups_key,
    }
    quiet = not model.training.progress
    with RunDirectory.create(out, config, resume=resume, overwrite=overwrite) as run:
        begun = time.monotonic()
        how: dict[str, Any] = {"resume": resume, "device": device, **training}
        model.train(run_dir=run.path, log_dir=log_dir, skip_steps=skip_steps, **how)
        best = _oracle(model, run.path / ORACLE, **how) if oracle else None
        seconds = time.monotonic() - begun
        first_alone()
        model.save(run.model)
        run.plots.mkdir(exist_ok=True)
        losses = {kind: model.losses(kind) for kind in KINDS}
        of_oracle = {} if best is None else {kind: best.losses(kind) for kind in KINDS}
        forgotten = {kind: forgetting(losses[kind]) for kind in KINDS}
        probes = None
        if labels_key is not None:
            with stage("fitting classifiers on the features", not quiet):
                probes = stage_probes(
                    model,
                    labels_key,
                    unlabelled_category=unlabelled_category,
                    groups_key=groups_key,
                )
        genes = gene_forgetting(model)
        genes.to_csv(run.path / "genes.csv")
        write_json(
            run.results,
            {
                "seconds": round(seconds, 2),
                "losses": {kind: _plain(table) for kind, table in losses.items()},
                "forgotten": {kind: found.to_dict() for kind, found in forgotten.items()},
                "oracle": {kind: _plain(table) for kind, table in of_oracle.items()},
                "probes": None if probes is None else probes.to_dict("records"),
            },
        )
        if losses["tokens"].shape[1] <= pl.forgetting.MOST_LINES:
            drawn: Any = pl.stage_losses(losses["tokens"], oracle=of_oracle.get("tokens")).figure
            drawn.savefig(run.plots / "losses.svg", bbox_inches="tight")
        result = IncrementResult(model, seconds, run.report, losses, forgotten, of_oracle, probes)
        with stage("the report", not quiet):
            data = increment_report(result, genes, dataset, labels_key or "", run.config)
            write_increment_report(run.report, data)
        return result


def _oracle(model: GIL, folder: Path, *, resume: bool, **how: Any) -> GIL:
    """Train the same network on all stages at once."""
    other = GIL(model.cells, model.stages, method="joint", config=model.config, seed=model.seed)
    other.training = model.training
    begun = ranks().told((folder / SETTINGS).is_file())
    return other.train(run_dir=folder, resume=resume and begun, **how)


def _plain(table: pd.DataFrame) -> dict[str, Any]:
    return {str(name): row.to_dict() for name, row in table.iterrows()}


def increment_report(
    result: IncrementResult,
    genes: pd.DataFrame,
    dataset: str,
    label: str,
    config: dict[str, Any],
) -> IncrementReport:
    """Gather what the report of a training in stages shows."""
    model = result.model
    methods = " + ".join(one.name for one in model.methods)
    stages = model.stages
    before_last = [] if len(model.plan) == 1 else stages.names[1:-1]
    there = set(genes["stage"])
    return IncrementReport(
        title=f"{len(stages)} stages of genes, {methods}",
        head=[
            ("Data set", dataset),
            ("Method", methods),
            ("Stages", ", ".join(stages.names)),
            ("Cells", f"{model.staged.cells.n_cells:,}"),
            ("Genes", f"{stages.n_known[-1]:,}, of which {len(stages.base):,} base"),
            ("Blocks", str(model.config.n_layers)),
            ("Width", str(model.config.d_model)),
            ("Training", duration(result.seconds)),
            ("Seed", str(model.seed)),
        ],
        counts=stages.counts(),
        losses=result.losses,
        forgotten=result.forgotten,
        oracle=result.oracle,
        probes=result.probes,
        label=label,
        genes=genes,
        predictors={name: what_predicts(genes, name) for name in before_last if name in there},
        history=model.history,
        warnings=_warnings(model),
        provenance=Provenance.of_this_process(config, model.seed),
    )


def _warnings(model: GIL) -> list[str]:
    notes = []
    last = next(reversed(model.scores.values()))
    group = model.stages.group_of_gene()
    for g, name in enumerate(model.stages.names):
        n = int(last.counts[group == g].sum())
        if n < FEW_VALUES:
            notes.append(
                f"Only {n:,} values of the genes of {name} were hidden in its test cells, so their "
                "loss is uncertain: give the stage more cells, or more of them to test on."
            )
    if len(model.plan) == 1:
        notes.append("All stages were trained at once, so nothing could be forgotten: Δ is 0.")
    if model.cells.library_is_subset:
        notes.append(
            "The genes are a subset of those measured, so a cell's total over them is not its "
            "library size."
        )
    return notes


def run_config(model: GIL, dataset: str) -> dict[str, Any]:
    """Everything that decides the result of a training, the data included."""
    return {
        "system": "gil",
        "dataset": dataset,
        "stages": {"names": model.stages.names, "sha256": model.stages.fingerprint},
        "library": model.cells.library_source,
        **model.settings(),
        "train": dataclasses.asdict(model.training),
    }
