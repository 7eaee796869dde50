"""Digests of training cells: which cells a model has seen, however they are stored."""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse

from kernomics.cli import main
from kernomics.data import CellCollection
from kernomics.datasets import simulate
from kernomics.models import YOTO, PolyGene, TxFM, load
from kernomics.models import seen_cells as module
from kernomics.models.seen_cells import SeenCells, digests

TINY = {"d_model": 8, "n_heads": 2, "decoder_layers": 0}


@pytest.fixture(scope="module")
def adata():
    return simulate(120, 80, 3, 5, mean_counts=500, seed=3)


def of(adata):
    return CellCollection.from_anndata(adata)


def test_a_digest_is_of_counts_alone(adata):
    expected = digests(of(adata).batch(np.arange(120)))
    assert len(np.unique(expected)) == 120
    shuffled = adata.copy()
    x = sparse.csr_matrix(adata.X)
    for row in range(120):  # the genes of a cell in the other order
        part = slice(x.indptr[row], x.indptr[row + 1])
        x.indices[part], x.data[part] = x.indices[part][::-1].copy(), x.data[part][::-1].copy()
    shuffled.X = x
    np.testing.assert_array_equal(digests(of(shuffled).batch(np.arange(120))), expected)
    np.testing.assert_array_equal(digests(of(adata).batch([7, 3])), expected[[7, 3]])
    changed = adata.copy()
    other = sparse.lil_matrix(adata.X)
    other[5, 2] += 1
    changed.X = other.tocsr()
    found = digests(of(changed).batch(np.arange(120)))
    assert (found != expected).nonzero()[0].tolist() == [5]


def test_cells_of_few_genes_are_left_aside(adata):
    few = adata.copy()
    x = few.X.toarray()
    x[4, 19:] = 0
    x[4, :19] = 1
    few.X = sparse.csr_matrix(x)
    assert (digests(of(few).batch(np.arange(120))) == 0).nonzero()[0].tolist() == [4]


def test_all_are_told_where_the_sketch_holds_all(adata):
    cells = of(adata)
    kept = SeenCells.from_info(json.loads(json.dumps({"seen_cells": SeenCells.of(
        cells, np.arange(50)).to_info()})))  # fmt: skip
    assert kept.among(cells, np.arange(40, 60)) == (10, 20)
    assert kept.among(cells, np.arange(60, 120)) == (0, 60)


def test_a_sketch_of_more_cells_tells_a_sample(adata, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 16)
    cells = of(adata)
    kept = SeenCells.of(cells, np.arange(80))
    assert len(kept.smallest) == 16
    every = digests(cells.batch(np.arange(120)))
    comparable = every <= kept.smallest[-1]
    assert kept.among(cells, np.arange(120)) == (16, comparable.sum())
    assert kept.among(cells, np.arange(80)) == (16, 16)


@pytest.mark.parametrize("info", [
    {}, {"seen_cells": 3}, {"seen_cells": {"digests": "%"}}, {"seen_cells": {"digests": "AAAA"}},
    {"seen_cells": {"digests": "", "cells": [], "genes": 3}},
    {"seen_cells": {"digests": "", "cells": float("inf"), "genes": 3}},
])  # fmt: skip
def test_what_cannot_be_read_tells_nothing(info):
    assert SeenCells.from_info(info) is None


@pytest.mark.filterwarnings("default:.*very counts:UserWarning")
def test_evaluation_says_which_cells_were_trained_on(adata, tmp_path, capsys):
    first, other = adata[:80].copy(), adata[60:].copy()
    model = TxFM(first, "XXS", validation=0.0, **TINY).train(1, progress=False)
    model.save(tmp_path / "model")
    encoder = TxFM.load(tmp_path / "model")
    assert encoder.cells_seen(first) == (80, 80)
    assert encoder.cells_seen(other) == (20, 60)
    assert encoder.cells_seen(other, rows=np.arange(20, 60)) == (0, 40)
    part = other.copy()
    part.X = sparse.csr_matrix(np.where(np.arange(80) < 70, other.X.toarray(), 0))
    found = TxFM(part, "XXS", validation=0.0, genes=part.var_names.tolist(), **TINY)
    seen = SeenCells.of(found.cells, np.arange(60))  # of genes that were not there: no counts
    encoder.info["seen_cells"] = seen.to_info()
    assert encoder.cells_seen(other[:, :70].copy())[0] == 60
    encoder = TxFM.load(tmp_path / "model")
    assert encoder.cells_seen(other[:, :5].copy()) == (0, 0)
    encoder.extend(["one", "two"])
    wider = first.copy()
    assert encoder.cells_seen(wider) == (80, 80)
    first.write_h5ad(tmp_path / "first.h5ad")
    adata[80:].copy().write_h5ad(tmp_path / "new.h5ad")
    line = ["evaluate", str(tmp_path / "model"), "--labels-key", "cell_type", "--json"]
    assert main([*line[:2], str(tmp_path / "first.h5ad"), *line[2:]]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["seen_in_training"] == {"cells": 16, "of": 16}
    assert "16 of the 16 cells scored on that can be told have the very counts" in told.err
    assert main([*line[:2], str(tmp_path / "new.h5ad"), *line[2:]]) == 0
    assert "seen_in_training" not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("perturbation_key", "seen"), [(None, (0, 4)), ("guide", (20, 60))])
def test_perturbations_are_scored_on_all_cells(adata, perturbation_key, seen):
    from kernomics.cli.evaluate_txfm import _tell_seen

    encoder = TxFM(adata[:80].copy(), "XXS", validation=0.0, **TINY).train(1, progress=False)
    cells = of(adata[60:].copy())
    split = SimpleNamespace(test=np.arange(50, 54))  # which were not trained on
    found: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        args = SimpleNamespace(perturbation_key=perturbation_key)
        _tell_seen(args, encoder.trained, cells, split, found)
    assert found.get("seen_in_training", {"cells": 0, "of": 4}) == dict(
        zip(("cells", "of"), seen, strict=True)
    )


@pytest.mark.filterwarnings("default:.*very counts:UserWarning")
@pytest.mark.parametrize("model", [YOTO, PolyGene])
def test_predictions_of_cells_that_were_trained_on_are_told(adata, tmp_path, capsys, model):
    """A panel by all genes of its training data, in any order, and a PolyGene by its own."""
    first, other = adata[:80].copy(), adata[60:, ::-1].copy()
    size = {"n_genes": 5} if model is YOTO else {"size": "XXS", "d_model": 8, "n_heads": 2}
    made = model(first, "cell_type", **size, split="random", fractions=(1.0, 0.0, 0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        made.train(max_epochs=1, progress=False)
    made.save(tmp_path / "model")
    kept = load(tmp_path / "model")
    assert kept.cells_seen(first) == (80, 80)
    assert kept.cells_seen(other) == (20, 60)
    assert kept.cells_seen(other, rows=np.arange(20, 60)) == (0, 40)
    other.write_h5ad(tmp_path / "other.h5ad")
    adata[80:].copy().write_h5ad(tmp_path / "new.h5ad")
    report = tmp_path / "report.html"
    line = ["evaluate", str(tmp_path / "model"), str(tmp_path / "other.h5ad"), "--json"]
    assert main([*line, "--report", str(report)]) == 0
    said = "20 of the 60 cells that can be told have the very counts of cells"
    assert said in capsys.readouterr().err
    text = report.read_text()
    assert said in text
    assert "seen_cells" not in text
    assert main([line[0], line[1], str(tmp_path / "new.h5ad"), "--json"]) == 0
    assert "very counts" not in capsys.readouterr().err
