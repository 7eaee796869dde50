"""The cost model of docs/scale.md: bytes are those measured, times follow from the inputs."""

from __future__ import annotations

import gc
import math
import tracemalloc
from pathlib import Path

import pytest
from started_ranks import BY_NETWORK, ROOT, run

from kernomics import datasets
from kernomics.data import CellCollection
from kernomics.errors import ConfigError
from kernomics.train.cost import bytes_in_memory, bytes_sent, project

DOCUMENT = (Path(ROOT) / "docs" / "scale.md").read_text(encoding="utf-8")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_step_sends_the_bytes_predicted(tmp_path: Path, world: int) -> None:
    """Of a YOTO these are the drawn genes' rows, and in the end the panel's network alone."""
    for one in run(world, tmp_path, BY_NETWORK, job="sent", steps=30):
        for system in ("txfm", "yoto"):
            steps = one[system]
            predicted, sent = (sum(column) for column in zip(*steps, strict=True))
            assert sent == pytest.approx(predicted, rel=0.2), system
            assert len(steps) >= 30
        assert len({predicted for predicted, _ in one["yoto"]}) > 1


@pytest.mark.parametrize(("n_cells", "n_genes"), [(1500, 400), (3000, 90)])
def test_cells_take_the_memory_predicted(n_cells: int, n_genes: int) -> None:
    adata = datasets.simulate(n_cells, n_genes, 6, 10, n_batches=2, seed=0)
    labels = ["cell_type", "batch"]
    CellCollection.from_anndata(adata, labels_key=labels)  # what is imported stays
    gc.collect()
    tracemalloc.start()
    cells = CellCollection.from_anndata(adata, labels_key=labels)
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    predicted = bytes_in_memory(cells.n_cells, adata.X.nnz, len(labels))
    assert taken == pytest.approx(predicted, rel=0.2)


def test_a_projection_is_computing_and_then_sending() -> None:
    found = project(
        1000, batch_size=100, world=8, n_parameters=10**6, cells_per_second=26, bandwidth=7e6,
        latency=0.25, exchanges=2,
    )  # fmt: skip
    assert bytes_sent(10**6, 8) == found.bytes_sent == 7e6
    assert found.compute_seconds == 0.5  # 13 of 100 cells
    assert found.network_seconds == 1.5
    assert (found.step_seconds, found.steps, found.epoch_seconds) == (2.0, 10, 20.0)
    assert found.efficiency == 0.25
    alone = project(
        1000, batch_size=100, world=1, n_parameters=10**6, cells_per_second=100, bandwidth=1
    )
    assert (alone.step_seconds, alone.network_seconds, alone.efficiency) == (1.0, 0.0, 1.0)


def test_senseless_inputs_are_refused() -> None:
    given = {
        "n_cells": 10, "batch_size": 5, "world": 2, "n_parameters": 3, "cells_per_second": 1.0,
        "bandwidth": 1.0,
    }  # fmt: skip
    project(**given)
    for name, value in (
        ("cells_per_second", 0.0), ("bandwidth", math.nan), ("latency", -1.0), ("world", 0),
        ("n_cells", 0), ("exchanges", 0), ("n_parameters", -1),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=name):
            project(**{**given, name: value})
    with pytest.raises(ConfigError, match="n_counts is -1"):
        bytes_in_memory(1, -1)


UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "GB/s": 1e9, "k": 1e3, "million": 1e6}


def number(text: str) -> float:
    """Read a number of the document's table, with its unit."""
    value, *unit = text.replace(",", "").split()
    return float(value) * (UNITS[unit[0]] if unit else 1.0)


def test_the_documents_projections_are_those_of_project() -> None:
    _, _, table = DOCUMENT.partition("| projected |")
    rows = [
        [number(cell) for cell in row.split("|")[2:-1]]
        for row in table.split("\n\n")[0].splitlines()[2:]
    ]
    assert len(rows) == 3
    for batch, parameters, speed, bandwidth, latency, compute, network, epoch in rows:
        found = project(
            10**8, batch_size=int(batch), world=64, n_parameters=round(parameters),
            cells_per_second=speed, bandwidth=bandwidth, latency=latency,
        )  # fmt: skip
        assert compute == pytest.approx(found.compute_seconds, rel=0.02)
        assert network == pytest.approx(found.network_seconds, rel=0.02)
        assert epoch == pytest.approx(found.epoch_seconds, rel=0.02)
