"""Curation of a corpus: cells and genes with enough counts, perturbations with an effect."""

from __future__ import annotations

from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from kernomics import datasets
from kernomics.data import CellCollection
from kernomics.errors import ConfigError, DataError
from kernomics.pp import curate, select_phenoprints

COUNTS = np.array(
    [
        [1, 2, 3, 0, 1],
        [0, 1, 1, 0, 4],
        [0, 0, 1, 0, 0],
        [5, 0, 2, 0, 0],
        [0, 0, 0, 9, 0],
    ]
)  # genes of each cell: 4, 3, 1, 2, 1


def small() -> Any:
    return anndata.AnnData(
        sparse.csr_matrix(COUNTS.astype(np.float32)),
        pd.DataFrame(index=list("abcde")),
        pd.DataFrame(index=[f"g{i}" for i in range(5)]),
    )


def test_cells_are_chosen_first_and_genes_among_them() -> None:
    found = curate(small(), min_genes=2, min_cells=2)
    assert found.cells.tolist() == [True, True, False, True, False]
    assert found.genes_of_cell.tolist() == [4, 3, 1, 2, 1]
    assert found.cells_of_gene.tolist() == [2, 2, 3, 0, 2]
    assert found.genes.tolist() == [True, True, True, False, True]
    assert str(found) == (
        "3 of 5 cells kept; 2 (40.0%) have fewer than 2 genes\n"
        "4 of 5 genes kept; 1 (20.0%) are in fewer than 2 of these cells"
    )


@pytest.mark.parametrize("form", ["memory", "backed", "path", "collection"])
def test_it_works_on_all_that_holds_counts_and_changes_none(form: str, tmp_path: Any) -> None:
    adata, path = small(), tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    before = path.read_bytes()
    data = {
        "memory": lambda: adata,
        "backed": lambda: anndata.read_h5ad(path, backed="r"),
        "path": lambda: path,
        "collection": lambda: CellCollection.from_anndata(path),
    }[form]()
    found = curate(data, min_genes=2, min_cells=2)
    if form != "path":
        kept = found.apply(data)
        names = kept.genes if form == "collection" else kept.var_names
        assert list(names) == ["g0", "g1", "g2", "g4"]
        if form == "collection":
            np.testing.assert_array_equal(
                kept.batch([0, 1, 2]).dense(), COUNTS[[0, 1, 3]][:, [0, 1, 2, 4]]
            )
            np.testing.assert_array_equal(kept.library, [7, 6, 7])
        else:
            np.testing.assert_array_equal(kept.X.toarray(), COUNTS[[0, 1, 3]][:, [0, 1, 2, 4]])
            kept.X.data[:] = 0
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)
    assert path.read_bytes() == before


def test_what_removes_most_is_told() -> None:
    with pytest.warns(UserWarning, match="more than half are removed: 1 of 5 cells kept; 4"):
        curate(small(), min_genes=4, min_cells=1)


def test_thresholds_that_nothing_reaches_are_named_with_those_that_half_reach() -> None:
    with pytest.raises(
        DataError,
        match=r"no cell of 5 has 2,000 genes; the most is 4, and half .* 2 or more: set min_genes",
    ):
        curate(small())
    with pytest.raises(DataError, match="no gene of 5 has 5 of the cells kept; the most is 4"):
        curate(small(), min_genes=1, min_cells=5)
    with pytest.raises(ConfigError, match="min_cells is -1"):
        curate(small(), min_cells=-1)
    with pytest.raises(DataError, match="5 cells × 5 genes, but the data have 4 × 5"):
        curate(small(), min_genes=1, min_cells=1).apply(small()[:4])


def test_too_few_cells_for_any_gene_are_told_from_too_shallow_genes() -> None:
    with pytest.raises(DataError, match="5 of 5 have 1 genes and are kept; set min_cells to a sm"):
        curate(small(), min_genes=1)
    message = "1 of 5 have 4 genes and are kept; set min_genes to 2 or lower, .*, and min_cells"
    with pytest.raises(DataError, match=message):
        curate(small(), min_genes=4)


@pytest.fixture(scope="module")
def screen() -> Any:
    random = np.random.default_rng(0)
    names = np.repeat(["control", "strong", "nothing", "none"], [200, 30, 30, 5])
    x = random.normal(size=(265, 4))
    x[names == "strong", 1] += 12
    adata = anndata.AnnData(sparse.csr_matrix(random.poisson(1.0, (265, 6)).astype(np.float32)))
    adata.obs["perturbation"] = pd.Categorical(names).remove_categories("none")
    adata.obs["batch"] = np.where(np.arange(265) % 2, "x", "y")
    adata.obsm["X_model"] = x
    return adata


def test_perturbations_with_an_effect_are_kept_with_the_controls(
    screen: Any, tmp_path: Any
) -> None:
    path = tmp_path / "cells.h5ad"
    screen.write_h5ad(path)
    names = screen.obs["perturbation"].astype(object)
    options: dict[str, Any] = {
        "perturbation_key": "perturbation", "control": "control", "batch_key": "batch",
        "how": "standardise",
    }  # fmt: skip
    cells = CellCollection.from_anndata(screen)
    for data, representation in (
        (screen, "X_model"),
        (path, "X_model"),
        (screen, screen.obsm["X_model"]),
        (cells, screen.obsm["X_model"]),
        (cells, lambda given: screen.obsm["X_model"] if given is cells else None),
    ):
        found = select_phenoprints(data, representation, **options)
        assert (found.kept, found.removed) == (["strong"], ["nothing"])
        np.testing.assert_array_equal(found.cells, names.isin(["control", "strong"]))
        assert found.consistency.threshold == 0.1
    assert str(found) == ("1 of 2 perturbations kept (p < 0.1), with the controls 230 of 265 cells")
    assert select_phenoprints(screen, "X_model", **options, p=1.0).kept == ["nothing", "strong"]


def test_keys_that_there_are_not_are_named(screen: Any) -> None:
    cases: list[tuple[Any, dict[str, str], str]] = [
        (screen, {"representation": "X_mdel"}, "obsm has no 'X_mdel'; closest: 'X_model'"),
        (screen, {"perturbation_key": "guide"}, "obs has no column 'guide'"),
        (screen, {"control": "ctrl"}, "closest: 'control'"),
        (CellCollection.from_anndata(screen), {}, "a CellCollection has no obsm"),
    ]
    for data, change, message in cases:
        fields = {
            "representation": "X_model", "perturbation_key": "perturbation", "control": "control",
        } | change  # fmt: skip
        with pytest.raises((DataError, ConfigError), match=message):
            select_phenoprints(data, **fields)


def test_on_simulated_cells_of_a_realistic_shape() -> None:
    adata = datasets.simulate(300, 200, 3, 5, mean_counts=200.0, seed=2)
    dense = adata.X.toarray()
    found = curate(adata, min_genes=60, min_cells=50)
    cells = (dense > 0).sum(axis=1) >= 60
    np.testing.assert_array_equal(found.cells, cells)
    np.testing.assert_array_equal(found.genes, (dense[cells] > 0).sum(axis=0) >= 50)
    assert 0 < found.cells.sum() < 300
    assert 0 < found.genes.sum() < 200
