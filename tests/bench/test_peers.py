"""Other packages choose genes in a process of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from bench.yoto import peers

COUNTS = sparse.csr_matrix(np.arange(12, dtype=np.float32).reshape(4, 3))
CODES = np.array([0, 1, -1, 1])
ANSWER = """
import json, sys
import numpy as np
from scipy import sparse
side, name, folder = sys.argv[1:]
counts = sparse.load_npz(folder + "/counts.npz")
assert counts.sum(axis=1).ravel().tolist() == [[3.0, 12.0, 30.0]], counts
assert np.load(folder + "/codes.npy").tolist() == [0, 1, 1]
assert json.load(open(folder + "/asked.json")) == {"k": 2, "seed": 5}
found = {"genes": [2, 0], "seconds": 1.5, "versions": {name: VERSION}}
json.dump(found, open(folder + "/chosen.json", "w"))
"""


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the Python of a spapros that is a few lines of ours."""
    monkeypatch.setenv("KERNOMICS_PEERS", str(tmp_path))
    folder = tmp_path / "spapros" / "bin"
    folder.mkdir(parents=True)
    return folder


def installed(folder: Path, program: str) -> None:
    (folder / "program.py").write_text(program)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder}/program.py" "$@"\n')
    python.chmod(0o755)


def test_peer_gets_the_labelled_training_cells_and_its_panel_comes_back(peer: Path) -> None:
    installed(peer, ANSWER.replace("VERSION", "'0.1.6'"))
    genes, info = peers.peer_panel("spapros", COUNTS, CODES, 2, 5)
    assert genes.tolist() == [2, 0]
    assert info == {"seconds": 1.5, "versions": {"spapros": "0.1.6"}}
    assert not peers.missing("spapros")
    assert peers.missing("nsforest")
    assert not peers.missing("l1")


def test_peer_that_fails_is_absent_or_of_another_version_is_an_error(peer: Path) -> None:
    with pytest.raises(RuntimeError, match="spapros is not installed"):
        peers.peer_panel("spapros", COUNTS, CODES, 2, 5)
    installed(peer, "raise SystemExit('no such gene')")
    with pytest.raises(RuntimeError, match="spapros failed: no such gene"):
        peers.peer_panel("spapros", COUNTS, CODES, 2, 5)
    installed(peer, ANSWER.replace("VERSION", "'0.2'"))
    with pytest.raises(RuntimeError, match=r"spapros 0\.2 is installed, the tables name 0\.1\.6"):
        peers.peer_panel("spapros", COUNTS, CODES, 2, 5)


def test_peers_that_are_not_installed_are_left_out_of_the_benchmark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from bench.yoto.panels import _arguments

    monkeypatch.delenv("KERNOMICS_PEERS", raising=False)
    assert not set(peers.VERSIONS) & set(_arguments([]).methods)
