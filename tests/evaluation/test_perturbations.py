"""Scores of representations of perturbed cells: model, PCA, normalised counts, and others'."""

from __future__ import annotations

import json
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from kernomics import datasets, tl
from kernomics.cli import main
from kernomics.data import CellCollection, concat
from kernomics.errors import ConfigError, DataError
from kernomics.evaluation.perturbations import evaluate_perturbations
from kernomics.evaluation.reconstruction import reconstructed_rows
from kernomics.metrics import align, perturbation_consistency, structural_integrity
from kernomics.models import TxFM

pytest.importorskip("sklearn")

KEYS: dict[str, Any] = {
    "perturbation_key": "perturbation", "control": "control", "batch_key": "batch",
}  # fmt: skip


@pytest.fixture(scope="module")
def adata() -> Any:
    cells = datasets.simulate(
        400, 60, 2, 5, n_batches=2, n_perturbations=4, n_targets=4, mean_counts=2000.0,
        perturbation_fold=0.05, seed=3,
    )  # fmt: skip
    cells.obsm["X_random"] = np.random.default_rng(0).normal(size=(400, 8))
    return cells


@pytest.fixture(scope="module")
def model(adata: Any) -> TxFM:
    settings = {"d_model": 16, "n_layers": 3, "n_heads": 2, "decoder_layers": 1}
    trained = TxFM(adata, size="XS", n_tokens=15, seed=0, **settings)
    trained.train(2, batch_size=64, progress=False)
    return trained


@pytest.fixture(scope="module")
def scores(adata: Any, model: TxFM) -> Any:
    return evaluate_perturbations(
        adata, model.trained, **KEYS, representations=["X_random"], n_components=[4, 16],
        null="groups", n_null=200,
    )  # fmt: skip


def test_control_is_named_as_simulated(adata: Any) -> None:
    assert "control" in set(adata.obs["perturbation"])


def test_all_representations_are_scored(scores: Any) -> None:
    assert scores.table.index.tolist() == [
        "TxFM, block 1", "TxFM, block 2", "TxFM", "PCA, 4 components", "PCA, 16 components",
        "normalised counts", "X_random",
    ]  # fmt: skip
    assert scores.table["block"].tolist()[:3] == [1, 2, 3]
    assert scores.table["block"][3:].isna().all()
    assert scores.table["n_dimensions"].tolist() == [16, 16, 16, 4, 16, 16, 8]
    assert (scores.n_batches, scores.n_perturbations, scores.n_reconstructed) == (2, 4, 400)
    # Targets fall to a twentieth, which counts show and noise does not.
    assert scores.table.loc["normalised counts", "consistency"] > 0.5
    assert scores.table.loc["X_random", "consistency"] == 0
    assert scores.table["spearman"].notna().tolist() == [
        False,
        False,
        True,
        True,
        True,
        False,
        False,
    ]
    assert (scores.table["spearman"].dropna() > 0).all()
    np.testing.assert_allclose(
        scores.table["invertibility"],
        (scores.table["spearman"] + scores.table["structural_integrity"]) / 2,
    )
    more, less = scores.table["spearman"][["PCA, 16 components", "PCA, 4 components"]]
    assert more > less


def test_each_keeps_the_best_of_its_alignments(scores: Any) -> None:
    for name, tried in scores.alignments.groupby(level=0):
        assert tried.index.get_level_values(1).tolist() == ["centre", "standardise", "tvn"]
        row = scores.table.loc[name]
        assert row["consistency"] == tried["consistency"].max()
        first = tried.index.get_level_values(1)[tried["consistency"].to_numpy().argmax()]
        assert row["alignment"] == first
        assert scores.consistencies[name].score == row["consistency"]
        assert row["n_consistent"] == scores.consistencies[name].table["consistent"].sum()


