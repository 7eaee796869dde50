"""One TxFM training in a run directory, from data to a saved model: `pretrain` and `finetune`."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernomics import pl
from kernomics.metrics._extras import require_extra
from kernomics.models import TxFM
from kernomics.models.device import require_precision, usable_device
from kernomics.representation import RepresentationScores, compare_representations
from kernomics.train import RunDirectory, config_hash, write_json

MOST_TOKENS = 2048
"""Genes revealed for the scores, of a larger vocabulary: the time grows with their square."""

NOT_TUNED = "TxFM before fine-tuning"
"""What the scores call the model that a fine-tuning began with."""


@dataclass(frozen=True)
class PretrainingResult:
    """What a training gave.

    Attributes
    ----------
    model
        The trained model.
    seconds
        Of training, this session's.
    scores
        Of its representation beside others, when the cells have labels and the split test cells.
    """

    model: TxFM
    seconds: float
    scores: RepresentationScores | None = None


def run_pretraining(
    model: TxFM,
    out: str | Path,
    *,
    dataset: str,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
    **training: Any,
) -> PretrainingResult:
    """Train a model in a run directory, save it, and score it where there are labels.

    Parameters
    ----------
    model
        An untrained TxFM, or one that is to be fine-tuned, which is then scored before it too.
    out
        The run directory: ``config.json``, ``metrics.jsonl``, ``checkpoints/``, ``model/``,
        ``plots/`` and ``results.json``.
    dataset
        What to call the data.
    resume, overwrite
        Continue, or delete, the run that `out` holds.
    device, **training
        As in `TxFM.train`.
    """
    require_extra("matplotlib", purpose="the plots of a training")
    where = usable_device(device)
    model.configure(**training)
    require_precision(where, model.training.precision)
    config = run_config(model, dataset)
    with RunDirectory.create(out, config, resume=resume, overwrite=overwrite) as run:
        write_json(run.split, model.split.to_dict())
        begun = time.monotonic()
        model.train(run_dir=run.path, resume=resume, device=device, **training)
        seconds = time.monotonic() - begun
        model.save(run.model)
        run.plots.mkdir(exist_ok=True)
        figure = pl.training_curves(list(model.history))
        figure.savefig(run.plots / "training.svg", bbox_inches="tight")
        scores = None
        if model.cells.labels and len(model.split.test):
            scores = compare_representations(
                model.trained,
                model.cells,
                model.split,
                n_tokens=MOST_TOKENS if len(model.genes) > MOST_TOKENS else None,
                seed=model.seed,
                others={} if model.start is None else {NOT_TUNED: model.start.encoder},
            )
        results = {
            "seconds": round(seconds, 2),
            "last": {r["split"]: r["loss"] for r in model.history if "loss" in r},
        }
        if scores is not None:
            results["representation"] = scores.to_dict()
        write_json(run.results, results)
        return PretrainingResult(model, seconds, scores)


def run_config(model: TxFM, dataset: str) -> dict[str, Any]:
    """Everything that decides the result of a training, the data included."""
    return {
        "system": "txfm",
        "dataset": dataset,
        "data_sha256": model.cells.fingerprint,
        "n_genes": len(model.genes),
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
