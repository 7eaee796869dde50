"""A program that is one of several ranks, or one process: what it does is told in JSON.

python ranks_program.py OUT '{"job": "losses", ...}' writes OUT/rank-0.json, and so on.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import phenotyped_cells
import staged_example
import torch
from torch import Tensor, nn

from bench.network import steps_watched
from kernomics.data import CellCollection, Loader
from kernomics.models import YOTO, PolyGene, TxFM
from kernomics.models.base import sampler_of, sampler_of_rows
from kernomics.models.gil.lesson import Lesson
from kernomics.models.gil.methods import Situation
from kernomics.models.gil.module import GILModule
from kernomics.models.yoto.panel_loader import PanelLoader
from kernomics.nn import drawing_from
from kernomics.train import TrainConfig, fit
from kernomics.train.distributed import ranks
from kernomics.train.step import Stepper

RANK = int(os.environ.get("RANK", "0"))
SYSTEMS = ("yoto", "txfm", "polygene", "gil")
STEPS = 100


def cells() -> CellCollection:
    """161 training cells or so: whole batches, and a last one that does not reach for 4 ranks."""
    adata = phenotyped_cells.conditions(230, 60)
    treatment = adata.obs["treatment"].to_numpy(dtype=object)
    treatment[::3] = None  # a label that many cells lack
    adata.obs["treatment"] = treatment
    return CellCollection.from_anndata(adata, labels_key=["treatment", "cell_type"])


def settings(n_train: int, steps: int = STEPS, **more: Any) -> dict[str, Any]:
    """About 100 steps; the last batch of an epoch has fewer cells than there may be ranks."""
    batch = min(range(16, 48), key=lambda b: (n_train % b or b, b))
    epochs = -(-steps // -(-n_train // batch))
    return {
        "max_epochs": epochs, "batch_size": batch, "progress": False, "log_every_steps": 1,
        "validate_every": 3, **more,
    }  # fmt: skip


def model_of(system: str, **network: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if system == "yoto":
            return YOTO(cells(), n_genes=6, hidden=(12, 8), dropout=0.2)
        if system == "txfm":
            given: dict[str, Any] = {
                "d_model": 16, "n_layers": 2, "n_heads": 2, "n_tokens": 20,
                "stochastic_depth": 0.2, "target_sum": 1000.0, **network,
            }  # fmt: skip
            return TxFM(cells(), **given)
        if system == "polygene":
            return PolyGene(cells(), d_model=16, n_layers=2, n_heads=2, n_tokens=30)
        return staged_example.model("naive", n_unexpressed=4)


def trained(system: str, **more: Any) -> Any:
    """Train as a user does."""
    model = model_of(system, **more.pop("network", {}))
    n = len(model.staged.rows(0)) if system == "gil" else len(model.split.train)
    if system == "gil":
        given = {**staged_example.QUICK, "max_epochs": 6, "log_every_steps": 1, **more}
    else:
        given = settings(n, **more)
        if system == "txfm":  # at 0.003 one process with weights an ulp off is 7e-5 away at step 90
            given.setdefault("learning_rate", 1e-3)
    stop = given.pop("stop_after_epochs", None)
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        if stop is not None:
            given["callbacks"] = [stopping_after(stop)]
            stack.enter_context(contextlib.suppress(KeyboardInterrupt))
        model.train(**given)
    return model


class Doubled:
    """Batches in float64."""

    def __init__(self, batches: Any) -> None:
        self.batches, self.n_batches = batches, batches.n_batches

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        for one in self.batches.epoch(epoch, start):
            library = None if one.library is None else one.library.double()
            yield replace(one, values=one.values.double(), library=library)


def in_float64(system: str, **more: Any) -> tuple[nn.Module, list[dict[str, Any]]]:
    model = model_of(system)
    if system == "gil":
        with drawing_from(0):
            network = GILModule(model.stages.n_known[0], model.config, 0).double()
        rows = np.sort(model.staged.rows(0))
        module: nn.Module = Lesson(
            Situation(0, network, None, model.staged, rows, 0), model.methods
        )
        config = TrainConfig(**settings(len(rows), **more))
        batches: Any = Loader(model.staged.cells, sampler_of_rows(rows, config, 0))
    else:
        config = TrainConfig(**settings(len(model.split.train), **more))
        with drawing_from(0), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = model._module().double()
        sampler = sampler_of(model.split, config, 0, model.cells)
        batches = (
            PanelLoader(model.cells, sampler, module)
            if system == "yoto"
            else Loader(model.cells, sampler)
        )
    history = fit(module, Doubled(batches), config, optimizer_factory=model._optimizer)
    return module, list(history)


def digest(module: nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def plain(module: nn.Module) -> bool:
    """Tell whether nothing of a module is left of its having been shared out."""
    copy.deepcopy(module)
    return all(type(p) is nn.Parameter for p in module.parameters()) and not any(
        one._forward_pre_hooks
        or one._forward_hooks
        or type(one).__name__.startswith("FSDP")
        or any("fsdp" in key or "composable" in key for key in vars(one))
        or "training_loss" in vars(one)
        for one in module.modules()
    )


def stopping_after(epochs: int) -> Any:
    """Return a callback by which the first rank gets a signal."""

    def callback(epoch: int, module: nn.Module) -> None:
        if epoch + 1 == epochs and RANK == 0:
            os.kill(os.getpid(), signal.SIGINT)

    return callback


def losses(orders: dict[str, Any]) -> dict[str, Any]:
    """Train all systems; return their losses by step, and digests of what they learnt."""
    found = {}
    more = orders.get("settings", {})
    for system in orders.get("systems", SYSTEMS):
        if orders.get("double"):
            module, history = in_float64(system, **more)
        else:
            model = trained(system, **more)
            history = list(model.history or [])
            module = model.module if system != "gil" else model.trained.module
        found[system] = {"history": history, "digest": digest(module), "plain": plain(module)}
    return found


def exchanges(orders: dict[str, Any]) -> dict[str, Any]:
    """Train; return how often each step has asked anything of the other ranks."""
    take, found = Stepper.take, []

    def counting(*args: Any) -> Any:
        before = ranks().watch.calls
        result = take(*args)
        found.append(ranks().watch.calls - before)
        return result

    Stepper.take = counting  # type: ignore[method-assign]
    steps = {}
    for system in orders["systems"]:
        trained(system, **({} if system == "gil" else {"steps": orders["steps"]}))
        steps[system] = found[:]
        found.clear()
    return steps


def sent(orders: dict[str, Any]) -> dict[str, Any]:
    """Train; return what each step was to send by the cost model, and what it has sent."""
    models: dict[str, Any] = {
        "txfm": TxFM(cells(), d_model=64, n_layers=2, n_heads=2, n_tokens=20, target_sum=1000.0),
        "yoto": YOTO(cells(), n_genes=8, hidden=(128, 64), dropout=0.2),
    }
    found = {}
    for name, model in models.items():
        with steps_watched() as steps:
            model.train(**settings(len(model.split.train), orders["steps"]))
        found[name] = steps
    return found


def parts(orders: dict[str, Any]) -> dict[str, Any]:
    """Train with weights shared out; return how much of them is here, and what a step sends."""
    take, found = Stepper.take, {}

    def counting(stepper: Stepper, *args: Any) -> Any:
        result = take(stepper, *args)
        groups = stepper.optimizer.param_groups
        own = [p for group in groups for p in group["params"]]
        blocks = stepper.module.encoder.blocks
        found["own"] = sum(p.numel() for p in own)
        found["moments"] = sum(stepper.optimizer.state[p]["exp_avg"].numel() for p in own)
        found["numbers"] = sum(p.numel() for p in stepper.module.parameters())
        found["of_blocks"] = sum(p.numel() for p in blocks.parameters())
        return result

    Stepper.take = counting  # type: ignore[method-assign, assignment]
    model = TxFM(cells(), d_model=64, n_layers=2, n_heads=2, n_tokens=20, target_sum=1000.0)
    with steps_watched() as steps:
        model.train(**settings(len(model.split.train), orders["steps"], shard=True))
    found["sent"] = np.median([sent for _, sent in steps])
    return found


class Dying(nn.Module):
    """A module whose rank meets its end at a step."""

    by_total_steps = False

    def __init__(self, orders: dict[str, Any]) -> None:
        super().__init__()
        self.weight, self.orders = nn.Parameter(torch.zeros(60)), orders

    def on_step(self, step: int, total_steps: int) -> None:
        if step != self.orders.get("at_step") or self.orders.get("rank") != RANK:
            return
        how = self.orders["how"]
        if how == "error":
            raise RuntimeError("the disk is on fire")
        if how == "sleep":
            time.sleep(45)
        else:
            os.kill(os.getpid(), how)

    def shards(self) -> list[nn.Module]:
        return []

    def training_loss(self, batch: Any) -> dict[str, Tensor]:
        x = batch.dense().log1p()
        return {"loss": (x @ self.weight - x[:, 0]).square().mean()}


def ending(orders: dict[str, Any]) -> dict[str, Any]:
    """Train a module that ends before its time; return how each rank ended."""
    everyone = cells()
    config = TrainConfig(
        max_epochs=4, batch_size=32, progress=False, learning_rate=0.01, log_every_steps=1,
        checkpoint_every_epochs=1, shard=orders.get("shard", False),
    )  # fmt: skip
    batches = Loader(everyone, sampler_of_rows(np.arange(200), config, 0))
    module, held_out = Dying(orders), everyone.batch(np.arange(200, 230))
    begun = time.monotonic()
    try:
        history = fit(
            module,
            batches,
            config,
            run_dir=orders.get("run_dir"),
            resume=orders.get("resume", False),
            validate=lambda: {"loss": module.training_loss(held_out)["loss"].item()},
        )  # fmt: skip
    except BaseException as error:
        return {
            "error": type(error).__name__, "message": str(error),
            "seconds": time.monotonic() - begun,
        }  # fmt: skip
    return {"history": history.without_timings(), "digest": digest(module)}


JOBS = {"losses": losses, "ending": ending, "exchanges": exchanges, "sent": sent, "parts": parts}


def main() -> None:
    out, orders = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    written = []
    if orders.get("watch_writes"):

        def note(event: str, args: tuple[Any, ...]) -> None:
            flags = args[2] if event == "open" and len(args) > 2 else 0
            if event == "open" and isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR):
                written.append(str(args[0]))

        sys.addaudithook(note)
    found = JOBS[orders["job"]](orders)
    found["written"] = written[:]
    found["world"] = ranks().world
    (out / f"rank-{RANK}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
