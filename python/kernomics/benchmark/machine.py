"""The machine's name and its two ceilings: how fast it copies and multiplies."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch


def device_name(device: torch.device) -> str:
    """Name the processor the benchmark runs on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def versions(device: torch.device) -> dict[str, Any]:
    """Return the instruction set in use, and the versions that a result depends on."""
    from kernomics.ops import build_info

    build = build_info()
    return {
        "device": device_name(device),
        "isa": "cuda" if device.type == "cuda" else build["isa"],
        "versions": {
            "kernomics": build["version"],
            "torch": build["torch"],
            "python": platform.python_version(),
            "compiler": build["compiler"],
            "cuda": build["torch_cuda"] if device.type == "cuda" else None,
            "cuda_compiler": build["cuda_compiler"],
        },
    }


def _seconds(call: Callable[[], Any], device: torch.device, repeats: int = 7) -> float:
    for _ in range(2):
        call()
    taken = []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return median(taken)


def _copy(n: int, device: torch.device) -> Callable[[], Any]:
    source = torch.rand(n, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def measured_rates(device: torch.device, small: bool) -> dict[str, float]:
    """Measure this machine's two ceilings now.

    Returns
    -------
    dict
        ``copy`` in bytes/s, counting bytes read and bytes written; ``matmul`` in operations/s,
        float32 on the CPU, bfloat16 on CUDA.
    """
    cuda = device.type == "cuda"
    n = 2**20 if small else (2**30 if cuda else 2**26)  # float32 numbers
    copy = 2 * 4 * n / _seconds(_copy(n, device), device)
    side = 256 if small else (8192 if cuda else 2048)
    dtype = torch.bfloat16 if cuda else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    matmul = 2 * side**3 / _seconds(lambda: torch.mm(a, b, out=out), device)
    return {"copy": copy, "matmul": matmul}
