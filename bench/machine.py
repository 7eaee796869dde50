"""What the benchmarks need to know of the machine: names, ceilings, load, peak memory."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kernomics.benchmark.machine import measured_rates as measured_rates
from kernomics.benchmark.machine import versions

QUIET_LOAD = 0.5  # one-minute load average above which nothing is recorded
ROOT = Path(__file__).resolve().parent.parent


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
    commit = _output_of("git", "rev-parse", "--short=10", "HEAD")
    if commit and _output_of("git", "status", "--porcelain", "--", "csrc", "python"):
        commit += "-dirty"
    driver = None
    if device.type == "cuda":
        driver = _output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    found = versions(device)
    return {
        "device": found["device"],
        "isa": found["isa"],
        "driver": driver.splitlines()[0] if driver else None,
        "versions": found["versions"],
        "commit": commit or "unknown",
    }


def load_average() -> float:
    """Return the one-minute load average."""
    return os.getloadavg()[0]


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
