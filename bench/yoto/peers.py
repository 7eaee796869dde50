"""The panels of other packages: spapros, scGeneFit and NS-Forest, on the same cells and splits.

Each needs libraries of versions that ours do not go with, so it runs in a process of its own, by
the Python of a virtual environment of its own, and is given counts and class codes of the training
cells in a file. ``KERNOMICS_PEERS`` names the folder of these environments:

    python -m venv peers/NAME                      for each; then with its pip
    install spapros==0.1.6 "numpy<2.3"
    install nsforest==4.1 plotly                   which it imports and does not ask for
    install --no-deps scgenefit==1.0.2             it asks for "sklearn", a name that is refused
    install scanpy matplotlib "scipy<1.11" "numpy<1.27"

    KERNOMICS_PEERS=peers python -m bench.yoto.panels --methods spapros nsforest scgenefit

Without it the benchmark leaves them out. A run is recorded with versions and processor time like
any other (`bench.yoto.panels`), and the panel is judged by the same regression. spapros takes 14
minutes of one thread on 1,862 cells of 16 classes, 6 on 1,839 of 8.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

SIDE = Path(__file__).with_name("peer_side.py")
VERSIONS = {"spapros": "0.1.6", "scgenefit": "1.0.2", "nsforest": "4.1"}
"""The version of each that the tables name; another one is refused."""
ROUND = 1  # of what peer_side.py asks of them: a higher number runs everything again
MOST_SECONDS = 3600


def python_of(name: str) -> Path | None:
    """Return a peer's Python; None where it is not installed."""
    folder = os.environ.get("KERNOMICS_PEERS")
    python = Path(folder or "", name, "bin", "python").absolute()  # not resolved: a link of venv's
    return python if folder and python.exists() else None


def missing(method: str) -> bool:
    """Whether a method is a peer's that is not installed."""
    return method in VERSIONS and python_of(method) is None


def peer_panel(
    name: str, counts: sparse.csr_matrix, codes: NDArray[np.int64], k: int, seed: int
) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Let a peer choose genes.

    Parameters
    ----------
    name
        A key of `VERSIONS`.
    counts, codes
        Counts of the training cells [cells, genes] and their class, −1 for none.
    k, seed
        How many genes, and what decides all that is random.

    Returns
    -------
    ndarray, dict
        At most k genes by number, best first; ``seconds`` and ``versions`` of the peer's process.

    Raises
    ------
    RuntimeError
        If the peer is not installed, fails, takes over an hour, or is of another version.
    """
    python = python_of(name)
    if python is None:
        raise RuntimeError(f"{name} is not installed: see bench/yoto/peers.py")
    known = codes >= 0
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    with tempfile.TemporaryDirectory() as folder:
        sparse.save_npz(Path(folder, "counts.npz"), counts[known])
        np.save(Path(folder, "codes.npy"), codes[known])
        Path(folder, "asked.json").write_text(json.dumps({"k": k, "seed": seed}))
        environment = {**os.environ, **threads}
        environment.pop("PYTHONPATH", None)
        ended = subprocess.run(
            [str(python), str(SIDE), name, folder], cwd=folder, env=environment,
            capture_output=True, text=True, timeout=MOST_SECONDS, check=False,
        )  # fmt: skip
        if ended.returncode:
            raise RuntimeError(f"{name} failed: {ended.stderr.strip()[-500:]}")
        found = json.loads(Path(folder, "chosen.json").read_text())
    if found["versions"][name] != VERSIONS[name]:
        raise RuntimeError(
            f"{name} {found['versions'][name]} is installed, the tables name {VERSIONS[name]}"
        )
    return np.array(found.pop("genes"), np.int64), found
