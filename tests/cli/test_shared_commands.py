"""Commands that run a trained model on several ranks give what they give in one process."""

from __future__ import annotations

import json
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
from kernomics.models import YOTO, CellEncoder, PhenotypeModel, PolyGene, TxFM
from kernomics.train.shared_work import pieces

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
    phenotyped_cells.conditions(4200, 60, seed=1).write_h5ad(path / "many.h5ad")
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
        with warnings.catch_warnings():
            warnings.simplefilter("default")
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
    assert not [name for name in ended[1].written if str(tmp_path) in name]
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


# -- evaluate --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "data", "more"),
    [
        ("yoto", "many", ["--predictions", "predicted.csv"]),
        ("polygene", "cells", ["--predictions", "predicted.csv", "--given", "rest"]),
        (
            "txfm",
            "cells",
            [
                *("--labels-key", "cell_type", "--blocks", "1", "--batch-key", "donor"),
                *("--perturbation-key", "treatment", "--control", "control"),
            ],
        ),
    ],
)
def test_two_ranks_evaluate_as_one_process_does(
    folder: Path, tmp_path: Path, alone: Any, monkeypatch: Any, model: str, data: str,
    more: list[str],
) -> None:  # fmt: skip
    line = ["evaluate", folder / model, folder / f"{data}.h5ad", "--json", *more]
    outs = [tmp_path / "one", tmp_path / "two"]
    outs[0].mkdir()
    monkeypatch.chdir(outs[0])
    for kind in (CellEncoder, PhenotypeModel):
        monkeypatch.setattr(kind, "_cells_at_a_time", lambda *_: 16)
    printed = alone(*line)
    ended = run(2, outs[1], *line, cells_at_a_time=16)
    first, second = (one.batches for one in ended)
    assert [one.code for one in ended] == [0, 0]
    assert ended[0].printed == printed
    assert ended[1].printed == ended[1].errors == ""
    if model == "yoto":  # scored and predicted, 4,096 cells at a time
        assert [first, second] == [[4096, 4096], [104, 104]]
    elif model == "polygene":  # each phenotype by itself
        assert sum(first) + sum(second) == 2 * N_CELLS
        assert second
    else:
        assert abs(sum(first) - sum(second)) < sum(second)
    assert names(outs[0]) == names(outs[1])
    for name in names(outs[0]):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()


def test_an_error_in_scoring_ends_all_ranks(folder: Path, tmp_path: Path) -> None:
    line = ["evaluate", folder / "txfm", folder / "three.h5ad", "--labels-key", "cell_type"]
    ended = run(2, tmp_path, *line)
    assert [one.code for one in ended] == [2, 2]
    assert "error: " in ended[0].errors


# -- attribute -------------------------------------------------------------------------------------

QUESTION = ["--target", "treatment", "--case", "drug", "--baseline", "control", "--all-cells"]


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("polygene", ["--controlled", "cell_type", "--engine", "deeplift", "--n-tokens", "12"]),
        ("yoto", ["--n-baselines", "2", "--normalise"]),
    ],
)
def test_two_ranks_attribute_as_one_process_does(
    folder: Path, tmp_path: Path, alone: Any, model: str, more: list[str]
) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("scanpy")
    line = ["attribute", folder / model, folder / "cells.h5ad", *QUESTION, "--quiet", *more]
    printed = alone(*line, "--out", tmp_path / "one")
    ended = run(2, tmp_path, *line, "--out", tmp_path / "two")
    first, second = (one.batches for one in ended)
    assert [one.code for one in ended] == [0, 0]
    assert ended[0].printed.replace(str(tmp_path / "two"), str(tmp_path / "one")) == printed
    assert ended[1].printed == ended[1].errors == ""
    assert not [name for name in ended[1].written if str(tmp_path) in name]
    results = [
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")
    ]
    assert results[0] == results[1]
    blocks = [(first, 2), (second, 1)] if model == "polygene" else [(first, 1), (second, 0)]
    assert all(len(found) == n for found, n in blocks)
    assert sum(first) + sum(second) == results[0]["n_pairs"]
    if model == "polygene":
        told = "83 cells express more than --n-tokens 12 genes; a choice was shown"
        assert told in ended[0].errors.replace(" = ", " ").replace("n_tokens", "--n-tokens")
    for name in ("attribution.csv", "by_group.csv", "gene_statistics.csv", "top_genes.csv"):
        found = [(tmp_path / where / name).read_bytes() for where in ("one", "two")]
        assert found[0] == found[1], name


def test_a_rank_that_fails_to_attribute_leaves_no_run(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("scanpy")
    ended = run(
        2, tmp_path, "attribute", folder / "polygene", folder / "cells.h5ad", *QUESTION, "--quiet",
        "--controlled", "cell_type", "--out", tmp_path / "out",
        ends={"rank": 1, "batch": 0, "how": "error"},
    )  # fmt: skip
    assert [one.code for one in ended] == [2, 2]
    assert "kernomics attribute: error: rank 1 (process " in ended[0].errors
    assert "the disk is on fire" in ended[0].errors
    assert names(tmp_path) == []
