"""The commands of docs/scale.md, started as the document says."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import phenotyped_cells
import pytest

import kernomics
from kernomics import datasets
from kernomics.models import PolyGene, TxFM

ROOT = Path(__file__).resolve().parents[2]
SOURCE = str(Path(kernomics.__file__).parents[1])
SMALL = {"d_model": 16, "n_layers": 1, "n_heads": 2}
DOCUMENT = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return int(one.getsockname()[1])


def command(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    words = shlex.split(line)
    assert words[0] == "torchrun"
    port = f"--master-port={free_port()}"  # with 0 the ranks would wait for each other at port 0
    path = os.pathsep.join([SOURCE, os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", port, *words[1:]],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_torchrun_line_of_the_document_trains_and_one_rank_prints(
    tmp_path: Path,
) -> None:
    datasets.simulate(200, 100, 3, 5, seed=0).write_h5ad(tmp_path / "cells.h5ad")
    line, embed, evaluate, attribute = re.findall(r"^torchrun .*$", DOCUMENT, re.M)
    done = command(tmp_path, line)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report ") == 1
    run = tmp_path / "runs" / "txfm"
    for name in ("report.html", "results.json", "model/model.json", "split.json"):
        assert (run / name).is_file(), name
    history = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in history if r["split"] == "train"] == [0, 1]

    again = command(tmp_path, line)  # the directory holds a run
    assert again.returncode != 0
    assert "already holds a run" in again.stderr

    done = command(tmp_path, embed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written ") == 1
    with h5py.File(tmp_path / "embedded.h5ad") as file:
        assert file["obsm/X_txfm"].shape == (200, file["obsm/X_txfm"].shape[1])
        assert np.isfinite(file["obsm/X_txfm"][()]).all()

    done = command(tmp_path, evaluate)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cell_type, TxFM ") == 1, done.stdout

    cells = phenotyped_cells.conditions(80, 60)
    cells.obs["disease"] = np.where(cells.obs["treatment"] == "drug", "lupus", "normal")
    cells.write_h5ad(tmp_path / "cells.h5ad")
    PolyGene(cells, "disease", **SMALL).train(1, progress=False).save(run.parent / "polygene")
    done = command(tmp_path, attribute)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report ") == 1
    assert (tmp_path / "runs" / "lupus" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_cell_of_one_rank_that_cannot_be_embedded_leaves_no_file(tmp_path: Path) -> None:
    cells = phenotyped_cells.conditions(40, 60)
    TxFM(cells, "XXS", n_tokens=20, **SMALL).train(1, progress=False).save(tmp_path / "model")
    cells.X[30] = 0  # of the second rank
    cells.write_h5ad(tmp_path / "cells.h5ad")
    before = sorted(tmp_path.iterdir())
    line = "embed model cells.h5ad --out embedded.h5ad --batch-size 10"
    done = command(tmp_path, f"torchrun --nproc-per-node 2 -m kernomics {line}")
    assert done.returncode != 0
    assert f"first {cells.obs_names[30]!r}" in done.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_weights_are_shared_out_by_a_setting_in_a_file(tmp_path: Path) -> None:
    datasets.simulate(200, 100, 3, 5, seed=0).write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "shard.json").write_text('{"shard": true, "n_layers": 2}')
    (line,) = re.findall(r"^torchrun .* pretrain .*$", DOCUMENT, re.M)
    done = command(tmp_path, f"{line} --config shard.json")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "txfm"
    assert '"shard": true' in (run / "config.json").read_text()
    assert (run / "model" / "model.json").is_file()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_command_without_a_training_is_one_process(tmp_path: Path) -> None:
    done = command(tmp_path, "torchrun --nproc-per-node 2 -m kernomics info")
    assert done.returncode != 0
    assert "2 processes were started, but only select, pretrain" in done.stderr


def test_the_document_names_the_slurm_task_and_the_limit() -> None:
    from kernomics.train.places import DEFAULT_LIMIT, LIMIT

    assert f"after {DEFAULT_LIMIT:g} seconds" in DOCUMENT.replace("\n", " ").replace("  ", " ")
    assert LIMIT in DOCUMENT