def test_scores_are_those_of_the_metrics(adata: Any, model: TxFM, scores: Any) -> None:
    names, batches = adata.obs["perturbation"], adata.obs["batch"]
    x = model.get_latent_representation(adata, block=2)
    how = scores.table.loc["TxFM, block 2", "alignment"]
    expected = perturbation_consistency(
        align(x, (names == "control").to_numpy(), batches, how),
        names, control="control", batches=batches, null="groups", n_null=200,
    )  # fmt: skip
    # Two ways through the network differ by float32 rounding.
    np.testing.assert_allclose(
        scores.consistencies["TxFM, block 2"].table["statistic"],
        expected.table["statistic"],
        atol=1e-3,
    )
    counts = adata.X.toarray()
    observed = np.log1p(1e5 * counts / counts.sum(axis=1, keepdims=True))
    predicted = model.get_normalized_expression(adata)
    assert scores.table.loc["TxFM", "structural_integrity"] == pytest.approx(
        structural_integrity(predicted, observed, batches, (names == "control").to_numpy()),
        abs=1e-5,
    )


def test_all_blocks_come_from_one_pass(adata: Any, model: TxFM) -> None:
    for options in ({}, {"n_tokens": 10, "n_draws": 2, "rows": [5, 3]}):
        layers = model.trained.get_block_representations(adata, **options)
        assert len(layers) == 3
        for i, found in enumerate(layers, start=1):
            expected = model.get_latent_representation(adata, block=i, **options)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    empty = model.trained.get_block_representations(adata, rows=np.array([], int))
    assert [part.shape for part in empty] == [(0, 16)] * 3


def test_forms_of_the_data_agree_and_stay_as_they_are(adata: Any, tmp_path: Any) -> None:
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    before = path.read_bytes()
    random = adata.obsm["X_random"]
    found = [
        evaluate_perturbations(data, **KEYS, n_components=6, representations=given)
        for data, given in (
            (adata, "X_random"),
            (path, ["X_random"]),
            (CellCollection.from_anndata(adata), {"X_random": random}),
        )
    ]
    assert found[0].table.index.tolist() == ["PCA", "normalised counts", "X_random"]
    for other in found[1:]:
        pd.testing.assert_frame_equal(found[0].table, other.table)
    assert path.read_bytes() == before


def test_cells_without_perturbation_and_cells_beyond_the_limit(adata: Any) -> None:
    some = adata.copy()
    names = some.obs["perturbation"].astype(object)
    names.iloc[:50] = np.nan
    some.obs["perturbation"] = names
    found = evaluate_perturbations(some, **KEYS, n_components=6, n_reconstructed=60)
    alone = evaluate_perturbations(adata[50:].copy(), **KEYS, n_components=6, n_reconstructed=60)
    assert (found.n_cells, found.n_reconstructed) == (350, 60)
    pd.testing.assert_frame_equal(found.table, alone.table)


def test_a_control_of_each_batch_is_reconstructed() -> None:
    controls = np.zeros(1000, bool)
    controls[[3, 500, 998]] = True
    batches = np.repeat([0, 1, 2], [400, 300, 300])
    for seed in range(5):
        rows = reconstructed_rows(controls, batches, 10, seed)
        assert len(set(rows)) == 10
        assert set(rows) >= {3, 500, 998}
        assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(reconstructed_rows(controls, batches, 1000, 0), np.arange(1000))


def test_results_are_where_scanpy_users_look(adata: Any, model: TxFM, tmp_path: Any) -> None:
    mine = adata.copy()
    found = tl.evaluate_perturbations(mine, model, **KEYS, blocks="last", n_components=4)
    assert found.table.index.tolist() == ["TxFM", "PCA", "normalised counts"]
    mine.write_h5ad(tmp_path / "out.h5ad")
    read = anndata.read_h5ad(tmp_path / "out.h5ad").uns["perturbation_evaluation"]
    np.testing.assert_array_equal(read["scores"]["consistency"], found.table["consistency"])
    assert len(read["perturbations"]) == 3 * 4
    assert read["params"]["control"] == "control"
    assert "perturbation_evaluation" not in adata.uns
    json.dumps(found.to_dict())


