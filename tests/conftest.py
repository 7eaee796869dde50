"""What every test shares: where the real cells are, and which marks apply on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]  # for bench, and for what several folders share


def pytest_configure(config: pytest.Config) -> None:
    """Share the cores among the workers of a parallel run; take Ctrl-C as in a terminal."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so started by a shell's `&`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        threads = max(1, len(os.sched_getaffinity(0)) // workers)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real cells: KERNOMICS_DATA, or shared/data beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("KERNOMICS_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real cells at {folder}; set KERNOMICS_DATA to their folder")
    return folder


def _has_cuda_kernels() -> bool:
    from kernomics.ops import build_info

    return bool(build_info()["cuda_kernels"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons = {}
    if not torch.cuda.is_available():
        reasons["gpu"] = "needs a CUDA device; run bench/gpu.sh on a machine that has one"
    elif not _has_cuda_kernels():
        reasons["gpu"] = "needs kernomics._cuda; build with KERNOMICS_CUDA=ON"
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        reasons["browser"] = "needs chromium and chromedriver on the PATH"
        if os.environ.get("KERNOMICS_REQUIRE_BROWSER"):
            raise pytest.UsageError(f"the report test {reasons['browser']}, and it is required")
    for item in items:
        for mark, reason in reasons.items():
            if mark in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))
    # Files with long tests first, so that the workers of a parallel run end together.
    long = {item.path for item in items if "slow" in item.keywords}
    longest = {item.path for item in items if item.get_closest_marker("timeout")}
    items.sort(key=lambda item: (item.path not in longest, item.path not in long))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say once for each reason how many tests did not run."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple)
    )
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} skipped: {reason}")


@pytest.fixture
def unreported(monkeypatch):
    """Leave the report out, which takes longer than all the rest."""
    monkeypatch.setattr("kernomics.workflows.pretrain.write_training_report", lambda *_, **__: None)
