"""Methods against forgetting on blood cells of five data sets, base and two or three stages.

    python -m bench.gil.methods --runs runs/gil --seeds 0 1 2 --cells 6000

After each training the types of Zheng's sorted cells are told from the features of each stage.

Each method's training of each seed has a directory in `--runs`, from which it goes on if it was
stopped; the first stage is trained once per seed and shared. One JSON line per training that is
done goes to `--out` (bench/results/systems/gil.jsonl); what is there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import kernomics
from bench.gil import corpus
from kernomics.data import CellCollection, Stages, select_cells
from kernomics.evaluation.forgetting import stage_probes
from kernomics.models import GIL
from kernomics.models.gil.methods import (
    DER,
    METHODS,
    Distillation,
    Ghosts,
    Replay,
    Situation,
)
from kernomics.models.gil.module import GILModule
from kernomics.models.gil.record import StageRecord

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "bench" / "results" / "systems" / "gil.jsonl"
STAGES = ("zheng", "kang")
PROBED = "zheng"
SCORES = ["linear_accuracy", "linear_macro_f1", "knn_accuracy", "knn_macro_f1"]
FIRST = Path("stages") / "0"
STORELESS = ("distillation", "features", "ghosts", "ewc", "adapters")
SHARES = (0.05,)
"""Of the smallest stage's training cells, what replay keeps of each stage."""


def methods(stages: Stages) -> dict[str, Any]:
    """Return what is compared, by name: methods, and lists of those combined."""
    n_train = min(len(stage.train) for stage in stages.stages)
    found: dict[str, Any] = {name: METHODS[name]() for name in ("naive", "joint", "freezing")}
    for share in SHARES:
        memory = round(share * n_train)
        found[f"replay {share:.0%}"] = Replay(memory)
        found[f"der {share:.0%}"] = DER(memory)
        found[f"replay {share:.0%} + distillation"] = [Replay(memory), Distillation()]
    found |= {name: METHODS[name]() for name in STORELESS}
    found["ghosts, half"] = Ghosts(weight=0.1)
    found["distillation + ghosts"] = [Distillation(), Ghosts()]
    for share in SHARES:
        memory = round(share * n_train)
        found[f"replay {share:.0%}, a quarter"] = Replay(memory, share=0.25)
        found[f"replay {share:.0%}, a quarter + ghosts"] = [Replay(memory, share=0.25), Ghosts()]
        found[f"replay {share:.0%}, a tenth + ghosts"] = [Replay(memory, share=0.1), Ghosts()]
    return found


def train(
    cells: CellCollection,
    stages: Stages,
    method: Any,
    folder: Path,
    shared: Path,
    seed: int,
    **training: Any,
) -> GIL:
    """Train with one method, in a directory; the first stage is taken from `shared`."""
    model = GIL(cells, stages, method=method, n_tokens=128, seed=seed)
    model.configure(**training)
    resume = (folder / "increment.json").is_file()
    if not resume and len(model.plan) > 1 and (shared / FIRST / "model").is_dir():
        share_first(model, folder, shared)
        resume = True
    return model.train(run_dir=folder, resume=resume, **training)


def share_first(model: GIL, folder: Path, shared: Path) -> None:
    """Take the first stage of another training, and keep of it what this one's methods keep."""
    record = StageRecord(folder, False, model.stages, model.settings())
    shutil.copytree(shared / FIRST, folder / FIRST)
    weights, _, errors, _ = StageRecord(folder, True, model.stages, model.settings()).read(0, 0)
    module = GILModule(model.stages.n_known[0], model.config, model.seed)
    module.load_state_dict(weights)
    situation = Situation(0, module, None, model.staged, model.staged.rows(0), model.seed)
    for method in model.methods:
        method.begin(situation)
        method.end(situation)
    record.keep(0, weights, [method.state() for method in model.methods], errors)


def classes(model: GIL, labelled: dict[str, CellCollection]) -> dict[str, Any]:
    """Return how well cell types are told after each stage: means over trials, and their errors."""
    _, key, none = corpus.LABELLED[PROBED]
    found = stage_probes(model, key, labelled[PROBED], unlabelled_category=none)
    by_stage = found.groupby("after", sort=False)[SCORES]
    return {
        "labelled": PROBED,
        "means": by_stage.mean().round(4).to_dict("index"),
        "errors": by_stage.sem().round(4).to_dict("index"),
    }


def line(model: GIL, name: str, seed: int, seconds: float) -> dict[str, Any]:
    """Return what is kept of a training."""
    tables = {of: model.losses(of) for of in ("tokens", "queries")}
    return {
        "system": "gil",
        "version": kernomics.__version__,
        "torch": torch.__version__,
        "method": name,
        "settings": model.settings()["methods"],
        "seed": seed,
        "stages": model.stages.names,
        "genes": model.stages.n_known,
        "n_cells": model.staged.cells.n_cells,
        "train": model.settings()["train"],
        "after": tables["tokens"].index.tolist(),
        "losses": {of: table.to_numpy().round(5).tolist() for of, table in tables.items()},
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Run what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("KERNOMICS_DATA"))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=corpus.LABELLED)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--max-epochs", type=int, default=5)
    parser.add_argument("--cells", type=int, help="of the corpus, evenly spread; all by default")
    args = parser.parse_args()
    cells, labelled = corpus.read(Path(args.data))
    if args.cells is not None:
        rows = np.linspace(0, cells.n_cells - 1, args.cells).round().astype(np.int64)
        cells = select_cells(cells, rows)
    done = set()
    if args.out.is_file():
        for text in args.out.read_text().splitlines():
            saved = json.loads(text)
            done.add((saved["method"], saved["seed"], tuple(saved["stages"])))
    for seed in args.seeds:
        stages = corpus.stages(cells, labelled, tuple(args.stages), seed=seed)
        folder = args.runs / f"{'-'.join(args.stages)}-{seed}"
        known = methods(stages)
        for name in args.methods or known:
            if (name, seed, tuple(stages.names)) in done:
                continue
            begun = time.monotonic()
            where = folder / name.replace(" ", "-")
            model = train(
                cells, stages, known[name], where, folder / "naive", seed,
                max_epochs=args.max_epochs, progress=False, checkpoint_every_epochs=1,
            )  # fmt: skip
            args.out.parent.mkdir(parents=True, exist_ok=True)
            seconds = time.monotonic() - begun
            found = {**line(model, name, seed, seconds), "classes": classes(model, labelled)}
            with args.out.open("a") as file:
                print(json.dumps(found), file=file, flush=True)
            print(name, seed, model.losses().round(3).to_string(), sep="\n", flush=True)


if __name__ == "__main__":
    main()