def test_bad_input_is_named_and_costs_nothing(adata: Any, model: TxFM) -> None:
    lonely = adata.copy()
    lonely.obs["batch"] = np.where(np.arange(400) < 3, "few", "many")
    lonely.obs["perturbation"] = np.where(
        np.arange(400) < 3, "p", lonely.obs["perturbation"].astype(str)
    )
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (adata, {"control": "ctrl"}, "no cell is a control"),
        (adata, {"perturbation_key": "guide"}, "obs has no column 'guide'"),
        (lonely, {}, r"'few' \(0 of 3 cells\)"),
        (adata, {"n_components": 0}, "n_components is"),
        (adata, {"n_reconstructed": 0}, "n_reconstructed is 0"),
        (adata, {"alignments": ()}, "alignments is empty"),
        (adata, {"blocks": "first"}, "blocks is 'first'; closest: 'last'"),
        (adata, {"representations": ["X_no"]}, "obsm has no 'X_no'"),
        (adata, {"representations": {"x": np.zeros((3, 2))}}, r"'x' has shape \(3, 2\)"),
        (CellCollection.from_anndata(adata), {"representations": ["X_random"]}, "has no obsm"),
    ]
    for data, change, message in cases:
        with pytest.raises((DataError, ConfigError), match=message):
            evaluate_perturbations(data, **(KEYS | change))


@pytest.mark.filterwarnings("default:.*very counts:UserWarning")
def test_the_command_scores_perturbed_cells(
    adata: Any, model: TxFM, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    adata.write_h5ad(tmp_path / "cells.h5ad")
    model.save(tmp_path / "model")
    line = ["evaluate", str(tmp_path / "model"), str(tmp_path / "cells.h5ad")]
    line += ["--perturbation-key", "perturbation"]
    assert main(line) == 2
    assert "name them with --control" in capsys.readouterr().err
    line += ["--control", "control", "--batch-key", "batch"]
    assert main([*line, "--null", "groups"]) == 0
    printed = capsys.readouterr().out
    assert "4 perturbations" in printed
    assert "TxFM, block 1" in printed
    assert main([*line, "--labels-key", "cell_type", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["perturbations"]["n_batches"] == 2
    assert [row["representation"] for row in scores["perturbations"]["scores"]][-2:] == [
        "PCA",
        "normalised counts",
    ]
    assert {row["label"] for row in scores["scores"]} == {"cell_type"}


def test_what_some_cells_have_not_measured_counts_for_nobody(adata: Any) -> None:
    """A file without a third of the genes: baselines are those of the others alone."""
    half = adata.n_obs // 2
    measured = adata.var_names[: adata.n_vars * 2 // 3]
    parts = {
        name: CellCollection.from_anndata(part.copy())
        for name, part in (("a", adata[:half]), ("b", adata[half:, measured]))
    }
    joined = concat(parts)
    alike = joined.with_genes(measured.tolist(), 1.0)
    assert joined.n_genes > alike.n_genes
    options = {**KEYS, "batch_key": None, "n_components": 6}
    found, expected = (evaluate_perturbations(cells, **options) for cells in (joined, alike))
    pd.testing.assert_frame_equal(found.table, expected.table)


def test_genes_that_only_left_out_cells_lack_are_scored(adata: Any) -> None:
    half = adata.n_obs // 2
    rest = adata[half:, : adata.n_vars // 3].copy()
    del rest.obs["perturbation"]
    joined = concat({
        name: CellCollection.from_anndata(part)
        for name, part in (("a", adata[:half].copy()), ("b", rest))
    })  # fmt: skip
    options = {**KEYS, "batch_key": None, "n_components": 6}
    found, expected = (evaluate_perturbations(x, **options) for x in (joined, adata[:half].copy()))
    assert found.n_cells == half
    pd.testing.assert_frame_equal(found.table, expected.table)
