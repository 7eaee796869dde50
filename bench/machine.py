"""What the benchmarks need to know of the machine: names, ceilings, load, peak memory."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

QUIET_LOAD = 0.5  # one-minute load average above which nothing is recorded
ROOT = Path(__file__).resolve().parent.parent


def device_name(device: torch.device) -> str:
    """Name the processor the benchmark runs on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def slug(name: str) -> str:
    """Turn a device's name into a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _output_of(*command: str) -> str | None:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def describe(device: torch.device) -> dict[str, Any]:
    """Return device, instruction set, driver, versions and commit, recorded with every result."""
    from kernomics.ops import build_info

    build = build_info()
    commit = _output_of("git", "rev-parse", "--short=10", "HEAD")
    if commit and _output_of("git", "status", "--porcelain", "--", "csrc", "python"):
        commit += "-dirty"
    driver = None
    if device.type == "cuda":
        driver = _output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "device": device_name(device),
        "isa": "cuda" if device.type == "cuda" else build["isa"],
        "driver": driver.splitlines()[0] if driver else None,
        "versions": {
            "kernomics": build["version"],
            "torch": build["torch"],
            "python": platform.python_version(),
            "compiler": build["compiler"],
            "cuda": build["torch_cuda"] if device.type == "cuda" else None,
            "cuda_compiler": build["cuda_compiler"],
        },
        "commit": commit or "unknown",
    }


def load_average() -> float:
    """Return the one-minute load average."""
    return os.getloadavg()[0]


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


def measured_rates(device: torch.device, smoke: bool) -> dict[str, float]:
    """Measure this machine's two ceilings now.

    Returns
    -------
    dict
        ``copy`` in bytes/s, counting bytes read and bytes written; ``matmul`` in operations/s,
        float32 on the CPU, bfloat16 on CUDA.
    """
    cuda = device.type == "cuda"
    n = 2**20 if smoke else (2**30 if cuda else 2**26)  # float32 numbers
    copy = 2 * 4 * n / _seconds(_copy(n, device), device)
    side = 256 if smoke else (8192 if cuda else 2048)
    dtype = torch.bfloat16 if cuda else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    matmul = 2 * side**3 / _seconds(lambda: torch.mm(a, b, out=out), device)
    return {"copy": copy, "matmul": matmul}


def _status_bytes(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None, f"/proc/self/status has no {field}"
    return 1024 * int(found.group(1))


def peak_extra_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """Return how far memory rises above its level before the call, outputs included.

    On CUDA by the allocator's statistics. On the CPU by the process's peak resident size, which
    sees what allocators' own statistics do not; run it in a process of its own.
    """
    call()  # compiles, starts threads
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew at the present level
    before = _status_bytes("VmRSS")
    call()
    return max(0, _status_bytes("VmHWM") - before)
