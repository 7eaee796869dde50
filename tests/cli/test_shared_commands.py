"""Commands that run a trained model on several ranks give what they give in one process."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import phenotyped_cells
import pytest
import staged_example
import torch
from command_program import Ended, run

from kernomics import cli
from kernomics.models import YOTO, PolyGene, TxFM
from kernomics.train.sharding import pieces

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SMALL = {"d_model": 16, "n_layers": 2, "n_heads": 2}
N_CELLS = 90
TRAINED = {"progress": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each system, and cells."""
    path = tmp_path_factory.mktemp("models")
    cells = phenotyped_cells.conditions(N_CELLS, 60)
    cells.write_h5ad(path / "cells.h5ad")
    cells[:3].copy().write_h5ad(path / "three.h5ad")
    phenotypes = ["treatment", "cell_type"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        TxFM(cells, "XXS", n_tokens=20, **SMALL).train(1, **TRAINED).save(path / "txfm")
        PolyGene(cells, phenotypes, **SMALL).train(1, **TRAINED).save(path / "polygene")
        YOTO(cells, phenotypes, n_genes=6).train(2, **TRAINED).save(path / "yoto")
        staged_example.model("naive").train(1, **TRAINED).save(path / "gil")
        staged_example.cells(40, seed=9).write_h5ad(path / "staged.h5ad")
    return path


def same(one: Any, two: Any, name: str = "") -> None:
    """Require two h5ad files to hold the same, but for the times in them."""
    assert dict(one.attrs).keys() == dict(two.attrs).keys(), name
    if isinstance(one, h5py.Dataset):
        assert one.dtype == two.dtype, name
        assert one.shape == two.shape, name
        assert np.asarray(one[()]).tobytes() == np.asarray(two[()]).tobytes() or list(
            one[()]
        ) == list(two[()]), name
        return
    assert set(one) == set(two), name
    for key in one:
        same(one[key], two[key], f"{name}/{key}")


def succeeded(ended: list[Ended]) -> list[list[int]]:
    """Require all ranks to have succeeded and the first alone to have spoken; return batches."""
    for rank, one in enumerate(ended):
        assert one.code == 0, one.errors
        assert rank == 0 or not one.printed
        assert rank == 0 or not one.errors
    return [one.batches for one in ended]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("rank-"))


@pytest.fixture
def alone(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Run a command in this process, on one thread as each rank, and return what it printed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def started(*argv: Any) -> str:
        capsys.readouterr()
        assert cli.main([str(part) for part in argv]) == 0
        return capsys.readouterr().out

    yield started
    torch.set_num_threads(threads)


# -- embed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "data", "suffix", "more"),
    [
        ("txfm", "cells", "h5ad", ["--batch-size", "16", "--n-tokens", "20", "--n-draws", "2"]),
        ("txfm", "cells", "csv", ["--batch-size", "7", "--block", "1"]),
        ("polygene", "cells", "npy", ["--batch-size", "16"]),
        ("gil", "staged", "h5ad", ["--batch-size", "16", "--n-tokens", "10"]),
    ],
)
def test_two_ranks_embed_as_one_process_does(
    folder: Path, tmp_path: Path, alone: Any, model: str, data: str, suffix: str, more: list[str]
) -> None:
    line = ["embed", folder / model, folder / f"{data}.h5ad", "--quiet", *more, "--out"]
    one, out = tmp_path / f"one.{suffix}", tmp_path / "two" / f"two.{suffix}"
    printed = alone(*line, one)
    ended = run(2, out.parent, *line, out)
    first, second = succeeded(ended)
    assert names(out.parent) == [out.name]
    parts = pieces(sum(first + second), int(more[1]), 2)
    assert sum(first) == sum(part.stop - part.start for part in parts[::2])
    assert second
    assert ended[0].printed.replace(str(out), str(one)) == printed
    assert not [name for name in ended[1].written if not name.startswith("/dev/")]
    if suffix == "h5ad":
        with h5py.File(one) as these, h5py.File(out) as those:
            same(these, those)
    else:
        assert one.read_bytes() == out.read_bytes()


def test_ranks_without_a_cell_have_nothing_to_do(folder: Path, tmp_path: Path, alone: Any) -> None:
    line = ["embed", folder / "txfm", folder / "three.h5ad", "--quiet", "--batch-size", "1"]
    alone(*line, "--out", tmp_path / "one.npy")
    ended = run(4, tmp_path, *line, "--out", tmp_path / "four.npy")
    assert succeeded(ended) == [[1], [1], [1], []]
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "four.npy").read_bytes()


@pytest.mark.parametrize(
    ("suffix", "rank", "how", "codes", "said"),
    [
        ("h5ad", 1, "error", [2, 2], "rank 1 (process {} stopped: OSError: the disk is on fire"),
        ("csv", 1, signal.SIGKILL, [2, -9], "rank 1 (process {} it died without a word"),
        ("npy", 0, "error", [2, 2], "rank 0 (process {} stopped: OSError: the disk is on fire"),
        ("h5ad", 0, signal.SIGTERM, [143, 2], "rank 0 {}"),
    ],
)
def test_a_rank_that_ends_stops_the_other_and_leaves_the_file_as_it_was(
    folder: Path, tmp_path: Path, suffix: str, rank: int, how: Any, codes: list[int], said: str
) -> None:
    out = tmp_path / f"out.{suffix}"
    out.write_bytes(b"earlier")
    ended = run(
        2, tmp_path, "embed", folder / "txfm", folder / "cells.h5ad", "--quiet", "--overwrite",
        "--batch-size", "5", "--out", out, ends={"rank": rank, "batch": 3, "how": how},
    )  # fmt: skip
    assert [one.code for one in ended] == codes
    for part in said.split("{}"):
        assert part in ended[1 - rank].errors
    assert "kernomics embed" in ended[1 - rank].errors
    assert out.read_bytes() == b"earlier"
    assert names(tmp_path) == [out.name]


def test_ranks_must_read_the_same_cells(folder: Path, tmp_path: Path) -> None:
    line = ["embed", folder / "txfm", folder / "cells.h5ad", "--out", tmp_path / "out.npy"]
    other = [*line[:2], folder / "three.h5ad", *line[3:]]
    ended = run(2, tmp_path, *line, **{"argv of 1": other})
    assert [one.code for one in ended] == [2, 2]
    for one in ended:
        assert "has cells 3, and rank 0 90: start all ranks with the same command" in one.errors
    assert names(tmp_path) == []
