"""One TxFM training in a run directory, from data to a saved model: `pretrain` and `finetune`."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernomics import pl
from kernomics._optional import require_extra
from kernomics.errors import ConfigError
from kernomics.evaluation.explained import Explained, explained_counts
from kernomics.evaluation.representations import (
    RepresentationScores,
    compare_representations,
    labels_to_score,
)
from kernomics.metrics import probe_metrics
from kernomics.models import CellEncoder, TxFM
from kernomics.progress import stage
from kernomics.report import write_representation_report
from kernomics.train import RunDirectory, config_hash, write_json
from kernomics.train.device import require_precision, usable_device
from kernomics.train.distributed import first_alone
from kernomics.train.skipping import Steps
from kernomics.workflows.evaluate_representation import training_report

MOST_TOKENS = 2048
"""Genes revealed for the scores, of a larger vocabulary, to more than one block, whose time grows
with the square of their number."""

NOT_TUNED = "TxFM before fine-tuning"
"""What the scores call the model that a fine-tuning began with."""


@dataclass(frozen=True)
class PretrainingResult:
    """What a training gave; scores where the cells have labels and the split test cells."""

    model: TxFM
    seconds: float  # of training, this session's
    report: Path
    scores: RepresentationScores | None = None
    explained: Explained | None = None  # where there are cells for validation


def run_pretraining(
    model: TxFM,
    out: str | Path,
    *,
    dataset: str,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
    score_epochs: bool = False,
    log_dir: str | Path | None = None,
    skip_steps: Steps = (),
    **training: Any,
) -> PretrainingResult:
    """Train a model in a run directory, save it, and score it where there are labels."""
    require_extra("matplotlib", purpose="the plots of a training run")
    where = usable_device(device)
    model.configure(**training)
    require_precision(where, model.training.precision)
    config = run_config(model, dataset)
    scored = bool(model.cells.labels and len(model.split.test))
    if scored:
        labels_to_score(("probes",), model.cells, model.split)
    metrics = accuracy_metrics(model) if score_epochs else None
    with RunDirectory.create(out, config, resume=resume, overwrite=overwrite) as run:
        if run.writes:
            write_json(run.split, model.split.to_dict())
        begun = time.monotonic()
        model.train(
            run_dir=run.path, resume=resume, device=device, metrics=metrics, log_dir=log_dir,
            skip_steps=skip_steps,
            **training,
        )  # fmt: skip
        seconds = time.monotonic() - begun
        first_alone()
        model.save(run.model)
        run.plots.mkdir(exist_ok=True)
        figure = pl.training_curves(list(model.history))
        figure.savefig(run.plots / "training.svg", bbox_inches="tight")
        with stage("held-out counts, beside a PCA", model.training.progress):
            explained = explained_counts(
                model.trained, model.cells, model.split, n_tokens=_tokens(model), seed=model.seed
            )
        scores = None
        if scored:
            scores = compare_representations(
                model.trained,
                model.cells,
                model.split,
                n_tokens=_tokens(model),
                empty_cells="keep",  # trained on as they are
                seed=model.seed,
                progress=model.training.progress,
                others={} if model.start is None else {NOT_TUNED: model.start.encoder},
            )
        results: dict[str, Any] = {
            "seconds": round(seconds, 2),
            "best_epoch": model.history.best_epoch,
            "last": {r["split"]: r["loss"] for r in model.history if "loss" in r},
        }
        if explained is not None:
            results["explained"] = dataclasses.asdict(explained)
        if scores is not None:
            results["representation"] = scores.to_dict()
        write_json(run.results, results)
        run.record(config)
        with stage("the report: maps and figures", model.training.progress):
            write_training_report(run, model, scores, dataset, seconds)
        return PretrainingResult(model, seconds, run.report, scores, explained)


def write_training_report(
    run: RunDirectory,
    model: TxFM,
    scores: RepresentationScores | None,
    dataset: str,
    seconds: float,
) -> None:
    """Draw the maps and write the report of a training."""
    shown = training_report(model, scores, dataset, seconds, run.config, n_tokens=_tokens(model))
    maps = shown.maps
    if maps is not None:
        for name in maps.labels or [pl.LIBRARY_SIZE]:
            figure = pl.representation_maps(maps, name)
            plain = re.sub(r"[^\w.-]+", "-", name)
            figure.savefig(run.plots / f"maps-{plain}.svg", bbox_inches="tight")
    write_representation_report(run.report, shown)


def accuracy_metrics(model: TxFM) -> Callable[[CellEncoder], dict[str, float]]:
    """Return what scores a model by the classes of the validation cells, for `TxFM.train`.

    They are ``knn_accuracy/<label>`` and ``linear_accuracy/<label>``, of classifiers fitted
    on the training cells; see `kernomics.metrics.probe_metrics`.
    """
    split = model.split
    labels = {k: v.values for k, v in model.cells.labels.items() if v.kind == "categorical"}
    if not labels or not len(split.validation):
        what = "validation cells" if labels else "categorical labels: name them with labels_key"
        raise ConfigError(f"cannot score the epochs: there are no {what}")
    for name, codes in labels.items():
        if not (codes[split.validation] >= 0).any():
            raise ConfigError(
                f"cannot score the epochs: none of the {len(split.validation):,} validation "
                f"cells has a value of {name!r}"
            )

    def metrics(encoder: CellEncoder) -> dict[str, float]:
        train, held_out = (
            encoder.get_latent_representation(
                model.cells, rows=rows, n_tokens=_tokens(model), empty_cells="keep"
            )
            for rows in (split.train, split.validation)
        )
        found = {}
        for name, codes in labels.items():
            scores = probe_metrics(train, codes[split.train], held_out, codes[split.validation])
            for metric in ("knn_accuracy", "linear_accuracy"):
                found[f"{metric}/{name}"] = scores[metric]
        return found

    return metrics


def _tokens(model: TxFM) -> int | None:
    square = model.config.n_layers > 1  # with one block time grows with their number alone
    return MOST_TOKENS if square and len(model.genes) > MOST_TOKENS else None


def run_config(model: TxFM, dataset: str) -> dict[str, Any]:
    """Everything that decides the result of a training, the data included."""
    return {
        "system": "txfm",
        "dataset": dataset,
        "data_sha256": model.cells.fingerprint,
        "n_genes": len(model.genes),
        "library": model.cells.library_source,
        "seed": model.seed,
        "split": {
            "how": model.split.how,
            "by": model.split.by,
            "seed": model.split.seed,
            "sha256": config_hash(model.split.to_dict()),
        },
        "model": dataclasses.asdict(model.config),
        "train": dataclasses.asdict(model.training),
        **({} if model.start is None else {"fine_tuned_from": model.start.description}),
    }
