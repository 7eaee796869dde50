"""A training step of TxFM: its memory and time, against the same blocks in eager torch.

    python -m bench.txfm.step                   sizes for a CPU
    python -m bench.txfm.step --device cuda     whole sizes, where the ops have CUDA kernels
    python -m bench.txfm.step --case S --cells 128 --out step.jsonl

A line on the screen, and a JSON line in `--out`, for each case, precision and way of computing; a
step is the draw of tokens, forward, backward and AdamW:

``saved_bytes``
    Storages that autograd holds between forward and backward, each counted once, weights not.
``peak_bytes``
    How far memory rises above its level before a step, gradients of the weights included. On CUDA
    the allocator's statistics; on the CPU what torch's profiler reports of every allocation.
``saved_share``, ``peak_share``, ``time_share``
    The same over those of the first way, eager torch. ``aim`` is the peak's share to reach; while
    recomputing with a tenth more time at most.
``share_of_matmul``
    Operations of the products, three times those of a forward pass (`cls_products`), over the rate
    measured on this machine in this run; for the precision that rate is measured in.
``largest_batch``, ``too_large_batch``
    On CUDA, the most cells found to fit and the fewest found not to, None where the time for the
    search was over before.

On CUDA a step's cells per second have an aim, that of one H200: ``aim_cells_per_second``.

On the CPU batches are small, so weights, their gradients and the loss count for more than where a
batch fills a GPU, and shares of the peak are worse than there.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

from bench import machine
from bench.txfm.eager import training_loss
from kernomics.data import Cells
from kernomics.models.txfm.config import TxFMConfig
from kernomics.models.txfm.module import TxFMModule
from kernomics.nn.encoder import Recompute, cls_products
from kernomics.train import RowAdamW

Step = Callable[[], Tensor]
RECOMPUTED: dict[str, Recompute] = {
    "recompute_feed_forward": "feed_forward",
    "recompute_blocks": "blocks",
}
USUAL = ("eager", "kernomics", *RECOMPUTED)
WAYS = (*USUAL, "compiled")
AIMS = {"kernomics": 0.65, "recompute_feed_forward": 0.5}
CELLS_PER_SECOND = {"S": 600, "B": 230}


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
        Shape("XXS", 1, 512, 64, 1000),
        Shape("XS", 2, 256, 64, 2000),
        Shape("S", 4, 512, 16, 5000),
        Shape("B", 2, 512, 8, 5000),
        Shape("S", 12, 1024, 8, 5000),
    ],
    "cuda": [Shape("S", 12, 2048, 64, 20_000), Shape("B", 12, 2048, 32, 20_000)],
}


def draw(shape: Shape, device: torch.device, seed: int = 0) -> Cells:
    """Draw cells of which about 8 % of the counts are not zero."""
    generator = torch.Generator(device).manual_seed(seed)
    rates = torch.rand(shape.genes, generator=generator, device=device) * 0.17
    counts = torch.poisson(rates.repeat(shape.cells, 1), generator=generator)
    row, gene = counts.nonzero(as_tuple=True)
    return Cells(
        indptr=F.pad(counts.count_nonzero(1).cumsum(0), (1, 0)),
        indices=gene.int(),
        values=counts[row, gene],
        n_genes=shape.genes,
        cell_ids=torch.arange(shape.cells, device=device),
        library=counts.sum(1),
    )


def make(shape: Shape, way: str, device: torch.device) -> TxFMModule:
    """Make the model, always from the same weights."""
    torch.manual_seed(0)
    config = TxFMConfig.of_size(
        shape.size,
        n_layers=shape.blocks,
        n_tokens=shape.tokens,
        recompute=RECOMPUTED.get(way, "nothing"),
    )
    module = TxFMModule(shape.genes, config, seed=1).to(device).train()
    if way == "compiled":
        module.compile_step()
    return module


def step_of(module: TxFMModule, cells: Cells, eager: bool, bf16: bool) -> Step:
    """Return a step as a call that gives its loss."""
    optimizer = RowAdamW(module.parameters(), lr=1e-4)

    def forward() -> Tensor:
        with torch.autocast(cells.device.type, dtype=torch.bfloat16, enabled=bf16):
            if eager:
                return training_loss(module, cells)
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
    return (
        3 * shape.cells * cls_products(d, shape.blocks, config.n_heads, shape.tokens + 1, decoder)
    )


def largest(
    fits: Callable[[int], bool], start: int, most: int, seconds: float
) -> tuple[int, int | None]:
    """Search, by doubling and then by halving, for the largest number that fits.

    Ends when that is known to a sixteenth, at `most`, or with the first answer after `seconds`.

    Returns
    -------
    fitting : int
        The largest number found to fit; 0 if none was.
    failing : int or None
        The smallest found not to fit.
    """
    end = time.monotonic() + seconds
    fitting, failing, n = 0, None, start
    while True:
        if fits(n):
            fitting = n
        else:
            failing = n
        n = 2 * fitting if failing is None else (fitting + failing) // 2
        known = failing is not None and failing - fitting <= max(1, fitting // 16)
        if known or n > most or time.monotonic() > end:
            return fitting, failing


def largest_batch(
    shape: Shape, way: str, bf16: bool, device: torch.device, most: int, seconds: float
) -> dict[str, int | None]:
    """Search for the largest batch that is trained on without running out of memory."""
    module = make(shape, way, device)

    def fits(cells: int) -> bool:
        step = step_of(module, draw(replace(shape, cells=cells), device), way == "eager", bf16)
        try:
            step()  # AdamW's state is there from the second step on
            step()
            return True
        except torch.OutOfMemoryError:
            return False
        finally:
            module.zero_grad(set_to_none=True)

    def fits_alone(cells: int) -> bool:
        found = fits(cells)
        _free(device)
        return found

    fitting, failing = largest(fits_alone, shape.cells, most, seconds)
    return {"largest_batch": fitting, "too_large_batch": failing}


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def measure(
    shape: Shape,
    bf16: bool,
    device: torch.device,
    rate: float | None,
    rounds: int = 5,
    ways: Sequence[str] = USUAL,
) -> list[dict[str, Any]]:
    """Measure some ways of computing one case, after comparing their losses.

    `rate` is the machine's, of products in this precision, in operations a second.
    """
    cells = draw(shape, device)
    modules = {way: make(shape, way, device) for way in ways}
    steps = {way: step_of(module, cells, way == "eager", bf16) for way, module in modules.items()}
    losses = {way: step() for way, step in steps.items()}
    for loss in losses.values():
        torch.testing.assert_close(loss, losses[ways[0]], rtol=1e-2 if bf16 else 1e-5, atol=0)
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
        first = records[0] if records else record
        for name in ("saved_bytes", "peak_bytes", "seconds"):
            share = {"seconds": "time"}.get(name, name.removesuffix("_bytes")) + "_share"
            record[share] = record[name] / first[name]
        record["aim"] = AIMS.get(way) if bf16 else None
        on_gpu = bf16 and way == "kernomics" and device.type == "cuda"
        record["aim_cells_per_second"] = CELLS_PER_SECOND.get(shape.size) if on_gpu else None
        records.append(record)
    return records


def line(record: dict[str, Any]) -> str:
    """Write a record in one line."""
    text = (
        f"{record['case']:<30} {record['precision']:<8} {record['way']:<10}"
        f"{record['cells_per_second']:9.1f} cells/s ({record['time_share']:.2f} of the time)"
        f"  peak {record['peak_bytes'] / 1e6:9,.1f} MB ({record['peak_share']:.2f})"
        f"  saved {record['saved_bytes'] / 1e6:9,.1f} MB ({record['saved_share']:.2f})"
    )
    if record["share_of_matmul"] is not None:
        text += f"  {record['share_of_matmul']:.1%} of the products' rate"
    if record.get("largest_batch") is not None:
        failing = record["too_large_batch"]
        text += f"  at most {record['largest_batch']} cells"
        text += " or more" if failing is None else f", not {failing}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a training step of TxFM.")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--smoke", action="store_true", help="one tiny case")
    parser.add_argument("--precision", nargs="+", default=["bf16", "float32"])
    parser.add_argument("--ways", nargs="+", default=USUAL, choices=WAYS)
    parser.add_argument("--case", default="", help="only sizes whose name contains this")
    parser.add_argument("--cells", type=int, help="cells of a batch, in place of each case's own")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--search-seconds", type=float, default=10, help="for each largest batch on CUDA, or 0"
    )
    parser.add_argument("--out", type=Path, help="file to add JSON lines to")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    about = machine.describe(device) | {"threads": args.threads}
    rate = machine.measured_rates(device, args.smoke)["matmul"]
    _free(device)
    rated = "bf16" if args.device == "cuda" else "float32"
    for shape in SHAPES["smoke" if args.smoke else args.device]:
        if args.case not in shape.size:
            continue
        if args.cells:
            shape = replace(shape, cells=args.cells)
        for precision in args.precision:
            bf16, of_this = precision == "bf16", rate if precision == rated else None
            records = measure(shape, bf16, device, of_this, args.rounds, args.ways)
            _free(device)
            for record in records:
                # A CPU's memory has no end that is met without harm: there the search is tried out.
                if args.search_seconds and (args.smoke or device.type == "cuda"):
                    most = 4 * shape.cells if args.smoke else 2**14
                    record |= largest_batch(
                        shape, record["way"], bf16, device, most, args.search_seconds
                    )
                    _free(device)
                print(line(record), flush=True)
                if args.out:
                    args.out.parent.mkdir(parents=True, exist_ok=True)
                    with args.out.open("a") as file:
                        file.write(json.dumps(about | record) + "\n")


if __name__ == "__main__":
    main()
