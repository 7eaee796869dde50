"""The benchmark of two ranks runs, and their losses agree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kernomics

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_rank_and_two_agree_in_both_cases() -> None:
    path = os.pathsep.join([str(Path(kernomics.__file__).parents[1]), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "bench.ranks", "--smoke"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("predicted") == 2
