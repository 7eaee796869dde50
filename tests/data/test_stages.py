"""Genes and cells of stages: who has what, and what cannot be."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import chi2

from kernomics import datasets
from kernomics.data import CellCollection, Stages, concat, gene_stages
from kernomics.data.rng import Stream, draws_of_names
from kernomics.data.staged import staged_cells
from kernomics.errors import ConfigError, DataError

A, B = ["gene_1", "gene_3"], ["gene_10", "gene_11", "gene_12"]


def cells(n_cells=200, seed=0, **more):
    adata = datasets.simulate(n_cells, 30, 2, 3, seed=seed, mean_counts=200.0, **more)
    adata.var_names = [f"gene_{i}" for i in range(30)]
    return adata


def collection(**more):
    return CellCollection.from_anndata(cells(**more))


def stages(**more):
    return gene_stages(collection(), {"a": A, "b": B}, **more)


def test_base_genes_are_all_others_and_the_vocabulary_grows_at_its_end():
    found = stages()
    assert found.names == ["base", "a", "b"]
    assert len(found.base) == 25
    assert not set(found.base) & {*A, *B}
    assert found.vocabulary == [*found.base, *A, *B]
    assert found.n_known == [25, 27, 30]
    assert found.group_of_gene().tolist() == [0] * 25 + [1] * 2 + [2] * 3
    assert found.counts()["genes"].tolist() == [25, 2, 3]


def test_half_of_the_cells_are_the_first_stage_s_and_the_rest_is_shared_equally():
    found = stages()
    assert [len(stage.cells) for stage in found.stages] == [100, 50, 50]
    assert found.counts()[["train", "validation", "test"]].to_numpy().tolist() == [
        [70, 10, 20], [35, 5, 10], [35, 5, 10],
    ]  # fmt: skip
    named = [name for stage in found.stages for name in stage.cells]
    assert sorted(named) == sorted(cells().obs_names)
    assert stages(seed=1) != found
    assert stages(seed=0) == found


def test_a_cell_s_stage_hangs_on_its_name_and_not_on_its_place():
    adata = cells()
    order = np.random.default_rng(0).permutation(adata.n_obs)
    found = gene_stages(adata[order].copy(), {"a": A, "b": B})
    for one, other in zip(found.stages, stages().stages, strict=True):
        for part in ("train", "validation", "test"):
            assert set(getattr(one, part)) == set(getattr(other, part))


def test_every_cell_is_as_likely_as_the_next():
    names = [f"cell {i}" for i in range(60)]
    times = np.zeros(60)
    n_draws, n_kept = 2000, 12
    for seed in range(n_draws):
        times[np.argsort(draws_of_names(names, seed, Stream.RESERVOIR))[:n_kept]] += 1
    expected, n = n_draws * n_kept / 60, len(times)
    # Draws without replacement: the statistic is χ² with n − 1 degrees after this factor.
    statistic = ((times - expected) ** 2 / expected).sum() * (n - 1) / (n - n_kept)
    assert chi2.ppf(1e-6, n - 1) < statistic < chi2.ppf(1 - 1e-6, n - 1)


def test_cells_can_be_divided_by_a_column_such_as_the_data_set():
    parts = {name: collection(seed=i, n_cells=40) for i, name in enumerate(["base", "a", "b"])}
    found = gene_stages(concat(parts), {"a": A, "b": B}, by="dataset")
    for stage in found.stages:
        assert len(stage.cells) == 40
        assert all(name.startswith(f"{stage.name}:") for name in stage.cells)


def test_saved_stages_are_the_same_and_say_how_many_there_are(tmp_path):
    found = stages()
    found.save(tmp_path / "stages.json")
    assert Stages.load(tmp_path / "stages.json") == found
    saved = json.loads((tmp_path / "stages.json").read_text())
    assert saved["counts"][1] == {
        "stage": "a", "genes": 2, "known": 27, "train": 35, "validation": 5, "test": 10,
    }  # fmt: skip
    assert saved["fingerprint"] == found.fingerprint


def test_a_file_that_was_changed_is_refused(tmp_path):
    path = tmp_path / "stages.json"
    stages().save(path)
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "base": saved["base"][1:]}))
    with pytest.raises(DataError, match="was changed after it was saved"):
        Stages.load(path)
    del saved["stages"][1]["genes"]
    path.write_text(json.dumps(saved))
    with pytest.raises(DataError, match="lacks part of the stages: KeyError"):
        Stages.load(path)
    path.write_text("{}")
    with pytest.raises(DataError, match="holds None, not 'kernomics stages 1'"):
        Stages.load(path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"specific": {"a": A, "b": [*B, "gene_3"]}}, "1 of the 4 genes of stage 'b' are among "
         "earlier ones, first 'gene_3', which is one of stage 'a'"),
        ({"specific": {"a": A}, "base": ["gene_0", "gene_1"]}, "first 'gene_1', which is one of "
         "the base genes"),
        ({"specific": {"a": []}}, "stage 'a' has no genes of its own"),
        ({"specific": {"a": ["gene_99"]}}, "1 of the 1 genes of specific are not in the data"),
        ({"specific": {"a": ["gene_1", "gene_1"]}}, "stage 'a' names 1 of its 2 genes more than"),
        ({"specific": {}}, "specific names no stage"),
        ({"specific": {"base": A}}, "what the first stage is called"),
        ({"specific": {"start": A}}, "a stage is called 'start', which is what tables of losses"),
        ({"specific": {"a": A}, "base_stage": "start"}, "a stage is called 'start'"),
        ({"specific": {"a": A}, "base": []}, "there are no base genes"),
        ({"specific": {"a": A}, "base": ["nobody"]}, "1 of the 1 genes of base are not in"),
        ({"specific": {"a": A}, "by": "cell_type"}, "2 of the 2 values of 'cell_type' are no"),
        ({"specific": {"a": A}, "by": "nowhere"}, "nowhere"),
    ],
)  # fmt: skip
def test_genes_and_cells_that_cannot_be_stages_are_refused(given, message):
    with pytest.raises(DataError, match=message):
        gene_stages(collection(), **given)


def test_a_stage_without_cells_is_refused():
    adata = cells()
    adata.obs["part"] = ["base"] * adata.n_obs
    with pytest.raises(DataError, match="stage 'a' has no cells to train on"):
        gene_stages(adata, {"a": A}, by="part")
    adata.obs.iloc[3, adata.obs.columns.get_loc("part")] = None
    with pytest.raises(DataError, match=r"1 of 200 cells have no 'part'"):
        gene_stages(adata, {"a": A}, by="part")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"base_share": 1.0}, "base_share is 1.0"),
        ({"fractions": (0.5, 0.1, 0.1)}, "three shares of 0 or more that sum to 1"),
        ({"fractions": (0.0, 0.5, 0.5)}, "leave nothing to train on"),
    ],
)
def test_shares_that_make_no_sense_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        stages(**given)


def test_a_cell_shows_its_stage_s_genes_and_no_trace_of_the_others():
    adata = cells()
    found = gene_stages(adata, {"a": A, "b": B})
    # A count that no gene could have, wherever a gene is absent.
    dense = adata.X.toarray()
    place = {gene: i for i, gene in enumerate(adata.var_names)}
    for stage, lost in zip(found.stages, ([*A, *B], B, A), strict=True):
        rows = adata.obs_names.get_indexer(list(stage.cells))
        dense[np.ix_(rows, [place[gene] for gene in lost])] = 1_000_003
    planted = adata.copy()
    planted.X = sparse.csr_matrix(dense.astype(np.float32))
    one = staged_cells(CellCollection.from_anndata(adata), found)
    other = staged_cells(CellCollection.from_anndata(planted), found)
    assert other.cells.genes.tolist() == found.vocabulary
    group = found.group_of_gene()
    for i, stage in enumerate(found.stages):
        rows = np.concatenate([one.rows(i, part) for part in ("train", "validation", "test")])
        assert set(one.cells.cell_names[rows]) == set(stage.cells)
        first, second = one.cells.batch(rows), other.cells.batch(rows)
        assert (second.values < 1000).all()
        assert (first.values == second.values).all()
        assert (first.library == second.library).all()
        assert set(group[second.indices.numpy()]) <= {0, i}
        mask = second.observed.mask[second.observed.panel_id.long()].numpy().astype(bool)
        assert (mask == ((group == 0) | (group == i))).all()


def test_library_sizes_are_totals_of_what_the_stage_has():
    found = staged_cells(collection(), stages())
    batch = found.cells.batch(np.arange(found.cells.n_cells))
    assert (batch.library == batch.dense().sum(1)).all()


def test_genes_that_a_data_set_has_not_measured_stay_unobserved_in_every_stage():
    whole, part = collection(n_cells=60), cells(seed=1, n_cells=60)[:, 2:].copy()
    joined = concat({"one": whole, "two": CellCollection.from_anndata(part)})
    found = staged_cells(joined, gene_stages(joined, {"a": A, "b": B}))
    group = found.stages.group_of_gene()
    batch = found.cells.batch(np.arange(found.cells.n_cells))
    mask = batch.observed.mask[batch.observed.panel_id.long()].numpy().astype(bool)
    of_two = np.array([name.startswith("two:") for name in found.cells.cell_names])
    lost = np.isin(found.cells.genes.astype(str), ["gene_0", "gene_1"])
    assert not mask[np.ix_(of_two, lost)].any()
    stage = found.stage_of_cell[:, None]
    expected = (group == 0)[None] | (group[None] == stage)
    assert (mask[:, ~lost] == expected[:, ~lost]).all()


def test_cells_and_genes_of_other_data_are_refused():
    found = stages()
    with pytest.raises(DataError, match=r"100 of the 200 cells of the stages are not in the data"):
        staged_cells(collection(n_cells=100), found)
    fewer = CellCollection.from_anndata(cells()[:, 2:].copy())
    with pytest.raises(DataError, match=r"2 of the 30 genes of the stages are not in the data"):
        staged_cells(fewer, found)


def test_a_cell_without_counts_of_its_stage_s_genes_is_refused():
    adata = cells()
    found = gene_stages(adata, {"a": A, "b": B})
    dense = adata.X.toarray()
    row = adata.obs_names.get_loc(found.stages[1].train[0])
    dense[row] = 0
    dense[row, adata.var_names.get_indexer(B)] = 5
    adata.X = sparse.csr_matrix(dense)
    with pytest.raises(DataError, match="1 of 200 cells have no counts in the genes of their"):
        staged_cells(CellCollection.from_anndata(adata), found)


def test_a_file_gives_the_same_cells_as_memory(tmp_path):
    adata = cells()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    found = stages()
    one = staged_cells(CellCollection.from_anndata(adata), found).cells
    other = staged_cells(CellCollection.from_anndata(tmp_path / "cells.h5ad"), found).cells
    assert other.on_disk
    rows = np.array([7, 3, 150])
    assert (one.batch(rows).dense() == other.batch(rows).dense()).all()
    assert (one.library == other.library).all()


def test_what_is_no_stage_is_refused():
    with pytest.raises(DataError, match="stages hold 1: each must be a Stage"):
        Stages(("gene_0",), (1, 2))


def test_a_stage_whose_cells_hold_none_of_its_genes_is_refused():
    adata = cells()
    found = gene_stages(adata, {"a": A, "b": B})
    dense = adata.X.toarray()
    rows = adata.obs_names.get_indexer(found.stages[2].train)
    dense[np.ix_(rows, adata.var_names.get_indexer(B))] = 0
    adata.X = sparse.csr_matrix(dense)
    with pytest.raises(
        DataError,
        match="none of the 35 cells that stage 'b' trains on has a count "
        "of its 3 genes, first 'gene_10'",
    ):
        staged_cells(CellCollection.from_anndata(adata), found)
    dense[rows[-1], adata.var_names.get_loc("gene_12")] = 1
    adata.X = sparse.csr_matrix(dense)
    staged_cells(CellCollection.from_anndata(adata), found)


def test_cells_are_read_as_asked_for():
    adata = cells()
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X)
    adata.var["symbol"] = [f"S{i}" for i in range(30)]
    with pytest.raises(DataError, match="pass layer='counts'"):
        gene_stages(adata, {"a": A})
    found = gene_stages(adata, {"a": ["S1", "S3"]}, layer="counts", gene_names="symbol")
    assert found.stages[1].genes == ("S1", "S3")
    assert found.stages[1].train == gene_stages(cells(), {"a": A}).stages[1].train
    with pytest.raises(ConfigError, match="layer was given with a CellCollection"):
        gene_stages(collection(), {"a": A}, layer="counts")
