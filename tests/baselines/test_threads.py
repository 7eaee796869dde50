"""Baselines that call numba leave torch's number of threads alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import numpy as np, torch
from scipy import sparse
from kernomics import baselines

torch.set_num_threads(1)
random = np.random.default_rng(0)
counts = sparse.csr_matrix(random.poisson(1.0, (60, 30)).astype(np.float32))
baselines.{baseline}().select(counts, np.arange(60) % 3, 5, seed=0)
print(torch.get_num_threads())
"""


@pytest.mark.parametrize(
    "baseline",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("DEBaseline", "HVGBaseline")),
        "L1Baseline",
    ],
)
def test_a_baseline_leaves_the_number_of_threads_of_torch(baseline: str) -> None:
    # In a process of its own: numba sets the number once, when it first runs in parallel.
    program = PROGRAM.format(baseline=baseline)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "1"
