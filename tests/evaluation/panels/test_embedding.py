"""Two maps of the same cells, and shares of neighbours that can be counted by hand."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scanpy", reason="the report extra is not installed")

import anndata

from kernomics import datasets
from kernomics.data import CellCollection, make_split
from kernomics.errors import DataError
from kernomics.evaluation import cell_maps
from kernomics.evaluation.panels import panel_embedding


@pytest.fixture(scope="module")
def adata() -> Any:
    return datasets.simulate(400, 80, 3, 8, n_batches=2, seed=3)


@pytest.fixture(scope="module")
def cells(adata: Any) -> CellCollection:
    return CellCollection.from_anndata(adata, labels_key=["cell_type", "batch"])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the maps, which take longer than all the rest: the first two columns stand in."""
    monkeypatch.setattr(cell_maps, "umap", lambda space, seed: np.c_[space[:, :1], space[:, -1:]])


@pytest.mark.slow
def test_maps_are_the_same_for_a_seed_and_part_the_classes(
    adata: Any, cells: CellCollection
) -> None:
    panel = adata.var_names[adata.var["marker_of"].notna()].tolist()
    first = panel_embedding(cells, panel, seed=1)
    again = panel_embedding(cells, panel, seed=1)
    for points, same in ((first.all_genes, again.all_genes), (first.panel, again.panel)):
        assert points.shape == (400, 2)
        assert np.isfinite(points).all()
        np.testing.assert_array_equal(points, same)
    # The map of the markers keeps the three types apart: nearest by the mean of a type is its own.
    middles = np.stack([np.median(first.panel[first.codes == c], axis=0) for c in range(3)])
    nearest = ((first.panel[:, None] - middles) ** 2).sum(2).argmin(1)
    assert (nearest == first.codes).mean() > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("n_genes", [1, 2])
def test_map_of_very_few_genes_is_finite(cells: CellCollection, n_genes: int) -> None:
    found = panel_embedding(cells, cells.genes[:n_genes].tolist())
    assert np.isfinite(found.panel).all()


@pytest.mark.usefixtures("quick")
def test_every_cell_is_shown_with_its_class(cells: CellCollection) -> None:
    found = panel_embedding(cells, cells.genes[:12].tolist())
    assert found.rows.tolist() == list(range(400))
    assert found.label == "cell_type"
    assert found.classes == cells.labels["cell_type"].categories
    np.testing.assert_array_equal(found.codes, cells.labels["cell_type"].values)
    assert (found.n_all, found.n_panel, found.part, found.n_from) == (80, 12, "all", 400)
    assert found.kept_by_chance == 15 / 399
    other = panel_embedding(cells, cells.genes[:12].tolist(), label="batch")
    np.testing.assert_array_equal(other.codes, cells.labels["batch"].values)


@pytest.mark.usefixtures("quick")
def test_markers_keep_more_neighbours_and_classes_than_other_genes(
    adata: Any, cells: CellCollection
) -> None:
    marks = adata.var["marker_of"].notna().to_numpy()
    good, bad = (
        panel_embedding(cells, genes.tolist())
        for genes in (adata.var_names[marks], adata.var_names[~marks][:24])
    )
    assert good.neighbours_kept > bad.neighbours_kept
    assert good.same_class[1] > bad.same_class[1] + 0.1
    assert good.same_class[0] == bad.same_class[0]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("fractions", "part", "n_from"),
    [((0.2, 0.05, 0.75), "held-out", 300), ((0.25, 0.05, 0.7), "all", 400)],
)
def test_held_out_cells_alone_are_shown_if_there_are_enough(
    cells: CellCollection, fractions: Any, part: str, n_from: int
) -> None:
    split = make_split(400, how="random", fractions=fractions)
    found = panel_embedding(cells, cells.genes[:5].tolist(), split)
    assert (found.part, found.n_from) == (part, n_from)
    if part == "held-out":
        np.testing.assert_array_equal(found.rows, split.test)


@pytest.mark.usefixtures("quick")
def test_of_many_cells_some_are_drawn_by_the_seed(cells: CellCollection) -> None:
    genes = cells.genes[:5].tolist()
    first, same, other = (
        panel_embedding(cells, genes, max_cells=100, seed=seed) for seed in (0, 0, 1)
    )
    assert len(first.rows) == 100
    assert (np.diff(first.rows) > 0).all()
    np.testing.assert_array_equal(first.rows, same.rows)
    assert not np.array_equal(first.rows, other.rows)
    np.testing.assert_array_equal(first.codes, cells.labels["cell_type"].values[first.rows])
    assert first.n_from == 400


@pytest.mark.usefixtures("quick")
def test_cells_without_classes_or_without_counts_of_the_panel_are_shown(adata: Any) -> None:
    some = adata[:100].copy()
    some.X = some.X.multiply((np.arange(100) >= 3)[:, None]).tocsr()
    cells = CellCollection.from_anndata(some, empty_cells="keep")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = panel_embedding(cells, cells.genes[:40].tolist())
    assert found.classes == ()
    assert found.label == ""
    assert np.isnan(found.same_class).all()
    assert (found.codes == -1).all()


def test_shares_count_neighbours() -> None:
    first = np.array([[1, 2], [0, 2], [0, 1], [0, 1]])
    second = np.array([[2, 3], [0, 2], [3, 0], [2, 1]])
    assert cell_maps.shared(first, second) == pytest.approx((0.5 + 1 + 0.5 + 0.5) / 4)
    # Cell 0: 1 of 1 labelled neighbours; 1: 1 of 1; 3: 0 of 2; 2 is unlabelled itself.
    assert cell_maps.same_class(first, np.array([0, 0, -1, 1])) == pytest.approx(2 / 3)
    assert np.isnan(cell_maps.same_class(first, np.full(4, -1)))


def test_neighbours_are_the_nearest_others() -> None:
    space = np.arange(40.0)[:, None] ** 1.01
    near = cell_maps.neighbours(space)
    assert near.shape == (40, 15)
    assert sorted(near[0]) == list(range(1, 16))
    assert all(cell not in row for cell, row in enumerate(near))


def test_map_is_turned_and_mirrored_but_not_stretched() -> None:
    like = np.random.default_rng(0).normal(size=(50, 2))
    mirrored = 3 * like[:, ::-1] @ np.array([[0.6, -0.8], [0.8, 0.6]]) + 7
    turned = cell_maps.turned(mirrored, like)
    np.testing.assert_allclose(turned, 3 * (like - like.mean(0)), atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "cell_typo"}, "'cell_typo' is not a categorical label of this collection"),
        ({"genes": ["gene_0", "gene_x"]}, "gene_x"),
    ],
)
def test_bad_input_is_named(cells: CellCollection, options: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        panel_embedding(cells, **({"genes": ["gene_0"]} | options))


def test_too_few_cells_are_refused(adata: Any) -> None:
    few = CellCollection.from_anndata(anndata.AnnData(adata.X[:49], var=adata.var))
    with pytest.raises(DataError, match="49 cells are too few for a UMAP; it needs at least 50"):
        panel_embedding(few, ["gene_0"])


def test_missing_scanpy_names_the_extra(
    cells: CellCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scanpy", None)
    with pytest.raises(ImportError, match=r"a UMAP needs the package 'scanpy'.*\[report\]"):
        panel_embedding(cells, ["gene_0"])
