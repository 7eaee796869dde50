"""A training step of TxFM: its memory and time, against the same blocks in eager torch.

    python bench/txfm_step.py                   sizes for a CPU
    python bench/txfm_step.py --device cuda     whole sizes, where the ops have CUDA kernels
    python bench/txfm_step.py --case S --cells 128 --out step.jsonl

One JSON line a case, precision and way of computing; a step is the draw of tokens, forward,
backward and AdamW:

``saved_bytes``
    Storages that autograd holds between forward and backward, each counted once, weights not.
``peak_bytes``
    How far memory rises above its level before a step, gradients of the weights included. On CUDA
    the allocator's statistics; on the CPU what torch's profiler reports of every allocation.
``saved_share``, ``peak_share``, ``time_share``
    The same over eager torch's. ``aim`` is the peak's share to reach.
``share_of_matmul``
    Operations of the products, three times those of a forward pass (`cls_products`), over the rate
    measured on this machine in this run; for the precision that rate is measured in.

On the CPU batches are small, so weights, their gradients and the loss count for more than where a
batch fills a GPU, and shares of the peak are worse than there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

import machine
import txfm_eager
from kernomics.data import Cells
from kernomics.models.txfm_config import TxFMConfig
from kernomics.models.txfm_module import TxFMModule
from kernomics.nn.encoder import cls_products

Step = Callable[[], Tensor]
WAYS = ("eager", "kernomics", "recompute")
AIM = 0.5


@dataclass(frozen=True)
class Shape:
    """A model and a batch."""

    size: str
    blocks: int
    tokens: int
    cells: int
    genes: int


SHAPES = {
    "smoke": [Shape("XS", 2, 16, 4, 60)],
    "cpu": [
        Shape("XS", 2, 256, 64, 2000),
        Shape("S", 4, 512, 16, 5000),
        Shape("B", 2, 512, 8, 5000),
        Shape("S", 12, 1024, 8, 5000),
    ],
    "cuda": [Shape("S", 12, 2048, 64, 20_000), Shape("B", 12, 2048, 32, 20_000)],
}


def draw(shape: Shape, device: torch.device, seed: int = 0) -> Cells:
    """Draw cells of which about 8 % of the counts are not zero."""
    generator = torch.Generator().manual_seed(seed)
    rates = torch.rand(shape.genes, generator=generator) * 0.17
    counts = torch.poisson(rates.expand(shape.cells, -1), generator=generator)
    return Cells.from_scipy(counts.numpy()).to(device)


def make(shape: Shape, recompute: bool, device: torch.device) -> TxFMModule:
    """Make the model, always from the same weights."""
    torch.manual_seed(0)
    config = TxFMConfig.of_size(
        shape.size, n_layers=shape.blocks, n_tokens=shape.tokens, recompute=recompute
    )
    return TxFMModule(shape.genes, config, seed=1).to(device).train()


def step_of(module: TxFMModule, cells: Cells, eager: bool, bf16: bool) -> Step:
    """Return a step as a call that gives its loss."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)

    def forward() -> Tensor:
        with torch.autocast(cells.device.type, dtype=torch.bfloat16, enabled=bf16):
            if eager:
                return txfm_eager.training_loss(module, cells)
            return module.training_loss(cells)["loss"]

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = forward()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    return step


def saved_bytes(step: Step, module: TxFMModule) -> int:
    """Add up the storages that autograd saves in a step, the parameters' left out."""
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    # Nothing is freed before the first hook's tensor is, so an address stands for one storage.
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(held.values())


def peak_bytes(step: Step, module: TxFMModule, device: torch.device) -> int:
    """Return how far memory rises above its level before a step."""
    module.zero_grad(set_to_none=True)
    if device.type == "cuda":
        return machine.peak_extra_bytes(step, device)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        step()
    level = peak = 0
    for event in measured.profiler.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    return peak


def _seconds(steps: dict[str, Step], device: torch.device, rounds: int) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken[name].append(time.perf_counter() - start)
    return {name: median(samples) for name, samples in taken.items()}


def operations(shape: Shape) -> int:
    """Count the operations of a step's products."""
    config = TxFMConfig.of_size(shape.size)
    d = config.d_model
    decoder = [d * d] * (2 + 2 * config.decoder_layers) + [d * shape.genes]
    return 3 * shape.cells * cls_products(d, shape.blocks, shape.tokens + 1, decoder)


def measure(
    shape: Shape, bf16: bool, device: torch.device, rate: float | None, rounds: int = 5
) -> list[dict[str, Any]]:
    """Measure every way of computing one case, after comparing their losses.

    `rate` is the machine's, of products in this precision, in operations a second.
    """
    cells = draw(shape, device)
    modules = {way: make(shape, way == "recompute", device) for way in WAYS}
    steps = {way: step_of(module, cells, way == "eager", bf16) for way, module in modules.items()}
    losses = {way: step() for way, step in steps.items()}
    for loss in losses.values():
        torch.testing.assert_close(loss, losses["eager"], rtol=1e-2 if bf16 else 1e-5, atol=0)
    seconds = _seconds(steps, device, rounds)
    records: list[dict[str, Any]] = []
    for way, step in steps.items():
        speed = operations(shape) / seconds[way]
        record: dict[str, Any] = {
            "system": "txfm_step",
            "case": f"{shape.size} {shape.blocks} blocks K={shape.tokens} B={shape.cells}",
            "precision": "bf16" if bf16 else "float32",
            "way": way,
            "saved_bytes": saved_bytes(step, modules[way]),
            "peak_bytes": peak_bytes(step, modules[way], device),
            "seconds": seconds[way],
            "cells_per_second": shape.cells / seconds[way],
            "tflop_per_s": speed / 1e12,
            "share_of_matmul": None if rate is None else speed / rate,
        }
        eager = records[0] if records else record
        for name in ("saved_bytes", "peak_bytes", "seconds"):
            share = {"seconds": "time"}.get(name, name.removesuffix("_bytes")) + "_share"
            record[share] = record[name] / eager[name]
        record["aim"] = AIM if bf16 and way == "kernomics" else None
        records.append(record)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a training step of TxFM.")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--smoke", action="store_true", help="one tiny case")
    parser.add_argument("--precision", nargs="+", default=["bf16", "float32"])
    parser.add_argument("--case", default="", help="only sizes whose name contains this")
    parser.add_argument("--cells", type=int, help="cells of a batch, in place of each case's own")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="file to add the lines to")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    about = machine.describe(device) | {"threads": args.threads}
    rate = machine.measured_rates(device, args.smoke)["matmul"]
    rated = "bf16" if args.device == "cuda" else "float32"
    for shape in SHAPES["smoke" if args.smoke else args.device]:
        if args.case not in f"{shape}":
            continue
        if args.cells:
            shape = replace(shape, cells=args.cells)
        for precision in args.precision:
            of_this = rate if precision == rated else None
            for record in measure(shape, precision == "bf16", device, of_this, args.rounds):
                print(json.dumps(record), flush=True)
                if args.out:
                    with args.out.open("a") as file:
                        file.write(json.dumps(about | record) + "\n")


if __name__ == "__main__":
    main()
