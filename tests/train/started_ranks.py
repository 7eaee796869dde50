"""Starts ranks_program.py as several ranks, and reads what each has to tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ranks_program
from free_port import free_port

import kernomics.train

SOURCE = str(Path(kernomics.train.__file__).parents[2])
TESTS = str(Path(__file__).parents[1])
ROOT = str(Path(__file__).parents[2])


def start(world: int, out: Path, environment: dict[str, str] | None = None, **orders: Any) -> Any:
    """Start ranks, or one process alone."""
    out.mkdir(parents=True, exist_ok=True)
    port = free_port()
    path = os.pathsep.join([SOURCE, TESTS, ROOT, os.environ.get("PYTHONPATH", "")])
    common = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    common |= {"KERNOMICS_RANK_LIMIT": "240", **(environment or {})}
    command = [sys.executable, ranks_program.__file__, str(out), json.dumps(orders)]
    own = [
        {"RANK": str(r), "WORLD_SIZE": str(world), "MASTER_PORT": str(port)} if world > 1 else {}
        for r in range(world)
    ]
    return [
        subprocess.Popen(
            command,
            env={**common, **one},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for one in own
    ]


def finish(processes: Any, out: Path) -> list[dict[str, Any] | None]:
    """Wait, and return what each rank wrote; None of one that wrote nothing."""
    errors = [process.communicate(timeout=500)[1] for process in processes]
    found = []
    for r, error in enumerate(errors):
        path = out / f"rank-{r}.json"
        found.append(json.loads(path.read_text()) if path.exists() else None)
        print(error)
    return found


def run(
    world: int, out: Path, environment: dict[str, str] | None = None, **orders: Any
) -> list[Any]:
    return finish(start(world, out, environment, **orders), out)


BY_NETWORK = {"KERNOMICS_SHARED_MEMORY": "0"}
WAYS = [pytest.param({}, id="memory"), pytest.param(BY_NETWORK, id="network")]
"""Of adding up: in memory that the ranks share, and by the network."""


DIGESTS = ("cells_in_order", "cells_any_order")


def figures(history: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Return the numbers but for what hangs on the clock, and the norm, which is no loss."""
    left_out = ("seconds", "cells_per_second", "grad_norm")
    return [
        {k: v for k, v in record.items() if k not in left_out and not isinstance(v, str)}
        for record in history
    ]


def losses(found: dict[str, Any], system: str) -> list[dict[str, float]]:
    return figures(found[system]["history"])


def cell_digests(history: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the digests of each epoch's cells."""
    records = [r for r in history if r["split"] == "train"]
    assert records
    return [(r[DIGESTS[0]], r[DIGESTS[1]]) for r in records]
